"""Rectified flow between data and noise; the one place that says what time means.

t = 0 is data and t = 1 is noise. Axes: b batch, the rest are the sample's own.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def interpolate(
    data: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " b"]
) -> Float[Tensor, "b ..."]:
    """Point at time t on the straight path from data (t = 0) to noise (t = 1).

    Source: arXiv:2209.03003, eq. 1, with time running from data to noise.
    """
    t = _per_sample(t, data)
    return (1 - t) * data + t * noise


def velocity(data: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """Derivative of the path by time, the regression target: noise − data (arXiv:2209.03003)."""
    return noise - data


def euler_step(
    latents: Float[Tensor, "b ..."], velocity: Float[Tensor, "b ..."], dt: float | Tensor
) -> Float[Tensor, "b ..."]:
    """One step of length dt > 0 towards the data: x − v dt."""
    return latents - velocity * dt


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Move times in [0, 1] towards noise: s t / (1 + (s − 1) t), arXiv:2403.03206, eq. 23.

    Args:
        t: times of any shape.
        shift: s > 0; 1 changes nothing, 3 spends more of the time near the noise.
    """
    if not shift > 0:
        raise ValueError(f"shift ({shift}) must be greater than 0")
    return shift * t / (1 + (shift - 1) * t)


def time_grid(points: int, shift: float) -> Float[Tensor, " points"]:
    """The published grid of times from 1 down to 0, both ends included.

    The last point is where sampling ends, so `points` points are `points − 1` Euler steps.
    """
    if points < 2:  # noqa: PLR2004 - one step needs two ends
        raise ValueError(f"points ({points}) must be at least 2: one step from noise to data")
    return shift_time(torch.linspace(1, 0, points), shift)


def training_times(normals: Float[Tensor, " b"], shift: float) -> Float[Tensor, " b"]:
    """Logit-normal times, shifted: one standard normal draw per sample becomes its time."""
    return shift_time(torch.sigmoid(normals), shift)


def _per_sample(t: Float[Tensor, " b"], like: Float[Tensor, "b ..."]) -> Tensor:
    return rearrange(t, "b -> b" + " 1" * (like.ndim - 1)).to(like.dtype)
