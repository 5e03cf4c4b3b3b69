"""A few steps of a stage that leave nothing behind: its weights are put back afterwards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from torch import nn

from unix_cxr.training.costs import STUDIES
from unix_cxr.training.estimates import small_task
from unix_cxr.training.plan import learning_of
from unix_cxr.training.recipe import RecipeRun, begin_run
from unix_cxr.training.settings import Recipe, StageSettings
from unix_cxr.training.tasks import Task

_UNWATCHED: Final = {
    "ema_decay": None,
    "spike_factor": None,
    "keep_best": None,
    "draw": None,
    "measure": None,
    "trackers": (),
}
Trial = Callable[[StageSettings, Task, Path, torch.device], Any]
"""What is done with a stage, its objective with batches, a folder that goes, and a device."""


def unwatched(stage: StageSettings, steps: int, **changes: Any) -> StageSettings:
    """A stage of some steps at a constant rate, which logs, validates and keeps nothing."""
    seldom = dict.fromkeys(("log_every", "validate_every", "checkpoint_every"), steps)
    constant = {"steps": steps, "schedule": "constant"}
    return stage.model_copy(update=_UNWATCHED | seldom | constant | changes)


def try_stages(
    recipe: Recipe,
    change: Callable[[StageSettings], StageSettings],
    trial: Trial,
    *,
    device: torch.device | str = "cpu",
    stages: Sequence[str] | None = None,
    init_from: str | Path | None = None,
) -> list[Any]:
    """Try every wanted stage from the weights that the recipe begins with, whatever was trained.

    Args:
        recipe: what would be trained.
        change: makes of each stage the one that is tried.
        trial: what is done with it.
        device: where.
        stages: names of those to try; None tries all.
        init_from: folder whose weights the run begins with.

    Returns:
        What the trials return.

    Raises:
        FileNotFoundError: data or weights are missing.
        ValueError: the recipe, the data and the weights do not fit together.
    """
    with TemporaryDirectory(prefix="unix-cxr-trial-") as folder:
        run = RecipeRun(recipe, Path(folder), torch.device(device))
        run.check()
        begin_run(run, init_from)
        wanted = [stage.name for stage in recipe.stages] if stages is None else list(stages)
        run.check_data(run.plan(wanted))
        results = []
        for name in wanted:
            stage = change(recipe.stage(name))
            with _weights_kept(run, stage):
                task = small_task(run, stage, run.data_of(stage).few(STUDIES))
                results.append(trial(stage, task, Path(folder) / name, run.device))
    return results


@contextmanager
def _weights_kept(run: RecipeRun, stage: StageSettings) -> Iterator[None]:
    networks: dict[str, nn.Module] = {"vae": run.vae, "model": run.model}
    parameters = {
        f"{prefix}.{name}": parameter
        for prefix, network in networks.items()
        for name, parameter in network.named_parameters()
    }
    kept = {name: parameters[name].detach().clone() for name in learning_of(stage, parameters)}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                parameters[name].copy_(value)
