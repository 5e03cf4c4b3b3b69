"""Masks and positions of whole sequences, as `forward` makes them without a cache."""

from typing import Any

import pytest
import torch

from unix_cxr.functional.positions import rotary_positions

IDS = [62, 5, 63, 60, 59, 59, 59, 59, 61, 62, 6, 63, 60, 59, 59, 59, 59, 61, 62, 7]


@pytest.mark.parametrize("padding", [0, 3])
def test_masks_equal_a_loop_whatever_the_positions(tiny_model: Any, padding: int) -> None:
    """The library takes repeated positions for the start of another sequence; an image repeats."""
    ids = torch.tensor([[59] * padding + IDS])
    real = torch.tensor([[False] * padding + [True] * len(IDS)])
    _, blocks = tiny_model._blocks(ids)
    positions = rotary_positions(blocks, real)
    assert positions[0, padding:].tolist() == [0, 1, 2, *[3] * 6, 4, 5, 6, *[7] * 6, 8, 9]
    mask = tiny_model.create_masks_for_generate(
        tiny_model.config,
        torch.empty(1, ids.shape[1], 0),
        real.long() if padding else None,
        None,
        position_ids=positions,
        token_type_ids=blocks,
    )["full_attention"]
    for q in range(padding, ids.shape[1]):
        for k in range(ids.shape[1]):
            same_block = blocks[0, q] >= 0 and blocks[0, q] == blocks[0, k]
            expected = bool(real[0, k]) and (k <= q or bool(same_block))
            assert bool(mask[0, 0, q, k]) == expected, (q, k)


@torch.no_grad()
def test_given_positions_are_those_that_would_be_made(tiny_model: Any) -> None:
    ids = torch.tensor([IDS])
    pixels = torch.randn(2, 3, 32, 32)
    _, blocks = tiny_model._blocks(ids)
    positions = rotary_positions(blocks, torch.ones_like(ids, dtype=torch.bool))
    made = tiny_model(input_ids=ids, pixel_values=pixels, use_cache=False).logits
    given = tiny_model(
        input_ids=ids, pixel_values=pixels, position_ids=positions, use_cache=False
    ).logits
    assert torch.equal(made, given)
    image_tokens_see_each_other = tiny_model(
        input_ids=ids, pixel_values=pixels.flip(-1), use_cache=False
    ).logits
    assert torch.equal(made[:, :3], image_tokens_see_each_other[:, :3])
    assert not torch.equal(made[:, 3], image_tokens_see_each_other[:, 3])
