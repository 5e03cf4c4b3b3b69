"""At which times a generation stage learns, and how much each of them counts.

Axes: b batch.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.functional.flow import (
    cosmap_weights,
    logit_normal_times,
    min_snr_weights,
    mode_times,
    shift_time,
)
from unix_cxr.training.objective_settings import DrawingSettings, TimesSettings

Weighting = Callable[[Float[Tensor, " b"]], Float[Tensor, " b"]]
"""Weight of a sample's squared error by its time."""


def sample_times(
    count: int, settings: TimesSettings, generator: torch.Generator
) -> Float[Tensor, " count"]:
    """Draw the times of a batch.

    Every kind is made of standard normal draws. Where they are stratified, the strata are dealt to
    the samples at random, so that each part of a batch gets a fair share of them.

    Args:
        count: samples of the batch.
        settings: the distribution.
        generator: of the draws.
    """
    normals = torch.randn(count, generator=generator)
    if settings.stratified:
        strata = torch.randperm(count, generator=generator)
        uniforms = (strata + torch.special.ndtr(normals.double())) / count
        normals = torch.special.ndtri(uniforms).float()
    return shift_time(_unshifted(normals, settings), settings.shift)


def _unshifted(normals: Float[Tensor, " b"], settings: TimesSettings) -> Float[Tensor, " b"]:
    if settings.kind == "logit_normal":
        return logit_normal_times(normals, settings.mean, settings.std)
    uniforms = torch.special.ndtr(normals.double())
    return mode_times(uniforms, settings.scale).float()  # with scale 0 where kind is uniform


def weighting_of(settings: DrawingSettings) -> Weighting | None:
    """The weighting that a stage asks for; None where all times count alike."""
    match settings.weighting:
        case "none":
            return None
        case "min_snr":
            return partial(min_snr_weights, gamma=settings.snr_gamma)
        case "cosmap":
            return cosmap_weights
