"""What drawn X-rays are good for: learn from them, be tested on real ones.

Axes: n X-rays, f features, l labels.
"""

from collections.abc import Sequence

import torch

from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.fidelity import FeatureSet
from unix_cxr.evaluation.reading.curves import area_results, mean_result
from unix_cxr.evaluation.reading.probe import fit_probe, label_table, learnable
from unix_cxr.evaluation.results import MetricResult

Labels = Sequence[frozenset[str]]


def measure_use(
    real: tuple[FeatureSet, Labels],
    drawn: tuple[FeatureSet, Labels],
    test: tuple[FeatureSet, Labels],
    facts: dict[str, object],
    resampling: Resampling,
) -> list[MetricResult]:
    """Probes that learned from real X-rays, from drawn ones and from both, on real unseen ones.

    The three are tested on the same X-rays with the same bootstrap, so `compare` can hold them
    against each other.

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
    wanted = label_table(test[1], names)
    results: list[MetricResult] = []
    for source, sets in (("real", [real]), ("drawn", [drawn]), ("both", [real, drawn])):
        features = torch.cat([one.features for one, _ in sets])
        labels = torch.cat([label_table(found, names) for _, found in sets])
        logits = fit_probe(features, labels)(test[0].features)
        found: list[MetricResult] = []
        for column, name in enumerate(names):
            found += area_results(
                f"use/{source}/{name}",
                logits[:, column],
                wanted[:, column],
                test[0].ids,
                test[0].groups,
                facts | {"probe": "logistic regression", "trained_on": len(features)},
                resampling,
            )
        areas = [result for result in found if result.name.startswith("auroc/")]
        results += [*found, mean_result(f"auroc/use/{source}", areas, resampling.unit)]
    return results


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
