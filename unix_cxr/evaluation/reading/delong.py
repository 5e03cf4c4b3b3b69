"""Variance of the area under the ROC curve without resampling (DeLong 1988, doi:10.2307/2531595).

Axes: n samples, p positives, k systems.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unix_cxr.evaluation.results import Interval

_Z: Final = 1.959963984540054
"""97.5 % point of the normal distribution."""


@dataclass(frozen=True)
class DeLong:
    """Areas of systems that were measured on the same samples.

    Args:
        areas: of each system.
        covariance: of the areas.
    """

    areas: Float[Tensor, " k"]
    covariance: Float[Tensor, "k k"]

    def interval(self, system: int = 0) -> Interval:
        """95 % interval of one area, by the normal distribution, cut to [0, 1]."""
        area = float(self.areas[system])
        reach = _Z * math.sqrt(max(0.0, float(self.covariance[system, system])))
        return Interval(max(0.0, area - reach), min(1.0, area + reach), "DeLong")

    def p_value(self, first: int = 0, second: int = 1) -> float:
        """Of the hypothesis that two areas are equal, two-sided; 1 where nothing differs."""
        apart = float(self.areas[first] - self.areas[second])
        variance = float(
            self.covariance[first, first]
            + self.covariance[second, second]
            - 2 * self.covariance[first, second]
        )
        if variance <= 0:
            return 1.0 if apart == 0 else 0.0
        return math.erfc(abs(apart) / math.sqrt(2 * variance))


def delong(scores: Sequence[Float[Tensor, " n"]], positive: Bool[Tensor, " n"]) -> DeLong:
    """Areas and their covariance by midranks (Sun and Xu 2014, doi:10.1109/LSP.2014.2337313).

    The samples must be independent: with several X-rays of one patient, bootstrap by patient.

    Args:
        scores: of each system; more means rather positive.
        positive: the truth.

    Raises:
        ValueError: fewer than two positives or negatives, or scores that are not finite.
    """
    if min(int(positive.sum()), int((~positive).sum())) <= 1:
        raise ValueError(
            f"DeLong's variance needs two samples of each class, got {int(positive.sum())} "
            f"positives among {len(positive)}"
        )
    with_positives, with_negatives = [], []
    for one in scores:
        if not torch.isfinite(one).all():
            raise ValueError(f"{int((~torch.isfinite(one)).sum())} scores are NaN or infinite")
        hits, misses = one[positive].double(), one[~positive].double()
        all_ranks = _midranks(torch.cat([hits, misses]))
        beaten = (all_ranks[: len(hits)] - _midranks(hits)) / len(misses)
        losing = 1 - (all_ranks[len(hits) :] - _midranks(misses)) / len(hits)
        with_positives.append(beaten)
        with_negatives.append(losing)
    hits_part, misses_part = torch.stack(with_positives), torch.stack(with_negatives)
    covariance = torch.cov(hits_part).reshape(len(scores), -1) / hits_part.shape[1]
    covariance = covariance + torch.cov(misses_part).reshape(len(scores), -1) / misses_part.shape[1]
    return DeLong(hits_part.mean(dim=1), covariance)


def _midranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, places, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(dim=0).double()
    ranks: Tensor = (last - (counts.double() - 1) / 2)[places]
    return ranks
