"""Distances between sets of features, and the four shares of Naeem et al.

Nearness is decided by matrix products in float64; distances that are returned, and those that lie
within rounding of a radius, are taken from the differences of the two points. So equal points are
0 apart, a distance does not depend on the block in which it was computed, and it is an order of
magnitude quicker than all differences.

Axes: n real samples, m drawn samples, f features, k neighbours, p pairs.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_CELLS: Final = 1 << 22
"""Distances in memory at once, unless told otherwise: 32 MB."""
_PAIRS: Final = 1 << 20
"""Numbers of pairs of points in memory at once."""
_SPARE: Final = 3
"""Candidates beyond the k nearest, whose order rounding may have changed."""
_SLACK: Final = 1e-11
"""Squared distances by products are right to this share of the largest squared length."""


class Nearest(NamedTuple):
    """Distances to the nearest targets, nearest first, and which those are."""

    distances: Float[Tensor, "m k"]
    rows: Int[Tensor, "m k"]


def nearest(
    queries: Float[Tensor, "m f"],
    targets: Float[Tensor, "n f"],
    k: int,
    *,
    others: bool = False,
    chunk: int | None = None,
) -> Nearest:
    """The k nearest targets of each query, by Euclidean distance; memory is chunk × n.

    Args:
        queries: points.
        targets: points.
        k: targets per query.
        others: queries and targets are the same points, and none is its own neighbour; a duplicate
            is.
        chunk: queries at a time; as many as keep 32 MB where None.

    Raises:
        ValueError: k is below 1, or there are fewer targets.
    """
    most = len(targets) - others
    if not 1 <= k <= most:
        raise ValueError(f"k ({k}) must be between 1 and the number of other points ({most})")
    centre = targets.double().mean(dim=0)
    against = _Moved.by(targets, centre)
    chunk = chunk or _rows(max(len(targets), (k + _SPARE) * targets.shape[1]))
    distances, rows = [], []
    for start in range(0, len(queries), chunk):
        part = queries[start : start + chunk]
        rough = _rough(_Moved.by(part, centre), against)
        if others:
            rough.scatter_(1, torch.arange(start, start + len(part))[:, None], torch.inf)
        near = rough.topk(min(k + _SPARE, most), dim=1, largest=False).indices
        exact = _exact(part[:, None], targets[near])
        order = exact.argsort(dim=1, stable=True)[:, :k]
        distances.append(exact.gather(1, order))
        rows.append(near.gather(1, order))
    return Nearest(torch.cat(distances), torch.cat(rows))


def nearest_distances(
    queries: Float[Tensor, "m f"], targets: Float[Tensor, "n f"], chunk: int | None = None
) -> Float[Tensor, " m"]:
    """Distance from each query to its nearest target; memory is chunk × n."""
    return nearest(queries, targets, 1, chunk=chunk).distances[:, 0].to(queries.dtype)


def kth_distances(
    points: Float[Tensor, "n f"], k: int, chunk: int | None = None
) -> Float[Tensor, " n"]:
    """Distance from each point to its k-th nearest other point; a duplicate counts as another.

    Raises:
        ValueError: k is not in 1 .. n - 1.
    """
    return _radii(points, k, chunk).to(points.dtype)


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
    real: Float[Tensor, "n f"], drawn: Float[Tensor, "m f"], k: int = 5, chunk: int | None = None
) -> PrdcSamples:
    """Precision, recall (arXiv:1904.06991), density and coverage (arXiv:2002.09797, eqs. 6 and 8).

    A point lies in a ball when its distance is strictly below the radius, as in the authors' code.
    Both sets go through in chunks: memory is chunk × n.

    Raises:
        ValueError: too few samples for k, widths that differ, or features that are not finite.
    """
    _check(real, drawn)
    real_radii, drawn_radii = (_radii(points, k, chunk) for points in (real, drawn))
    centre = real.double().mean(dim=0)
    against = _Moved.by(real, centre)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    chunk = chunk or _rows(len(real))
    around = []
    for start in range(0, len(drawn), chunk):
        part = drawn[start : start + chunk]
        radii = drawn_radii[start : start + chunk, None]
        moved = _Moved.by(part, centre)
        rough = _rough(moved, against)  # [m n]
        slack = _SLACK * float(moved.squares.max() + against.squares.max())
        inside = _below(rough, real_radii[None], part, real, slack)
        around.append(inside.sum(dim=1, dtype=torch.int32))
        covered |= inside.any(dim=0)
        recalled |= _below(rough, radii, part, real, slack).any(dim=0)
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
    # the direct form: the faster one by a matrix product puts equal points 1e-3 apart
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


class _Moved(NamedTuple):
    """Points as seen from a middle, which keeps products small, and their squared lengths."""

    points: Float[Tensor, "n f"]
    squares: Float[Tensor, " n"]

    @classmethod
    def by(cls, points: Float[Tensor, "n f"], centre: Float[Tensor, " f"]) -> "_Moved":
        moved = points.double() - centre
        return cls(moved, moved.square().sum(dim=1))


def _rows(cells: int) -> int:
    """How many queries at once, of which each needs so many cells."""
    return max(1, _CELLS // cells)


def _radii(points: Float[Tensor, "n f"], k: int, chunk: int | None) -> Float[Tensor, " n"]:
    if not 1 <= k < len(points):
        raise ValueError(
            f"k ({k}) must be between 1 and the number of points - 1 ({len(points) - 1})"
        )
    return nearest(points, points, k, others=True, chunk=chunk).distances[:, -1]


def _rough(a: _Moved, b: _Moved) -> Float[Tensor, "m n"]:
    """Squared distances up to rounding: |a|² + |b|² - 2 a·b."""
    squares = torch.addmm(b.squares, a.points, b.points.T, alpha=-2)
    return squares.add_(a.squares[:, None])


def _exact(a: Float[Tensor, "*p f"], b: Float[Tensor, "*p f"]) -> Float[Tensor, " *p"]:
    """Distances of pairs of points from their differences: 0 for equal ones."""
    distances: Tensor = (a.double() - b.double()).square_().sum(dim=-1).sqrt_()
    return distances


def _below(
    rough: Float[Tensor, "m n"],
    radii: Float[Tensor, "a b"],
    queries: Float[Tensor, "m f"],
    targets: Float[Tensor, "n f"],
    slack: float,
) -> Bool[Tensor, "m n"]:
    """Which distances lie strictly below the radii (of rows or of columns)."""
    limits = radii.square()
    below = rough < limits + slack
    # no distance is below a radius of 0, so pairs of duplicates need no second look
    unsure = (below ^ (rough < limits - slack)).logical_and_(radii > 0)
    below &= radii > 0
    wide = radii.expand(rough.shape)
    at_once = max(1, _PAIRS // queries.shape[1])
    for pairs in torch.split(unsure.nonzero(), at_once):
        rows, columns = pairs.T
        exact = _exact(queries[rows], targets[columns])
        below[rows, columns] = exact < wide[rows, columns]
    return below


def _check(real: Tensor, drawn: Tensor) -> None:
    if real.shape[1] != drawn.shape[1]:
        raise ValueError(f"real has {real.shape[1]} features, drawn {drawn.shape[1]}")
    for name, points in (("real", real), ("drawn", drawn)):
        if not torch.isfinite(points).all():
            raise ValueError(f"the features of {name} hold NaN or infinity")
