"""The latent autoencoder in the kl-f16 layout: diffusers' `AutoencoderKL` and its normalisation.

Axes: b batch, c latent channels, k and i image channels, h and w pixels, H and W latents (16 times
fewer in the published layout).
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

DOWNSAMPLING: Final = 16
"""Pixels per latent along a side, in the published layout of five levels."""

_FEWEST_LEVELS: Final = 3
_MOST_LEVELS: Final = 5


def build_autoencoder(
    *,
    channels: Sequence[int],
    layers_per_block: int,
    latent_channels: int,
    image_channels: int,
    norm_groups: int,
    sample_size: int,
) -> AutoencoderKL:
    """An autoencoder with the kl-f16 layout (arXiv:2112.10752): attention at the last level.

    Args:
        channels: width of each level. Five levels shrink 16 times, as published; small images
            want fewer: four shrink 8 times, three 4 times.
        layers_per_block: residual blocks per level of the encoder; the decoder has one more.
        latent_channels: channels of a latent.
        image_channels: 1 for grey images, 3 for the published layout.
        norm_groups: groups of every group norm; divides every width.
        sample_size: pixels of a side, recorded for users; the network is convolutional.

    Raises:
        ValueError: there are fewer than three levels or more than five, or a width is no multiple
            of the groups.
    """
    levels = len(channels)
    if not _FEWEST_LEVELS <= levels <= _MOST_LEVELS:
        raise ValueError(
            f"channels ({list(channels)}) must name {_FEWEST_LEVELS} to {_MOST_LEVELS} levels; "
            f"the published layout has {_MOST_LEVELS}"
        )
    wrong = [width for width in channels if width % norm_groups]
    if wrong:
        raise ValueError(f"widths {wrong} must be divisible by norm_groups ({norm_groups})")
    return AutoencoderKL(
        in_channels=image_channels,
        out_channels=image_channels,
        down_block_types=("DownEncoderBlock2D",) * (levels - 1) + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * (levels - 1),
        block_out_channels=tuple(channels),
        layers_per_block=layers_per_block,
        latent_channels=latent_channels,
        norm_num_groups=norm_groups,
        sample_size=sample_size,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def downsampling_of(autoencoder: AutoencoderKL) -> int:
    """Pixels per latent along a side."""
    levels: int = len(autoencoder.config["block_out_channels"])
    return int(2 ** (levels - 1))


def normalise_latents(
    latents: Float[Tensor, "b c H W"], autoencoder: AutoencoderKL
) -> Float[Tensor, "b c H W"]:
    """Latents as the generation branch sees them: scale (z − shift)."""
    scale, shift = _scale_and_shift(autoencoder)
    return (latents - shift) * scale


def encode(
    images: Float[Tensor, "b k h w"],
    autoencoder: AutoencoderKL,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b c H W"]:
    """Normalised latents of images in [0, 1].

    Args:
        images: values in [0, 1]; one grey channel is repeated where the autoencoder wants three.
        autoencoder: its config holds scaling_factor and shift_factor.
        generator: draws from the posterior where given; the mode is taken where not.
    """
    posterior = autoencoder.encode(to_range(images, autoencoder)).latent_dist
    latents = posterior.mode() if generator is None else posterior.sample(generator)
    return normalise_latents(latents, autoencoder)


def decode(
    latents: Float[Tensor, "b c H W"], autoencoder: AutoencoderKL
) -> Float[Tensor, "b k h w"]:
    """Images in [0, 1] from normalised latents."""
    scale, shift = _scale_and_shift(autoencoder)
    decoded: Tensor = autoencoder.decode(latents / scale + shift).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def to_range(
    images: Float[Tensor, "b k h w"], autoencoder: AutoencoderKL
) -> Float[Tensor, "b i h w"]:
    """Images from [0, 1] to the autoencoder's [−1, 1] and its number of channels."""
    wanted = autoencoder.config["in_channels"]
    if images.shape[1] != wanted:
        images = images.expand(-1, wanted, -1, -1)
    return images * 2 - 1


def _scale_and_shift(autoencoder: AutoencoderKL) -> tuple[float, float]:
    config: dict[str, Any] = autoencoder.config
    return config["scaling_factor"], config["shift_factor"] or 0.0
