"""X-rays with what is known about them: the value that every measurement takes.

Axes: b X-rays, h rows, w columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_IMAGE_AXES: Final = 4


@dataclass(frozen=True)
class LabelledXrays:
    """Grey X-rays, whether each shows (or was asked to show) pneumonia, and which belong together.

    Args:
        images: float32 in [0, 1], 0 black.
        pneumonia: True for pneumonia, False for normal.
        groups: the patient of a real X-ray, the seed of a drawn one. X-rays of one group are drawn
            together by the bootstrap, because they are not independent.

    Raises:
        TypeError: the images are not float32 or the labels not bool.
        ValueError: wrong shape, values outside [0, 1] or not finite, counts that differ.
    """

    images: Float[Tensor, "b 1 h w"]
    pneumonia: Bool[Tensor, " b"]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        check_images(self.images)
        if self.pneumonia.dtype != torch.bool:
            raise TypeError(f"pneumonia must be a bool tensor, got {self.pneumonia.dtype}")
        counts = (len(self.images), len(self.pneumonia), len(self.groups))
        if len(set(counts)) != 1:
            raise ValueError(
                "images, pneumonia and groups must have equal length, got "
                f"{counts[0]}, {counts[1]} and {counts[2]}"
            )

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, rows: Int[Tensor, " n"] | Bool[Tensor, " b"]) -> "LabelledXrays":
        """The X-rays at these rows (numbers, or a mask whose True keeps)."""
        numbers = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        return LabelledXrays(
            self.images[numbers],
            self.pneumonia[numbers],
            tuple(self.groups[row] for row in numbers.tolist()),
        )


def check_images(images: Tensor) -> None:
    """Refuse anything but finite float32 [b, 1, h, w] in [0, 1]: a wrong scale moves every number.

    Raises:
        TypeError: another dtype; uint8 pixels are to be divided by 255 first.
        ValueError: another shape, no images, or values out of range.
    """
    if images.dtype != torch.float32:
        raise TypeError(
            f"images must be float32 in [0, 1], got {images.dtype}; divide 8-bit pixels by 255"
        )
    if images.ndim != _IMAGE_AXES or images.shape[1] != 1 or not images.numel():
        raise ValueError(f"images must have shape [b, 1, h, w], got {list(images.shape)}")
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images must lie in [0, 1], got {low:.4g} to {high:.4g}; "
            "clamp what a decoder draws, scale what a file holds"
        )


def group_numbers(groups: Sequence[str]) -> Int[Tensor, " b"]:
    """Each X-ray's group as a number from 0, in order of first appearance."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(group, len(numbers)) for group in groups])


def one_per_group(
    xrays: LabelledXrays, per_class: int, generator: torch.Generator
) -> LabelledXrays:
    """Up to `per_class` X-rays of each class at random, no two of one class from one group."""
    numbers = group_numbers(xrays.groups)
    rows: list[int] = []
    for wanted in (False, True):
        seen: set[int] = set()
        for row in torch.randperm(len(xrays), generator=generator).tolist():
            group = int(numbers[row])
            if bool(xrays.pneumonia[row]) == wanted and group not in seen:
                seen.add(group)
                rows.append(row)
            if len(seen) == per_class:
                break
    return xrays[torch.tensor(rows)]


def split_groups(
    xrays: LabelledXrays, generator: torch.Generator
) -> tuple[LabelledXrays, LabelledXrays]:
    """Two random halves that share no group."""
    numbers = group_numbers(xrays.groups)
    order = torch.randperm(int(numbers.max()) + 1, generator=generator)
    first = torch.isin(numbers, order[: len(order) // 2])
    return xrays[first], xrays[~first]
