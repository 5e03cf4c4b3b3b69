"""Batches are functions of the step alone, and say what the objectives need."""

import random
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from unix_cxr.data.findings_text import labels_of, stated_labels
from unix_cxr.defaults import IGNORED_LABEL
from unix_cxr.training.autoencoder import ImageSource
from unix_cxr.training.batches import ImageBatch
from unix_cxr.training.generation import CaptionedLatentSource
from unix_cxr.training.images import XRayStore
from unix_cxr.training.recipe import RecipeRun
from unix_cxr.training.settings import Recipe
from unix_cxr.training.tokenizer import SPECIAL_TOKENS, train_tokenizer
from unix_cxr.training.understanding import ReportSource

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def run(make_recipe: MakeRecipe, tmp_path: Path) -> RecipeRun:
    return RecipeRun(make_recipe(), tmp_path, torch.device("cpu"))


def source_of(run: RecipeRun, kind: str, **changes: Any) -> Any:
    stores = (run.data.store("train"), run.data.store("dev"))
    common = {"batch_size": 4, "augmentation": 1.0, "seed": 5} | changes
    if kind == "autoencoder":
        return ImageSource(*stores, latent_channels=2, downsampling=16, **({"crop": None} | common))
    if kind == "understanding":
        return ReportSource(*stores, run.processor, **common)
    settings: Any = run.recipe.stage("generation").objective
    return CaptionedLatentSource(*stores, run.vae, run.processor, settings, **common)


def same(first: Any, second: Any) -> bool:
    return all(
        torch.equal(getattr(first, field.name), getattr(second, field.name))
        for field in fields(first)
    )


@pytest.mark.parametrize("kind", ["autoencoder", "understanding", "generation"])
def test_the_batch_of_a_step_does_not_depend_on_what_came_before(run: RecipeRun, kind: str) -> None:
    source, fresh = source_of(run, kind), source_of(run, kind)
    batches = [source.batch(step) for step in range(3)]
    assert same(fresh.batch(2), batches[2])
    assert not same(batches[0], batches[1])
    assert not same(source_of(run, kind, seed=6).batch(2), batches[2])


@pytest.mark.parametrize("kind", ["autoencoder", "understanding", "generation"])
def test_validation_is_always_the_same_and_sees_every_study(run: RecipeRun, kind: str) -> None:
    source = source_of(run, kind, batch_size=2)
    first, second = source.validation(), source.validation()
    assert len(first) == 2
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    name = fields(first[0])[0].name
    assert sum(len(getattr(batch, name)) for batch in first) == len(run.data.store("dev"))


def test_crops_are_parts_of_the_images(run: RecipeRun) -> None:
    batch = source_of(run, "autoencoder", crop=16).batch(0)
    assert batch.images.shape[-2:] == (16, 16)
    assert batch.noise.shape[-2:] == (1, 1)
    with pytest.raises(ValueError, match="crops of 48 pixels do not fit into images of 32x32"):
        source_of(run, "autoencoder", crop=48).batch(0)


def test_images_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\], not \[0, 255\]"):
        ImageBatch(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2), torch.zeros(1))


def test_reports_are_labelled_and_nothing_else(run: RecipeRun) -> None:
    source = source_of(run, "understanding")
    batch = source.batch(0)
    for ids, labels, mask in zip(batch.input_ids, batch.labels, batch.attention_mask, strict=True):
        labelled = labels != IGNORED_LABEL
        assert torch.equal(ids[labelled], labels[labelled])
        assert mask[labelled].all()
        assert labels[labelled][-1] == run.processor.eos_id
        text = run.processor.tokenizer.decode(labels[labelled], skip_special_tokens=True)
        assert text.endswith(".")
        assert labels_of(text)


def test_the_text_of_a_study_states_its_labels(run: RecipeRun) -> None:
    store = run.data.store("train")
    chosen = torch.arange(len(store))
    for study, text in zip(store.studies, store.texts(chosen, random.Random(0)), strict=True):
        assert labels_of(text) == set(stated_labels(study))


@pytest.mark.parametrize(("dropout", "expected"), [(0.0, False), (1.0, True)])
def test_captions_are_dropped_as_often_as_asked(
    make_recipe: MakeRecipe, tmp_path: Path, dropout: float, expected: bool
) -> None:
    objective = {
        "kind": "generation",
        "caption_dropout": dropout,
        "timestep_shift": 1.0,
        "understanding_gradient": 0.0,
        "augmented_copies": 1,
    }
    run = RecipeRun(make_recipe(generation={"objective": objective}), tmp_path, torch.device("cpu"))
    source = source_of(run, "generation")
    for step in range(3):
        dropped = ~source.batch(step).caption_mask.any(dim=1)
        assert bool((dropped == expected).all())
    assert all(batch.caption_mask.any(dim=1).all() for batch in source.validation())


def test_a_dropped_caption_leaves_the_velocity_of_the_empty_context(run: RecipeRun) -> None:
    from unix_cxr.models.context import Text

    model = run.model
    with torch.no_grad():
        for parameter in model.generation.velocity_head.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
        latents = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(1))
        times = torch.tensor([0.5])
        caption = run.processor.captions(["AP chest radiograph of a child."])
        dropped = model.encode([Text(caption.ids, torch.zeros_like(caption.real))])
        empty = model.denoise(latents, times, model.empty_context(1))
        torch.testing.assert_close(model.denoise(latents, times, dropped), empty)
        shown = model.denoise(latents, times, model.encode([caption]))
    assert not torch.allclose(shown, empty)


def test_a_store_without_studies_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there are no studies to read; check data\.subsets"):
        XRayStore([], 32)


def test_the_tokenizer_keeps_every_text_and_its_special_tokens() -> None:
    tokenizer: Any = train_tokenizer(["No pneumonia.", "No pneumonia at all."], 280)
    for text in ("No pneumonia.", "Größe ≥ 3 cm 日本"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(6))
    with pytest.raises(ValueError, match=r"vocabulary_size \(100\) must be at least 262"):
        train_tokenizer(["text"], 100)
