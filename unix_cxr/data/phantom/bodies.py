"""Line integrals of simple bodies: how many cm of each ray run through them.

Rays run along z. Axes: b phantoms, h rows, w columns; numbers of one phantom are [b, 1, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_FAINTEST: Final = 80.0


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
        return 2 * self.deep * (1 - self.level(x, y)).clamp_min(0).sqrt()

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
    return 2 * (radius**2 - distance.square()).clamp_min(0).sqrt()


def magnification(source_distance: float, depth: float) -> float:
    """How much larger than itself a body is shown that lies `depth` in front of the detector."""
    return source_distance / (source_distance - depth)


def attenuated(optical_depth: Tensor) -> Tensor:
    """Share of the photons that passes: exp(-∫ μ dz), the law of Beer and Lambert."""
    return (-optical_depth).exp()


def step(distance: Tensor, softness: Tensor | float) -> Tensor:
    """0 far below 0, 1 far above 0."""
    return torch.sigmoid(distance / softness)


def decay(distance: Tensor) -> Tensor:
    """exp(-distance); what would be no normal number is cut off, since it is slow to compute."""
    return (-distance.clamp_max(_FAINTEST)).exp()


def bell(distance: Tensor) -> Tensor:
    """exp(-distance²)."""
    return decay(distance.square())


def distance_to_curve(
    x: Float[Tensor, "b h w"], y: Float[Tensor, "b h w"], points: Sequence[tuple[Tensor, Tensor]]
) -> Float[Tensor, "b h w"]:
    """Distance from each pixel to a chain of straight pieces."""
    nearest = torch.full_like(x, math.inf)
    for (x0, y0), (x1, y1) in pairwise(points):
        along_x, along_y = x1 - x0, y1 - y0
        from_x, from_y = x - x0, y - y0
        squared = (along_x.square() + along_y.square()).clamp_min(1e-6)
        share = ((from_x * along_x + from_y * along_y) / squared).clamp(0, 1)
        gap_x, gap_y = from_x - share * along_x, from_y - share * along_y
        nearest = torch.minimum(nearest, gap_x.square() + gap_y.square())
    return nearest.sqrt()


def bezier(
    corners: Sequence[tuple[Tensor, Tensor]], pieces: int = 8
) -> list[tuple[Tensor, Tensor]]:
    """Points on the curve of Bézier that four corners span."""
    points = []
    for number in range(pieces + 1):
        t = number / pieces
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        points.append(
            (
                sum((w * x for w, (x, _) in zip(weights, corners, strict=True)), torch.zeros(())),
                sum((w * y for w, (_, y) in zip(weights, corners, strict=True)), torch.zeros(())),
            )
        )
    return points
