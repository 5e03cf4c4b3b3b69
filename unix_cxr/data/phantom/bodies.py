"""Line integrals of simple bodies: how many cm of each ray run through them.

Rays run along z. Axes: b phantoms, h rows, w columns; numbers of one phantom are [b, 1, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_FAINTEST: Final = 80.0
_LEAST: Final = 1e-20

Point = tuple[Tensor, Tensor]
"""x and y, [b, 1, 1] each."""

Points = Float[Tensor, "2 p b 1 1"]
"""x and y of p points."""


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with one axis along the ray.

    Args:
        x, y: its centre.
        across, down, deep: its half axes.
        angle: rotation in the plane, radians; positive turns the x axis towards y.
    """

    x: Tensor | float
    y: Tensor | float
    across: Tensor | float
    down: Tensor | float
    deep: Tensor | float
    angle: Tensor | float = 0.0

    def path(self, x: Tensor, y: Tensor) -> Tensor:
        """Length of the ray inside: 2 deep sqrt(1 - u² - v²)."""
        return 2 * self.deep * root(1 - self.level(x, y))

    def level(self, x: Tensor, y: Tensor) -> Tensor:
        """u² + v²: 1 on the outline, less within."""
        across, down = x - self.x, y - self.y
        if isinstance(self.angle, Tensor) or self.angle:
            angle = torch.as_tensor(self.angle)
            cosine, sine = angle.cos(), angle.sin()
            across, down = across * cosine + down * sine, down * cosine - across * sine
        return (across / self.across).square() + (down / self.down).square()


def tube_path(distance: Tensor, radius: Tensor | float) -> Tensor:
    """Length of the ray inside a tube in the plane, whose axis passes at a distance."""
    return 2 * root(radius**2 - distance.square())


def magnification(source_distance: float, depth: float) -> float:
    """How much larger than itself a body is shown that lies `depth` in front of the detector."""
    return source_distance / (source_distance - depth)


def attenuated(optical_depth: Tensor) -> Tensor:
    """Share of the photons that passes: exp(-∫ μ dz), the law of Beer and Lambert."""
    return (-optical_depth).exp()


def root(value: Tensor) -> Tensor:
    """Square root, 0 (or what adds nothing) below 0; that of 0 itself is ten times as slow."""
    return value.clamp_min(_LEAST).sqrt_()


def step(distance: Tensor, softness: Tensor | float) -> Tensor:
    """0 far below 0, 1 far above 0."""
    return (distance / softness).sigmoid_()


def decay(distance: Tensor) -> Tensor:
    """exp(-distance); what would be no normal number is cut off, since it is slow to compute."""
    return distance.clamp_max(_FAINTEST).neg_().exp_()


def bell(distance: Tensor) -> Tensor:
    """exp(-distance²)."""
    return decay(distance.square())


def distance_to_curve(
    x: Float[Tensor, "b h w"], y: Float[Tensor, "b h w"], points: Points
) -> Float[Tensor, "b h w"]:
    """Distance from each pixel to a chain of straight pieces."""
    starts = points[:, :-1]
    along = points[:, 1:] - starts
    # the foot of the perpendicular: a share of the piece, linear in x and y
    slopes = along / along.square().sum(0).clamp_min(1e-6)
    offsets = (slopes * starts).sum(0)
    nearest = torch.full_like(x, math.inf)
    for (x0, y0), (along_x, along_y), (slope_x, slope_y), offset in zip(
        *(part.unbind(1) for part in (starts, along, slopes)), offsets, strict=True
    ):
        share = (x * slope_x).add_(y * slope_y).sub_(offset).clamp_(0, 1)
        gap_x = (x - x0).sub_(share * along_x)
        gap_y = (y - y0).sub_(share * along_y)
        nearest = torch.minimum(nearest, gap_x.square_().add_(gap_y.square_()))
    return nearest.sqrt_()


def chain(points: Sequence[Point]) -> Points:
    """Points as one tensor."""
    return torch.stack(
        [torch.stack(torch.broadcast_tensors(*numbers)) for numbers in zip(*points, strict=True)]
    )


def bezier(corners: Sequence[Point], pieces: int = 8) -> Points:
    """Points on the curve of Bézier that four corners span."""
    t = torch.arange(pieces + 1) / pieces
    weights = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])[
        None, :, :, None, None, None
    ]
    return (weights * chain(corners)[:, :, None]).sum(1)
