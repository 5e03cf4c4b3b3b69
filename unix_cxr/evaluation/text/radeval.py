"""RadGraph F1, RadCliQ, RaTEScore, GREEN and others through RadEval, which the user installs."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import torch

from unix_cxr.evaluation.corpus_metric import mean_metric, mean_statistics
from unix_cxr.evaluation.plugins import Kind, ReportPairs
from unix_cxr.evaluation.results import MetricResult, MetricUnavailable

HIGHER_IS_BETTER: Final[Mapping[str, bool]] = MappingProxyType(
    {"radgraph": True, "ratescore": True, "green": True, "radcliq": False, "srrbert": True}
)
"""RadEval's names of what is offered; RadCliQ predicts errors, so less is better."""

_REMEDY: Final = (
    "pip install radeval in an environment of its own (it needs torchvision and downloads its "
    "models when first used; UniX CXR never does so for you)"
)


class RadEvalMetric:
    """One metric of RadEval (arXiv:2509.18030) with our intervals and our rule for empty texts.

    RadEval is asked for a value per sample. An empty prediction is not sent: it gets the worst
    value, 0 where more is better, and where less is better the worst of the others.

    Args:
        name: one of `HIGHER_IS_BETTER`.

    Raises:
        ValueError: the name is unknown.
    """

    kind: Kind = "reports"

    def __init__(self, name: str) -> None:
        if name not in HIGHER_IS_BETTER:
            raise ValueError(f"RadEval metric ({name!r}) must be one of {sorted(HIGHER_IS_BETTER)}")
        self.name = name

    def measure(self, data: ReportPairs) -> Sequence[MetricResult]:
        """The metric's numbers, one result per key that RadEval gives.

        Raises:
            MetricUnavailable: RadEval or its weights are absent.
            ValueError: RadEval gave no value per sample, or there is none to give where less is
                better and every prediction is empty.
        """
        filled = [row for row, text in enumerate(data.predictions) if text.strip()]
        scores = self._score(
            [data.references[row] for row in filled], [data.predictions[row] for row in filled]
        )
        higher = HIGHER_IS_BETTER[self.name]
        if not filled and not higher:
            raise ValueError(
                f"all {len(data.ids)} predictions are empty; {self.name} has no worst value that "
                "could stand for them"
            )
        results = []
        for key, given in sorted(scores.items()):
            values = torch.full((len(data.ids),), 0.0 if higher else max(given)).double()
            values[filled] = torch.tensor(given, dtype=torch.float64)
            metric = mean_metric(
                f"radeval/{key}", higher_is_better=higher, facts={"empty": "worst value"}
            )
            results.append(
                metric.measure(mean_statistics(values), data.ids, data.groups, data.resampling)
            )
        return results

    def _score(
        self, references: Sequence[str], predictions: Sequence[str]
    ) -> dict[str, list[float]]:
        try:
            scorer: Any = import_module("RadEval").RadEval(metrics=[self.name], per_sample=True)
        except ImportError as error:
            raise MetricUnavailable(f"radeval/{self.name}", f"{error}; {_REMEDY}") from error
        if not predictions:
            return {self.name: []}
        given = scorer(refs=list(references), hyps=list(predictions))
        scores = {
            key: [float(value) for value in values]
            for key, values in given.items()
            if isinstance(values, list | tuple)
        }
        wrong = {key for key, values in scores.items() if len(values) != len(predictions)}
        if not scores or wrong:
            raise ValueError(
                f"RadEval's {self.name} gave {sorted(given)} for {len(predictions)} reports, "
                f"without one value for each ({sorted(wrong) or 'none at all'})"
            )
        return scores
