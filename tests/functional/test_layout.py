"""Patches, positions and masks against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unix_cxr.functional.gradients import scale_gradient
from unix_cxr.functional.masks import additive, segment_mask
from unix_cxr.functional.patchify import patchify, unpatchify
from unix_cxr.functional.positions import inside_image, rotary_positions
from unix_cxr.functional.rotary import rotate
from unix_cxr.modules.latent_embedding import position_table

BEGIN, END, PAD = 90, 91, 0


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_patchify_equals_a_loop_and_has_an_inverse(c: int, h: int, w: int, p: int) -> None:
    latents = torch.arange(2.0 * c * h * p * w * p).view(2, c, h * p, w * p)
    tokens = patchify(latents, p)
    expected = [
        [
            latents[b, channel, row * p + i, column * p + j].item()
            for i in range(p)
            for j in range(p)
            for channel in range(c)
        ]
        for b in range(2)
        for row in range(h)
        for column in range(w)
    ]
    assert tokens.flatten(0, 1).tolist() == expected
    assert torch.equal(unpatchify(tokens, p, h * p, w * p), latents)


def test_patches_must_divide_the_latents() -> None:
    with pytest.raises(
        ValueError, match=r"latents of 4x5 must be divisible by the patch size \(2\)"
    ):
        patchify(torch.zeros(1, 1, 4, 5), 2)


# -- sequences of texts and image blocks, padded on either side


@st.composite
def sequences(draw: st.DrawFn) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            ids += [BEGIN, *[PAD] * draw(st.integers(0, 3)), END]
        else:
            ids += draw(st.lists(st.integers(1, 80), min_size=1, max_size=4))
    left, right = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    return [PAD] * left + ids + [PAD] * right, [False] * left + [True] * len(ids) + [False] * right


def blocks_by_loop(ids: list[int]) -> list[int]:
    blocks, number, inside = [], -1, False
    for token in ids:
        if token == BEGIN:
            number, inside = number + 1, True
        blocks.append(number if inside else -1)
        if token == END:
            inside = False
    return blocks


@given(sequences())
def test_blocks_and_positions_equal_a_loop(sequence: tuple[list[int], list[bool]]) -> None:
    ids, real = sequence
    inside, blocks = inside_image(torch.tensor([ids]), BEGIN, END)
    expected = blocks_by_loop(ids)
    assert blocks[0].tolist() == expected
    assert inside[0].tolist() == [block >= 0 for block in expected]
    positions, place, last = [], -1, -1
    for block, token_is_real in zip(expected, real, strict=True):
        if token_is_real and not (block >= 0 and block == last):
            place += 1
        last = block
        positions.append(place if token_is_real else 0)
    ours = rotary_positions(blocks, torch.tensor([real]))
    assert ours[0].tolist() == positions


@given(
    st.integers(0, 4),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_segment_mask_equals_a_loop(old: int, new: int, causal: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(2, old, generator=generator) < 0.7
    real = torch.rand(2, new, generator=generator) < 0.7
    mask = segment_mask(before, real, causal=causal)
    assert mask.shape == (2, 1, new, old + new)
    for b in range(2):
        for q in range(new):
            for k in range(old):
                assert mask[b, 0, q, k] == before[b, k]
            for k in range(new):
                seen = bool(real[b, k]) and (k <= q or not causal)
                assert mask[b, 0, q, old + k] == (seen or k == q)


def test_additive_masks_are_0_or_the_lowest_number() -> None:
    mask = torch.tensor([[True, False]])
    for dtype in (torch.float32, torch.bfloat16):
        assert additive(mask, dtype).tolist() == [[0.0, torch.finfo(dtype).min]]


# -- rotary angles and tables


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 100))
def test_rotated_products_depend_on_the_distance_alone(a: int, b: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator, dtype=torch.float64)

    def turned(x: Tensor, position: int) -> Tensor:
        angles = position * 10.0 ** -torch.arange(4, dtype=torch.float64)
        angles = torch.cat([angles, angles])[None, None]
        return rotate(x, angles.cos(), angles.sin())

    far = (turned(query, a + 7) * turned(key, b + 7)).sum()
    near = (turned(query, a) * turned(key, b)).sum()
    torch.testing.assert_close(far, near)
    torch.testing.assert_close(turned(query, a).norm(), query.norm())


def test_the_position_table_has_the_column_first() -> None:
    side, width = 5, 16
    table = position_table(side, width)
    for row in range(side):
        for column in range(side):
            expected = []
            for place in (column, row):
                angles = [place * 10_000 ** (-i / (width // 4)) for i in range(width // 4)]
                expected += [torch.tensor(angles).sin(), torch.tensor(angles).cos()]
            torch.testing.assert_close(
                table[row * side + column], torch.cat(expected), rtol=0, atol=1e-5
            )


@given(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 100))
def test_scale_gradient_scales_the_gradient_alone(factor: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    scaled = scale_gradient(value, factor)
    torch.testing.assert_close(scaled, value)
    if factor == 0:
        assert not scaled.requires_grad
        return
    (gradient,) = torch.autograd.grad(scaled.square().sum(), value)
    torch.testing.assert_close(gradient, factor * 2 * value.detach())
