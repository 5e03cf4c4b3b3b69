"""`kind: joint`: two batches in a ratio, one step; parts, processes and stops change nothing."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from tests.processes import run_processes, starter
from tests.tolerances import assert_relative
from unix_cxr.training.alignment import AlignedBatch
from unix_cxr.training.batches import CaptionedLatentBatch, ReportBatch, Share, take
from unix_cxr.training.checkpoints import checkpoints, load_checkpoint
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.joint import JointObjective, JointSource
from unix_cxr.training.loop import Trainer
from unix_cxr.training.recipe import RecipeRun, run_recipe
from unix_cxr.training.settings import Recipe, parse_recipe

from .conftest import UNDERSTANDING, stage, tree

CPU = torch.device("cpu")
LEARNING = ["model.generation.*", *UNDERSTANDING]
ALIGNED = {"alignment": {"encoder": "vision", "layer": 1, "weight": 0.3}}


def joint_tree(films: Path, objective: dict[str, Any] | None = None, **changes: Any) -> Any:
    content = tree(films)
    drawing = {
        "caption_dropout": 0.3,
        "understanding_gradient": 1.0,
        "augmented_copies": 2,
        "times": {"stratified": True},
        "reading": 1,
        "drawing": 2,
        "reading_weight": 0.7,
    }
    joint = stage("joint", "joint", LEARNING, objective=drawing | (objective or {}), batch_size=6)
    content["stages"] = [content["stages"][0] | {"steps": 1}, joint | changes]
    return content


@pytest.fixture
def make(films: Path) -> Callable[..., Recipe]:
    return lambda *args, **changes: parse_recipe(joint_tree(films, *args, **changes), "joint")


def learned(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "joint" / "model" / "model.safetensors")


def together(tensors: dict[str, Tensor], names: Any) -> Tensor:
    return torch.cat([tensors[name].float().flatten() for name in names])


def test_a_step_reads_and_draws_in_the_ratio_of_the_recipe(make: Any, tmp_path: Path) -> None:
    run = RecipeRun(make(), tmp_path, CPU)
    task = run.task(run.recipe.stages[1], run.data)
    batch: Any = task.source.batch(0)
    assert (len(batch.input_ids), len(batch.latents)) == (2, 4)
    objective: Any = task.objective
    assert objective.weights == {"cross_entropy": 0.7, "velocity": 1.0}
    terms = objective(batch)
    assert objective.counts(batch) == {name: term.count for name, term in terms.items()}
    assert terms["velocity"].count == batch.latents.numel()
    # of studies of its own: two reads in a row against one draw
    source: Any = task.source
    read = torch.cat([source.reading.order.batch(step) for step in range(2)]).tolist()
    assert read != source.drawing.order.batch(0).tolist()


def test_validation_takes_all_studies_either_way(make: Any, tmp_path: Path) -> None:
    run = RecipeRun(make(), tmp_path, CPU)
    task = run.task(run.recipe.stages[1], run.data)
    batches: Any = task.source.validation()
    read = [batch for batch in batches if isinstance(batch, ReportBatch)]
    drawn = [batch for batch in batches if isinstance(batch, CaptionedLatentBatch)]
    assert sum(len(batch.input_ids) for batch in read) == 3
    assert sum(len(batch.latents) for batch in drawn) == 3
    objective: Any = task.objective
    assert [list(objective(batch)) for batch in (read[0], drawn[0])] == [
        ["cross_entropy"],
        ["velocity"],
    ]


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        ({"drawing": 3}, {}, r"batch_size \(6\) must be a multiple of 4: reading \(1\) \+ draw"),
        ({}, {"batch_size": 2}, r"batch_size \(2\) must be a multiple of 3"),
        ({}, {"accumulation": 3}, r"reads 2 and draws 4 samples per step; each must be at least 3"),
    ],
)
def test_ratios_that_do_not_fit_are_refused(
    make: Any, tmp_path: Path, objective: Any, changes: Any, message: str
) -> None:
    run = RecipeRun(make(objective, **changes), tmp_path, CPU)
    with pytest.raises(ValueError, match=message):
        run.task(run.recipe.stages[1], run.data)


def test_both_branches_learn_and_the_factor_is_of_drawing_alone(make: Any, tmp_path: Path) -> None:
    run = RecipeRun(make(), tmp_path, CPU)
    stage_of = run.recipe.stages[1]
    task = run.task(stage_of, run.data)
    batch: Any = task.source.batch(0)
    with torch.no_grad():  # a head of zeros sends no gradient
        run.model.generation.velocity_head.weight.normal_(generator=torch.Generator())
    gradients = {}
    for factor in (0.0, 0.1, 1.0):
        objective = JointObjective(GenerationObjective(run.model, factor))
        objective.zero_grad()
        sum(term.mean for term in objective(batch).values()).backward()  # type: ignore[union-attr]
        weight = run.model.language_model.model.layers[0].self_attn.v_proj.weight
        assert weight.grad is not None
        gradients[factor] = weight.grad.clone()
        assert run.model.generation.layers[0].mlp.up_proj.weight.grad is not None
    objective.zero_grad()
    objective(batch.reading)["cross_entropy"].mean.backward()
    assert torch.equal(gradients[0.0], weight.grad)
    drawn = {factor: (gradients[factor] - weight.grad).norm() for factor in (0.1, 1.0)}
    assert 0 < drawn[0.1] < 0.3 * drawn[1.0]


def test_an_aligned_batch_is_read_drawn_and_aligned(make: Any, tmp_path: Path) -> None:
    run = RecipeRun(make(ALIGNED, allow_random=True), tmp_path, CPU)
    task = run.task(run.recipe.stages[1], run.data)
    batch: Any = task.source.batch(0)
    source, objective = task.source, task.objective
    assert isinstance(source, JointSource)
    assert isinstance(objective, JointObjective)
    drawn: Any = source.drawing.batch(0)
    assert isinstance(batch.drawing, AlignedBatch)
    assert torch.equal(batch.drawing.features, drawn.features)
    assert objective.weights == {"cross_entropy": 0.7, "velocity": 1.0, "alignment": 0.3}
    terms = objective(batch)
    assert objective.counts(batch) == {name: term.count for name, term in terms.items()}
    parts = [objective(take(batch, Share(index, 2))) for index in range(2)]
    for name, term in terms.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]).total, term.total)
    alone = objective(batch.drawing)
    assert torch.equal(alone["alignment"].total, terms["alignment"].total)
    names = {name for name, _ in objective.named_parameters()}
    assert sum(name.startswith("projector.") for name in names) == 6
    assert all(name.startswith(("model.", "projector.")) for name in names)
    assert task.began.keys() == {"encoder"}


def test_the_projector_learns_and_is_not_exported(make: Any, tmp_path: Path) -> None:
    summary = run_recipe(make(ALIGNED, allow_random=True), tmp_path)
    assert {"dev_cross_entropy", "dev_velocity", "dev_alignment"} < summary.results[1].losses.keys()
    first, last = (load_checkpoint(p).weights for p in checkpoints(tmp_path / "joint"))
    names = [name for name in first if name.startswith("projector.")]
    assert len(names) == 6
    assert all(not torch.equal(first[name], last[name]) for name in names)
    assert not any(name.startswith(("projector", "to_draw")) for name in learned(tmp_path))


@pytest.mark.parametrize(
    ("objective", "changes"),
    [({}, {}), (ALIGNED, {"allow_random": True})],
    ids=["alone", "aligned"],
)
def test_a_stopped_joint_stage_ends_with_the_same_bits(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: Any, changes: Any
) -> None:
    make = partial(make, objective, **changes)
    run_recipe(make(), tmp_path / "whole")
    take_step = Trainer._step

    def stop(self: Trainer, batch: Any) -> Any:
        if (self.stage.name, self.step) == ("joint", 3):
            raise KeyboardInterrupt
        return take_step(self, batch)

    monkeypatch.setattr(Trainer, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(make(), tmp_path / "stopped")
    monkeypatch.undo()
    summary = run_recipe(make(), tmp_path / "stopped")
    assert summary.plan[1].state == "goes on at step 2"
    ours, whole = learned(tmp_path / "stopped"), learned(tmp_path / "whole")
    assert all(torch.equal(value, ours[name]) for name, value in whole.items())
    moved = RecipeRun(make(), tmp_path, CPU).model.state_dict()
    for part in ("vision.", "language_model.model.layers", "generation.layers"):
        names = [name for name in whole if name.startswith(part)]
        assert not torch.equal(together(whole, names), together(moved, names)), part


def test_micro_batches_change_nothing(make: Any, tmp_path: Path) -> None:
    for parts in (1, 2):
        run_recipe(make(accumulation=parts), tmp_path / str(parts))
    whole, cut = learned(tmp_path / "1"), learned(tmp_path / "2")
    assert_relative("parts.recipe", together(cut, whole), together(whole, whole))


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path, films: Path) -> None:
    for name, start in (("one", [sys.executable]), ("two", starter(2))):
        recipe = tmp_path / f"{name}.yaml"
        content = joint_tree(films, optimizer="muon")
        recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
        command = [*start, "-m", "unix_cxr", "train", "run", str(recipe)]
        run_processes([*command, "--out", str(tmp_path / name)])
    one, two = learned(tmp_path / "one"), learned(tmp_path / "two")
    assert_relative("parts.joint_processes", together(two, one), together(one, one))
