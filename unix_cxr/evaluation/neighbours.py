"""Distances between sets of features, and the four shares of Naeem et al.

Axes: n real samples, m drawn samples, f features, k neighbours.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_CHUNK = 1024


def nearest_distances(
    queries: Float[Tensor, "m f"], targets: Float[Tensor, "n f"], chunk: int = _CHUNK
) -> Float[Tensor, " m"]:
    """Distance from each query to its nearest target; memory is chunk × n."""
    return torch.cat(
        [_distances(part, targets).amin(dim=1) for part in torch.split(queries, chunk)]
    )


def kth_distances(points: Float[Tensor, "n f"], k: int, chunk: int = _CHUNK) -> Float[Tensor, " n"]:
    """Distance from each point to its k-th nearest other point; a duplicate counts as another.

    Raises:
        ValueError: k is not in 1 .. n - 1.
    """
    if not 1 <= k < len(points):
        raise ValueError(
            f"k ({k}) must be between 1 and the number of points - 1 ({len(points) - 1})"
        )
    parts = []
    for start in range(0, len(points), chunk):
        part = points[start : start + chunk]
        distances = _distances(part, points)
        own = torch.arange(start, start + len(part))[:, None]
        distances.scatter_(1, own, torch.inf)
        parts.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(parts)


@dataclass(frozen=True)
class PrdcSamples:
    """Per-sample values whose means are precision, recall, density and coverage.

    Args:
        precise: per drawn sample, whether it lies in some real sample's k-neighbour ball.
        recalled: per real sample, whether it lies in some drawn sample's k-neighbour ball.
        density: per drawn sample, the number of real balls around it, divided by k.
        covered: per real sample, whether its own ball holds a drawn sample.
    """

    precise: Float[Tensor, " m"]
    recalled: Float[Tensor, " n"]
    density: Float[Tensor, " m"]
    covered: Float[Tensor, " n"]


def prdc(
    real: Float[Tensor, "n f"], drawn: Float[Tensor, "m f"], k: int = 5, chunk: int = _CHUNK
) -> PrdcSamples:
    """Precision, recall (arXiv:1904.06991), density and coverage (arXiv:2002.09797, eqs. 6 and 8).

    A point lies in a ball when its distance is strictly below the radius, as in the authors' code.
    Both sets go through in chunks: memory is chunk × n.

    Raises:
        ValueError: too few samples for k, widths that differ, or features that are not finite.
    """
    _check(real, drawn)
    real_radii, drawn_radii = kth_distances(real, k, chunk), kth_distances(drawn, k, chunk)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    around = []
    for part, radii in zip(torch.split(drawn, chunk), torch.split(drawn_radii, chunk), strict=True):
        distances = _distances(part, real)  # [m n]
        inside: Bool[Tensor, "m n"] = distances < real_radii
        around.append(inside.sum(dim=1))
        covered |= inside.any(dim=0)
        recalled |= (distances < radii[:, None]).any(dim=0)
    balls = torch.cat(around)
    return PrdcSamples(
        precise=(balls > 0).float(),
        recalled=recalled.float(),
        density=balls.float() / k,
        covered=covered.float(),
    )


def spread(distances: Float[Tensor, "n n"], weights: Float[Tensor, "r n"]) -> Float[Tensor, " r"]:
    """Mean distance between two different samples, in each replicate.

    A sample drawn twice is not two samples: pairs of a sample with itself are left out.
    """
    total = torch.einsum("ri,ij,rj->r", weights, distances, weights)
    own = (weights**2 * distances.diagonal()).sum(dim=1)
    return (total - own) / (weights.sum(dim=1) ** 2 - (weights**2).sum(dim=1))


def pairwise_distances(points: Float[Tensor, "n f"]) -> Float[Tensor, "n n"]:
    """Euclidean distance between every two points."""
    return _distances(points, points)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # the direct form: the faster one by a matrix product puts equal points 1e-3 apart
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _check(real: Tensor, drawn: Tensor) -> None:
    if real.shape[1] != drawn.shape[1]:
        raise ValueError(f"real has {real.shape[1]} features, drawn {drawn.shape[1]}")
    for name, points in (("real", real), ("drawn", drawn)):
        if not torch.isfinite(points).all():
            raise ValueError(f"the features of {name} hold NaN or infinity")
