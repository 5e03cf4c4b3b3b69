"""Images as tensors. Axes: b batch, c channels, h rows, w columns; values in [0, 1]."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize_and_pad(
    images: Float[Tensor, "b c h w"], size: int, fill: float = 0.0
) -> Float[Tensor, "b c size size"]:
    """Square images that keep their aspect ratio: antialiased resize, then centred padding.

    The filter is the triangle as wide as the reduction, Pillow's BILINEAR. It is computed in
    float32 at least, so that float16 and bfloat16 differ from float32 by their rounding alone.

    Args:
        images: values in [0, 1].
        size: side of the result in pixels.
        fill: value of the padding; 0 is black.

    Raises:
        ValueError: an image is so elongated that its short side would vanish.
    """
    height, width = images.shape[-2:]
    scale = size / max(height, width)
    new_height, new_width = round(height * scale), round(width * scale)
    if min(new_height, new_width) < 1:
        raise ValueError(f"an image of {width}x{height} pixels has no usable {size}x{size} version")
    if (new_height, new_width) != (height, width):
        wide = images if images.dtype == torch.float64 else images.float()
        resized = F.interpolate(
            wide, size=(new_height, new_width), mode="bilinear", antialias=True
        ).clamp(0, 1)
        images = resized.to(images.dtype)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    margins = (left, size - new_width - left, top, size - new_height - top)
    return F.pad(images, margins, value=fill) if any(margins) else images


def gradient_difference(
    first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"], scales: int = 3
) -> Float[Tensor, " e"]:
    """Absolute differences of the two images' pixel gradients at several scales, one after another.

    Edges and texture count here, brightness does not (arXiv:1511.05440, eq. 6, with exponent 1).
    """
    difference = first - second
    parts = []
    for scale in range(scales):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        parts += [difference.diff(dim=-1).abs().flatten(), difference.diff(dim=-2).abs().flatten()]
    return torch.cat(parts)


def random_affine(
    images: Float[Tensor, "b c h w"], strength: float, generator: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """Small rotation, scale, shift and gamma for each image, never a left-right flip.

    Args:
        images: values in [0, 1].
        strength: 1 means up to 6 degrees, 6 % scale, 5 % shift and a gamma within 0.85..1.18;
            0 returns the images as they are.
        generator: source of all randomness.
    """
    if strength == 0:
        return images
    draws = strength * (2 * torch.rand(images.shape[0], 5, generator=generator) - 1)
    draws = draws.to(images.device)
    angle, scale = math.radians(6) * draws[:, 0], 1 + 0.06 * draws[:, 1]
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    shift = 0.1 * draws[:, 2:4]  # half of it is the share of the image's width
    matrix = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], -1), torch.stack([sin, cos, shift[:, 1]], -1)], -2
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gamma = torch.exp(math.log(1.18) * draws[:, 4])
    return moved.clamp(0, 1) ** gamma[:, None, None, None]


def random_crop(
    images: Float[Tensor, "b c h w"], side: int, generator: torch.Generator
) -> Float[Tensor, "b c side side"]:
    """A square of `side` pixels from a random place of each image.

    Raises:
        ValueError: the images are smaller than that.
    """
    height, width = images.shape[-2:]
    if side > min(height, width):
        raise ValueError(f"crops of {side} pixels do not fit into images of {width}x{height}")
    tops = torch.randint(height - side + 1, (len(images),), generator=generator).tolist()
    lefts = torch.randint(width - side + 1, (len(images),), generator=generator).tolist()
    corners = zip(images, tops, lefts, strict=True)
    return torch.stack([x[:, top : top + side, left : left + side] for x, top, left in corners])
