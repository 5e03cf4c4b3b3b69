"""Alignment with an encoder: every token once, in its place, by a projector that learns."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from tests.conftest import make_tiny_model
from unix_cxr.models.autoencoder import to_range
from unix_cxr.training.alignment import (
    AlignedBatch,
    AlignedObjective,
    AlignedSource,
    latents_after,
    resize_map,
)
from unix_cxr.training.batches import Share, generator_of, take
from unix_cxr.training.checkpoints import checkpoints, load_checkpoint
from unix_cxr.training.encoders import DinoEncoder, TowerEncoder, square_map
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.loop import Trainer
from unix_cxr.training.objective_settings import AlignmentSettings
from unix_cxr.training.recipe import RecipeRun, run_recipe
from unix_cxr.training.settings import Recipe

from .conftest import stage

MakeRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")
FEATURES = 5


def objective_of(layer: int = 1, **changes: Any) -> AlignedObjective:
    settings = AlignmentSettings(encoder="vision", layer=layer, weight=0.5, **changes)
    model = make_tiny_model()
    with torch.no_grad():  # a head of zeros would leave nothing to compare
        model.generation.velocity_head.weight.normal_(generator=generator_of(2))
    return AlignedObjective(model, 0.0, None, alignment=settings, features=FEATURES, seed=0)


def batch_of(samples: int, side: int = 2) -> AlignedBatch:
    generator = generator_of(6)
    channels = make_tiny_model().config.latent_channels
    return AlignedBatch(
        latents=torch.randn(samples, channels, side, side, generator=generator),
        noise=torch.randn(samples, channels, side, side, generator=generator),
        times=torch.rand(samples, generator=generator),
        caption_ids=torch.arange(samples * 3).reshape(samples, 3) + 5,
        caption_mask=torch.ones(samples, 3, dtype=torch.bool),
        features=torch.randn(samples, FEATURES, side, side, generator=generator),
    )


# -- the loss ----------------------------------------------------------------------------------


def test_the_loss_is_one_minus_cosine_of_every_token_once() -> None:
    objective, batch = objective_of(layer=2), batch_of(3)
    terms = objective(batch)
    with latents_after(objective.model.generation.layers[1]) as seen:
        plain = GenerationObjective(objective.model, 0.0)(batch)
    assert torch.equal(terms["velocity"].total, plain["velocity"].total)
    projected = objective.projector(seen[0])
    total = 0.0
    for sample in range(3):
        for row in range(2):
            for column in range(2):
                ours = projected[sample, 2 * row + column]
                theirs = batch.features[sample, :, row, column]
                cosine = (ours @ theirs) / (ours.norm() * theirs.norm())
                total += 1 - float(cosine.detach())
    assert float(terms["alignment"].total.detach()) == pytest.approx(total, rel=1e-5)
    assert terms["alignment"].count == 3 * 4
    assert objective.counts(batch) == {name: term.count for name, term in terms.items()}
    assert objective.weights == {"velocity": 1.0, "alignment": 0.5}


def test_parts_of_a_batch_add_up() -> None:
    objective, batch = objective_of(), batch_of(5)
    whole = objective(batch)
    parts = [objective(take(batch, Share(index, 2))) for index in range(2)]
    for name, term in whole.items():
        added = parts[0][name] + parts[1][name]
        assert added.count == term.count
        torch.testing.assert_close(added.total, term.total)


def test_the_states_are_those_after_the_layer() -> None:
    model = objective_of().model
    batch = batch_of(2)
    seen: dict[int, Tensor] = {}
    for layer in (1, 2):
        with latents_after(model.generation.layers[layer - 1]) as states:
            denoised = model.run_block(
                batch.latents, batch.times, model.empty_context(2), understanding_gradient=0.0
            )
        (seen[layer],) = states
    assert torch.equal(seen[2], denoised.block.latents)
    assert not torch.equal(seen[1], seen[2])
    assert not model.generation.layers[0]._forward_hooks


def test_alignment_teaches_the_layers_below_and_the_projector_alone() -> None:
    objective = objective_of(layer=1)
    objective(batch_of(2))["alignment"].total.backward()
    taught = {name for name, p in objective.named_parameters() if p.grad is not None}
    moved = {name for name in taught if objective.get_parameter(name).grad.any()}  # type: ignore[union-attr]
    assert any(name.startswith("model.generation.layers.0.") for name in moved)
    assert any(name.startswith("projector.") for name in moved)
    assert not any(name.startswith("model.generation.layers.1.") for name in taught)
    assert not any(name.startswith("model.language_model.") for name in moved)


def test_the_projector_is_of_three_layers_and_of_its_seed() -> None:
    first, second = objective_of(width=7), objective_of(width=7)
    shapes = [tuple(p.shape) for p in first.projector.parameters() if p.ndim == 2]
    width = first.model.generation.final_norm.weight.shape[0]
    assert shapes == [(7, width), (7, 7), (FEATURES, 7)]
    for ours, theirs in zip(
        first.projector.parameters(), second.projector.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("layer", [3, 99])
def test_a_layer_that_does_not_exist_is_refused(layer: int) -> None:
    with pytest.raises(ValueError, match=rf"alignment\.layer \({layer}\) must lie between 1 and 2"):
        objective_of(layer)


def test_features_of_another_grid_are_refused() -> None:
    batch = batch_of(2)
    larger = torch.randn(2, FEATURES, 3, 3)
    with pytest.raises(ValueError, match="9 features cannot be aligned with 4 latent tokens"):
        objective_of()(AlignedBatch(**(vars(batch) | {"features": larger})))


def test_a_batch_without_features_is_refused() -> None:
    plain = {name: value for name, value in vars(batch_of(1)).items() if name != "features"}
    from unix_cxr.training.batches import CaptionedLatentBatch

    with pytest.raises(TypeError, match="needs an AlignedBatch, not a CaptionedLatentBatch"):
        objective_of().counts(CaptionedLatentBatch(**plain))


# -- the grid ----------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(3, 3), (4, 4), (7, 5), (16, 16)])
def test_maps_are_resized_in_two_dimensions(grid: tuple[int, int]) -> None:
    """A plane stays a plane: what is at (y, x) stays there (1e-3; of a flattened raster, 0.57)."""
    side = 37
    places = (torch.arange(side) + 0.5) / side
    plane = torch.stack([places[:, None].expand(side, side), places.expand(side, side)])[None]
    resized = resize_map(plane, grid)
    assert tuple(resized.shape) == (1, 2, *grid)
    inner = slice(1, -1)  # at the rim the filter is cut off
    rows = (torch.arange(grid[0]) + 0.5) / grid[0]
    columns = (torch.arange(grid[1]) + 0.5) / grid[1]
    expected = torch.stack([rows[:, None].expand(grid), columns.expand(grid)])[None]
    torch.testing.assert_close(
        resized[..., inner, inner], expected[..., inner, inner], rtol=0, atol=2e-3
    )


def test_a_map_of_the_same_grid_stays_as_it_is() -> None:
    maps = torch.randn(1, 2, 4, 4, generator=generator_of(0))
    assert torch.equal(resize_map(maps, (4, 4)), maps)


def test_tokens_become_a_map_in_raster_order() -> None:
    tokens = torch.arange(9.0).reshape(1, 9, 1)
    assert square_map(tokens)[0, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    with pytest.raises(ValueError, match="8 patch features are no square map"):
        square_map(tokens[:, :8])


# -- encoders ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / "tiny-dino"
    config = Dinov2Config(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)
    preprocessor = {
        "size": {"shortest_edge": 56},
        "crop_size": {"height": 56, "width": 56},
        "image_mean": [0.5307] * 3,
        "image_std": [0.2583] * 3,
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return folder


def test_a_dinos_patches_come_without_its_class_token(dino: Path) -> None:
    encoder = DinoEncoder(dino, CPU)
    images = torch.rand(2, 1, 40, 40, generator=generator_of(1))
    maps = encoder.maps(images)
    assert tuple(maps.shape) == (2, 8, 4, 4)
    assert encoder.width == 8
    model = Dinov2Model.from_pretrained(dino, local_files_only=True).eval()
    pixels = torch.stack([encoder._extractor.prepare(image) for image in images])
    with torch.no_grad():
        tokens = model(pixels).last_hidden_state
    for row in range(4):
        for column in range(4):
            expected = tokens[:, 1 + 4 * row + column]
            torch.testing.assert_close(maps[:, :, row, column], expected)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_folder_without_a_file_is_refused(dino: Path, tmp_path: Path, name: str) -> None:
    import shutil

    folder = Path(shutil.copytree(dino, tmp_path / "copy"))
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"copy has no {name}; save a DINOv2 such as"):
        DinoEncoder(folder, CPU)


def test_the_tower_is_one_too_and_stays_in_its_mode(finished: Path, make_recipe: Any) -> None:
    run = RecipeRun(make_recipe(), finished, CPU)
    tower = TowerEncoder(run.model, run.processor, CPU)
    run.model.train()
    images = torch.rand(2, 1, 64, 64, generator=generator_of(1))
    maps = tower.maps(images)
    assert run.model.vision.training
    assert tuple(maps.shape) == (2, 16, 2, 2)
    tokens = run.model.vision(run.processor.normalise(images)).last_hidden_state
    assert torch.equal(maps, square_map(tokens.detach()))
    assert not maps.requires_grad


# -- the source --------------------------------------------------------------------------------


class Remembering:
    """An encoder whose features are the images themselves, on a grid of 2 x 2."""

    width = 1
    fingerprint = "none"

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def maps(self, images: Tensor) -> Tensor:
        self.images.append(images)
        return torch.nn.functional.adaptive_avg_pool2d(images, 2)


def source_of(run: RecipeRun, name: str = "generation", **changes: Any) -> Any:
    chosen = run.recipe.stage(name).model_copy(update=changes)
    source: Any = run.task(chosen, run.data).source
    return source


def test_features_are_of_the_very_images_whose_latents_are_drawn(
    make_recipe: MakeRecipe, tmp_path: Path, unchecked: None
) -> None:
    run = RecipeRun(make_recipe(), tmp_path, CPU)
    captioned = source_of(run)  # two augmented copies
    encoder: Any = Remembering()
    source = AlignedSource(captioned, encoder, (2, 2), keep="memory")
    copies, chosen = captioned.picked(3)
    seen = torch.stack(encoder.images[:2])[copies, chosen]
    vae: Any = run.vae
    with torch.no_grad():
        moments = vae.encode(to_range(seen, vae)).latent_dist.parameters
    torch.testing.assert_close(captioned.moments(copies, chosen), moments)
    batch = source.batch(3)
    torch.testing.assert_close(
        batch.features, Remembering().maps(seen).half().float(), rtol=0, atol=0
    )
    plain = captioned.batch(3)
    for name, value in vars(plain).items():
        assert torch.equal(value, getattr(batch, name))
    shown = torch.cat([each.features for each in source.validation()])
    expected = Remembering().maps(captioned.dev[torch.arange(3)]).half().float()
    assert torch.equal(shown, expected)
    count = len(encoder.images)
    source.batch(4)
    assert len(encoder.images) == count


def test_a_steps_images_are_encoded_when_it_comes(
    make_recipe: MakeRecipe, tmp_path: Path, unchecked: None
) -> None:
    run = RecipeRun(make_recipe(), tmp_path, CPU)
    encoder: Any = Remembering()
    plain = source_of(run, augmentation=0.0)
    kept, fresh = (AlignedSource(plain, encoder, (2, 2), keep=keep) for keep in ("memory", "step"))
    for step in range(3):
        assert torch.equal(kept.batch(step).features, fresh.batch(step).features)
    with pytest.raises(ValueError, match=r"set augmentation \(1\.0\) to 0, or let alignment\.keep"):
        AlignedSource(source_of(run), encoder, (2, 2), keep="step")


# -- a run -------------------------------------------------------------------------------------


def aligned(make_recipe: MakeRecipe, encoder: str, **changes: Any) -> Recipe:
    alignment = {"encoder": encoder, "layer": 1, "weight": 0.5}
    name = changes.pop("name", "aligned")
    entry = stage(
        name,
        "generation",
        ["model.generation.*"],
        objective={"alignment": alignment | changes.pop("alignment", {})},
    )
    return make_recipe(stages=[*RecipeStages(make_recipe).before, entry | changes])


class RecipeStages:
    """The stages before one that draws, as plain values."""

    def __init__(self, make_recipe: MakeRecipe) -> None:
        content = json.loads(make_recipe().model_dump_json())
        self.before = content["stages"][:2]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, films: Path) -> Path:
    from unix_cxr.training.settings import parse_recipe

    from .conftest import tree

    folder = tmp_path_factory.mktemp("aligned") / "run"
    run_recipe(parse_recipe(tree(films), "tiny"), folder)
    return folder


@pytest.mark.parametrize("which", ["dino", "vision"])
def test_the_projector_learns_is_kept_and_is_not_exported(
    make_recipe: MakeRecipe, finished: Path, tmp_path: Path, dino: Path, which: str
) -> None:
    recipe = aligned(make_recipe, str(dino) if which == "dino" else which)
    recipe = recipe.model_copy(update={"stages": recipe.stages[2:]})
    out = tmp_path / "out"
    summary = run_recipe(recipe, out, init_from=finished / "pipeline")
    assert summary.results[0].losses["dev_alignment"] < 1.5
    first, last = (
        load_checkpoint(path).weights for path in (checkpoints(out / "aligned")[i] for i in (0, -1))
    )
    names = [name for name in first if name.startswith("projector.")]
    assert len(names) == 6
    assert all(not torch.equal(first[name], last[name]) for name in names)
    exported = load_file(out / "pipeline" / "model" / "model.safetensors")
    assert exported.keys() == load_file(finished / "pipeline/model/model.safetensors").keys()
    tower = {name for name in exported if name.startswith("vision.")}
    before = load_file(finished / "pipeline/model/model.safetensors")
    assert all(torch.equal(exported[name], before[name]) for name in tower)


def test_a_stopped_run_ends_with_the_same_bits(
    make_recipe: MakeRecipe,
    finished: Path,
    tmp_path: Path,
    dino: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = aligned(make_recipe, str(dino))
    recipe = recipe.model_copy(update={"stages": recipe.stages[2:]})
    begin = finished / "pipeline"
    run_recipe(recipe, tmp_path / "whole", init_from=begin)
    take_step = Trainer._step

    def stop(self: Trainer, batch: Any) -> Any:
        if self.step == 3:
            raise KeyboardInterrupt
        return take_step(self, batch)

    monkeypatch.setattr(Trainer, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "again", init_from=begin)
    monkeypatch.undo()
    run_recipe(recipe, tmp_path / "again", init_from=begin)
    ours, theirs = (
        load_checkpoint(checkpoints(tmp_path / name / "aligned")[-1]).weights
        for name in ("again", "whole")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_another_encoder_is_refused_on_the_way(
    make_recipe: MakeRecipe, finished: Path, tmp_path: Path, dino: Path
) -> None:
    recipe = aligned(make_recipe, str(dino))
    recipe = recipe.model_copy(update={"stages": recipe.stages[2:]})
    run_recipe(recipe, tmp_path, init_from=finished / "pipeline")
    import shutil

    shutil.rmtree(tmp_path / "aligned" / "model")
    moved = Path(shutil.copytree(dino, tmp_path / "moved"))
    again = aligned(make_recipe, str(moved))
    again = again.model_copy(update={"stages": again.stages[2:]})
    run_recipe(again, tmp_path, init_from=finished / "pipeline")  # it may lie elsewhere
    shutil.rmtree(tmp_path / "aligned" / "model")
    model = Dinov2Model.from_pretrained(moved, local_files_only=True)
    with torch.no_grad():
        model.layernorm.bias += 1
    model.save_pretrained(moved)
    with pytest.raises(ValueError, match="began from other weights of encoder"):
        run_recipe(again, tmp_path, init_from=finished / "pipeline")


def test_a_tower_that_learns_is_aligned_with_as_it_was(
    make_recipe: MakeRecipe, finished: Path, tmp_path: Path
) -> None:
    recipe = aligned(
        make_recipe,
        "vision",
        trains=["model.generation.*", "model.vision.*"],
        objective={
            "kind": "generation",
            "caption_dropout": 0.0,
            "understanding_gradient": 1.0,
            "augmented_copies": 1,
            "alignment": {"encoder": "vision", "layer": 1, "keep": "step"},
        },
        augmentation=0.0,
    )
    run = RecipeRun(recipe, tmp_path, CPU)
    run.begin_from(finished / "pipeline")
    source = source_of(run, "aligned")
    before = source.batch(0).features
    with torch.no_grad():
        for parameter in run.model.vision.parameters():
            parameter.normal_(generator=generator_of(1))
    assert torch.equal(source.batch(0).features, before)
    assert not torch.equal(source_of(run, "aligned").batch(0).features, before)


def test_a_random_encoder_is_refused(
    make_recipe: MakeRecipe, finished: Path, tmp_path: Path
) -> None:
    still = RecipeRun(aligned(make_recipe, "vision"), tmp_path, CPU)
    with pytest.raises(ValueError, match=r"aligns with model\.vision, which nothing has trained"):
        source_of(still, "aligned")
    still.begin_from(finished / "pipeline")
    assert source_of(still, "aligned").width == 16


def test_prepared_features_need_a_prepared_folder(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = RecipeRun(aligned(make_recipe, "prepared", augmentation=0.0), tmp_path, CPU)
    with pytest.raises(ValueError, match=r"alignment\.encoder prepared needs data\.kind prepared"):
        source_of(run, "aligned")
