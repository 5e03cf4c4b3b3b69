"""Prepared folders and phantoms as a recipe's data."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from unix_cxr.data.phantom import parse
from unix_cxr.data.phantom.source import PhantomSource
from unix_cxr.data.prepared import PreparedStudies
from unix_cxr.preparation.prepare import prepare
from unix_cxr.preparation.settings import PreparationSettings
from unix_cxr.training.data import RecipeData
from unix_cxr.training.generation import CaptionedLatentSource
from unix_cxr.training.recipe import RecipeRun, run_recipe
from unix_cxr.training.settings import DataSettings, Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms with moments of an autoencoder that nothing has trained."""
    root = tmp_path_factory.mktemp("prepared")
    from unix_cxr.models.autoencoder import build_autoencoder

    torch.manual_seed(0)
    vae: Any = build_autoencoder(
        channels=[4, 4, 4, 4, 8],
        layers_per_block=1,
        latent_channels=2,
        image_channels=1,
        norm_groups=2,
        sample_size=32,
    )
    vae.save_pretrained(root / "weights" / "vae")
    settings = PreparationSettings(
        image_size=32, text="as-is", latents=str(root / "weights"), shard_rows=10
    )
    prepare(PhantomSource(30, size=32), root / "prepared", settings)
    return root


def prepared(folder: Path) -> dict[str, Any]:
    return {"kind": "prepared", "root": str(folder / "prepared"), "subsets": None}


def test_prepared_moments_stand_for_the_images(
    folder: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(
        data=prepared(folder),
        generation={
            "augmentation": 0.0,
            "objective": {
                "kind": "generation",
                "caption_dropout": 0.0,
                "timestep_shift": 1.0,
                "understanding_gradient": 0.0,
                "augmented_copies": 1,
                "prepared_moments": True,
            },
        },
    )
    run = RecipeRun(recipe, tmp_path, torch.device("cpu"))
    own: Any = AutoencoderKL.from_pretrained(folder / "weights" / "vae")
    settings: Any = recipe.stage("generation").objective
    stores = (run.data.store("train"), run.data.store("dev"))
    common = {"batch_size": 4, "augmentation": 0.0, "seed": 1}
    cached = CaptionedLatentSource(*stores, own, run.processor, settings, **common)
    plain = settings.model_copy(update={"prepared_moments": False})
    computed = CaptionedLatentSource(*stores, own, run.processor, plain, **common)
    for step in (0, 5):
        ours, theirs = cached.batch(step), computed.batch(step)
        torch.testing.assert_close(ours.latents, theirs.latents)
        assert torch.equal(ours.caption_ids, theirs.caption_ids)
    with pytest.raises(ValueError, match="has moments of another autoencoder than the run's"):
        CaptionedLatentSource(*stores, run.vae, run.processor, settings, **common)
    with pytest.raises(ValueError, match=r"set augmentation \(1\.0\) to 0 and augmented_copies"):
        CaptionedLatentSource(
            *stores, own, run.processor, settings, **common | {"augmentation": 1.0}
        )


def test_a_recipe_learns_from_a_prepared_folder(
    folder: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    summary = run_recipe(make_recipe(data=prepared(folder)), tmp_path)
    assert summary.pipeline is not None
    assert all(
        math.isfinite(value) for result in summary.results for value in result.losses.values()
    )


def test_the_tokenizer_learns_the_texts_of_train_alone(folder: Path) -> None:
    data = RecipeData(DataSettings(root=str(folder / "prepared"), kind="prepared", image_size=32))
    texts = list(data.tokenizer_texts())
    assert texts == PreparedStudies(folder / "prepared", "train").texts(range(len(texts)))
    assert data.count("train") == len(texts)
    assert data.count("test") == 0


def test_phantoms_are_drawn_at_the_size_of_the_recipe() -> None:
    data = RecipeData(DataSettings(root="phantom:12", kind="phantom", image_size=48))
    store = data.store("train")
    assert store[torch.tensor([0])].shape == (1, 1, 48, 48)
    import random

    assert not parse(store.texts(torch.tensor([0]), random.Random(0))[0]).unknown


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "table"}, "subsets must list the collections of a table"),
        ({"kind": "prepared", "subsets": ["nih"]}, "leave them out for kind prepared"),
    ],
)
def test_subsets_belong_to_tables(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSettings.model_validate({"root": "x", "image_size": 32} | values)


def test_a_folder_of_another_size_is_refused(folder: Path) -> None:
    data = RecipeData(DataSettings(root=str(folder / "prepared"), kind="prepared", image_size=64))
    with pytest.raises(ValueError, match=r"was prepared at 32 pixels, the recipe has .* 64"):
        data.store("train")


def test_prepared_moments_need_a_prepared_folder(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = RecipeRun(make_recipe(), tmp_path, torch.device("cpu"))
    settings: Any = run.recipe.stage("generation").objective
    with pytest.raises(ValueError, match=r"prepared_moments needs data\.kind prepared"):
        CaptionedLatentSource(
            run.data.store("train"),
            run.data.store("dev"),
            run.vae,
            run.processor,
            settings.model_copy(update={"prepared_moments": True}),
            batch_size=2,
            augmentation=0.0,
            seed=0,
        )
