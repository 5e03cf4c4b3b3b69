"""Kernel distance (KID, arXiv:1801.01401): unbiased, so small samples do not flatter or punish.

Axes: n real X-rays, m drawn X-rays, f features, r replicates.
"""

from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_DEGREE: Final = 3
_CELLS: Final = 1 << 21
"""Values of the kernel in memory at once: 16 MB."""
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
    pair with itself. The kernel is made in blocks, each once: memory does not grow with n × m.

    Args:
        real: features.
        drawn: features.
        real_weights: how often each real X-ray was drawn; once where None.
        drawn_weights: the same of drawn ones; as many replicates.

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
    first, second = (
        _Weighted(real.double(), mine.double()),
        _Weighted(drawn.double(), theirs.double()),
    )
    within = _mean_of_pairs(first) + _mean_of_pairs(second)
    between = _sum_of_pairs(first, second) / (mine.double().sum(1) * theirs.double().sum(1))
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


class _Weighted(NamedTuple):
    points: Float[Tensor, "n f"]
    weights: Float[Tensor, "r n"]


def _kernel(first: Float[Tensor, "a f"], second: Float[Tensor, "b f"]) -> Float[Tensor, "a b"]:
    kernel = torch.mm(first, second.T).div_(first.shape[1]).add_(1)
    return kernel.pow_(_DEGREE)


def _mean_of_pairs(one: _Weighted) -> Float[Tensor, " r"]:
    points, weights = one
    own = ((points.square().sum(dim=1) / points.shape[1] + 1) ** _DEGREE * weights**2).sum(dim=1)
    total = _sum_of_pairs(one, one) - own
    mean: Tensor = total / (weights.sum(dim=1) ** 2 - (weights**2).sum(dim=1))
    return mean


def _sum_of_pairs(first: _Weighted, second: _Weighted) -> Float[Tensor, " r"]:
    """Σ wᵢ k(xᵢ, yⱼ) vⱼ; of a set with itself only one triangle of blocks is made."""
    total = torch.zeros(len(first.weights), dtype=torch.float64)
    rows = max(1, _CELLS // len(second.points))
    for start in range(0, len(first.points), rows):
        some = slice(start, start + rows)
        left = 0 if first is not second else start  # blocks left of here were counted twice
        kernel = _kernel(first.points[some], second.points[left:])
        weighted = first.weights[:, some] @ kernel
        if first is second:
            weighted[:, rows:] *= 2
        total += (weighted * second.weights[:, left:]).sum(dim=1)
    return total
