"""Pictures: the aspect ratio stays, strength 0 changes nothing, and so on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tests.tolerances import assert_close
from unix_cxr.functional.images import (
    gradient_difference,
    random_affine,
    random_crop,
    resize_and_pad,
)


@given(st.integers(4, 60), st.integers(4, 60), st.integers(8, 40))
def test_the_aspect_ratio_stays(height: int, width: int, size: int) -> None:
    """A white image on black padding: its white rectangle has the old proportions, centred."""
    square = resize_and_pad(torch.ones(1, 1, height, width), size)
    assert square.shape == (1, 1, size, size)
    white = square[0, 0] > 0.5
    rows, columns = int(white.any(1).sum()), int(white.any(0).sum())
    assert max(rows, columns) == size
    scale = size / max(height, width)
    assert abs(rows - height * scale) <= 0.5 + 1e-6
    assert abs(columns - width * scale) <= 0.5 + 1e-6
    assert int(white.sum()) == rows * columns
    top = int(white.any(1).int().argmax())
    left = int(white.any(0).int().argmax())
    assert (top, left) == ((size - rows) // 2, (size - columns) // 2)


@given(st.integers(1, 20), st.integers(0, 100))
def test_a_square_of_the_right_size_is_untouched(size: int, seed: int) -> None:
    image = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(resize_and_pad(image, size), image)


@given(st.integers(2, 30), st.integers(2, 30), st.floats(0, 1, width=32))
def test_a_flat_image_stays_flat_and_padding_is_the_fill(h: int, w: int, grey: float) -> None:
    square = resize_and_pad(torch.full((1, 1, h, w), grey), 16, fill=0.25)
    values = set(square.unique().tolist())
    assert all(min(abs(v - grey), abs(v - 0.25)) < 1e-5 for v in values)


def test_an_elongated_image_is_refused() -> None:
    with pytest.raises(ValueError, match="an image of 400x1 pixels has no usable 16x16 version"):
        resize_and_pad(torch.zeros(1, 1, 1, 400), 16)


def test_strength_0_is_the_identity() -> None:
    images = torch.rand(2, 1, 9, 7)
    assert torch.equal(random_affine(images, 0, torch.Generator()), images)


@given(st.integers(0, 100))
def test_a_random_affine_is_small_seeded_and_never_a_flip(seed: int) -> None:
    ramp = torch.linspace(0, 1, 32).expand(3, 1, 32, 32)
    moved = random_affine(ramp, 1.0, torch.Generator().manual_seed(seed))
    again = random_affine(ramp, 1.0, torch.Generator().manual_seed(seed))
    assert torch.equal(moved, again)
    assert moved.shape == ramp.shape
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    left, right = moved[..., :16].mean((1, 2, 3)), moved[..., 16:].mean((1, 2, 3))
    assert bool((right - left > 0.3).all())
    assert float((moved - ramp).abs().max()) < 0.35


@given(st.integers(1, 8), st.integers(0, 100))
def test_a_crop_is_a_piece_of_the_image(side: int, seed: int) -> None:
    images = torch.arange(2.0 * 8 * 9).view(2, 1, 8, 9)
    crops = random_crop(images, side, torch.Generator().manual_seed(seed))
    for image, crop in zip(images, crops, strict=True):
        top, left = divmod(int(crop[0, 0, 0]) - int(image[0, 0, 0]), 9)
        assert torch.equal(crop, image[:, top : top + side, left : left + side])


def test_a_crop_must_fit() -> None:
    with pytest.raises(ValueError, match="crops of 9 pixels do not fit into images of 9x8"):
        random_crop(torch.zeros(1, 1, 8, 9), 9, torch.Generator())


def test_gradient_difference_ignores_brightness_and_sees_edges() -> None:
    image = torch.rand(1, 1, 16, 16)
    assert float(gradient_difference(image, image + 0.2).max()) < 1e-6
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    assert float(gradient_difference(image, blurred).mean()) > 0.01


# resizing against independent statements

SHAPES = [(300, 200, 64), (97, 131, 50), (40, 30, 128), (128, 128, 127), (900, 1, 30), (64, 64, 1)]


def noise(height: int, width: int) -> Tensor:
    return torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(height + width))


def inner(square: Tensor, height: int, width: int) -> Tensor:
    """[h, w] the picture without its margins."""
    size = square.shape[-1]
    scale = size / max(height, width)
    rows, columns = round(height * scale), round(width * scale)
    top, left = (size - rows) // 2, (size - columns) // 2
    return square[0, 0, top : top + rows, left : left + columns]


def triangle(old: int, new: int) -> Tensor:
    """[new, old] weights of a triangle filter as wide as the reduction, one by one."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    reach = max(old / new, 1.0)
    for row in range(new):
        centre = (row + 0.5) * old / new
        for column in range(old):
            weights[row, column] = max(0.0, 1 - abs(column + 0.5 - centre) / reach)
    return weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize(("height", "width", "size"), SHAPES[:4])
def test_resizing_is_the_triangle_filter(height: int, width: int, size: int) -> None:
    image = noise(height, width)
    scale = size / max(height, width)
    rows, columns = triangle(height, round(height * scale)), triangle(width, round(width * scale))
    expected = rows @ image[0, 0].double() @ columns.T
    assert_close("resize.oracle", inner(resize_and_pad(image, size), height, width), expected)
    wide = inner(resize_and_pad(image.double(), size), height, width)
    assert_close("resize.float64", wide, expected)


@pytest.mark.parametrize(("height", "width", "size"), SHAPES[:4])
def test_resizing_is_that_of_pillow(height: int, width: int, size: int) -> None:
    image = noise(height, width)
    ours = inner(resize_and_pad(image, size), height, width)
    new = (ours.shape[1], ours.shape[0])
    theirs = Image.fromarray(image[0, 0].numpy()).resize(new, Image.Resampling.BILINEAR)
    assert_close("resize.pillow", ours, torch.from_numpy(np.array(theirs)))
    whole = (image[0, 0].numpy() * 255).astype(np.uint8)
    eight = Image.fromarray(whole).resize(new, Image.Resampling.BILINEAR)
    ours = inner(resize_and_pad(torch.from_numpy(whole)[None, None] / 255, size), height, width)
    assert_close("resize.pillow_8_bits", ours, torch.from_numpy(np.array(eight)) / 255)


@pytest.mark.parametrize(("height", "width", "size"), SHAPES[:4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_resizing_in_half_precision_differs_by_rounding(
    height: int, width: int, size: int, dtype: torch.dtype
) -> None:
    image = noise(height, width)
    half = resize_and_pad(image.to(dtype), size)
    assert half.dtype == dtype
    name = str(dtype).removeprefix("torch.")
    assert_close(f"resize.{name}", half, resize_and_pad(image, size))


def test_resizing_does_not_depend_on_how_the_memory_lies() -> None:
    images = torch.rand(3, 4, 37, 53)
    plain = resize_and_pad(images, 24)
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (images.to(memory_format=torch.channels_last), turned):
        assert_close("resize.strided", resize_and_pad(other, 24), plain)
    singles = torch.cat([resize_and_pad(image[None], 24) for image in images])
    assert_close("resize.strided", singles, plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize(("height", "width", "size"), SHAPES[:4])
def test_resizing_on_a_gpu_is_that_of_the_cpu(height: int, width: int, size: int) -> None:
    image = noise(height, width)
    assert_close(
        "resize.oracle", resize_and_pad(image.cuda(), size).cpu(), resize_and_pad(image, size)
    )


def test_a_reduction_averages_and_never_picks_lines() -> None:
    """Lines finer than the result become grey, and not black or white by chance."""
    lines = torch.zeros(1, 1, 256, 256)
    lines[..., ::2] = 1
    small = resize_and_pad(lines, 32)
    assert float((small[..., 1:-1] - 0.5).abs().max()) < 0.02


# augmentation

L_MARK = (slice(2, 8), slice(52, 60))
"""Where radiographers put the letter L: at the top, on the viewer's right."""


@given(st.integers(0, 200), st.floats(0.05, 1))
def test_a_marker_stays_on_its_side(seed: int, strength: float) -> None:
    images = torch.zeros(4, 1, 64, 64)
    images[(..., *L_MARK)] = 1
    moved = random_affine(images, strength, torch.Generator().manual_seed(seed))
    columns, rows = moved.sum((1, 2)), moved.sum((1, 3))
    places = torch.arange(64.0)
    across = (columns * places).sum(1) / columns.sum(1)
    down = (rows * places).sum(1) / rows.sum(1)
    assert bool((across > 40).all())
    assert bool((down < 24).all())


def test_each_image_is_moved_in_its_own_way_and_little() -> None:
    square = torch.zeros(1, 1, 64, 64)
    square[..., 24:40, 24:40] = 1
    images = square.expand(64, -1, -1, -1)
    moved = random_affine(images, 1.0, torch.Generator().manual_seed(0))
    assert len({float(image.sum()) for image in moved}) == 64
    area = moved.sum((1, 2, 3)) / square.sum()
    assert bool(((area > 0.8) & (area < 1.25)).all())
    half = random_affine(images, 0.5, torch.Generator().manual_seed(0))
    assert bool(((half - square).abs().mean() < (moved - square).abs().mean()).all())


def test_another_seed_is_another_movement() -> None:
    images = torch.rand(1, 1, 16, 16)
    first, second = (
        random_affine(images, 1.0, torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    assert not torch.equal(first, second)
