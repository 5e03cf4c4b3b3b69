"""Bootstrap intervals over groups: patients for real X-rays, seeds for drawn ones.

Axes: n samples, r replicates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.evaluation.xrays import group_numbers

CONFIDENCE: Final = 0.95
_BLOCK: Final = 64
"""Replicates in memory at once: 512 bytes per sample, and as much again while they are drawn."""


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """`0.873 (0.841 to 0.902)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap_weights(
    groups: Sequence[str], replicates: int, generator: torch.Generator
) -> Float[Tensor, "r n"]:
    """How often each sample occurs when whole groups are drawn with replacement.

    Drawing groups, not samples, keeps the interval honest where one patient has many X-rays
    (Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x).

    All replicates at once, 4 bytes × r × n: where they are needed one after the other take
    `bootstrap_blocks`.

    Raises:
        ValueError: no groups.
    """
    blocks = list(bootstrap_blocks(groups, replicates, generator))
    return torch.cat(blocks) if blocks else torch.empty(0, len(groups))


def bootstrap_blocks(
    groups: Sequence[str], replicates: int, generator: torch.Generator
) -> Iterator[Float[Tensor, "b n"]]:
    """The rows of `bootstrap_weights`, some at a time.

    Raises:
        ValueError: no groups.
    """
    if not groups:
        raise ValueError("there is nothing to draw from: groups is empty")
    numbers = group_numbers(groups)
    count = int(numbers.max()) + 1
    for start in range(0, replicates, _BLOCK):
        drawn = torch.randint(count, (min(_BLOCK, replicates - start), count), generator=generator)
        times = torch.zeros(drawn.shape).scatter_add_(1, drawn, torch.ones(1).expand_as(drawn))
        yield times if count == len(groups) else times[:, numbers]


def measured(value: Float[Tensor, ""] | float, replicates: Float[Tensor, " r"]) -> Measured:
    """The value with the percentile interval of its replicates (Efron 1979).

    Replicates in which the statistic does not exist (NaN, such as an AUC with one class) are left
    out.

    Raises:
        ValueError: fewer than half of the replicates exist.
    """
    kept = replicates[~replicates.isnan()].double()
    if 2 * len(kept) < len(replicates) or not len(kept):
        raise ValueError(
            f"the statistic exists in {len(kept)} of {len(replicates)} replicates only; "
            "there are too few groups to give an interval"
        )
    tail = (1 - CONFIDENCE) / 2
    low, high = kept.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Measured(float(value), low, high)


def weighted_mean(
    values: Float[Tensor, " n"], weights: Float[Tensor, "r n"]
) -> Float[Tensor, " r"]:
    """Mean of `values` in each replicate; NaN where all its weights are 0."""
    return (weights @ values.to(weights.dtype)) / weights.sum(dim=1)


def mean_with_interval(values: Float[Tensor, " n"], weights: Float[Tensor, "r n"]) -> Measured:
    """The plain mean of per-sample values, with the interval over replicates."""
    return measured(values.double().mean(), weighted_mean(values, weights))


def weighted_quantile(
    values: Float[Tensor, " n"], share: float, weights: Float[Tensor, "r n"]
) -> Float[Tensor, " r"]:
    """Smallest value at or below which at least `share` of each replicate's weight lies."""
    ordered, order = values.sort()
    cumulative = weights[:, order].cumsum(dim=1)
    reached = cumulative >= share * cumulative[:, -1:]
    return ordered[reached.int().argmax(dim=1)]
