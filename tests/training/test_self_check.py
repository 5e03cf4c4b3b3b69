"""`--overfit-one-batch`: what learns passes, what is broken fails, and nothing is left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from unix_cxr.cli import app
from unix_cxr.training import trials as trials_module
from unix_cxr.training.estimates import small_task
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.recipe import RecipeRun, run_recipe
from unix_cxr.training.self_check import GOALS, Goal, StageCheck, check_recipe
from unix_cxr.training.settings import Recipe, parse_recipe
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
def test_every_stage_learns_one_batch_by_heart(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(autoencoder=FAST, understanding=FAST, generation=FAST)
    checks = check_recipe(recipe, tmp_path)
    assert [check.name for check in checks] == ["autoencoder", "understanding", "generation"]
    for check in checks:
        assert check.missed == (), check.text()
        for name, loss in check.end.items():
            assert name not in GOALS or loss <= GOALS[name].limit(check.start[name])
    assert checks[1].end["cross_entropy"] < 0.05


def test_drawing_learns_one_batch_by_heart(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (check,) = check_recipe(
        make_recipe(generation=FAST | {"allow_random": True}), tmp_path, stages=["generation"]
    )
    assert not check.missed
    assert check.steps < 300, "it ends when the goal is reached"
    assert "generation: passed after" in check.text()
    assert "(goal: 10% of its start)" in check.text()


def test_a_detached_gradient_fails(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch, GenerationObjective, lambda _, total: total.detach() + 0 * total)
    recipe = make_recipe(generation=FAST | {"allow_random": True})
    (check,) = check_recipe(recipe, tmp_path, stages=["generation"], steps=60)
    assert check.missed == ("velocity",)
    assert "FAILED after 60 steps (velocity)" in check.text()
    assert "look for a gradient that is stopped" in check.text()


def test_a_loss_without_any_gradient_fails(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch, UnderstandingObjective, lambda _, total: total.detach())
    (check,) = check_recipe(make_recipe(), tmp_path, stages=["understanding"], steps=5)
    assert check.missed == ("no gradient reaches the parameters that learn",)


@pytest.mark.slow
def test_a_gradient_of_the_head_alone_fails(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    (check,) = check_recipe(recipe, tmp_path, stages=["generation"])
    assert check.missed == ("velocity",)


def test_weights_are_put_back(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Any] = []
    made = trials_module._TriedRun

    def noted(*arguments: Any) -> Any:
        runs.append(made(*arguments))
        return runs[0]

    monkeypatch.setattr(trials_module, "_TriedRun", noted)
    recipe = make_recipe()
    check_recipe(recipe, tmp_path, steps=3)
    fresh = RecipeRun(recipe, Path("unused"), torch.device("cpu"))
    for name in ("vae", "model"):
        ours, new = getattr(runs[0], name), getattr(fresh, name)
        for key, value in new.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key


# -- weights to begin with -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, films: Path) -> Path:
    """A run whose autoencoder and understanding are finished."""
    folder = tmp_path_factory.mktemp("run") / "half"
    run_recipe(parse_recipe(tree(films), "tiny"), folder, stages=["autoencoder", "understanding"])
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _beginnings(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Tensor]]:
    """Weights of every stage's networks when its trial begins, by the stage."""
    found: dict[str, dict[str, Tensor]] = {}

    def noted(run: Any, stage: Any, few: Any) -> Any:
        networks = {"vae": run.vae, "model": run.model}
        found[stage.name] = {
            f"{prefix}.{name}": value.clone()
            for prefix, network in networks.items()
            for name, value in network.state_dict().items()
        }
        return small_task(run, stage, few)

    monkeypatch.setattr(trials_module, "small_task", noted)
    return found


def _same(found: dict[str, Tensor], file: Path, prefix: str) -> bool:
    kept = load_file(file / ("diffusion_pytorch_" * (prefix == "vae") + "model.safetensors"))
    return all(torch.equal(value, found[f"{prefix}.{name}"]) for name, value in kept.items())


def test_a_trial_begins_where_a_run_of_the_stage_would(
    make_recipe: MakeRecipe,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    before, found = _files(run), _beginnings(monkeypatch)
    (check,) = check_recipe(make_recipe(), run, stages=["generation"], steps=2)
    assert check.name == "generation"
    assert _same(found["generation"], run / "autoencoder" / "vae", "vae")
    assert _same(found["generation"], run / "understanding" / "model", "model")
    assert (
        f"stage generation begins with what autoencoder, understanding left in {run}; random: "
        "model.generation" in caplog.text
    )
    assert _files(run) == before


def test_a_finished_stage_is_tried_from_its_own_beginning_and_lends_what_it_learned(
    make_recipe: MakeRecipe,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    before, found = _files(run), _beginnings(monkeypatch)
    checks = check_recipe(make_recipe(), run, steps=2)
    assert [check.name for check in checks] == ["autoencoder", "understanding", "generation"]
    assert not _same(found["autoencoder"], run / "autoencoder" / "vae", "vae")
    assert _same(found["understanding"], run / "autoencoder" / "vae", "vae")
    assert not _same(found["understanding"], run / "understanding" / "model", "model")
    assert _same(found["generation"], run / "understanding" / "model", "model")
    assert f"stage autoencoder begins with nothing finished in {run}; random: model" in caplog.text
    assert _files(run) == before


def test_stages_that_another_recipe_finished_lend_nothing(
    make_recipe: MakeRecipe, run: Path
) -> None:
    other = make_recipe(understanding={"learning_rate": 2e-3})
    with pytest.raises(ValueError, match=r"'generation' reads .*language_model.*--init-from"):
        check_recipe(other, run, stages=["generation"], steps=2)


def test_a_layerwise_copy_is_part_of_a_stages_beginning(
    make_recipe: MakeRecipe, films: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _beginnings(monkeypatch)
    objective = tree(films)["stages"][2]["objective"] | {"copy_understanding": True}
    recipe = make_recipe(generation={"objective": objective})
    check_recipe(recipe, run, stages=["generation"], steps=1)
    state = found["generation"]
    pair = ("model.generation.layers.0.mlp", "model.language_model.model.layers.0.mlp")
    ours, theirs = (state[f"{name}.down_proj.weight"] for name in pair)
    assert torch.equal(ours, theirs)


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
