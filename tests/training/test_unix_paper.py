"""The published recipe: its numbers, its plan on any machine, and a tiny run of it."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.convert.janus import tiny_janus, write_janus, write_vae
from unix_cxr.cli import main
from unix_cxr.training import networks as networks_module
from unix_cxr.training.networks import Networks
from unix_cxr.training.recipe import RecipeRun, run_recipe
from unix_cxr.training.settings import Recipe, load_recipe, parse_recipe
from unix_cxr.training.starting import copy_understanding

from .conftest import tree, write_films

PAPER = Path(__file__).parents[2] / "recipes" / "unix-paper.yaml"
MakeRecipe = Callable[..., Recipe]
STAGES = ("understanding", "generation", "finetune")
TINY = {
    "data": "{kind: table, root: ROOT, subsets: [made-up], image_size: 48}",
    "autoencoder": "{channels: [4, 4, 4, 4, 8], layers_per_block: 1, latent_channels: 2, "
    "image_channels: 1, norm_groups: 2}",
    "model": "{hidden_size: 16, intermediate_size: 24, layers: 2, heads: 2, kv_heads: 2, "
    "head_dim: 8, vocabulary_size: 300, vision_hidden_size: 16, vision_intermediate_size: 24, "
    "vision_layers: 1, vision_heads: 2, vision_patch_size: 16, max_latent_size: 4}",
    "begins_from": "null",
    "sampling.image_size": "64",
    "stages.generation.data": "{kind: table, root: ROOT, subsets: [made-up], image_size: 32}",
    "stages.finetune.data": "{kind: table, root: ROOT, subsets: [made-up], image_size: 64}",
    "stages.generation.objective.alignment.encoder": "vision",
    "stages.generation.objective.alignment.layer": "1",
    "stages.understanding.workers": "0",
}


def overrides(root: Path) -> list[str]:
    chosen = {key: value.replace("ROOT", str(root)) for key, value in TINY.items()}
    for name in STAGES:
        chosen |= {
            f"stages.{name}.{key}": value
            for key, value in {
                "steps": "2",
                "batch_size": "4",
                "accumulation": "2",
                "log_every": "1",
                "allow_random": "true",
            }.items()
        }
    for name in ("generation", "finetune"):
        chosen[f"stages.{name}.objective.prepared_moments"] = "false"
    return [f"{key}={value}" for key, value in chosen.items()]


def test_its_numbers_are_the_papers() -> None:
    """arXiv:2601.11522, table of the three stages."""
    recipe = load_recipe(PAPER)
    _, drawing, finetuning = recipe.stages
    rows: list[Any] = [
        (s.learning_rate, s.steps, s.warmup_steps, s.batch_size) for s in recipe.stages
    ]
    assert rows == [(1e-4, 3840, 80, 256), (2e-4, 75_000, 2000, 256), (1e-4, 5000, 0, 256)]
    for stage in recipe.stages:
        assert (stage.optimizer, stage.betas, stage.adam_eps) == ("adamw", (0.9, 0.95), 1e-15)
        assert (stage.weight_decay, stage.clip_norm, stage.schedule) == (0.0, 1.0, "constant")
        assert stage.ema_decay is None
    assert drawing.data is not None
    assert finetuning.data is not None
    sides = (recipe.data.image_size, drawing.data.image_size, finetuning.data.image_size)
    assert sides == (384, 256, 512)
    for stage in (drawing, finetuning):
        objective: Any = stage.objective
        assert (objective.caption_dropout, objective.understanding_gradient) == (0.1, 0.0)
        assert (objective.times.kind, objective.times.shift) == ("logit_normal", 1.0)
        assert stage.trains == ("model.generation.*",)
    aligned: Any = drawing.objective
    assert (aligned.alignment.layer, aligned.alignment.weight) == (8, 0.5)
    assert aligned.copy_understanding
    last: Any = finetuning.objective
    assert (last.alignment, last.copy_understanding) == (None, False)


def test_its_sizes_are_the_papers_and_nothing_is_allocated() -> None:
    networks = Networks(load_recipe(PAPER))
    sizes = networks.sizes()
    parts = {
        part: sum(count for name, count in sizes.items() if name.startswith(part)) / 1e9
        for part in ("model.language_model.", "model.vision.", "model.generation.")
    }
    assert [round(parts[name], 2) for name in parts] == [1.65, 0.30, 1.24]
    assert "model" not in vars(networks)
    assert "vae" not in vars(networks)


def test_a_dry_run_plans_it_anywhere_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    summary = run_recipe(load_recipe(PAPER), tmp_path / "out", dry_run=True, costs=True)
    assert [entry.state for entry in summary.plan] == ["begins"] * 3
    assert summary.plan[1].learning.loaded == 1_238_169_616
    for told in ("janus-pro-1b has neither", "reports-384 has no manifest", "rad-dino has no conf"):
        assert told in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_run_without_its_checkpoints_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(PAPER)
    with pytest.raises(FileNotFoundError, match=r"begins_from: checkpoints/janus-pro-1b; --init-f"):
        run_recipe(recipe, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"elsewhere has neither model/ nor vae/"):
        run_recipe(recipe, tmp_path / "out", init_from=tmp_path / "elsewhere", dry_run=True)
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_is_missing_is_told_before_anything_is_trained(
    films: Path, tmp_path: Path
) -> None:
    absent = "stages.generation.objective.alignment.encoder=absent"
    with pytest.raises(FileNotFoundError, match="the encoder folder absent has no config"):
        run_recipe(load_recipe(PAPER, [*overrides(films), absent]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tiny_run_of_it(tmp_path: Path) -> None:
    recipe = load_recipe(PAPER, overrides(write_films(tmp_path / "films", side=64)))
    summary = run_recipe(recipe, tmp_path / "out")
    assert [result.name for result in summary.results] == [s.name for s in recipe.stages]
    assert "dev_alignment" in summary.results[1].losses
    assert "dev_alignment" not in summary.results[2].losses
    first, last = (
        load_file(tmp_path / "out" / name / "model/model.safetensors")
        for name in ("understanding", "finetune")
    )
    frozen = [name for name in first if not name.startswith("generation.")]
    assert all(torch.equal(first[name], last[name]) for name in frozen)
    # finished stages are found again, and the sizes of each stage's images are its own
    again = run_recipe(recipe, tmp_path / "out")
    assert [entry.state for entry in again.plan] == ["finished"] * 3
    run = RecipeRun(recipe, tmp_path, torch.device("cpu"))
    drawn = []
    for stage in recipe.stages[1:]:
        source: Any = run.task(stage, run.data_of(stage)).source
        drawn.append(tuple(source.batch(0).latents.shape[-2:]))
    assert drawn == [(2, 2), (4, 4)]


def convert(monkeypatch: pytest.MonkeyPatch, source: Path, target: Path, vae: Path) -> None:
    command = ["unix-cxr", "convert", "janus", str(source), str(target), "--vae", str(vae)]
    command += ["--latent-channels", "2", "--max-latent-size", "4"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["transformers", "original"])
def test_it_begins_from_a_converted_janus(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header's one command, and all three stages of the recipe from what it wrote."""
    source = write_janus(tmp_path / "janus", tiny_janus(), layout, "sharded safetensors")
    vae, target = write_vae(tmp_path / "vae"), tmp_path / "checkpoints" / "janus-pro-1b"
    convert(monkeypatch, source, target, vae)
    changes = overrides(write_films(tmp_path / "films", side=64))
    sizes = "{hidden_size: 64, intermediate_size: 96, layers: 2, heads: 4, kv_heads: 2, "
    sizes += "head_dim: 16, vocabulary_size: 300, vision_hidden_size: 128, "
    sizes += "vision_intermediate_size: 256, vision_layers: 2, vision_heads: 2, "
    sizes += "vision_patch_size: 16, max_latent_size: 4}"
    changes += [f"model={sizes}", f"begins_from={target}"]
    changes += [f"stages.{name}.allow_random=false" for name in STAGES]
    recipe = load_recipe(PAPER, changes)
    dry = run_recipe(recipe, tmp_path / "dry", dry_run=True)
    assert dry.random_parts == ()
    summary = run_recipe(recipe, tmp_path / "out")
    assert [result.name for result in summary.results] == list(STAGES)
    begun = load_file(target / "model" / "model.safetensors")
    read, drawn = (
        load_file(tmp_path / "out" / name / "model" / "model.safetensors")
        for name in ("understanding", "finetune")
    )
    learned = {name for name in begun if not torch.equal(begun[name], read[name])}
    assert "language_model.model.layers.1.self_attn.q_norm.weight" in learned
    assert not any(name.startswith("generation.") for name in learned)
    # two steps of Adam at 1e-4 lie between Janus and what has learned to read
    key = "language_model.model.layers.0.mlp.up_proj.weight"
    assert 0 < float((begun[key] - read[key]).abs().max()) < 1e-3
    frozen = [name for name in read if not name.startswith("generation.")]
    assert all(torch.equal(read[name], drawn[name]) for name in frozen)
    stored = load_file(tmp_path / "out/pipeline/vae/diffusion_pytorch_model.safetensors")
    theirs = load_file(vae / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(stored[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_janus_of_other_sizes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_janus(tmp_path / "janus", tiny_janus(), "transformers")
    target = tmp_path / "begun"
    convert(monkeypatch, source, target, write_vae(tmp_path / "vae"))
    changes = [*overrides(write_films(tmp_path / "films", side=64)), f"begins_from={target}"]
    with pytest.raises(ValueError, match=r"hidden_size is 64, the recipe says 16"):
        run_recipe(load_recipe(PAPER, changes), tmp_path / "out")


# -- what it needs of recipes ------------------------------------------------------------------


def test_the_generation_layers_begin_as_copies(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = RecipeRun(make_recipe(), tmp_path, torch.device("cpu"))
    with torch.no_grad():
        for number, parameter in enumerate(run.model.language_model.parameters()):
            shape = parameter.shape
            parameter.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(number)))
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    copy_understanding(run.model)
    moved = {
        name for name, value in run.model.named_parameters() if not torch.equal(value, before[name])
    }
    expected = {
        name for name in before if name.startswith(("generation.layers.", "generation.final_norm."))
    }
    assert moved == expected
    layer: Any = run.model.generation.layers[1]
    theirs: Any = run.model.language_model.model.layers[1]
    assert torch.equal(layer.attention.k_proj.bias, theirs.self_attn.k_proj.bias)
    assert torch.equal(layer.mlp.down_proj.weight, theirs.mlp.down_proj.weight)
    assert torch.equal(layer.mlp_norm.weight, theirs.post_attention_layernorm.weight)


def test_a_recipe_says_what_it_begins_from(
    make_recipe: MakeRecipe, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_recipe(parse_recipe(tree(films), "tiny"), tmp_path / "first")
    pipeline = tmp_path / "first" / "pipeline"
    recipe = make_recipe(begins_from=str(pipeline))
    for name in ("load_model_weights", "load_vae_weights"):
        monkeypatch.setattr(networks_module, name, lambda *_: pytest.fail("weights were read"))
    dry = run_recipe(recipe, tmp_path / "out", dry_run=True)
    assert dry.random_parts == ()
    assert all(entry.learning.new == 0 for entry in dry.plan)
    run = RecipeRun(recipe, tmp_path / "out", torch.device("cpu"))
    run.begin_from(pipeline, load=False)
    assert "model" not in vars(run)
    # a dry run reads no weight, but sees that one is missing
    broken = Path(shutil.copytree(pipeline, tmp_path / "broken"))
    (broken / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or no safetensors file"):
        run_recipe(make_recipe(begins_from=str(broken)), tmp_path / "out", dry_run=True)
    other = make_recipe(begins_from=str(pipeline), model={"layers": 3})
    with pytest.raises(ValueError, match=r"num_hidden_layers is 2, the recipe says 3"):
        run_recipe(other, tmp_path / "out", dry_run=True)


def test_studies_of_a_stage_must_fit_the_table_of_places(films: Path, tmp_path: Path) -> None:
    content = tree(films)
    content["stages"][2]["data"] = content["data"] | {"image_size": 64}
    recipe = parse_recipe(content, "tiny")
    with pytest.raises(ValueError, match=r"at least 4: stages\.generation\.data\.image_size"):
        run_recipe(recipe, tmp_path / "out")
