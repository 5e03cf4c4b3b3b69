"""What drawn X-rays are good for: learn from them, be tested on real ones.

Axes: n X-rays, f features, l labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unix_cxr.evaluation.corpus_metric import Resampling, interval_of
from unix_cxr.evaluation.imaging.fidelity import FeatureSet
from unix_cxr.evaluation.reading.curves import area_results, mean_result
from unix_cxr.evaluation.reading.probe import fit_probe, label_table, learnable
from unix_cxr.evaluation.results import MetricResult, resigned

Labels = Sequence[frozenset[str]]


def measure_use(
    real: tuple[FeatureSet, Labels],
    drawn: tuple[FeatureSet, Labels],
    test: tuple[FeatureSet, Labels],
    facts: dict[str, object],
    resampling: Resampling,
) -> list[MetricResult]:
    """Probes that learned from real X-rays, from drawn ones and from both, on real unseen ones.

    The three are tested on the same X-rays with the same bootstrap: `auroc/use/gain` is both - real
    with a paired interval. For a whole network in the place of a probe see `use_network`.

    Args:
        real: training X-rays.
        drawn: X-rays of the generator, with the labels that were asked for.
        test: real X-rays of other patients.
        facts: of the extractor.
        resampling: the bootstrap.

    Raises:
        ValueError: no label that all three hold on both sides.
    """
    names = learnable([real[1], drawn[1], test[1]])
    if not names:
        raise ValueError(
            "no label has 5 X-rays with it and 5 without it in the real, the drawn and the test "
            "set; a classifier needs both classes"
        )
    logits, counts = {}, {}
    for source, sets in (("real", [real]), ("drawn", [drawn]), ("both", [real, drawn])):
        features = torch.cat([one.features for one, _ in sets])
        labels = torch.cat([label_table(found, names) for _, found in sets])
        logits[source] = fit_probe(features, labels)(test[0].features)
        counts[source] = len(features)
    tested = HeldOut(
        "use",
        names,
        label_table(test[1], names),
        test[0].ids,
        test[0].groups,
        facts | {"probe": "logistic regression"},
    )
    return use_results(tested, logits, counts, resampling)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What learners are tested on.

    Args:
        name: of the metrics, such as "use".
        labels: that were learned.
        wanted: the truth.
        ids: of the X-rays.
        groups: of the same, such as patients.
        facts: of the learner, for signatures.
    """

    name: str
    labels: Sequence[str]
    wanted: Bool[Tensor, "n l"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    facts: Mapping[str, object]


def use_results(
    tested: HeldOut,
    logits: Mapping[str, Float[Tensor, "n l"]],
    counts: Mapping[str, int],
    resampling: Resampling,
) -> list[MetricResult]:
    """Areas of each source and label, the mean of each source, and what drawn X-rays add.

    Args:
        tested: what was tested.
        logits: of the test X-rays, by what was learned from: "real", "drawn" and "both".
        counts: X-rays that were learned from.
        resampling: the bootstrap; the same draws for all, so that differences are paired.
    """
    results: list[MetricResult] = []
    means: dict[str, MetricResult] = {}
    for source, found in logits.items():
        areas: list[MetricResult] = []
        for column, label in enumerate(tested.labels):
            areas += area_results(
                f"{tested.name}/{source}/{label}",
                found[:, column],
                tested.wanted[:, column],
                tested.ids,
                tested.groups,
                {**tested.facts, "trained_on": counts[source]},
                resampling,
            )
        own = [result for result in areas if result.name.startswith("auroc/")]
        means[source] = mean_result(f"auroc/{tested.name}/{source}", own, resampling.unit)
        results += [*areas, means[source]]
    return [*results, _gain(f"auroc/{tested.name}/gain", means["both"], means["real"], resampling)]


def _gain(
    name: str, both: MetricResult, real: MetricResult, resampling: Resampling
) -> MetricResult:
    """Both - real, with the interval of the differences of the same replicates."""
    value = both.value - real.value
    interval, replicates, note = None, None, None
    if both.replicates is not None and real.replicates is not None and len(both.replicates):
        replicates = both.replicates - real.replicates
        interval, note = interval_of(value, replicates, resampling.unit)
    about = "mean AUROC of both - of real; above 0 drawn X-rays add something"
    return replace(
        both,
        name=name,
        value=value,
        interval=interval,
        signature=resigned(both.signature, {"metric": name, "trained_on": None}),
        warnings=(about, *([note] if note else [])),
        replicates=replicates,
    )


def measure_label_agreement(
    real: tuple[FeatureSet, Labels],
    drawn: tuple[FeatureSet, Labels],
    facts: dict[str, object],
    resampling: Resampling,
) -> list[MetricResult]:
    """Does a classifier that learned from real X-rays find in the drawn ones what was asked for?

    Args:
        real: training X-rays with labels.
        drawn: drawn ones with the labels that were asked for.
        facts: of the extractor.
        resampling: the bootstrap.

    Raises:
        ValueError: no label that both hold on both sides.
    """
    names = learnable([real[1], drawn[1]])
    if not names:
        raise ValueError(
            "no label has 5 X-rays with it and 5 without it in the real and in the drawn set; "
            "agreement needs both classes"
        )
    probe = fit_probe(real[0].features, label_table(real[1], names))
    logits = probe(drawn[0].features)
    wanted = label_table(drawn[1], names)
    results: list[MetricResult] = []
    for column, name in enumerate(names):
        results += area_results(
            f"label_agreement/{name}",
            logits[:, column],
            wanted[:, column],
            drawn[0].ids,
            drawn[0].groups,
            facts | {"probe": "logistic regression", "trained_on": len(real[0])},
            resampling,
        )
    areas = [result for result in results if result.name.startswith("auroc/")]
    return [*results, mean_result("auroc/label_agreement", areas, resampling.unit)]
