"""`--overfit-one-batch`: what learns passes, what is broken fails, and nothing is left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from unix_cxr.cli import app
from unix_cxr.training import trials as trials_module
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.recipe import RecipeRun
from unix_cxr.training.self_check import GOALS, Goal, StageCheck, check_recipe
from unix_cxr.training.settings import Recipe
from unix_cxr.training.understanding import UnderstandingObjective

from .conftest import tree

MakeRecipe = Callable[..., Recipe]
FAST = {"learning_rate": 1e-2}


def _break(monkeypatch: pytest.MonkeyPatch, kind: type[Any], change: Callable[..., Any]) -> None:
    whole = kind.forward

    def broken(self: Any, batch: Any) -> dict[str, LossTerm]:
        terms: dict[str, LossTerm] = whole(self, batch)
        return {name: LossTerm(change(self, t.total), t.count) for name, t in terms.items()}

    monkeypatch.setattr(kind, "forward", broken)


@pytest.mark.slow
def test_every_stage_learns_one_batch_by_heart(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(autoencoder=FAST, understanding=FAST, generation=FAST)
    checks = check_recipe(recipe)
    assert [check.name for check in checks] == ["autoencoder", "understanding", "generation"]
    for check in checks:
        assert check.missed == (), check.text()
        for name, loss in check.end.items():
            assert name not in GOALS or loss <= GOALS[name].limit(check.start[name])
    assert checks[1].end["cross_entropy"] < 0.05


def test_drawing_learns_one_batch_by_heart(make_recipe: MakeRecipe) -> None:
    (check,) = check_recipe(
        make_recipe(generation=FAST | {"allow_random": True}), stages=["generation"]
    )
    assert not check.missed
    assert check.steps < 300, "it ends when the goal is reached"
    assert "generation: passed after" in check.text()
    assert "(goal: 10% of its start)" in check.text()


def test_a_detached_gradient_fails(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch, GenerationObjective, lambda _, total: total.detach() + 0 * total)
    recipe = make_recipe(generation=FAST | {"allow_random": True})
    (check,) = check_recipe(recipe, stages=["generation"], steps=60)
    assert check.missed == ("velocity",)
    assert "FAILED after 60 steps (velocity)" in check.text()
    assert "look for a gradient that is stopped" in check.text()


def test_a_loss_without_any_gradient_fails(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch, UnderstandingObjective, lambda _, total: total.detach())
    (check,) = check_recipe(make_recipe(), stages=["understanding"], steps=5)
    assert check.missed == ("no gradient reaches the parameters that learn",)


@pytest.mark.slow
def test_a_gradient_of_the_head_alone_fails(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies behind the last layer learns something: the goal must be beyond it."""
    hidden = GenerationObjective.forward

    def broken(self: Any, batch: Any) -> dict[str, LossTerm]:
        head = self.model.generation.velocity_head
        handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].detach(),))
        try:
            return hidden(self, batch)
        finally:
            handle.remove()

    monkeypatch.setattr(GenerationObjective, "forward", broken)
    recipe = make_recipe(generation={"allow_random": True} | FAST)
    (check,) = check_recipe(recipe, stages=["generation"])
    assert check.missed == ("velocity",)


def test_weights_are_put_back(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    made = RecipeRun

    def noted(*arguments: Any) -> Any:
        runs.append(made(*arguments))
        return runs[0]

    monkeypatch.setattr(trials_module, "RecipeRun", noted)
    recipe = make_recipe()
    check_recipe(recipe, steps=3)
    fresh = made(recipe, Path("unused"), torch.device("cpu"))
    for name in ("vae", "model"):
        ours, new = getattr(runs[0], name), getattr(fresh, name)
        for key, value in new.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def recipe_file(films: Path, tmp_path: Path) -> Path:
    content = tree(films)
    content["stages"] = [content["stages"][2] | FAST | {"allow_random": True}]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


@pytest.mark.parametrize("steps", [300, 2])
def test_the_command_says_so_by_its_status_and_writes_nothing(
    recipe_file: Path, tmp_path: Path, steps: int
) -> None:
    out = tmp_path / "out"
    arguments = ["train", "run", str(recipe_file), "--out", str(out), "--overfit-one-batch"]
    result = CliRunner().invoke(app, [*arguments, "--overfit-steps", str(steps)])
    passed = steps == 300
    assert result.exit_code == (0 if passed else 1)
    assert ("generation: passed" in result.output) == passed
    assert ("generation: FAILED after 2 steps" in result.output) != passed
    assert not out.exists()


def test_goals_are_shares_of_the_start_or_plain_numbers() -> None:
    assert Goal(0.1, of_start=True).limit(2.0) == pytest.approx(0.2)
    assert Goal(0.05, of_start=False).limit(2.0) == 0.05
    check = StageCheck("s", 3, {"kl": 1.0}, {"kl": 9.0}, ())
    assert check.text() == "s: passed after 3 steps: kl 1 -> 9 (goal: none)"
