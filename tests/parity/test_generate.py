"""transformers' `generate` on golden A and B: each way of decoding gives the recorded logits."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from tests.conftest import Recording
from tests.tolerances import assert_close

WAYS: dict[str, dict[str, Any]] = {
    "dynamic cache": {},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
}


def decode(recording: Recording, inputs: dict[str, Any], **options: Any) -> Any:
    config = recording.model.config
    settings: dict[str, Any] = {
        "max_new_tokens": 6,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": None,
    }
    return recording.model.generate(
        **inputs, generation_config=GenerationConfig(**(settings | options))
    )


def image(recording: Recording) -> Tensor:
    return recording.tensors["und.image"][None]


def with_image(recording: Recording, prompt: Tensor | None = None) -> dict[str, Tensor]:
    return {"input_ids": recording.reading_ids(prompt), "pixel_values": image(recording)}


def text_only(recording: Recording) -> dict[str, Tensor]:
    bos = torch.tensor([[recording.model.config.bos_token_id]])
    return {"input_ids": torch.cat([recording.text("und.prompt_ids"), bos], dim=1)}


def other_prompt(recording: Recording) -> Tensor:
    config = recording.model.config
    return torch.tensor([[config.bos_token_id, *range(20, 34), config.eos_token_id]])


def left_padded(recording: Recording, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    length = max(row["input_ids"].shape[1] for row in rows)
    ids = torch.full((len(rows), length), recording.model.config.pad_token_id)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        count = row["input_ids"].shape[1]
        ids[index, length - count :] = row["input_ids"][0]
        mask[index, length - count :] = 1
    images = [row["pixel_values"] for row in rows if "pixel_values" in row]
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.cat(images)}


def mixed(recording: Recording) -> list[dict[str, Tensor]]:
    """The recorded question, a text without image, and a longer question to another image."""
    longer = with_image(recording, other_prompt(recording))
    longer["pixel_values"] = longer["pixel_values"].flip(-1)
    return [with_image(recording), text_only(recording), longer]


@pytest.mark.parametrize("way", WAYS)
def test_greedy_logits_are_the_recorded_ones(recording: Recording, way: str) -> None:
    recorded = recording.tensors["und.greedy.logits"]
    out = decode(recording, with_image(recording), max_new_tokens=len(recorded), **WAYS[way])
    assert_close("generate.recorded", torch.cat(out.logits), recorded)
    expected = recording.tensors["und.greedy.argmax"].tolist()
    assert out.sequences[0, -len(recorded) :].tolist() == expected


@pytest.mark.parametrize("way", WAYS)
def test_a_left_padded_mixed_batch_equals_its_singles(recording: Recording, way: str) -> None:
    rows = mixed(recording)
    together = torch.stack(decode(recording, left_padded(recording, rows), **WAYS[way]).logits, 1)
    for index, row in enumerate(rows):
        alone = torch.cat(decode(recording, row).logits)
        assert_close("generate.batch_equals_single", together[index], alone)
    recorded = recording.tensors["und.greedy.logits"][:6]
    assert_close("generate.recorded", together[0], recorded)


def test_text_alone_gives_the_recorded_first_logits(recording: Recording) -> None:
    out = decode(recording, text_only(recording), max_new_tokens=1)
    assert_close("generate.recorded", out.logits[0], recording.tensors["und.textonly.logits"])


def whole_forward(recording: Recording, inputs: dict[str, Tensor], sequence: Tensor) -> Tensor:
    """Logits of the new tokens by one forward over the finished sequence, without any cache."""
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        logits = recording.model(
            input_ids=sequence[None], pixel_values=inputs.get("pixel_values"), use_cache=False
        ).logits
    return logits[0, length - 1 : -1]


@pytest.mark.parametrize("way", WAYS)
def test_sampling_draws_from_the_logits_of_its_own_tokens(recording: Recording, way: str) -> None:
    rows = mixed(recording)
    batch = left_padded(recording, rows)
    torch.manual_seed(11)
    out = decode(recording, batch, do_sample=True, top_k=0, temperature=1.3, **WAYS[way])
    length = batch["input_ids"].shape[1]
    torch.manual_seed(11)
    for step, logits in enumerate(out.logits):
        drawn = torch.multinomial((logits / 1.3).softmax(-1), 1)[:, 0]
        assert drawn.tolist() == out.sequences[:, length + step].tolist()
    for index, row in enumerate(rows):
        alone = torch.cat([row["input_ids"][0], out.sequences[index, length:]])
        logits = torch.stack([step[index] for step in out.logits])
        assert_close(
            "generate.step_equals_whole_forward", logits, whole_forward(recording, row, alone)
        )


@pytest.mark.parametrize("way", ["dynamic cache", "static cache"])
def test_beam_scores_are_the_log_likelihoods_of_the_beams(recording: Recording, way: str) -> None:
    rows = mixed(recording)
    batch = left_padded(recording, rows)
    out = decode(
        recording,
        batch,
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=4,
        output_scores=True,
        length_penalty=0.0,
        **WAYS[way],
    )
    length = batch["input_ids"].shape[1]
    for index, (sequence, score) in enumerate(
        zip(out.sequences, out.sequences_scores, strict=True)
    ):
        row = rows[index // 3]
        new = sequence[length:]
        logits = whole_forward(recording, row, torch.cat([row["input_ids"][0], new]))
        likelihood = logits.log_softmax(-1).gather(1, new[:, None]).sum()
        assert_close("generate.beam_score", score, likelihood)
    alone = decode(recording, rows[0], num_beams=3, max_new_tokens=4, **WAYS[way])
    assert out.sequences[0, length:].tolist() == alone.sequences[0, -4:].tolist()


def test_beams_of_rows_with_several_images_keep_their_images(recording: Recording) -> None:
    config = recording.model.config
    block = recording.reading_ids()[:, : -(recording.text("und.prompt_ids").shape[1] + 1)]
    tail = torch.tensor([[config.bos_token_id, 20, config.eos_token_id, config.bos_token_id]])
    first, second = image(recording), image(recording).flip(-1)
    two = {
        "input_ids": torch.cat([block, block, tail], dim=1),
        "pixel_values": torch.cat([first, second]),
    }
    one = {"input_ids": torch.cat([block, tail], dim=1), "pixel_values": first.flip(-2)}
    rows = [two, one]
    batch = left_padded(recording, rows)
    out = decode(
        recording, batch, num_beams=2, max_new_tokens=3, output_scores=True, length_penalty=0.0
    )
    for index, row in enumerate(rows):
        new = out.sequences[index, -3:]
        logits = whole_forward(recording, row, torch.cat([row["input_ids"][0], new]))
        likelihood = logits.log_softmax(-1).gather(1, new[:, None]).sum()
        assert_close("generate.beam_score", out.sequences_scores[index], likelihood)


@torch.no_grad()
def test_a_begin_of_image_in_the_answer_is_an_ordinary_token(recording: Recording) -> None:
    """A cached step with it equals the whole forward: it opens no block without placeholders."""
    inputs = with_image(recording)
    begin = torch.tensor([[recording.model.config.begin_image_token_id]])
    first = recording.model(**inputs, use_cache=True)
    step = recording.model(
        input_ids=begin,
        position_ids=recording.tensors["und.start.position_ids"][None] + 1,
        past_key_values=first.past_key_values,
    )
    ids = torch.cat([inputs["input_ids"], begin], dim=1)
    whole = recording.model(input_ids=ids, pixel_values=inputs["pixel_values"])
    assert_close("generate.step_equals_whole_forward", step.logits[0], whole.logits[0, -1:])


def test_tokens_behind_a_cache_need_their_positions(recording: Recording) -> None:
    first = recording.model(**with_image(recording), use_cache=True)
    with pytest.raises(ValueError, match=r"after \d+ cached tokens give position_ids"):
        recording.model(input_ids=torch.tensor([[5]]), past_key_values=first.past_key_values)


def test_images_and_placeholders_must_agree(recording: Recording) -> None:
    inputs = with_image(recording)
    inputs["pixel_values"] = inputs["pixel_values"].repeat(2, 1, 1, 1)
    with pytest.raises(ValueError, match=r"2 images of .* tokens need as many placeholders"):
        recording.model(**inputs)


def test_an_image_of_another_size_is_refused(recording: Recording) -> None:
    inputs = with_image(recording)
    inputs["pixel_values"] = inputs["pixel_values"][..., :-1]
    with pytest.raises(ValueError, match="the vision tower takes images of"):
        recording.model(**inputs)


def test_neither_ids_nor_embeddings(recording: Recording) -> None:
    with pytest.raises(ValueError, match="give input_ids or inputs_embeds"):
        recording.model()
