"""Rectified flow between data and noise; the one place that says what time means.

t = 0 is data and t = 1 is noise. Axes: b batch, the rest are the sample's own.
"""

import math

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
    t = per_sample(t, data)
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
    return shift_time(logit_normal_times(normals), shift)


def logit_normal_times(
    normals: Float[Tensor, " b"], mean: float = 0.0, std: float = 1.0
) -> Float[Tensor, " b"]:
    """Times whose logit is normal: sigmoid(mean + std n), arXiv:2403.03206, section 3.1.

    Args:
        normals: one standard normal draw per sample.
        mean: of the logit; above 0 draws more times near the noise.
        std: of the logit; below 1 draws more times near the mean.
    """
    return torch.sigmoid(mean + std * normals)


def mode_times(uniforms: Float[Tensor, " b"], scale: float) -> Float[Tensor, " b"]:
    """Times with a mode in the middle: 1 − u − s (cos²(πu/2) − 1 + u), arXiv:2403.03206.

    Args:
        uniforms: one uniform draw per sample.
        scale: s; 0 is uniform, above 0 favours the middle, below 0 the ends.

    Raises:
        ValueError: the scale is not between −1 and 2 / (π − 2), where time runs with u.
    """
    largest = 2 / (math.pi - 2)
    if not -1 <= scale <= largest:
        raise ValueError(f"scale ({scale}) must lie between -1 and {largest:.4f}")
    return 1 - uniforms - scale * (torch.cos(math.pi / 2 * uniforms).square() - 1 + uniforms)


def min_snr_weights(t: Float[Tensor, " b"], gamma: float) -> Float[Tensor, " b"]:
    """Weight of the squared error of the velocity under min-SNR-γ: min((1 − t)², γ t²).

    Min-SNR (arXiv:2303.09556) weighs the squared error of the data by min(SNR, γ). On the
    straight path SNR = (1 − t)² / t², and the data that a velocity tells are x_t − t v, so an error
    of the velocity is t times as large an error of the data: min(SNR, γ) t².

    Args:
        t: times.
        gamma: γ; the larger, the more weight near the noise is left to the errors there.
    """
    return torch.minimum((1 - t).square(), gamma * t.square())


def cosmap_weights(t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Density of the cosine schedule's times: 2 / (π (1 − 2t + 2t²)), arXiv:2403.03206.

    Uniform times with these weights have the loss that the cosine schedule's times have.
    """
    return 2 / (math.pi * (1 - 2 * t + 2 * t.square()))


def per_sample(t: Float[Tensor, " b"], like: Float[Tensor, "b ..."]) -> Tensor:
    """One number per sample, so that it multiplies all elements of the sample."""
    return rearrange(t, "b -> b" + " 1" * (like.ndim - 1)).to(like.dtype)
