"""Pictures: the aspect ratio stays, strength 0 changes nothing, and so on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
