"""A few steps of a stage that leave nothing behind: its weights are put back afterwards."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from torch import nn

from unix_cxr.training.costs import STUDIES
from unix_cxr.training.estimates import small_task
from unix_cxr.training.plan import BEGINS, learning_of
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
logger = logging.getLogger(__name__)


def unwatched(stage: StageSettings, steps: int, **changes: Any) -> StageSettings:
    """A stage of some steps at a constant rate, which logs, validates and keeps nothing."""
    seldom = dict.fromkeys(("log_every", "validate_every", "checkpoint_every"), steps)
    constant = {"steps": steps, "schedule": "constant"}
    return stage.model_copy(update=_UNWATCHED | seldom | constant | changes)


def try_stages(
    recipe: Recipe,
    out: str | Path,
    change: Callable[[StageSettings], StageSettings],
    trial: Trial,
    *,
    device: torch.device | str = "cpu",
    stages: Sequence[str] | None = None,
    init_from: str | Path | None = None,
) -> list[Any]:
    """Try every wanted stage from the weights that a run of it alone would begin with.

    These are the weights that the recipe begins with, and those of the stages before it that are
    finished in the run's folder; a log line names them. The folder is only read.

    Args:
        recipe: what would be trained.
        out: folder of the run.
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
        run = _TriedRun(recipe, Path(out), torch.device(device))
        run.check()
        begin_run(run, init_from)
        wanted = {stage.name for stage in recipe.stages} if stages is None else set(stages)
        run.check_data(run.plan(sorted(wanted)))
        results, finished = [], list[str]()
        for own in recipe.stages:
            if own.name in wanted:
                _tell_beginning(run, own, finished)
                stage = change(own)
                with _weights_kept(run, stage):
                    run.prepare(stage)
                    task = small_task(run, stage, run.data_of(stage).few(STUDIES))
                    results.append(trial(stage, task, Path(folder) / own.name, run.device))
                wanted.remove(own.name)
            if not wanted:
                break
            if run.lend(own):
                finished.append(own.name)
    return results


class _TriedRun(RecipeRun):
    """A run whose wanted stages are tried, whether they are finished or not."""

    def _state(self, stage: StageSettings, wanted: Sequence[str]) -> str:
        return BEGINS if stage.name in wanted else super()._state(stage, wanted)


def _tell_beginning(run: RecipeRun, stage: StageSettings, finished: Sequence[str]) -> None:
    left = f"what {', '.join(finished)} left" if finished else "nothing finished"
    random = ", ".join(run.random_parts()) or "nothing"
    logger.info("stage %s begins with %s in %s; random: %s", stage.name, left, run.folder, random)


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
