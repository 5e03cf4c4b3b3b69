"""A whole recipe through torchrun: what two processes write is what one writes."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.processes import run_processes, starter
from tests.tolerances import assert_relative

from .conftest import tree


def _run(folder: Path, films: Path, start: list[str]) -> None:
    folder.mkdir()
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree(films)), encoding="utf-8")
    command = [
        *start,
        "-m",
        "unix_cxr",
        "train",
        "run",
        str(recipe),
        "--out",
        str(folder / "out"),
    ]
    run_processes(command)


@pytest.mark.slow
def test_two_processes_write_the_pipeline_that_one_writes(tmp_path: Path, films: Path) -> None:
    _run(tmp_path / "one", films, [sys.executable])
    _run(tmp_path / "two", films, starter(2))
    for part in ("model/model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        alone, together = (load_file(tmp_path / n / "out/pipeline" / part) for n in ("one", "two"))
        assert alone.keys() == together.keys()
        # of all weights together: where a gradient is rounding alone, Adam steps by its sign
        ours, theirs = (
            torch.cat([values[name].float().flatten() for name in alone])
            for values in (together, alone)
        )
        assert_relative("parts.recipe", ours, theirs)
