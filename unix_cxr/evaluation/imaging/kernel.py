"""Kernel distance (KID, arXiv:1801.01401): unbiased, so small samples do not flatter or punish.

Axes: n real X-rays, m drawn X-rays, f features, r replicates.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_DEGREE: Final = 3
_CHUNK: Final = 1024
_SUBSETS: Final = 100


def kernel_distance(
    real: Float[Tensor, "n f"],
    drawn: Float[Tensor, "m f"],
    real_weights: Float[Tensor, "r n"] | None = None,
    drawn_weights: Float[Tensor, "r m"] | None = None,
) -> Float[Tensor, " r"]:
    """Squared MMD with the kernel (x·y / f + 1)³ over all pairs of different X-rays.

    The mean over pairs of two different samples is the U-statistic, whose expectation is the
    distance whatever n and m are; it can be negative. In a replicate a sample drawn twice is no
    pair with itself. The kernel is made in chunks: memory is 1024 × n.

    Args:
        real: features.
        drawn: features.
        real_weights: how often each real X-ray was drawn; once where None.
        drawn_weights: the same of drawn ones.

    Raises:
        ValueError: widths that differ, fewer than two X-rays, or features that are not finite.
    """
    if real.shape[1] != drawn.shape[1]:
        raise ValueError(f"real has {real.shape[1]} features, drawn {drawn.shape[1]}")
    for name, points in (("real", real), ("drawn", drawn)):
        if len(points) <= 1:
            raise ValueError(f"{name} holds {len(points)} X-rays; a kernel distance needs 2")
        if not torch.isfinite(points).all():
            raise ValueError(f"the features of {name} hold NaN or infinity")
    mine = torch.ones(1, len(real)) if real_weights is None else real_weights
    theirs = torch.ones(1, len(drawn)) if drawn_weights is None else drawn_weights
    first, second = real.double(), drawn.double()
    mine, theirs = mine.double(), theirs.double()
    within = _mean_of_pairs(first, mine) + _mean_of_pairs(second, theirs)
    between = _sum_of_pairs(first, second, mine, theirs) / (mine.sum(1) * theirs.sum(1))
    distance: Tensor = within - 2 * between
    return distance


def kernel_distance_of_subsets(
    real: Float[Tensor, "n f"], drawn: Float[Tensor, "m f"], seed: int = 0
) -> float:
    """Mean over 100 random subsets as large as the smaller set, by torchmetrics' kernel."""
    from torchmetrics.image.kid import poly_mmd

    size = min(len(real), len(drawn))
    generator = torch.Generator().manual_seed(seed)

    def subset(points: Tensor) -> Tensor:
        return points[torch.randperm(len(points), generator=generator)[:size]].double()

    # of two sets of one size every subset is the whole
    draws = 1 if len(real) == len(drawn) else _SUBSETS
    return sum(float(poly_mmd(subset(real), subset(drawn))) for _ in range(draws)) / draws


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    kernel: Tensor = (first @ second.T / first.shape[1] + 1) ** _DEGREE
    return kernel


def _mean_of_pairs(points: Tensor, weights: Tensor) -> Float[Tensor, " r"]:
    own = ((points.square().sum(dim=1) / points.shape[1] + 1) ** _DEGREE * weights**2).sum(dim=1)
    total = _sum_of_pairs(points, points, weights, weights) - own
    mean: Tensor = total / (weights.sum(dim=1) ** 2 - (weights**2).sum(dim=1))
    return mean


def _sum_of_pairs(
    first: Tensor, second: Tensor, mine: Float[Tensor, "r n"], theirs: Float[Tensor, "r m"]
) -> Float[Tensor, " r"]:
    total = torch.zeros(len(mine), dtype=torch.float64)
    parts = zip(torch.split(first, _CHUNK), torch.split(mine, _CHUNK, dim=1), strict=True)
    for points, weights in parts:
        total += ((weights @ _kernel(points, second)) * theirs).sum(dim=1)
    return total
