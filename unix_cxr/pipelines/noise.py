"""The noise that drawing starts from: a generator for each image, on the CPU or the model's device.

Axes: i images, c latent channels, h and w latents.
"""

import secrets
from collections.abc import Sequence
from numbers import Integral
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_MAX_SEED: Final = 2**63 - 1


def generators_of(
    count: int,
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> list[torch.Generator]:
    """A generator for each image.

    Args:
        count: of the images.
        seed: of the first image, the next ones counting up; or one per image; random where None.
        generator: takes the seed's place; one that all images draw from in turn, or one per image.

    Raises:
        TypeError: what is given is no generator, or no whole number.
        ValueError: both are given, their number is wrong, or a seed is out of range.
    """
    if generator is not None:
        if seed is not None:
            raise ValueError("both seed and generator are given; give one of them")
        return _checked(count, generator)
    if seed is None:
        seeds = [secrets.randbelow(2**31) for _ in range(count)]
    elif isinstance(seed, Integral):
        seeds = [int(seed) + index for index in range(count)]
    elif isinstance(seed, Sequence):
        seeds = list(seed)
    else:
        raise TypeError(f"seed ({seed!r}) must be a whole number, or a list of one per image")
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} images; give one, or one each")
    for one in seeds:
        if not isinstance(one, Integral):
            raise TypeError(f"seed ({one!r}) must be a whole number")
        if not 0 <= one <= _MAX_SEED:
            raise ValueError(f"seed ({one}) must be between 0 and {_MAX_SEED}")
    return [torch.Generator().manual_seed(int(one)) for one in seeds]


def draw_noise(
    shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device
) -> Float[Tensor, "i c h w"]:
    """Standard normal latents, drawn where each generator is and moved to the model's device.

    As diffusers does it: a generator on the CPU serves every device and gives the same noise on
    each; any other must be of the device's kind. (Its `randn_tensor` goes by the first generator of
    a list, and fails where they are on several devices.)

    Args:
        shape: of one image's latents: channels, height, width.
        generators: one per image.
        device: of the model.

    Raises:
        ValueError: a generator is on another kind of device than the model and not on the CPU.
    """
    for one in generators:
        if one.device.type not in {"cpu", device.type}:
            raise ValueError(
                f"a generator on {one.device} cannot draw for a model on {device}; give one on "
                f"the CPU (torch.Generator()), or move the pipeline with .to({str(one.device)!r})"
            )
    drawn = [
        torch.randn(tuple(shape), generator=one, device=one.device).to(device) for one in generators
    ]
    return torch.stack(drawn)


def _checked(
    count: int, generator: torch.Generator | Sequence[torch.Generator]
) -> list[torch.Generator]:
    given = [generator] * count if isinstance(generator, torch.Generator) else generator
    if not isinstance(given, Sequence) or not all(isinstance(x, torch.Generator) for x in given):
        raise TypeError(
            f"generator ({generator!r}) must be a torch.Generator, or a list of one per image; "
            "give a number as seed"
        )
    if len(given) != count:
        raise ValueError(f"{len(given)} generators for {count} images; give one, or one each")
    return list(given)
