"""Contexts: batches equal singles, padding counts for nothing, pieces equal the whole."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import Recording
from tests.tolerances import assert_close
from unix_cxr.models.context import Context, Image, Latents, Text
from unix_cxr.modules.latent_embedding import LatentEmbedding

PROMPTS = ([62, 5, 6, 63], [62, 7, 63], [62, 1, 2, 3, 4, 8, 9, 63], [62, 63])


def text(*ids: int) -> Text:
    return Text(torch.tensor([ids]))


def padded(rows: Sequence[Sequence[int]], side: str) -> Text:
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), 59)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        where = slice(length - len(row), None) if side == "left" else slice(0, len(row))
        ids[index, where] = torch.tensor(row)
        mask[index, where] = True
    return Text(ids, mask)


def noisy(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(count, 4, 3, 5, generator=generator),
        torch.rand(count, generator=generator),
    )


def singles(model: Any, contexts: Sequence[Context], latents: Tensor, times: Tensor) -> Tensor:
    return torch.cat(
        [
            model.denoise(latents[i : i + 1], times[i : i + 1], context)
            for i, context in enumerate(contexts)
        ]
    )


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_four_prompts_of_different_lengths_equal_four_singles(tiny_model: Any, side: str) -> None:
    latents, times = noisy(4)
    together = tiny_model.denoise(latents, times, tiny_model.encode([padded(PROMPTS, side)]))
    contexts = [tiny_model.encode([text(*prompt)]) for prompt in PROMPTS]
    alone = singles(tiny_model, contexts, latents, times)
    assert float(alone.abs().max()) > 0.1
    assert_close("denoise.batch_equals_single", together, alone)
    stacked = tiny_model.denoise(latents, times, Context.stack(contexts))
    assert_close("denoise.batch_equals_single", stacked, alone)


@torch.no_grad()
def test_the_recorded_velocity_comes_out_of_any_batch(recording: Recording) -> None:
    """Golden A and B among three other prompts: the recorded sample keeps its velocity."""
    model, tensors = recording.model, recording.tensors
    prompt = recording.text("gen.prompt_ids")[0].tolist()
    config = model.config
    others = [[config.bos_token_id, *range(9, 9 + n), config.eos_token_id] for n in (1, 20, 5)]
    rows, columns = tensors["gen.latent_hw"].tolist()
    latents = tensors["gen.x_mid"].T.reshape(1, -1, rows, columns).repeat(4, 1, 1, 1)
    context = model.encode([padded([others[0], prompt, *others[1:]], "left")])
    velocity = model.denoise(latents, torch.full((4,), 0.7), context)
    tokens = velocity[1].flatten(1).T
    assert_close("generate.recorded", tokens, tensors["gen.v.t0.7"])


@torch.no_grad()
def test_padding_before_an_image_and_latents_counts_for_nothing(tiny_model: Any) -> None:
    latents, times = noisy(2)
    pixels = torch.randn(2, 3, 32, 32)
    clean = torch.randn(2, 4, 2, 2)
    prompts = [[62, 5, 63], [62, 6, 7, 8, 9, 63]]
    after = [[62, 10, 11, 63], [62, 12, 63]]
    together = tiny_model.denoise(
        latents,
        times,
        tiny_model.encode(
            [padded(prompts, "left"), Latents(clean), Image(pixels), padded(after, "right")]
        ),
    )
    contexts = [
        tiny_model.encode(
            [
                text(*prompts[i]),
                Latents(clean[i : i + 1]),
                Image(pixels[i : i + 1]),
                text(*after[i]),
            ]
        )
        for i in range(2)
    ]
    assert_close(
        "denoise.batch_equals_single", together, singles(tiny_model, contexts, latents, times)
    )


@torch.no_grad()
def test_a_text_in_two_segments_equals_the_whole(tiny_model: Any) -> None:
    whole = tiny_model.encode([text(62, 5, 6, 7, 63)])
    parts = tiny_model.encode([text(62, 5), text(6, 7, 63)])
    assert parts.position.tolist() == whole.position.tolist() == [5]
    for ours, theirs in zip(parts.layers, whole.layers, strict=True):
        assert_close("encode.split_equals_whole", ours.keys, theirs.keys)
        assert_close("encode.split_equals_whole", ours.values, theirs.values)


@torch.no_grad()
def test_encode_and_generate_see_the_same_sequence(tiny_model: Any) -> None:
    """The last states of segments, through the head, are the logits of one HF forward."""
    pixels = torch.randn(1, 3, 32, 32)
    context = tiny_model.encode([Image(pixels), text(62, 5, 6, 63)])
    ids = torch.tensor([[60, *[59] * 4, 61, 62, 5, 6, 63]])
    whole = tiny_model(input_ids=ids, pixel_values=pixels).logits[:, -4:]
    ours = tiny_model.language_model.lm_head(context.hidden)
    assert_close("reading.encode_equals_forward", ours, whole)


@torch.no_grad()
def test_an_empty_caption_is_the_empty_context(tiny_model: Any) -> None:
    latents, times = noisy(2)
    nothing = Text(torch.full((2, 3), 59), torch.zeros(2, 3, dtype=torch.bool))
    dropped = tiny_model.encode([nothing])
    empty = tiny_model.empty_context(2)
    assert dropped.position.tolist() == empty.position.tolist() == [0, 0]
    assert_close(
        "denoise.batch_equals_single",
        tiny_model.denoise(latents, times, dropped),
        tiny_model.denoise(latents, times, empty),
    )
    # and in a batch beside a caption
    half = Text(torch.tensor([[59, 59, 59], [62, 5, 63]]), torch.tensor([[False] * 3, [True] * 3]))
    mixed = tiny_model.denoise(latents, times, tiny_model.encode([half]))
    contexts = [tiny_model.empty_context(1), tiny_model.encode([text(62, 5, 63)])]
    assert_close(
        "denoise.batch_equals_single", mixed, singles(tiny_model, contexts, latents, times)
    )


@torch.no_grad()
def test_repeat_select_and_pad(tiny_model: Any) -> None:
    latents, times = noisy(4)
    context = tiny_model.encode([padded([[62, 5, 6, 63], [62, 7, 63]], "left")])
    repeated = context.repeat(2)
    assert repeated.batch_size == 4
    order = [context.select(torch.tensor([i])) for i in (0, 0, 1, 1)]
    assert_close(
        "denoise.batch_equals_single",
        tiny_model.denoise(latents, times, repeated),
        singles(tiny_model, order, latents, times),
    )
    swapped = context.select(torch.tensor([1, 0]))
    assert swapped.position.tolist() == [3, 4]
    longer = context.pad(9)
    assert longer.length == 9
    assert longer.real.sum(-1).tolist() == [4, 3]
    assert context.pad(context.length) is context
    assert_close(
        "denoise.batch_equals_single",
        tiny_model.denoise(latents[:2], times[:2], longer),
        tiny_model.denoise(latents[:2], times[:2], context),
    )


@torch.no_grad()
def test_the_caption_matters(tiny_model: Any) -> None:
    """The negative of all the equalities: another caption is another velocity."""
    latents, times = noisy(1)
    one, other = (
        tiny_model.denoise(latents, times, tiny_model.encode([text(*ids)]))
        for ids in ([62, 5, 63], [62, 9, 63])
    )
    assert float((one - other).abs().max()) > 1e-3


def test_a_context_without_its_cache_is_an_error(tiny_model: Any) -> None:
    context = tiny_model.encode([text(62, 5, 63)])
    with pytest.raises(ValueError, match="layer 0 holds 0 keys for 3 context tokens"):
        replace(context, layers=tiny_model.empty_context(1).layers)


def test_batch_sizes_must_agree(tiny_model: Any) -> None:
    latents, times = noisy(2)
    context = tiny_model.encode([text(62, 5, 63)])
    with pytest.raises(ValueError, match=r"2 latents need as many contexts, not 1"):
        tiny_model.denoise(latents, times, context)
    with pytest.raises(ValueError, match="segments of batch size 1 and 2 cannot form one context"):
        tiny_model.encode([text(62, 5, 63), Image(torch.zeros(2, 3, 32, 32))])
    with pytest.raises(ValueError, match="encode needs at least one segment"):
        tiny_model.encode([])


@pytest.mark.usefixtures("unchecked")
def test_text_ids_and_mask_must_agree() -> None:
    with pytest.raises(ValueError, match=r"text mask \[1, 2\] must match ids \[1, 3\]"):
        Text(torch.tensor([[1, 2, 3]]), torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match=r"text ids must be \[batch, tokens\], not \[3\]"):
        Text(torch.tensor([1, 2, 3]))


def test_latents_larger_than_the_table_are_refused(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match=r"latents of 7x2 tokens exceed max_latent_size \(6\)"):
        tiny_model.denoise(torch.zeros(1, 4, 7, 2), torch.ones(1), tiny_model.empty_context(1))


@pytest.mark.parametrize("shape", [(1, 16, 4, 4), (1, 3, 2, 2)])
def test_latents_of_other_channels_are_refused(tiny_model: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=rf"latents of shape \({shape[0]}, {shape[1]}, .* 4 channels"
    ):
        tiny_model.denoise(torch.zeros(shape), torch.ones(1), tiny_model.empty_context(1))


def test_latents_that_cannot_be_cut_into_patches_are_refused() -> None:
    embedding = LatentEmbedding(
        channels=4, patch_size=2, hidden_size=8, max_size=4, time_frequencies=8
    )
    with pytest.raises(ValueError, match=r"multiples of latent_patch_size \(2\)"):
        embedding(torch.zeros(1, 4, 4, 3), torch.ones(1))
