"""A recipe that draws and measures along the way learns what it learns without."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unix_cxr.evaluation.imaging.frechet import frechet_distance
from unix_cxr.pipelines.marking import is_marked_synthetic
from unix_cxr.training.drawn_validation import ModelExaminer
from unix_cxr.training.loop import Trainer
from unix_cxr.training.recipe import RecipeRun, run_recipe
from unix_cxr.training.settings import Recipe, parse_recipe
from unix_cxr.training.watching import check_watching, terms_of, watching_of

from .conftest import stage, tree
from .test_guards import run_twice
from .test_recipe import EXPORTS, STAGES, rows

MakeRecipe = Callable[..., Recipe]
WATCHED: dict[str, Any] = {
    "generation": {
        "draw": {"count": 3, "every": 2},
        "measure": {"fd": 3, "every": 2},
        "keep_best": "dev_fd",
        "ema_decay": 0.9,
    },
    "understanding": {"measure": {"reports": 2, "max_new_tokens": 8, "every": 4}},
}


@pytest.fixture(scope="module")
def watched_run(tmp_path_factory: pytest.TempPathFactory, films: Path) -> Path:
    folder = tmp_path_factory.mktemp("watched") / "run"
    run_recipe(_recipe(films), folder)
    return folder


def _recipe(films: Path) -> Recipe:
    content = tree(films)
    for entry in content["stages"]:
        entry.update(WATCHED.get(entry["name"], {}))
    return parse_recipe(content, "the watched recipe")


def test_watching_changes_no_bit_of_the_run(
    make_recipe: MakeRecipe, watched_run: Path, tmp_path: Path
) -> None:
    run_recipe(make_recipe(generation={"ema_decay": 0.9}), tmp_path)
    for name in STAGES:
        newest = "step-00000004/weights.safetensors"
        ours, theirs = (load_file(run / name / newest) for run in (watched_run, tmp_path))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name
    for name in ("autoencoder", "understanding"):
        ours, theirs = (load_file(run / name / EXPORTS[name]) for run in (watched_run, tmp_path))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name


def test_sheets_and_measures_come_when_they_are_due(watched_run: Path) -> None:
    sheets = sorted((watched_run / "generation" / "drawn").glob("*.png"))
    assert [path.stem for path in sheets] == ["step-00000002", "step-00000004"]
    for path in sheets:
        assert is_marked_synthetic(path)
        with Image.open(path) as sheet:
            assert sheet.size[0] >= 3 * 32
    texts = json.loads((watched_run / "generation" / "drawn" / "texts.json").read_text("utf-8"))
    assert len(texts) == 3
    found = rows(watched_run / "generation")
    assert [row["step"] for row in found if "dev_fd" in row] == [2, 4]
    assert all(row["dev_fd"] > 0 for row in found if "dev_fd" in row)
    read = [row for row in rows(watched_run / "understanding") if "dev_report_f1" in row]
    assert [row["step"] for row in read] == [4]
    assert 0 <= read[0]["dev_report_f1"] <= 1


def test_the_velocity_by_time_stands_beside_its_mean(watched_run: Path) -> None:
    last = [row for row in rows(watched_run / "generation") if "dev_velocity" in row][-1]
    timed = {key: value for key, value in last.items() if key.startswith("dev_velocity_t")}
    assert timed
    assert min(timed.values()) <= last["dev_velocity"] <= max(timed.values())


def test_the_best_step_is_exported_and_recorded(watched_run: Path) -> None:
    record = json.loads((watched_run / "generation" / "finished.json").read_text("utf-8"))
    measured = {
        row["step"]: row["dev_fd"] for row in rows(watched_run / "generation") if "dev_fd" in row
    }
    best = min(measured, key=lambda step: measured[step])
    assert (record["exported"], record["exported_step"]) == ("best", best)
    assert (record["metric"], record["value"]) == ("dev_fd", measured[best])
    kept = load_file(watched_run / "generation" / f"best-{best:08d}" / "weights.safetensors")
    exported = load_file(watched_run / "generation" / EXPORTS["generation"])
    for name, value in kept.items():
        assert torch.equal(value, exported[name.removeprefix("model.")]), name


def test_another_best_is_another_end(
    films: Path, watched_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RecipeRun(_recipe(films), watched_run, torch.device("cpu"))
    assert [entry.state for entry in run.plan([])] == ["finished"] * 3
    content = tree(films)
    for entry in content["stages"]:
        entry.update(WATCHED.get(entry["name"], {}))
    content["stages"][2]["keep_best"] = None
    other = RecipeRun(parse_recipe(content, "other"), watched_run, torch.device("cpu"))
    assert other.plan(["generation"])[2].state == "goes on at step 4"


@pytest.mark.slow
def test_a_stopped_run_draws_the_same_sheets(
    films: Path, watched_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Trainer._step

    def take_until_stopped(self: Trainer, batch: Any) -> dict[str, float]:
        if (self.stage.name, self.step) == ("generation", 3):
            raise KeyboardInterrupt
        return take(self, batch)

    monkeypatch.setattr(Trainer, "_step", take_until_stopped)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(_recipe(films), tmp_path)
    monkeypatch.undo()
    run_recipe(_recipe(films), tmp_path)
    for part in ("generation/drawn/step-00000004.png", "generation/drawn/step-00000002.png"):
        assert (tmp_path / part).read_bytes() == (watched_run / part).read_bytes()
    assert rows(tmp_path / "generation") == rows(watched_run / "generation")
    assert "resumes" in (tmp_path / "generation" / "events.jsonl").read_text("utf-8")
    assert "resumes" in (tmp_path / "index.html").read_text("utf-8")


@pytest.fixture
def examiner(films: Path, tmp_path: Path) -> ModelExaminer:
    content = tree(films)
    content["stages"][2] |= {
        "draw": {"count": 2, "every": 2},
        "measure": {"fd": 3, "reports": 3, "max_new_tokens": 4, "every": 2},
    }
    recipe = parse_recipe(content, "examined")
    run = RecipeRun(recipe, tmp_path, torch.device("cpu"))
    found = watching_of(run, recipe.stages[2], run.data, tmp_path, lambda: None).examiner
    assert isinstance(found, ModelExaminer)
    return found


def test_the_distance_is_that_of_the_drawn_to_the_real(
    examiner: ModelExaminer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = examiner.dev[torch.tensor(examiner.rows)]
    eye: Any = examiner._eye
    drawn = examiner._draw(3)
    expected = frechet_distance(eye(real), eye(drawn))
    assert examiner.measure()["dev_fd"] == pytest.approx(expected, rel=1e-3)
    monkeypatch.setattr(examiner, "_draw", lambda _: real)
    assert examiner.measure()["dev_fd"] == pytest.approx(0, abs=1e-6)
    monkeypatch.setattr(examiner, "_draw", lambda _: torch.full_like(real, 0.5))
    assert examiner.measure()["dev_fd"] > 0  # drawings that are all alike can be measured


def test_the_f1_is_that_of_the_written_reports(
    examiner: ModelExaminer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Written:
        def __init__(self, reports: list[str]) -> None:
            self.reports = reports

    texts = ["Small left pleural effusion.", "Normal heart. No pneumothorax.", "Pneumonia."]
    examiner.texts = texts
    for reports, expected in ((texts, 1.0), (["Pneumothorax."] * 3, 0.0)):
        monkeypatch.setattr(
            examiner.pipeline, "describe", lambda *_, reports=reports, **__: Written(reports)
        )
        assert examiner.measure()["dev_report_f1"] == pytest.approx(expected)
    monkeypatch.setattr(examiner, "_report_f1", lambda: math.nan)
    assert "dev_report_f1" not in examiner.measure()


def test_images_are_drawn_as_the_pipeline_draws_them(examiner: ModelExaminer) -> None:
    pipeline: Any = examiner.pipeline
    alone = pipeline(examiner.texts[:2], seed=[3, 4], output_type="pt").images
    assert torch.allclose(examiner._draw(2), alone, atol=1e-5)
    assert torch.equal(examiner._draw(2), examiner._draw(2))


def test_the_eye_is_the_tower_as_it_was_when_the_stage_began(films: Path, tmp_path: Path) -> None:
    content = tree(films)
    content["stages"] = [
        stage(
            "joint",
            "joint",
            ["model.*"],
            objective={
                "caption_dropout": 0.0,
                "understanding_gradient": 1.0,
                "augmented_copies": 1,
            },
            measure={"fd": 3, "every": 2},
        )
    ]
    recipe = parse_recipe(content, "joint")
    run = RecipeRun(recipe, tmp_path, torch.device("cpu"))
    found: Any = watching_of(run, recipe.stages[0], run.data, tmp_path, lambda: None).examiner
    real = found.dev[torch.tensor(found.rows)]
    before = found._eye(real)
    with torch.no_grad():
        for parameter in run.model.vision.parameters():
            parameter.mul_(1.5)
    assert torch.equal(found._eye(real), before)


def test_too_few_studies_to_draw_are_told_before_the_training(films: Path, tmp_path: Path) -> None:
    content = tree(films)
    content["stages"][2]["draw"] = {"count": 4, "every": 2}
    recipe = parse_recipe(content, "many")
    run = RecipeRun(recipe, tmp_path, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"draws or reads 4 dev studies, but only 3 of 3 have a"):
        watching_of(run, recipe.stages[2], run.data, tmp_path, lambda: None)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("autoencoder", {"keep_best": "dev_velocity"}, r"it measures \['dev_kl', 'dev_l1', 'dev_"),
        ("generation", {"keep_best": "dev_fd"}, r"\['dev_velocity'\] \(dev_fd and dev_report_f1"),
        ("understanding", {"draw": {"every": 5}}, r"draw needs model and vae.*has no vae; leave"),
        ("autoencoder", {"measure": {"reports": 2, "every": 5}}, r"measure\.reports needs model"),
        ("generation", {"trackers": ["paper"]}, r"accelerate knows no 'paper'; it knows \['aim'"),
    ],
)
def test_what_cannot_be_watched_is_refused_before_anything_is_trained(
    make_recipe: MakeRecipe, tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_recipe(make_recipe(**{name: changes}), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draw": {"count": 0, "every": 5}}, r"draw\.count: .* greater than or equal to 1"),
        ({"draw": {"often": 5}}, r"draw\.often: unknown key; known keys here: \['count', 'every'"),
        ({"measure": {"every": 5}}, r"measure needs fd or reports"),
        ({"measure": {"fd": 1, "every": 5}}, r"fd \(1\) must be 0 or at least 2"),
    ],
)
def test_wrong_settings_name_their_key(
    make_recipe: MakeRecipe, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_recipe(generation=changes)


def test_the_metrics_that_are_known_beforehand_are_those_of_the_objectives(
    films: Path, tmp_path: Path
) -> None:
    content = tree(films)
    drawing = {"caption_dropout": 0.0, "understanding_gradient": 1.0, "augmented_copies": 1}
    weighted = {"weighting": "min_snr"}
    content["stages"] += [
        stage("weighted", "generation", ["model.generation.*"], objective=weighted),
        stage("joint", "joint", ["model.*"], objective=drawing),
        stage("both", "joint", ["model.*"], objective=drawing | weighted),
        stage("seeing", "vision", ["model.vision.*"], objective={"least": 1}),
    ]
    recipe = parse_recipe(content, "all kinds")
    run = RecipeRun(recipe, tmp_path, torch.device("cpu"))
    for one in recipe.stages:
        objective: Any = run.task(one, run.data).objective
        assert sorted(terms_of(one.objective)) == sorted(objective.weights), one.name
        check_watching(one)


_EXAMINED = """
import json, sys
from pathlib import Path
import torch
from tests.training.conftest import tree
from tests.training.test_watching import examine
examine(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def examine(folder: Path, films: Path) -> None:
    """Draw and measure once with the random networks of the tiny recipe."""
    content = tree(films)
    content["stages"][2] |= {
        "draw": {"count": 3, "every": 2},
        "measure": {"fd": 3, "reports": 3, "max_new_tokens": 4, "every": 2},
    }
    recipe = parse_recipe(content, "examined")
    run = RecipeRun(recipe, folder, torch.device("cpu"))
    found: Any = watching_of(run, recipe.stages[2], run.data, folder, lambda: None).examiner
    found.draw(7)
    measured = found.measure()
    images = found._draw(3).flatten().tolist()
    rank = run.processes.rank
    (folder / f"found-{rank}.json").write_text(json.dumps([measured, images]), encoding="utf-8")


@pytest.mark.slow
def test_two_processes_draw_and_measure_what_one_does(films: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    examine(tmp_path / "one", films)
    run_twice(tmp_path / "two", _EXAMINED, str(films))
    alone, first, second = (
        json.loads((tmp_path / part).read_text(encoding="utf-8"))
        for part in ("one/found-0.json", "two/found-0.json", "two/found-1.json")
    )
    assert first == second
    assert first[0] == pytest.approx(alone[0], rel=1e-4)
    assert first[1] == pytest.approx(alone[1], abs=1e-5)
    assert (tmp_path / "two" / "drawn" / "step-00000007.png").is_file()
