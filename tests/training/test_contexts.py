"""Contexts that are found again have the bits that computing them again would give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import make_tiny_model
from tests.tolerances import assert_close
from unix_cxr.models.context import Context, Text
from unix_cxr.models.unix import UniXModel
from unix_cxr.training.batches import generator_of
from unix_cxr.training.contexts import CaptionContexts
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.loop import Trainer
from unix_cxr.training.recipe import run_recipe
from unix_cxr.training.settings import Recipe, parse_recipe

from .conftest import tree

LARGE = 10**9


@pytest.fixture(scope="module")
def model() -> UniXModel:
    made = make_tiny_model()
    with torch.no_grad():
        made.generation.velocity_head.weight.normal_(generator=generator_of(2))
    return made


def captions(*rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, padded on the left."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), 9)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        if row:
            ids[index, -len(row) :] = torch.tensor(row)
            mask[index, -len(row) :] = True
    return ids, mask


SHORT, LONG, OTHER = [5, 6, 7], [5, 8, 6, 6, 4, 7], [5, 7, 7, 7]


def same(first: Context, second: Context) -> bool:
    return all(
        torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)
        for a, b in zip(first.layers, second.layers, strict=True)
    ) and (torch.equal(first.real, second.real) and torch.equal(first.position, second.position))


def test_what_is_found_again_is_what_would_be_computed(model: UniXModel) -> None:
    kept, fresh = CaptionContexts(LARGE), CaptionContexts(0)
    kept.of(model, *captions(LONG, SHORT))
    for rows in ([SHORT], [SHORT, LONG, OTHER], [OTHER, OTHER], [LONG, [], SHORT]):
        batch = captions(*rows)
        assert same(kept.of(model, *batch), fresh.of(model, *batch))
    assert (kept.computed, fresh.computed) == (3, 8)
    assert kept.found == 7
    assert not kept.of(model, *captions(LONG)).layers[0].keys.requires_grad


def test_it_draws_what_encoding_the_batch_draws(model: UniXModel) -> None:
    ids, mask = captions(LONG, SHORT, [])
    generator = generator_of(3)
    latents = torch.randn(3, model.config.latent_channels, 2, 2, generator=generator)
    times = torch.rand(3, generator=generator)
    with torch.no_grad():
        together = model.denoise(latents, times, model.encode([Text(ids, mask)]))
        alone = model.denoise(latents, times, CaptionContexts(LARGE).of(model, ids, mask))
    assert_close("contexts.alone_equals_batch", alone, together)


def test_the_oldest_goes_when_there_is_no_room(model: UniXModel) -> None:
    one = CaptionContexts(LARGE)
    one.of(model, *captions(SHORT))
    size = one._bytes
    contexts = CaptionContexts(2 * size)
    for row in ([1, 2, 3], [2, 2, 3], [1, 2, 3], [3, 2, 3]):
        contexts.of(model, *captions(row))
        assert contexts._bytes <= 2 * size
    assert (contexts.computed, contexts.found) == (3, 1)
    contexts.of(model, *captions([1, 2, 3]))  # asked for more lately than [2, 2, 3]
    assert (contexts.computed, contexts.found) == (3, 2)
    contexts.of(model, *captions([2, 2, 3]))
    assert contexts.computed == 4
    small = CaptionContexts(size - 1)
    small.of(model, *captions(SHORT))
    assert small._bytes == 0


def test_a_folder_outlives_the_process_and_knows_its_model(
    model: UniXModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = CaptionContexts(LARGE, tmp_path)
    made = first.of(model, *captions(LONG, SHORT))
    again = CaptionContexts(0, tmp_path)
    assert same(again.of(model, *captions(LONG, SHORT)), made)
    assert (again.computed, again.found) == (0, 2)
    other = make_tiny_model()
    with torch.no_grad():
        other.language_model.model.embed_tokens.weight += 0.1
    theirs = CaptionContexts(0, tmp_path)
    assert not same(theirs.of(other, *captions(LONG, SHORT)), made)
    assert theirs.computed == 2
    files = sorted(tmp_path.glob("*/*.safetensors"))
    assert len(files) == 4
    mine = first._file(model, next(iter(first._kept)))
    assert mine is not None
    mine.write_bytes(mine.read_bytes()[:50])
    repaired = CaptionContexts(0, tmp_path)
    assert same(repaired.of(model, *captions(LONG, SHORT)), made)
    assert repaired.computed == 1
    assert "is damaged" in caplog.text


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_another_number_type_is_another_context(model: UniXModel) -> None:
    contexts = CaptionContexts(LARGE)
    full = contexts.of(model, *captions(LONG))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = contexts.of(model, *captions(LONG))
    assert contexts.computed == 2
    assert not torch.equal(full.layers[0].values, low.layers[0].values.float())


def test_contexts_of_what_learns_are_refused(model: UniXModel) -> None:
    with pytest.raises(ValueError, match=r"while understanding_gradient \(0\.1\) lets"):
        GenerationObjective(model, 0.1, contexts=CaptionContexts(LARGE))


# -- a run -------------------------------------------------------------------------------------


def recipe_of(films: Path, contexts: dict[str, Any] | None, **changes: Any) -> Recipe:
    content = tree(films)
    content["stages"] = [entry | {"steps": 1} for entry in content["stages"][:2]] + [
        content["stages"][2] | changes
    ]
    content["stages"][2]["objective"] |= {"contexts": contexts}
    return parse_recipe(content, "tiny")


def learned(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "generation" / "model" / "model.safetensors")


def test_a_run_with_them_has_the_bits_of_one_that_keeps_none(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {
        "none": {"memory_mb": 0},
        "memory": {"memory_mb": 100},
        "folder": {"memory_mb": 0, "folder": str(tmp_path / "kept")},
    }
    for name, contexts in kinds.items():
        run_recipe(recipe_of(films, contexts), tmp_path / name)
    whole = learned(tmp_path / "none")
    for name in ("memory", "folder"):
        ours = learned(tmp_path / name)
        assert all(torch.equal(value, ours[key]) for key, value in whole.items()), name
    # and one that was stopped: what was kept in memory is gone, the bits are the same
    take_step: Callable[..., Any] = Trainer._step

    def stop(self: Trainer, batch: Any) -> Any:
        if (self.stage.name, self.step) == ("generation", 3):
            raise KeyboardInterrupt
        return take_step(self, batch)

    monkeypatch.setattr(Trainer, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe_of(films, kinds["memory"]), tmp_path / "stopped")
    monkeypatch.undo()
    run_recipe(recipe_of(films, kinds["memory"]), tmp_path / "stopped")
    ours = learned(tmp_path / "stopped")
    assert all(torch.equal(value, ours[key]) for key, value in whole.items())


def test_recipes_that_teach_the_understanding_branch_cannot_keep_them(films: Path) -> None:
    content = tree(films)
    content["stages"][2]["objective"] |= {"contexts": {}, "understanding_gradient": 0.1}
    with pytest.raises(ValueError, match=r"set understanding_gradient \(0\.1\) to 0, or leave"):
        parse_recipe(content, "tiny")
