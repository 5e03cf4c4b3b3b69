"""From noise to latents: guidance as a velocity function, and a loop over a scheduler's steps.

Axes: b batch, c latent channels, h and w latents, n tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from jaxtyping import Float
from torch import Tensor

from unix_cxr.functional.flow import time_grid
from unix_cxr.functional.guidance import Guidance, Renorm, guide
from unix_cxr.functional.patchify import patchify, unpatchify
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.context import Context
from unix_cxr.models.unix import UniXModel

VelocityFunction = Callable[[Float[Tensor, "b c h w"], float], Float[Tensor, "b c h w"]]
"""Velocity of latents at a time."""

StepCallback = Callable[[int, float, Float[Tensor, "b c h w"]], Float[Tensor, "b c h w"]]
"""Called after every step with its number, its time and the latents, which it may replace."""


@dataclass(frozen=True)
class GuidanceContexts:
    """The contexts that guidance compares.

    Args:
        conditional: everything.
        without_text: the text dropped; empty for text alone.
        without_image: the context image dropped; None where there is none.
    """

    conditional: Context
    without_text: Context
    without_image: Context | None = None


class GuidedVelocity:
    """Velocity under guidance; all passes of a step run as one batch, and calls are counted.

    Args:
        model: predicts velocities.
        contexts: what guidance compares; only the conditional one is used where it is off.
        guidance: how strongly and when.
    """

    def __init__(self, model: UniXModel, contexts: GuidanceContexts, guidance: Guidance) -> None:
        self.model = model
        self.guidance = guidance
        self.conditional = contexts.conditional
        self.network_calls = 0
        passes = [contexts.conditional]
        if guidance.uses_text:
            passes.append(contexts.without_text)
        if guidance.uses_image and contexts.without_image is not None:
            passes.append(contexts.without_image)
        self.passes = len(passes)
        self.together = Context.stack(passes) if len(passes) > 1 else contexts.conditional

    def __call__(self, latents: Float[Tensor, "b c h w"], t: float) -> Float[Tensor, "b c h w"]:
        """Velocity at time t; a guided set of passes counts as one call."""
        self.network_calls += 1
        if not (self.guidance.uses_text and self.guidance.acts_at(t)):
            return self._velocity(latents, t, self.conditional)
        together = self._velocity(latents.repeat(self.passes, 1, 1, 1), t, self.together)
        patch = self.model.config.latent_patch_size
        conditional, without_text, *rest = patchify(together, patch).chunk(self.passes)
        guided = guide(conditional, without_text, rest[0] if rest else None, self.guidance)
        return unpatchify(guided, patch, latents.shape[-2], latents.shape[-1])

    def _velocity(self, latents: Tensor, t: float, context: Context) -> Tensor:
        times = torch.full((latents.shape[0],), t, device=latents.device)
        return self.model.denoise(latents.to(self.model.dtype), times, context).float()


@runtime_checkable
class Scheduler(Protocol):
    """What sampling needs of a diffusers scheduler with flow settings."""

    sigmas: Tensor
    timesteps: Tensor
    config: Any

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor) -> Any:  # noqa: ANN401 - diffusers' signature
        """One solver step."""
        ...


@dataclass(frozen=True)
class SamplingDefaults:
    """How a checkpoint wants to be sampled; the one place that API and command line read.

    Args:
        num_inference_steps: solver steps.
        shift: of the time grid.
        guidance_scale: see `Guidance`.
        guidance_interval: see `Guidance`.
        guidance_renorm: see `Guidance`.
        image_size: side of a drawn image in pixels.
    """

    num_inference_steps: int = 49
    shift: float = 3.0
    guidance_scale: float = 2.0
    guidance_interval: tuple[float, float] = (0.4, 1.0)
    guidance_renorm: Renorm = "global"
    image_size: int = 512

    @classmethod
    def of(cls, config: UniXConfig) -> "SamplingDefaults":
        """The defaults that a configuration stores; the published ones where it stores none.

        Raises:
            ValueError: the configuration stores an unknown key.
        """
        stored = dict(config.sampling or {})
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(stored) - set(known))
        if unknown:
            raise ValueError(f"unknown sampling keys {unknown}; known keys: {known}")
        if "guidance_interval" in stored:
            low, high = stored["guidance_interval"]
            stored["guidance_interval"] = (float(low), float(high))
        return cls(**stored)


def unipc_scheduler(shift: float) -> UniPCMultistepScheduler:
    """UniPC (arXiv:2302.04867) with flow settings: good at 8 network calls."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def euler_scheduler(shift: float) -> FlowMatchEulerDiscreteScheduler:
    """Euler over the published grid; `set_steps` gives it the grid."""
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def set_steps(
    scheduler: Any,  # noqa: ANN401 - any diffusers scheduler
    steps: int,
    device: torch.device | str = "cpu",
) -> None:
    """Set a scheduler's times to `steps` solver steps from noise to data.

    Euler gets the published grid exactly: `steps + 1` points of which the last is not evaluated.

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"num_inference_steps ({steps}) must be at least 1")
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        # the scheduler shifts what it is given, so it gets the grid before the shift
        scheduler.set_timesteps(sigmas=time_grid(steps + 1, 1.0)[:-1].tolist(), device=device)
    else:
        scheduler.set_timesteps(steps, device=device)


@torch.no_grad()
def sample(
    velocity: VelocityFunction,
    noise: Float[Tensor, "b c h w"],
    scheduler: Scheduler,
    on_step: StepCallback | None = None,
) -> Float[Tensor, "b c h w"]:
    """Solve the flow from noise to data.

    Args:
        velocity: knows the network; this loop does not.
        noise: standard normal latents, float32.
        scheduler: a diffusers scheduler after `set_steps`.
        on_step: sees, and may replace, the latents after each step.
    """
    latents = noise
    for index, timestep in enumerate(scheduler.timesteps):
        t = float(scheduler.sigmas[index])
        predicted = velocity(latents, t)
        latents = scheduler.step(predicted, timestep, latents).prev_sample
        if on_step is not None:
            latents = on_step(index, t, latents)
    return latents
