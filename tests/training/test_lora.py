"""`train lora`: only the adapter learns, a stopped run goes on exactly, every door is guarded."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from tests.pipelines.conftest import SIDE, build_pipeline
from tests.training.conftest import write_films
from unix_cxr.cli.lora import lora
from unix_cxr.models.adapter_files import WEIGHTS, load_adapter
from unix_cxr.models.adapters import active_adapters
from unix_cxr.training.batches import Share, take
from unix_cxr.training.joint import JointBatch, JointObjective, JointSource
from unix_cxr.training.loop import Trainer
from unix_cxr.training.lora import ADAPTER, train_lora
from unix_cxr.training.lora_data import read_lora_studies
from unix_cxr.training.lora_settings import LoraSettings, lora_settings
from unix_cxr.training.runlog import CLOCKED

FAST: dict[str, Any] = {
    "rank": 2,
    "steps": 4,
    "batch_size": 4,
    "augmented_copies": 1,
    "precision": "float32",
    "warmup_steps": 0,
    "log_every": 1,
    "validate_every": 2,
    "checkpoint_every": 1,
}


def settings(**changes: Any) -> LoraSettings:
    return LoraSettings(**FAST | changes)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_pipeline().save_pretrained(folder)
    return folder


def adapter(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / ADAPTER / WEIGHTS)


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "training/log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKED} for line in lines]


# -- the run -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "losses"),
    [
        ("gen", {"dev_velocity"}),
        pytest.param("und", {"dev_cross_entropy"}, marks=pytest.mark.slow),
        ("both", {"dev_velocity", "dev_cross_entropy", "dev_loss"}),
    ],
)
def test_a_preset_learns_what_it_says(
    base: Path, films: Path, tmp_path: Path, preset: Any, losses: set[str]
) -> None:
    done = train_lora(base, films, tmp_path, settings(preset=preset, learning_rate=0.01, steps=6))
    assert set(done.after) == set(done.before) == losses
    for name in losses:
        assert done.after[name] < done.before[name]
    model = build_pipeline().model
    load_adapter(model, tmp_path / ADAPTER, "learned")
    assert active_adapters(model) == ["learned"]
    moved = {k for k, v in adapter(tmp_path).items() if "lora_B" in k and v.any()}
    parts = {name.split(".")[2] for name in moved}
    expected = {"gen": {"generation"}, "und": {"vision", "connector", "language_model"}}
    assert parts == expected.get(preset, expected["gen"] | expected["und"])


def test_the_plan_counts_what_learns(base: Path, films: Path, tmp_path: Path) -> None:
    done = train_lora(base, films, tmp_path / "run", settings(), dry_run=True)
    model = build_pipeline().model
    whole = sum(parameter.numel() for parameter in model.parameters())
    # rank 2 on seven layers of two blocks: 2 (inputs + outputs) each
    widths = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    assert done.plan.learning == 2 * sum(2 * (a + b) for a, b in widths)
    assert done.plan.frozen == whole
    assert done.plan.state == "begins"
    assert f"{done.plan.learning:,}" in done.text()
    assert not (tmp_path / "run").exists()


class StoppedError(Exception):
    """Stands for a power cut."""


@pytest.mark.parametrize("stop", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    base: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """With dropout, whose mask must not depend on what was drawn before."""
    chosen = settings(preset="gen", dropout=0.3)
    whole = train_lora(base, films, tmp_path / "whole", chosen)
    step = Trainer._step

    def cut(self: Trainer, batch: Any) -> dict[str, float]:
        if self.step == stop:
            raise StoppedError
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", cut)
        with pytest.raises(StoppedError):
            train_lora(base, films, tmp_path / "stopped", chosen)
    torch.rand(17)  # another process has drawn other numbers
    plan = train_lora(base, films, tmp_path / "stopped", chosen, dry_run=True).plan
    assert plan.state == f"goes on at step {stop}"
    again = train_lora(base, films, tmp_path / "stopped", chosen)
    assert again.after == whole.after
    assert_same(adapter(tmp_path / "stopped"), adapter(tmp_path / "whole"))
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_dropout_is_drawn_at_every_step(base: Path, films: Path, tmp_path: Path) -> None:
    with_it = train_lora(base, films, tmp_path / "a", settings(dropout=0.9))
    without = train_lora(base, films, tmp_path / "b", settings())
    assert with_it.before == without.before
    assert with_it.after != without.after


def test_a_finished_run_is_left_as_it_is(base: Path, films: Path, tmp_path: Path) -> None:
    first = train_lora(base, films, tmp_path, settings())
    stamp = (tmp_path / ADAPTER / WEIGHTS).stat().st_mtime_ns
    again = train_lora(base, films, tmp_path, settings())
    assert again.plan.state == "finished"
    assert (again.before, again.after) == (first.before, first.after)
    assert (tmp_path / ADAPTER / WEIGHTS).stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_a_constant_schedule_can_be_made_longer(base: Path, films: Path, tmp_path: Path) -> None:
    train_lora(base, films, tmp_path / "a", settings(schedule="constant"))
    more = settings(schedule="constant", steps=6)
    train_lora(base, films, tmp_path / "a", more)
    train_lora(base, films, tmp_path / "b", more)
    assert_same(adapter(tmp_path / "a"), adapter(tmp_path / "b"))


@pytest.mark.slow
def test_another_run_in_the_same_folder_is_refused(base: Path, films: Path, tmp_path: Path) -> None:
    train_lora(base, films, tmp_path / "run", settings())
    with pytest.raises(ValueError, match=r"another run \(settings.rank: 2 -> 3\); give another"):
        train_lora(base, films, tmp_path / "run", settings(rank=3))
    train_lora(base, films, tmp_path / "run", settings(log_every=2))  # changes no weight
    other = Path(shutil.copytree(films, tmp_path / "films"))
    table = (other / "metadata.csv").read_text(encoding="utf-8")
    (other / "metadata.csv").write_text(table.replace("Normal", "Effusion"), encoding="utf-8")
    with pytest.raises(ValueError, match="studies: "):
        train_lora(base, other, tmp_path / "run", settings())


@pytest.mark.slow
def test_modules_to_save_learn_in_full(base: Path, films: Path, tmp_path: Path) -> None:
    chosen = settings(modules_to_save=("generation.velocity_head",))
    train_lora(base, films, tmp_path, chosen)
    plain = build_pipeline().model.generation.velocity_head.weight
    key = "base_model.model.generation.velocity_head.weight"
    assert not torch.equal(adapter(tmp_path)[key], plain)


# -- reading and drawing together ----------------------------------------------------------------


def joint(base: Path, films: Path) -> tuple[JointObjective, JointBatch]:
    from unix_cxr.training.generation import CaptionedLatentSource, GenerationObjective
    from unix_cxr.training.images import XRayStore
    from unix_cxr.training.understanding import ReportSource

    pipeline = build_pipeline()
    studies = read_lora_studies(films, settings())
    train, dev = XRayStore(studies.train, SIDE), XRayStore(studies.dev, SIDE)
    options: dict[str, Any] = {"batch_size": 4, "augmentation": 0.0, "seed": 1}
    source = JointSource(
        ReportSource(train, dev, pipeline.processor, **options),
        CaptionedLatentSource(
            train,
            dev,
            pipeline.vae,
            pipeline.processor,
            settings(preset="both").drawing(1.0),
            **options,
        ),
    )
    return JointObjective(GenerationObjective(pipeline.model, 1.0)), source.batch(0)


def test_the_joint_objective_is_both_objectives(base: Path, films: Path) -> None:
    objective, batch = joint(base, films)
    terms = objective(batch)
    assert objective.counts(batch) == {name: term.count for name, term in terms.items()}
    assert torch.equal(terms["velocity"].total, objective.to_draw(batch.drawing)["velocity"].total)
    alone = objective.to_read(batch.reading)["cross_entropy"].total
    assert torch.equal(terms["cross_entropy"].total, alone)
    assert {name.split(".")[0] for name, _ in objective.named_parameters()} == {"model"}
    # parts of the batch add up to the whole, so accumulation changes nothing
    parts = [objective(take(batch, Share(index, 2))) for index in range(2)]
    for name, term in terms.items():
        added = parts[0][name] + parts[1][name]
        assert added.count == term.count
        torch.testing.assert_close(added.total, term.total)


def test_drawing_sends_its_gradient_into_the_understanding_branch(base: Path, films: Path) -> None:
    objective, batch = joint(base, films)
    weight = objective.model.language_model.model.layers[0].self_attn.v_proj.weight
    gradients = []
    for factor in (1.0, 0.0):
        objective.to_draw.understanding_gradient = factor
        objective.zero_grad()
        objective(batch)["velocity"].total.backward()
        gradients.append(0.0 if weight.grad is None else float(weight.grad.abs().sum()))
    assert gradients[0] > 0
    assert gradients[1] == 0


def test_batches_of_different_sizes_lie_side_by_side(base: Path, films: Path) -> None:
    objective, batch = joint(base, films)
    uneven = JointBatch.of(take(batch.reading, Share(0, 2)), batch.drawing)
    terms = objective(uneven)
    assert torch.equal(terms["velocity"].total, objective(batch)["velocity"].total)
    assert objective.counts(uneven) == {name: term.count for name, term in terms.items()}
    assert [field.name for field in fields(batch)][:4] == list(vars(batch.reading))


# -- studies -------------------------------------------------------------------------------------

Row = dict[str, str]


def folder_of(path: Path, rows: list[Row]) -> Path:
    path.mkdir()
    columns = sorted({key for row in rows for key in row} | {"image", "patient_id"})
    with (path / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for index, row in enumerate(rows):
            Image.fromarray(np.full((8, 8), index, np.uint8)).save(path / f"{index}.png")
            writer.writerow({"image": f"{index}.png", "patient_id": f"p{index}"} | row)
    return path


def test_text_is_findings_else_impression_else_labels(tmp_path: Path) -> None:
    told = [
        {"findings": "Large heart.", "impression": "Failure."},
        {"findings": "", "impression": "Clear lungs."},
        {"labels": "Effusion", "view": "AP"},
        {"view": "LATERAL"},
    ]
    data = folder_of(tmp_path / "data", [*told, *told * 3])
    studies = read_lora_studies(data, settings(dev_share=0.3))
    texts = {study.findings for study in (*studies.train, *studies.dev)}
    assert texts == {"Large heart.", "Clear lungs.", ""}
    assert studies.left_out == {"lateral": 4}
    train, dev = ({s.patient_id for s in part} for part in (studies.train, studies.dev))
    assert train
    assert dev
    assert not train & dev


def test_held_out_splits_are_not_touched(tmp_path: Path) -> None:
    parts = ["train"] * 6 + ["dev"] * 2 + ["val", "test"]
    data = folder_of(tmp_path / "data", [{"split": s, "findings": "Clear."} for s in parts])
    studies = read_lora_studies(data, settings())
    assert [len(studies.train), len(studies.dev)] == [6, 2]
    assert studies.left_out == {"held out": 2}
    assert len(read_lora_studies(data, settings(limit=1)).train) == 1


WRONG: dict[str, tuple[list[Row], str]] = {
    "no text": ([{"findings": ""}] * 30, "neither findings, nor an impression, nor labels"),
    "no wording": (
        [{"labels": "Blur", "view": "AP"}] * 30,
        "cannot be put into words: label 'Blur'",
    ),
    "no view": ([{"labels": "Effusion"}] * 30, "cannot be put into words: view"),
    "half a split": (
        [{"split": "train", "findings": "x"}, {"split": "", "findings": "x"}],
        "1 of 2 studies have no split",
    ),
    "a patient in two": (
        [{"split": s, "findings": "x", "patient_id": "p"} for s in ("train", "dev")],
        "patient p of data is in",
    ),
    "too few": ([{"findings": "x"}], "no studies in split"),
    "no rows": ([], "holds no studies"),
}


@pytest.mark.parametrize("name", WRONG)
def test_studies_that_cannot_be_learned_from_are_refused(tmp_path: Path, name: str) -> None:
    rows, message = WRONG[name]
    data = folder_of(tmp_path / "data", rows)
    with pytest.raises(ValueError, match=message):
        read_lora_studies(data, settings())


# -- doors ---------------------------------------------------------------------------------------


def no_table(root: Path) -> Path:
    folder = root / "pictures"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "0.png")
    return folder


def image_gone(root: Path) -> Path:
    folder = write_films(root / "gone")
    (folder / "film1.png").unlink()
    return folder


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda root: root / "nowhere", FileNotFoundError, "does not exist"),
        (no_table, ValueError, "layout of .* is unknown"),
        (image_gone, FileNotFoundError, "no image file at"),
    ],
)
def test_wrong_data_are_refused(
    base: Path, tmp_path: Path, make: Callable[[Path], Path], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        train_lora(base, make(tmp_path), tmp_path / "out", settings())


def test_a_missing_model_is_told(films: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder at"):
        train_lora("./nowhere", films, tmp_path / "out", settings())


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        ({"preset": "vision"}, [], "preset: Input should be 'und', 'gen' or 'both'"),
        ({"rank": 0}, [], "rank: .*greater than or equal to 1 .got 0"),
        ({}, ["ranks=3"], "ranks: unknown key; known keys: .*'rank'"),
        ({}, ["rank"], "must look like key=value"),
        ({}, ["rank=[1"], "no YAML value"),
        ({"learning_rate": 0.0}, [], "learning_rate"),
    ],
)
def test_wrong_settings_are_refused(
    values: dict[str, Any], overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lora_settings(values, overrides)


def test_overrides_win_and_none_leaves_the_default() -> None:
    chosen = lora_settings({"rank": 4, "alpha": None}, ["rank=6", "betas=[0.8, 0.9]"])
    assert (chosen.rank, chosen.alpha, chosen.betas) == (6, None, (0.8, 0.9))


def test_the_command_prints_the_plan_and_the_outcome(
    base: Path, films: Path, tmp_path: Path
) -> None:
    app = typer.Typer()
    app.command()(lora)
    overrides = [f"{key}={value}" for key, value in FAST.items()]
    arguments = [str(base), "--data", str(films), "--out", str(tmp_path / "run"), "--json"]
    arguments += ["--device", "cpu", *(x for item in overrides for x in ("--set", item))]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.stdout.splitlines()[-1])
    assert outcome["adapter"] == str(tmp_path / "run" / ADAPTER)
    assert outcome["plan"]["learning"] > 0
    assert set(outcome["after"]) == {"dev_velocity"}
