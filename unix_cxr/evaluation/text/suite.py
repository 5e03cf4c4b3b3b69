"""Every metric of written reports over one set of pairs.

Axes: n reports, s statistics per report.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, get_args

from jaxtyping import Float
from torch import Tensor

from unix_cxr.evaluation.corpus_metric import CorpusMetric
from unix_cxr.evaluation.gathering import gather_rows, my_share
from unix_cxr.evaluation.plugins import (
    Metric,
    OnMissing,
    ReportPairs,
    installed_metrics,
    measure_all,
)
from unix_cxr.evaluation.protocols import STRICT, Protocol
from unix_cxr.evaluation.results import MetricResult, Skipped, by_name, content_mark
from unix_cxr.evaluation.text.label_scores import (
    ReportLabeler,
    RuleLabeler,
    States,
    UncertainAs,
    f1_metrics,
    label_statistics,
    present,
    state_codes,
    states_of_codes,
)
from unix_cxr.evaluation.text.overlap import (
    bleu_metrics,
    bleu_statistics,
    chrf_metric,
    chrf_statistics,
    rouge_metric,
    rouge_statistics,
)
from unix_cxr.vocabulary import FINDINGS

NOT_STATED: Final = "not stated"
Statistics = Callable[[Sequence[str], Sequence[str]], Tensor]


@dataclass(frozen=True)
class Confusion:
    """How often each pair of states occurs, by finding.

    Args:
        labeler: who read the states.
        counts: finding → (state in the reference, state in the prediction) → reports.
    """

    labeler: str
    counts: Mapping[str, Mapping[tuple[str, str], int]]


@dataclass(frozen=True, eq=False)
class ReportEvaluation:
    """All numbers of one set of written reports.

    Args:
        results: in the order of measuring.
        skipped: what was missing.
        confusion: of the states of the labels.
        pairs: what was measured.
        protocol: how.
    """

    results: tuple[MetricResult, ...]
    skipped: tuple[Skipped, ...]
    confusion: Confusion
    pairs: ReportPairs
    protocol: Protocol


def evaluate_report_pairs(
    pairs: ReportPairs,
    *,
    protocol: Protocol = STRICT,
    labeler: ReportLabeler | None = None,
    metrics: Sequence[Metric] | None = None,
    on_missing: OnMissing = "skip",
) -> ReportEvaluation:
    """Measure written reports: overlap of words, agreement of findings, and plug-ins.

    Under several processes each reads its share, and all come to the same numbers.

    Args:
        pairs: references and predictions.
        protocol: `strict` counts an empty prediction as zero.
        labeler: reads the findings; the rule labeler where None.
        metrics: of other packages; the installed ones where None.
        on_missing: "skip" lists what is missing, "raise" stops.

    Raises:
        MetricUnavailable: something is missing and `on_missing` is "raise".
        ValueError: nothing is left to measure.
    """
    labeler = labeler or RuleLabeler()
    plugins = installed_metrics("reports") if metrics is None else list(metrics)
    states = tuple(_labelled(texts, labeler, protocol) for texts in _both(pairs))
    makers: dict[str, Callable[[], Sequence[MetricResult]]] = {
        "bleu": lambda: _overlap(pairs, protocol, bleu_statistics, bleu_metrics),
        "chrf": lambda: _overlap(pairs, protocol, chrf_statistics, lambda: [chrf_metric()]),
        "rouge_l": lambda: _overlap(pairs, protocol, rouge_statistics, lambda: [rouge_metric()]),
        "labels": lambda: _label_results(pairs, protocol, labeler, states),
    }
    makers |= {metric.name: _measuring(metric, pairs) for metric in plugins}
    results, skipped = measure_all(makers, on_missing)
    return ReportEvaluation(
        results=tuple(by_name(results).values()),
        skipped=tuple(skipped),
        confusion=_confusion(labeler.name, *states),
        pairs=pairs,
        protocol=protocol,
    )


def _both(pairs: ReportPairs) -> tuple[Sequence[str], Sequence[str]]:
    return pairs.references, pairs.predictions


def _measuring(metric: Metric, pairs: ReportPairs) -> Callable[[], Sequence[MetricResult]]:
    return lambda: metric.measure(pairs)


def _overlap(
    pairs: ReportPairs,
    protocol: Protocol,
    statistics: Statistics,
    metrics: Callable[[], Sequence[CorpusMetric]],
) -> list[MetricResult]:
    rows = list(range(len(pairs.ids)))
    warnings = []
    empty = [row for row in rows if not pairs.predictions[row].strip()]
    if protocol.skip_empty and empty:
        rows = [row for row in rows if pairs.predictions[row].strip()]
        warnings.append(f"{len(empty)} empty predictions were skipped, as {protocol.name} does")
    if not rows:
        raise ValueError(f"all {len(empty)} predictions are empty; nothing is left to measure")
    counted = _counted(statistics, pairs, rows)
    ids, groups = ([of[row] for row in rows] for of in (pairs.ids, pairs.groups))
    sums = pairs.resampling.sums(counted, groups)
    handling = "skipped" if protocol.skip_empty else "zero"
    facts = {
        "protocol": protocol.name,
        "empty": handling,
        "against": content_mark(pairs.references),
    }
    return [
        replace(metric, facts={**metric.facts, **facts}).measure(
            counted, ids, groups, pairs.resampling, warnings, sums=sums
        )
        for metric in metrics()
    ]


def _counted(
    statistics: Statistics, pairs: ReportPairs, rows: Sequence[int]
) -> Float[Tensor, "n s"]:
    mine = my_share(rows)
    counted = statistics(
        [pairs.references[row] for row in mine], [pairs.predictions[row] for row in mine]
    )
    return gather_rows(counted, len(rows))


def _labelled(texts: Sequence[str], labeler: ReportLabeler, protocol: Protocol) -> Sequence[States]:
    limit = protocol.label_characters
    mine = labeler([text if limit is None else text[:limit] for text in my_share(texts)])
    return states_of_codes(gather_rows(state_codes(mine), len(texts)))


def _label_results(
    pairs: ReportPairs,
    protocol: Protocol,
    labeler: ReportLabeler,
    states: Sequence[Sequence[States]],
) -> list[MetricResult]:
    results = []
    warnings = _cut(pairs, protocol)
    facts = {
        "protocol": protocol.name,
        "characters": protocol.label_characters or "all",
        "empty": "states nothing",
        "against": content_mark(pairs.references),
    }
    for uncertain in get_args(UncertainAs):
        true, predicted = (present(side, uncertain) for side in states)
        statistics = label_statistics(true, predicted)
        sums = pairs.resampling.sums(statistics, pairs.groups)
        seen = (true | predicted).any(dim=0).tolist()
        absent = [name for name, there in zip(FINDINGS, seen, strict=True) if not there]
        for metric in f1_metrics(labeler.name, uncertain, protocol.absent_labels):
            if metric.name.split("/")[1] in absent:
                continue
            notes = list(warnings)
            if absent and metric.name.startswith("macro_f1_14"):
                notes.append(
                    f"{', '.join(absent)}: on neither side, {protocol.absent_labels} in the mean"
                )
            measured = replace(metric, facts={**metric.facts, **facts}).measure(
                statistics, pairs.ids, pairs.groups, pairs.resampling, notes, sums=sums
            )
            if not math.isnan(measured.value):  # none of its findings is on either side
                results.append(measured)
    return results


def _cut(pairs: ReportPairs, protocol: Protocol) -> list[str]:
    limit = protocol.label_characters
    if limit is None:
        return []
    long = sum(len(text) > limit for text in (*pairs.references, *pairs.predictions))
    return [f"{long} texts were cut at {limit} characters, as {protocol.name} does"] if long else []


def _confusion(
    labeler: str, references: Sequence[States], predictions: Sequence[States]
) -> Confusion:
    counts: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in FINDINGS}
    for true, predicted in zip(references, predictions, strict=True):
        for name in FINDINGS:
            counts[name][true.get(name, NOT_STATED), predicted.get(name, NOT_STATED)] += 1
    return Confusion(labeler, counts)
