"""`--profile`: shares of a step's time, the operators that take it, and a trace."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from unix_cxr.cli import app
from unix_cxr.training.profiling import PHASES, profile_recipe
from unix_cxr.training.recipe import run_recipe
from unix_cxr.training.settings import Recipe, parse_recipe
from unix_cxr.training.understanding import ReportSource

from .conftest import tree

MakeRecipe = Callable[..., Recipe]


def test_a_profile_says_where_the_time_goes(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = ReportSource.batch

    def slow(self: Any, step: int) -> Any:
        time.sleep(0.5)
        return batch(self, step)

    monkeypatch.setattr(ReportSource, "batch", slow)
    (found,) = profile_recipe(make_recipe(), tmp_path, steps=2, stages=["understanding"])
    assert set(found.shares) == {*PHASES, "other"}
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert all(share > 0 for share in found.shares.values())
    assert found.shares["data"] * found.step_seconds > 0.49  # a busy machine sleeps longer
    assert found.shares["backward"] > found.shares["optimizer"] / 10
    assert "aten::" in found.operators
    events = json.loads(found.trace.read_text(encoding="utf-8"))["traceEvents"]
    names = [event.get("name") for event in events]
    assert [names.count(f"training.{phase}") for phase in PHASES] == [2] * 4
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "profile", found.trace]


def test_the_command_prints_it(films: Path, tmp_path: Path) -> None:
    content = tree(films)
    content["stages"] = content["stages"][1:2]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    arguments = ["train", "run", str(file), "--out", str(tmp_path / "out"), "--profile"]
    result = CliRunner().invoke(app, [*arguments, "--profile-steps", "1"])
    assert result.exit_code == 0
    assert "understanding: " in result.output
    assert f"trace in {tmp_path / 'out' / 'profile' / 'understanding.json'}" in result.output
    printed = json.loads(
        CliRunner().invoke(app, [*arguments, "--profile-steps", "1", "--json"]).stdout
    )
    assert printed["steps"] == 1


def test_the_command_says_which_finished_stages_it_begins_with(films: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "recipe.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(tree(films)), encoding="utf-8")
    run_recipe(parse_recipe(tree(films), "tiny"), out, stages=["autoencoder", "understanding"])
    before = {path for path in out.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "unix_cxr", "train", "run", str(file), "--out", str(out)]
    asked = ["--profile", "--profile-steps", "1", "--stage", "generation", "--json"]
    ended = subprocess.run([*command, *asked], capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["name"] == "generation"
    assert "generation begins with what autoencoder, understanding left in" in ended.stderr
    after = {path for path in out.rglob("*") if path.is_file()}
    assert after - before == {out / "profile" / "generation.json"}
