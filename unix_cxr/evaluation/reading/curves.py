"""AUROC and AUPRC of one label, with the interval that its samples allow.

Axes: n samples, r replicates.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unix_cxr.evaluation.corpus_metric import Resampling, interval_of
from unix_cxr.evaluation.reading.delong import delong
from unix_cxr.evaluation.results import MetricResult, PerSample, resigned, signature
from unix_cxr.evaluation.roc import auc

Which = Literal["auroc", "auprc"]


def average_precision(
    scores: Float[Tensor, " n"],
    positive: Bool[Tensor, " n"],
    weights: Float[Tensor, "r n"] | None = None,
) -> Float[Tensor, " r"]:
    """Σ (R_k - R_{k-1}) P_k over the thresholds, as scikit-learn's; equal scores are one threshold.

    Args:
        scores: more means rather positive.
        positive: the truth.
        weights: how often each sample was drawn; once where None.

    Raises:
        ValueError: no positives, or a score is not finite.
    """
    if not torch.isfinite(scores).all():
        raise ValueError(f"{int((~torch.isfinite(scores)).sum())} scores are NaN or infinite")
    if not positive.any():
        raise ValueError(f"an average precision needs positives, got none among {len(positive)}")
    rows = (torch.ones(1, len(scores)) if weights is None else weights).double()
    values, places = torch.unique(-scores, return_inverse=True)  # best scores first
    empty = torch.zeros(len(rows), len(values), dtype=torch.float64)
    hits = empty.index_add(1, places, rows * positive)
    all_found = empty.index_add(1, places, rows).cumsum(dim=1)
    precision = hits.cumsum(dim=1) / all_found.clamp_min(1)
    area: Tensor = (hits * precision).sum(dim=1) / hits.sum(dim=1)
    return area


def area_results(
    name: str,
    scores: Float[Tensor, " n"],
    positive: Bool[Tensor, " n"],
    ids: Sequence[str],
    groups: Sequence[str],
    facts: dict[str, object],
    resampling: Resampling,
) -> list[MetricResult]:
    """AUROC and AUPRC of scores, named `auroc/NAME` and `auprc/NAME`.

    The interval of the AUROC is DeLong's where every sample is a group of its own, and bootstrapped
    by group where not.

    Raises:
        ValueError: one class only, or scores that are not finite.
    """
    drawn = [
        (auc(scores, positive, weights), average_precision(scores, positive, weights))
        for weights in resampling.blocks(groups)
    ]
    share = float(positive.double().mean())
    facts = facts | {"n": len(ids), "positive": int(positive.sum())} | resampling.facts()
    results = []
    for place, which in enumerate(("auroc", "auprc")):
        area = auc if which == "auroc" else average_precision
        value = float(area(scores, positive))
        replicates = torch.cat([torch.empty(0).double(), *(one[place] for one in drawn)])
        interval, note = interval_of(value, replicates, resampling.unit)
        independent = len(set(groups)) == len(groups)
        if which == "auroc" and independent and min(share, 1 - share) * len(ids) > 1:
            interval, note = delong([scores], positive).interval(), None
        chance = [] if which == "auroc" else [f"chance is {share:.3f}"]
        results.append(
            MetricResult(
                name=f"{which}/{name}",
                value=value,
                interval=interval,
                n=len(ids),
                per_sample=PerSample(tuple(ids), tuple(scores.tolist())),
                signature=signature({"metric": f"{which}/{name}", **facts}),
                comparable=False,
                higher_is_better=True,
                warnings=(*chance, *([note] if note else [])),
                replicates=replicates,
            )
        )
    return results


def mean_result(name: str, results: Sequence[MetricResult], unit: str) -> MetricResult:
    """The mean of one number over labels, with the interval of the mean's replicates by `unit`.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError(f"{name}: there is nothing to average")
    value = sum(result.value for result in results) / len(results)
    drawn = [result.replicates for result in results if result.replicates is not None]
    interval, replicates = None, None
    if len(drawn) == len(results):
        replicates = torch.stack(drawn).mean(dim=0)
        interval, _ = interval_of(value, replicates, unit)
    first = results[0]
    return replace(
        first,
        name=name,
        value=value,
        interval=interval,
        per_sample=None,
        signature=resigned(
            first.signature,
            {"metric": name, "positive": None, "mean_of": ", ".join(map(_label, results))},
        ),
        warnings=(f"mean of {len(results)} labels",),
        replicates=replicates,
    )


def _label(result: MetricResult) -> str:
    return result.name.rsplit("/", 1)[-1]
