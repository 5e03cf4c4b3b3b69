"""What `compile: true` gives and costs: steps of a stage, plain and compiled, in turns.

    OMP_NUM_THREADS=1 python benchmarks/bench_compile.py --out benchmarks/results/compile.json

The stage is the joint one of recipes/phantom.yaml, with random weights. Both trainers take the same
batches one after the other, so that a machine that does other things meanwhile slows both; seconds
are those of the thread itself where it does all the work. `--same` repeats the first batch: one set
of lengths, nothing to compile again. Without it every batch has lengths of its own.
"""

import argparse
import copy
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from bench_training import Clock
from machine import environment
from torch._dynamo.utils import counters

from unix_cxr.training.loop import Trainer
from unix_cxr.training.recipe import RecipeRun
from unix_cxr.training.settings import load_recipe
from unix_cxr.training.tasks import Task

CPU = torch.device("cpu")
HEAD = 0.02


class Steps(Trainer):
    """Takes single steps."""

    def take(self, batch: Any) -> dict[str, float]:  # noqa: ANN401 - the stage's batch
        return self._step(batch)


def task_of(recipe_file: str, name: str, studies: int, folder: Path) -> tuple[Any, Task]:
    recipe = load_recipe(
        recipe_file, [f"data.root=phantom:{studies}", f"stages.{name}.allow_random=true"]
    )
    run = RecipeRun(recipe, folder, CPU)
    stage = recipe.stage(name)
    task = run.task(stage, run.data_of(stage))
    torch.nn.init.normal_(run.model.generation.velocity_head.weight, std=HEAD)
    return stage, task


def rows_of(stage: Any, task: Task, folder: Path, steps: int, *, same: bool) -> list[dict]:  # noqa: ANN401 - settings
    clock = Clock(CPU)
    trainers = {
        name: Steps(
            copy.deepcopy(task.objective),
            task.source,
            stage.model_copy(update={"compile": name == "compiled"}),
            folder / name,
            recipe="{}",
            device=CPU,
        )
        for name in ("eager", "compiled")
    }
    rows = []
    for step in range(steps):
        batch = task.source.batch(0 if same else step)
        row: dict[str, Any] = {"lengths": [batch.input_ids.shape[1], batch.caption_ids.shape[1]]}
        for name, trainer in trainers.items():
            values: dict[str, float] = {}
            row[name] = clock(lambda: values.update(trainer.take(batch)))  # noqa: B023 - called at once
            row[f"{name}_velocity"] = values["velocity"]
        row["graphs"] = counters["stats"]["unique_graphs"]
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="recipes/phantom.yaml")
    parser.add_argument("--stage", default="joint")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--studies", type=int, default=1600)
    parser.add_argument("--same", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stage, task = task_of(given.recipe, given.stage, given.studies, Path(folder))
        rows = rows_of(stage, task, Path(folder), given.steps, same=given.same)
    # the last half: what was to be compiled is compiled by then, if it ever is
    late = rows[len(rows) // 2 :]
    seconds = {name: statistics.median(row[name] for row in late) for name in ("eager", "compiled")}
    result = {
        "environment": environment("transformers"),
        "recipe": given.recipe,
        "stage": given.stage,
        "same_batch": given.same,
        "median_seconds_of_the_last_half": seconds,
        "ratio": seconds["compiled"] / seconds["eager"],
        "seconds_of_compiling": sum(row["compiled"] - seconds["compiled"] for row in rows),
        "steps": rows,
    }
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"compiled {result['ratio']:.3f} x eager, {result['seconds_of_compiling']:.0f} s first")


if __name__ == "__main__":
    main()
