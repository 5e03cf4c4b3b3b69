"""`--overfit-one-batch`: a stage that cannot learn four samples by heart cannot learn anything."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from unix_cxr.training.loop import Trainer
from unix_cxr.training.settings import Recipe, StageSettings
from unix_cxr.training.tasks import Task
from unix_cxr.training.trials import try_stages, unwatched

SAMPLES: Final = 4
_WARMUP: Final = 10
_UNREACHED: Final = ("no gradient reaches the parameters that learn",)


@dataclass(frozen=True)
class Goal:
    """Where a loss must come to.

    Args:
        value: at most this,
        of_start: as a share of the first loss, or in the loss's own unit.
    """

    value: float
    of_start: bool

    def limit(self, start: float) -> float:
        """The largest loss that passes."""
        return self.value * start if self.of_start else self.value

    def text(self) -> str:
        """Such as "5 % of its start"."""
        return f"{self.value:.0%} of its start" if self.of_start else f"{self.value:g}"


GOALS: Final[Mapping[str, Goal]] = {
    # what is asked for is in the batch: nothing but the wrong gradient keeps it from 0
    "cross_entropy": Goal(0.05, of_start=False),
    "statements": Goal(0.05, of_start=False),
    # the target holds the noise, one number for each latent; it is learned more slowly
    "velocity": Goal(0.1, of_start=True),
    "alignment": Goal(0.5, of_start=True),
    # the latents are noisy, and few for so many pixels: the image comes back blurred
    "l1": Goal(0.2, of_start=True),
}
"""By name of the loss term; terms that are not here may come to anything."""


@dataclass(frozen=True)
class StageCheck:
    """How a stage did with one batch.

    Args:
        name: of the stage.
        steps: taken; fewer than allowed where every goal was reached before.
        start: losses of the first step.
        end: losses of the last step.
        missed: names of the losses that did not come to their goal.
    """

    name: str
    steps: int
    start: Mapping[str, float]
    end: Mapping[str, float]
    missed: tuple[str, ...]

    def text(self) -> str:
        """One line: passed or failed, and each loss."""
        losses = ", ".join(
            f"{name} {self.start[name]:.4g} -> {self.end[name]:.4g} (goal: {_goal(name)})"
            for name in self.start
        )
        if not self.missed:
            return f"{self.name}: passed after {self.steps} steps: {losses}"
        return (
            f"{self.name}: FAILED after {self.steps} steps ({', '.join(self.missed)}): {losses}; "
            "look for a gradient that is stopped, a rate that is too low or too high, or allow "
            "more steps"
        )


def check_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    steps: int = 300,
    device: torch.device | str = "cpu",
    stages: Sequence[str] | None = None,
    init_from: str | Path | None = None,
) -> tuple[StageCheck, ...]:
    """Let every stage learn one fixed batch of four samples by heart; nothing is kept.

    The stage's own objective, optimizer, precision and learning rate are used, without decay,
    average and accumulation. Each stage begins with the weights that the recipe begins with and
    with those of the stages before it that are finished in the run's folder.

    Args:
        recipe: what would be trained.
        out: folder of the run, which is only read.
        steps: at most so many.
        device: where.
        stages: names of those to check; None checks all.
        init_from: folder whose weights the run begins with.

    Raises:
        FileNotFoundError: data or weights are missing.
        ValueError: the recipe, the data and the weights do not fit together.
        FloatingPointError: a loss or a gradient is not finite.
    """

    def change(stage: StageSettings) -> StageSettings:
        return unwatched(
            stage,
            steps,
            batch_size=_samples(stage),
            accumulation=1,
            warmup_steps=min(_WARMUP, steps),
            weight_decay=0.0,
            workers=0,
        )

    return tuple(
        try_stages(recipe, out, change, _check, device=device, stages=stages, init_from=init_from)
    )


def _samples(stage: StageSettings) -> int:
    """Four, or as few as the objective can divide."""
    settings: Any = stage.objective
    unit = settings.reading + settings.drawing if hasattr(settings, "shares") else 1
    return min(stage.batch_size, max(unit, SAMPLES // unit * unit))


def _check(stage: StageSettings, task: Task, folder: Path, device: torch.device) -> StageCheck:
    trainer = _Checked(
        task.objective,
        _OneBatch(task.source.batch(0)),
        stage,
        folder,
        recipe="{}",
        device=device,
    )
    with suppress(_EndError):
        trainer.run()
    return StageCheck(
        name=stage.name,
        steps=trainer.step,
        start=trainer.start,
        end=trainer.end,
        missed=tuple(_missed(trainer.start, trainer.end)) if trainer.start else _UNREACHED,
    )


class _EndError(Exception):
    """Every goal is reached, or no gradient reaches anything: no further step is needed."""


@dataclass(frozen=True)
class _OneBatch:
    """The same batch at every step; a `BatchSource`."""

    only: Any

    def batch(self, _: int) -> Any:  # noqa: ANN401 - the stage's batch
        return self.only

    def validation(self) -> list[Any]:
        return [self.only]


class _Checked(Trainer):
    """Notes the losses of the first and of the newest step, and ends when all goals are reached."""

    start: Mapping[str, float] = {}
    end: Mapping[str, float] = {}

    def _step(self, batch: Any) -> dict[str, float]:  # noqa: ANN401 - the stage's batch
        try:
            values = super()._step(batch)
        except RuntimeError as error:
            if "does not require grad" in str(error):
                raise _EndError from error
            raise
        losses = {name: values[name] for name, weight in self.weights.items() if weight}
        self.start, self.end = self.start or losses, losses
        if not _missed(self.start, losses):
            raise _EndError
        return values


def _missed(start: Mapping[str, float], end: Mapping[str, float]) -> list[str]:
    return [
        name for name in start if name in GOALS and not end[name] <= GOALS[name].limit(start[name])
    ]


def _goal(name: str) -> str:
    return GOALS[name].text() if name in GOALS else "none"
