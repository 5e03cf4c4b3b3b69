"""Fréchet distance of features (arXiv:1706.08500), its replicates, and how it falls with N.

Axes: n real X-rays, m drawn X-rays, f features, r replicates, k sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

_FEWEST: Final = 2
_SIZES: Final = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
_DRAWS: Final = 3


class FrechetAccumulator:
    """FD through torchmetrics in float64, from batches of features; memory does not grow with N.

    Args:
        width: features per X-ray.
    """

    def __init__(self, width: int) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        # every process holds the features of all: torchmetrics would add them up once more
        self._metric = FrechetInceptionDistance(feature=AsTheyAre(width), sync_on_compute=False)
        self._metric.set_dtype(torch.float64)

    def update(self, features: Float[Tensor, "n f"], *, real: bool) -> None:
        """Add features of real or of drawn X-rays."""
        self._metric.update(features.double(), real=real)

    def compute(self) -> float:
        """The distance; 0 or more."""
        return max(0.0, float(self._metric.compute()))


class AsTheyAre(nn.Module):
    """Stands for the extractor where the features are there already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        """The features as they are."""
        return features


def frechet_distance(
    real: Float[Tensor, "n f"], drawn: Float[Tensor, "m f"], chunk: int = 4096
) -> float:
    """|μ - μ'|² + tr(Σ + Σ' - 2 (Σ Σ')^½), by torchmetrics in float64.

    Raises:
        ValueError: fewer than two X-rays, widths that differ, features that are not finite, or a
            set without any spread.
    """
    _check(real, drawn)
    accumulator = FrechetAccumulator(real.shape[1])
    for points, is_real in ((real, True), (drawn, False)):
        for part in torch.split(points, chunk):
            accumulator.update(part, real=is_real)
    return accumulator.compute()


def weighted_frechet_distance(
    real: Float[Tensor, "n f"],
    drawn: Float[Tensor, "m f"],
    real_weights: Float[Tensor, " n"],
    drawn_weights: Float[Tensor, " m"],
) -> float:
    """The same where each X-ray counts as often as the bootstrap drew it.

    tr (Σ Σ')^½ is the sum of the singular values of A A'ᵀ for any factors with AᵀA = Σ: exact for
    covariances without full rank too, and as small as the smaller set.
    """
    return _distance(*_moved(real, drawn), real_weights, drawn_weights)


def _moved(real: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Both as seen from the real mean, in float64: sums of squares then lose nothing."""
    first, second = real.double(), drawn.double()
    centre = first.mean(dim=0)
    return first - centre, second - centre


def _distance(
    real: Float[Tensor, "n f"],
    drawn: Float[Tensor, "m f"],
    real_weights: Float[Tensor, " n"],
    drawn_weights: Float[Tensor, " m"],
) -> float:
    first, second = _moments(real, real_weights), _moments(drawn, drawn_weights)
    apart = (first.mean - second.mean).square().sum()
    traces = first.factor.square().sum() + second.factor.square().sum()
    shared = torch.linalg.svdvals(first.factor @ second.factor.T).sum()
    return max(0.0, float(apart + traces - 2 * shared))


class _Moments(NamedTuple):
    mean: Tensor
    factor: Tensor


def _moments(points: Float[Tensor, "n f"], weights: Float[Tensor, " n"]) -> _Moments:
    kept = weights > 0
    points, weights = points[kept], weights[kept].double()
    total = weights.sum()
    mean = weights @ points / total
    if len(points) <= points.shape[1]:
        return _Moments(mean, (weights / (total - 1)).sqrt()[:, None] * (points - mean))
    squares = (points * weights[:, None]).T @ points
    covariance = (squares - total * torch.outer(mean, mean)) / (total - 1)
    values, vectors = torch.linalg.eigh(covariance)
    return _Moments(mean, values.clamp_min(0).sqrt()[:, None] * vectors.T)


def frechet_replicates(
    real: Float[Tensor, "n f"],
    drawn: Float[Tensor, "m f"],
    real_weights: Float[Tensor, "r n"],
    drawn_weights: Float[Tensor, "r m"],
) -> Float[Tensor, " r"]:
    """The distance in each replicate; biased upward, because draws repeat samples."""
    moved = _moved(real, drawn)
    values = [
        _distance(*moved, mine, theirs)
        for mine, theirs in zip(real_weights, drawn_weights, strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class FrechetCurve:
    """FD of random parts of both sets, and what it tends to.

    Args:
        sizes: X-rays per set.
        values: mean FD of each size.
        limit: where the line through FD against 1/N meets 1/N = 0 (arXiv:1911.07023): the distance
            of infinitely many X-rays.
    """

    sizes: tuple[int, ...]
    values: tuple[float, ...]
    limit: float


def frechet_curve(
    real: Float[Tensor, "n f"],
    drawn: Float[Tensor, "m f"],
    shares: Sequence[float] = _SIZES,
    seed: int = 0,
) -> FrechetCurve:
    """FD against N: a small sample makes it larger, whatever the images are.

    Raises:
        ValueError: see `frechet_distance`.
    """
    _check(real, drawn)
    generator = torch.Generator().manual_seed(seed)
    most = min(len(real), len(drawn))
    sizes = sorted({max(_FEWEST, round(share * most)) for share in shares})
    values = []
    for size in sizes:
        draws = [
            weighted_frechet_distance(
                real[torch.randperm(len(real), generator=generator)[:size]],
                drawn[torch.randperm(len(drawn), generator=generator)[:size]],
                torch.ones(size),
                torch.ones(size),
            )
            for _ in range(_DRAWS)
        ]
        values.append(sum(draws) / len(draws))
    design = torch.tensor([[1.0, 1.0 / size] for size in sizes], dtype=torch.float64)
    wanted = torch.tensor(values, dtype=torch.float64)[:, None]
    limit = float(torch.linalg.lstsq(design, wanted, driver="gelsd").solution[0])
    return FrechetCurve(tuple(sizes), tuple(values), limit)


def _check(real: Tensor, drawn: Tensor) -> None:
    if real.shape[1] != drawn.shape[1]:
        raise ValueError(f"real has {real.shape[1]} features, drawn {drawn.shape[1]}")
    for name, points in (("real", real), ("drawn", drawn)):
        if len(points) < _FEWEST:
            raise ValueError(f"{name} holds {len(points)} X-rays; a Fréchet distance needs 2")
        if not torch.isfinite(points).all():
            raise ValueError(f"the features of {name} hold NaN or infinity")
        require_spread(name, points)


def require_spread(name: str, points: Float[Tensor, "n f"]) -> None:
    """Refuse features that are all the same.

    Raises:
        ValueError: they are.
    """
    if bool((points == points[0]).all()):
        raise ValueError(
            f"all {len(points)} feature vectors of {name} are equal; the images are copies of "
            "one, or the extractor sees nothing in them"
        )
