"""A plan with what its stages cost on this machine."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

import torch
from torch import nn

from unix_cxr.training.costs import STUDIES, Look, measure_costs
from unix_cxr.training.data import RecipeData
from unix_cxr.training.kinds import KINDS
from unix_cxr.training.plan import StagePlan
from unix_cxr.training.processes import Processes
from unix_cxr.training.settings import Recipe, StageSettings
from unix_cxr.training.tasks import Task

_OF_FEW_STUDIES: Final = {"augmented_copies": 1, "prepared_moments": False, "least": 1}
"""Settings of objectives that would read all studies, or need many: a look does without."""


class Planned(Protocol):
    """As much of a run as a look at its stages needs."""

    recipe: Recipe
    data: RecipeData
    device: torch.device
    processes: Processes

    @property
    def vae(self) -> nn.Module:
        """The autoencoder."""
        ...

    @property
    def model(self) -> nn.Module:
        """The model."""
        ...

    def data_of(self, stage: StageSettings) -> RecipeData:
        """The studies that a stage learns from."""
        ...

    def task(self, stage: StageSettings, data: RecipeData) -> Task:
        """What a stage minimises, and its batches."""
        ...


def with_costs(run: Planned, plan: Sequence[StagePlan]) -> tuple[StagePlan, ...]:
    """The same plan, with the costs of every stage that is about to take steps.

    Raises:
        FileNotFoundError: data are missing.
        ValueError: the first studies cannot be read.
    """
    return tuple(
        replace(entry, costs=measure_costs(_look(run, entry))) if entry.steps_left else entry
        for entry in plan
    )


def small_task(run: Planned, stage: StageSettings, few: RecipeData) -> Task:
    """A stage's objective with batches of a few studies."""
    settings = stage.objective
    changes = {k: v for k, v in _OF_FEW_STUDIES.items() if k in type(settings).model_fields}
    objective = settings.model_copy(update=changes)
    # what earlier stages are about to teach may be random yet
    return run.task(stage.model_copy(update={"objective": objective, "allow_random": True}), few)


def _look(run: Planned, entry: StagePlan) -> Look:
    stage = run.recipe.stage(entry.name)
    task = small_task(run, stage, run.data_of(stage).few(STUDIES))
    networks = {"vae": run.vae, "model": run.model}
    held = networks if run.device.type == "cpu" else KINDS[stage.objective.kind].networks
    return Look(
        stage=stage,
        objective=task.objective,
        batch=task.source.batch,
        networks=[network for name, network in networks.items() if name in held],
        device=run.device,
        processes=run.processes.count,
        steps_left=entry.steps_left,
        sharded=run.processes.sharded,
    )
