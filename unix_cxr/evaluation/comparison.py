"""Is one system better than another? Paired bootstrap and randomisation test, by patient.

Axes: n samples, r replicates, s statistics per sample, g groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.evaluation.bootstrap import measured
from unix_cxr.evaluation.corpus_metric import OfSums, Resampling
from unix_cxr.evaluation.results import Interval
from unix_cxr.evaluation.xrays import group_numbers

_BLOCK = 256


@dataclass(frozen=True)
class Difference:
    """System A minus system B.

    Args:
        value: of the difference.
        interval: paired bootstrap.
        p_value: of the hypothesis that the two are exchangeable.
        test: how the p value was made.
    """

    value: float
    interval: Interval
    p_value: float
    test: str

    @property
    def significant(self) -> bool:
        """Whether p is below 0.05."""
        return self.p_value < 0.05  # noqa: PLR2004 - the usual level


def compare_systems(
    of_sums: OfSums,
    a: Float[Tensor, "n s"],
    b: Float[Tensor, "n s"],
    groups: Sequence[str],
    resampling: Resampling | None = None,
) -> Difference:
    """Paired comparison of two systems on the same samples.

    The interval is the paired bootstrap's (Koehn 2004, W04-3250), the p value that of approximate
    randomisation (Noreen 1989; Riezler and Maxwell 2005, W05-0908): the two systems' rows are
    swapped for whole groups, because samples of one patient are not independent. With r
    randomisations the smallest p value is 1 / (r + 1).

    Args:
        of_sums: sums of statistics to the metric's value.
        a: statistics of system A, one row per sample.
        b: statistics of system B, the same samples in the same order.
        groups: of the samples, such as patients.
        resampling: replicates and seed.

    Raises:
        ValueError: shapes that differ, or no replicates.
    """
    resampling = resampling or Resampling()
    if a.shape != b.shape or len(a) != len(groups):
        raise ValueError(
            f"the systems must be measured on the same samples: {list(a.shape)} and "
            f"{list(b.shape)} statistics for {len(groups)} groups"
        )
    if not resampling.replicates:
        raise ValueError("a comparison needs replicates; give at least 1, such as 1000")
    first, second = a.double(), b.double()
    value = float(of_sums(first.sum(dim=0, keepdim=True)) - of_sums(second.sum(0, keepdim=True)))
    sums = resampling.sums(torch.cat([first, second], dim=1), groups).tensor_split(2, dim=1)
    drawn = of_sums(sums[0]) - of_sums(sums[1])
    found = measured(value, drawn)
    return Difference(
        value=value,
        interval=Interval(found.low, found.high, f"paired bootstrap by {resampling.unit}"),
        p_value=_randomised(of_sums, first, second, groups, resampling),
        test=f"approximate randomisation by {resampling.unit}",
    )


def _randomised(
    of_sums: OfSums,
    a: Float[Tensor, "n s"],
    b: Float[Tensor, "n s"],
    groups: Sequence[str],
    resampling: Resampling,
) -> float:
    """Share of random swaps whose difference is at least as large as the one seen."""
    numbers = group_numbers(groups)
    count = int(numbers.max()) + 1
    by_group_a = torch.zeros(count, a.shape[1], dtype=torch.float64).index_add_(0, numbers, a)
    by_group_b = torch.zeros(count, b.shape[1], dtype=torch.float64).index_add_(0, numbers, b)
    generator = torch.Generator().manual_seed(resampling.seed + 1)
    total = (by_group_a + by_group_b).sum(dim=0)

    def difference(kept: Tensor) -> Tensor:
        sums = kept @ by_group_a + (1 - kept) @ by_group_b
        return of_sums(sums) - of_sums(total - sums)

    # the same sums in the same order, so that equal differences are equal to the last bit
    seen = difference(torch.ones(1, count, dtype=torch.float64)).abs()
    slack = 1e-12 * (1 + seen)
    reached = 0
    for start in range(0, resampling.replicates, _BLOCK):
        rows = min(_BLOCK, resampling.replicates - start)
        kept = torch.randint(2, (rows, count), generator=generator).double()
        swapped = difference(kept).abs()
        reached += int((swapped.nan_to_num(torch.inf) >= seen - slack).sum())
    return (reached + 1) / (resampling.replicates + 1)


def compare_replicates(
    values: tuple[float, float],
    replicates: tuple[Float[Tensor, " r"], Float[Tensor, " r"]],
    *,
    paired: bool,
) -> Difference:
    """The difference of two numbers that are no function of sums, from their replicates.

    Args:
        values: of A and B.
        replicates: of A and B.
        paired: whether the k-th replicates of both drew the same groups. Where not, the interval is
            that of two independent systems: wider than need be, never too narrow for them.

    Raises:
        ValueError: replicates that differ in number.
    """
    first, second = replicates
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} and {len(second)} replicates; measure both runs with the same number"
        )
    drawn = first - second
    value = values[0] - values[1]
    found = measured(value, drawn)
    kind = "paired" if paired else "unpaired"
    kept = drawn[~drawn.isnan()]
    below = ((kept <= 0).sum() + 1) / (len(kept) + 1)
    above = ((kept >= 0).sum() + 1) / (len(kept) + 1)
    return Difference(
        value=value,
        interval=Interval(found.low, found.high, f"{kind} bootstrap"),
        p_value=min(1.0, 2 * float(torch.minimum(below, above))),
        test=f"{kind} bootstrap, two-sided",
    )
