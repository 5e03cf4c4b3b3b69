"""Ways to look good without drawing: the measurement must refuse each of them.

Each takes real X-rays and returns what a cheating generator would hand in, one seed per X-ray.

Axes: m X-rays, h rows, w columns.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from unix_cxr.evaluation.copies import blur, turn
from unix_cxr.evaluation.xrays import LabelledXrays, one_per_group
from unix_cxr.functional.images import random_affine

Change = Callable[[Tensor, torch.Generator], Tensor]

_JITTER_PIXELS: Final = 4


def _jitter(images: Float[Tensor, "m 1 h w"], generator: torch.Generator) -> Tensor:
    """Each image shifted by up to 4 pixels, noised and brightened a little."""
    reach = _JITTER_PIXELS
    padded = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    height, width = images.shape[-2:]
    corners = torch.randint(2 * reach + 1, (len(images), 2), generator=generator).tolist()
    moved = torch.stack(
        [
            image[:, row : row + height, column : column + width]
            for image, (row, column) in zip(padded, corners, strict=True)
        ]
    )
    gain = 0.9 + 0.2 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return gain * moved + 0.01 * torch.randn(moved.shape, generator=generator)


def _noise(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    return images + strength * torch.randn(images.shape, generator=generator)


def _halves(images: Tensor) -> Tensor:
    middle = images.shape[-1] // 2
    return torch.cat([images[..., :middle], images.roll(1, 0)[..., middle:]], dim=-1)


CHANGES: Final[Mapping[str, Change]] = MappingProxyType(
    {
        "copies": lambda images, _: images,
        "copies_shifted": lambda images, _: functional.pad(
            images, (5, -5, -3, 3), mode="replicate"
        ),
        "copies_noised": lambda images, generator: _noise(images, generator, 0.03),
        "copies_mirrored": lambda images, _: images.flip(-1),
        "copies_zoomed": lambda images, _: turn(images, 0.0, 1.07),
        "copies_turned": lambda images, _: turn(images, 4.0, 1.0),
        "copies_gamma": lambda images, _: images**0.6,
        "copies_augmented": lambda images, generator: random_affine(images, 1.0, generator),
        "copies_jittered": _jitter,
        "copies_blurred_1": lambda images, _: blur(images, 1.0),
        "copies_blurred_2": lambda images, _: blur(images, 2.0),
        "copies_blurred_4": lambda images, _: blur(images, 4.0),
        "copies_blurred_8": lambda images, _: blur(images, 8.0),
        "copies_blended": lambda images, _: 0.5 * images + 0.5 * images.roll(1, 0),
        "copies_halves": lambda images, _: _halves(images),
    }
)
"""What is done to real training X-rays of one class, a different one for every seed."""

HELD_OUT_CHANGES: Final[Mapping[str, Change]] = MappingProxyType(
    {
        "unseen": lambda images, _: images,
        "unseen_blurred_1": lambda images, _: blur(images, 1.0),
        "unseen_blurred_2": lambda images, _: blur(images, 2.0),
        "unseen_blurred_noised": lambda images, generator: _noise(
            blur(images, 1.5), generator, 0.01
        ),
        "unseen_noised": lambda images, generator: _noise(images, generator, 0.1),
        "unseen_faded": lambda images, _: 0.4 + 0.3 * images,
    }
)
"""What is done to real X-rays that are not in `train`: faults that are not copying."""

FEW_PICTURES: Final[Mapping[str, int]] = MappingProxyType(
    {"fixed": 1, "fixed_jittered": 1, "ten_jittered": 10}
)
"""Few pictures per class, drawn over and over; jittered ones are shifted, noised, brightened."""

WRONG_LABELS: Final = ("unseen_swapped", "unseen_shuffled")
"""Real X-rays that are not in `train`, with the other class's label or a random one."""

CHEATS: Final[tuple[str, ...]] = (
    *FEW_PICTURES,
    *CHANGES,
    "class_mean",
    "noise",
    *HELD_OUT_CHANGES,
    *WRONG_LABELS,
)
"""Every name that `make_cheat` knows; "unseen" is the honest one."""


def make_cheat(
    name: str, train: LabelledXrays, unseen: LabelledXrays, per_class: int, seed: int = 0
) -> LabelledXrays:
    """What a generator that cheats this way would hand in.

    Args:
        name: one of `CHEATS`.
        train: real X-rays that a generator may have memorised.
        unseen: real X-rays that are neither in `train` nor in the set held out.
        per_class: X-rays per class (at most as many as there are real ones to take).
        seed: which real X-rays are taken, and the noise.

    Raises:
        ValueError: the name is not known.
    """
    if name not in CHEATS:
        raise ValueError(f"cheat {name!r} is not known; known are {', '.join(CHEATS)}")
    generator = torch.Generator().manual_seed(seed)
    source = unseen if name in HELD_OUT_CHANGES or name in WRONG_LABELS else train
    parts, labels = [], []
    sample = one_per_group(source, per_class, generator)
    for pneumonia in (False, True):
        real = sample.images[sample.pneumonia == pneumonia]
        images = _cheat(name, real, per_class, generator)
        parts.append(images.clamp(0, 1))
        labels.append(torch.full((len(images),), pneumonia))
    wanted = torch.cat(labels)
    if name == "unseen_swapped":
        wanted = ~wanted
    if name == "unseen_shuffled":
        wanted = wanted[torch.randperm(len(wanted), generator=generator)]
    return LabelledXrays(torch.cat(parts), wanted, tuple(map(str, range(len(wanted)))))


def _cheat(name: str, images: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
    if name in FEW_PICTURES:
        few = images[: FEW_PICTURES[name]]
        many = few[torch.arange(per_class) % len(few)]
        return _jitter(many, generator) if name.endswith("jittered") else many
    if name == "class_mean":
        return images.mean(dim=0, keepdim=True) + 0.05 * torch.randn(
            images.shape, generator=generator
        )
    if name == "noise":
        return torch.rand(images.shape, generator=generator)
    if name in WRONG_LABELS:
        return images
    return {**CHANGES, **HELD_OUT_CHANGES}[name](images, generator)
