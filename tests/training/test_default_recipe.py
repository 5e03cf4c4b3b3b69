"""Our recipe: its plan, its shares of arithmetic, and a tiny run of all four stages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from unix_cxr import UniXPipeline
from unix_cxr.training.networks import Networks
from unix_cxr.training.recipe import run_recipe
from unix_cxr.training.settings import load_recipe

DEFAULT = Path(__file__).parents[2] / "recipes" / "default.yaml"
STAGES = ("autoencoder", "seeing", "joint", "drawing")
TINY = {
    "data": "{kind: phantom, root: 'phantom:60:busy', image_size: 32}",
    "autoencoder": "{channels: [4, 4, 8], layers_per_block: 1, latent_channels: 2, "
    "image_channels: 1, norm_groups: 2}",
    "model": "{hidden_size: 16, intermediate_size: 24, layers: 2, heads: 2, kv_heads: 2, "
    "head_dim: 8, vocabulary_size: 300, vision_hidden_size: 16, vision_intermediate_size: 24, "
    "vision_layers: 1, vision_heads: 2, vision_patch_size: 8, vision_stem: [4, 8], "
    "max_latent_size: 4, latent_patch_size: 2}",
    "sampling.image_size": "32",
    "sampling.num_inference_steps": "2",
    "stages.seeing.objective.least": "4",
}
EACH = {"steps": "2", "batch_size": "12", "warmup_steps": "1", "workers": "0", "log_every": "1"}


def overrides() -> list[str]:
    chosen = TINY | {f"stages.{name}.{key}": EACH[key] for name in STAGES for key in EACH}
    return [f"{key}={value}" for key, value in chosen.items()]


def test_a_dry_run_plans_it_without_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    summary = run_recipe(load_recipe(DEFAULT), tmp_path / "out", dry_run=True)
    assert [entry.name for entry in summary.plan] == list(STAGES)
    assert "prepared/xrays has no manifest" in caplog.text
    assert not list(tmp_path.iterdir())


def test_its_branches_are_of_equal_size() -> None:
    sizes = Networks(load_recipe(DEFAULT)).sizes()
    parts = [
        sum(count for name, count in sizes.items() if name.startswith(f"model.{part}.")) / 1e6
        for part in ("language_model.model.layers", "generation.layers", "vision")
    ]
    assert parts[0] == pytest.approx(parts[1], rel=0.02)
    assert 10 < parts[2] < parts[0] < 50


def test_a_tiny_run_of_it(tmp_path: Path) -> None:
    recipe = load_recipe(DEFAULT, overrides())
    summary = run_recipe(recipe, tmp_path / "out")
    assert [result.name for result in summary.results] == list(STAGES)
    seen, joint, drawn = (
        load_file(tmp_path / "out" / name / "model" / "model.safetensors") for name in STAGES[1:]
    )

    def learned(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
        return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}

    assert learned(seen, joint) == {"connector", "language_model", "generation"}
    assert learned(joint, drawn) == {"generation"}
    pipe = UniXPipeline.from_pretrained(tmp_path / "out" / "pipeline")
    assert pipe("Left pleural effusion.", generator=torch.manual_seed(0)).images[0].size == (32, 32)
