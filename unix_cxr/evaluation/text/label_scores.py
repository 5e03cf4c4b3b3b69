"""Do two reports state the same findings? F1 over the 14 labels, by any labeler.

Axes: n reports, f findings, r replicates, s statistics per report.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unix_cxr.evaluation.corpus_metric import CorpusMetric
from unix_cxr.reports.labeler import NEGATIVE, POSITIVE, UNCERTAIN, label_report
from unix_cxr.vocabulary import FINDINGS, TOP_FIVE

States = Mapping[str, str]
"""State by finding: "positive", "negative" or "uncertain"; a finding not spoken of is absent."""

UncertainAs = Literal["positive", "negative"]

STATES: Final = (POSITIVE, NEGATIVE, UNCERTAIN)
_TOP_FIVE_ROWS: Final = tuple(FINDINGS.index(name) for name in TOP_FIVE)


class ReportLabeler(Protocol):
    """Reads the 14 findings of a text."""

    name: str
    """Stands in every signature, with what else identifies the labeler."""

    def __call__(self, texts: Sequence[str]) -> list[States]:
        """The states of each text; an empty text states nothing."""
        ...


class RuleLabeler:
    """The rule labeler of this library; not CheXbert, and never called so."""

    name = "rules14"

    def __call__(self, texts: Sequence[str]) -> list[States]:
        """The states of each text."""
        return [
            {name: label.state for name, label in label_report(text).items()}
            if text.strip()
            else {}
            for text in texts
        ]


def present(states: Sequence[States], uncertain: UncertainAs) -> Bool[Tensor, "n 14"]:
    """Whether each finding counts as present.

    Args:
        states: of each report.
        uncertain: what "uncertain" counts as.

    Raises:
        ValueError: a finding or a state has an unknown name.
    """
    counted = {POSITIVE, UNCERTAIN} if uncertain == "positive" else {POSITIVE}
    codes = state_codes(states)
    rows = torch.zeros(codes.shape, dtype=torch.bool)
    for state in counted:
        rows |= codes == 1 + STATES.index(state)
    return rows


def state_codes(states: Sequence[States]) -> Int[Tensor, "n 14"]:
    """0 for a finding that is not spoken of, else 1 + its place in `STATES`.

    Raises:
        ValueError: a finding or a state has an unknown name.
    """
    codes = torch.zeros(len(states), len(FINDINGS), dtype=torch.long)
    for row, found in enumerate(states):
        for name, state in found.items():
            if name not in FINDINGS or state not in STATES:
                raise ValueError(
                    f"{name!r}: {state!r} is no label; findings are {list(FINDINGS)}, states "
                    f"{list(STATES)}"
                )
            codes[row, FINDINGS.index(name)] = 1 + STATES.index(state)
    return codes


def states_of_codes(codes: Int[Tensor, "n 14"]) -> list[States]:
    """The inverse of `state_codes`."""
    return [
        {name: STATES[code - 1] for name, code in zip(FINDINGS, row, strict=True) if code}
        for row in codes.tolist()
    ]


def label_statistics(
    references: Bool[Tensor, "n 14"], predictions: Bool[Tensor, "n 14"]
) -> Float[Tensor, "n 42"]:
    """True positives, false positives and false negatives of each finding, side by side."""
    return torch.cat(
        [references & predictions, ~references & predictions, references & ~predictions], dim=1
    ).double()


def f1_metrics(
    labeler: str, uncertain: UncertainAs, absent: Literal["zero", "left out"] = "left out"
) -> list[CorpusMetric]:
    """Micro and macro F1 over all 14 and the top 5, and F1 of each finding.

    Args:
        labeler: its name, for the signatures.
        uncertain: what "uncertain" counts as; part of the names.
        absent: what the macro F1 makes of a finding that neither side states. "zero" is
            scikit-learn's and the published scripts'; "left out" measures only what occurs.
    """
    facts = {"labeler": labeler, "uncertain": uncertain, "absent": absent}
    ending = f"uncertain_{uncertain}"
    everything = tuple(range(len(FINDINGS)))
    metrics = []
    for count, rows in ((len(FINDINGS), everything), (len(TOP_FIVE), _TOP_FIVE_ROWS)):
        for kind in ("micro", "macro"):
            score = _F1(rows, macro=kind == "macro", absent_as_zero=absent == "zero")
            metrics.append(
                CorpusMetric(
                    f"{kind}_f1_{count}/{ending}",
                    score,
                    facts=facts,
                    comparable=labeler.startswith("chexbert"),
                )
            )
    for row, name in enumerate(FINDINGS):
        score = _F1((row,), macro=True, absent_as_zero=False)
        metrics.append(CorpusMetric(f"f1/{name}/{ending}", score, facts=facts, comparable=False))
    return metrics


class _F1:
    """F1 from sums of statistics; NaN where no finding occurs on either side."""

    def __init__(self, rows: Sequence[int], *, macro: bool, absent_as_zero: bool) -> None:
        self.rows, self.macro, self.absent_as_zero = list(rows), macro, absent_as_zero

    def __call__(self, sums: Float[Tensor, "r 42"]) -> Float[Tensor, " r"]:
        counts = sums.unflatten(1, (3, len(FINDINGS)))[:, :, self.rows]
        if not self.macro:
            counts = counts.sum(dim=2, keepdim=True)
        hits, false_alarms, misses = counts.unbind(dim=1)
        scores = 2 * hits / (2 * hits + false_alarms + misses)  # NaN where nothing occurs
        if self.absent_as_zero:
            scores = scores.nan_to_num(0.0)
        mean: Tensor = scores.nanmean(dim=1)
        return mean
