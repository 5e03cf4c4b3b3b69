"""Classifier-free guidance with two conditions and the published renormalisations.

Axes: b batch, n tokens, c channels.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Renorm = Literal["global", "channel", "text_channel"]

_TINY = 1e-8


@dataclass(frozen=True)
class Guidance:
    """How strongly, when and how guidance acts; validated when made.

    Args:
        scale: weight s of the text condition, u + s (v − u); 1 or less switches guidance off,
            the image's too (as in the published model).
        image_scale: weight of the context image, m + s_img (w − m); 1 or less switches it off.
        interval: (lo, hi): guidance acts while lo < t ≤ hi, compared in float32.
        renorm: "global" keeps the norm of each sample, "channel" of each token, "text_channel" of
            each token before the image's guidance is added.
        renorm_min: lower end of the clamp of that factor, in [0, 1].

    Raises:
        ValueError: a value is not finite or out of range.
    """

    scale: float = 2.0
    image_scale: float = 1.0
    interval: tuple[float, float] = (0.4, 1.0)
    renorm: Renorm = "global"
    renorm_min: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "image_scale"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(
                    f"guidance {name} ({value}) must be a finite number of at least 0; 2 is usual, "
                    "1 switches guidance off"
                )
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"guidance interval ({low}, {high}) must satisfy 0 <= low <= high <= 1"
            )
        if self.renorm not in get_args(Renorm):
            raise ValueError(f"renorm ({self.renorm!r}) must be one of {get_args(Renorm)}")
        if not 0 <= self.renorm_min <= 1:
            raise ValueError(f"renorm_min ({self.renorm_min}) must be between 0 and 1")

    @property
    def uses_text(self) -> bool:
        """Whether the pass without text is needed at all."""
        return self.scale > 1

    @property
    def uses_image(self) -> bool:
        """Whether the pass without the context image is needed at all."""
        return self.uses_text and self.image_scale > 1

    def acts_at(self, t: float | Tensor) -> bool:
        """Whether time t lies in (lo, hi], compared in float32 as the published sampler does."""
        low, high = torch.tensor(self.interval, dtype=torch.float32)
        time = torch.as_tensor(t, dtype=torch.float32).cpu()
        return bool((time > low) & (time <= high))


def guide(
    conditional: Float[Tensor, "b n c"],
    without_text: Float[Tensor, "b n c"],
    without_image: Float[Tensor, "b n c"] | None,
    guidance: Guidance,
) -> Float[Tensor, "b n c"]:
    """Guided velocity of latent tokens (arXiv:2207.12598, and arXiv:2505.14683 for the renorm).

    Args:
        conditional: velocity with the whole context.
        without_text: velocity with the text dropped.
        without_image: velocity with the context image dropped; None where it is not used.
        guidance: scales and renormalisation.
    """
    guided = without_text + guidance.scale * (conditional - without_text)
    if guidance.renorm == "text_channel":
        guided = _renormalise(guided, conditional, (-1,), guidance.renorm_min)
    if without_image is not None:
        guided = without_image + guidance.image_scale * (guided - without_image)
    if guidance.renorm == "text_channel":
        return guided
    axes = (-2, -1) if guidance.renorm == "global" else (-1,)
    return _renormalise(guided, conditional, axes, guidance.renorm_min)


def _renormalise(
    guided: Tensor, conditional: Tensor, axes: tuple[int, ...], renorm_min: float
) -> Tensor:
    wanted = torch.linalg.vector_norm(conditional, dim=axes, keepdim=True)
    actual = torch.linalg.vector_norm(guided, dim=axes, keepdim=True)
    factor: Tensor = (wanted / (actual + _TINY)).clamp(renorm_min, 1.0)
    return guided * factor
