"""`--profile`: where the time of a step goes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from unix_cxr.files import replacing
from unix_cxr.training.loop import Trainer
from unix_cxr.training.settings import Recipe, StageSettings
from unix_cxr.training.tasks import Task
from unix_cxr.training.trials import try_stages, unwatched

PHASES: Final = ("data", "forward", "backward", "optimizer")
_WARMUP: Final = 3
_OPERATORS: Final = 12


@dataclass(frozen=True)
class StageProfile:
    """Where the time of a stage's steps goes.

    Args:
        name: of the stage.
        steps: that were watched.
        step_seconds: of one of them.
        shares: of that time, by phase; "other" is what lies between.
        operators: the table of those that take the most time.
        trace: file for https://ui.perfetto.dev or chrome://tracing.
    """

    name: str
    steps: int
    step_seconds: float
    shares: Mapping[str, float]
    operators: str
    trace: Path

    def text(self) -> str:
        """The shares in a line, the table, and where the trace is."""
        shares = ", ".join(f"{name} {share:.1%}" for name, share in self.shares.items())
        return (
            f"{self.name}: {self.step_seconds:.3g} s a step over {self.steps} steps: {shares}\n"
            f"{self.operators}\ntrace in {self.trace}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"trace": str(self.trace)}


def profile_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    steps: int = 5,
    device: torch.device | str = "cpu",
    stages: Sequence[str] | None = None,
    init_from: str | Path | None = None,
) -> tuple[StageProfile, ...]:
    """Watch some steps of every stage after a few to warm up; only the traces are kept.

    The steps are those of the stage, on the first studies of its data, with the weights that
    the recipe begins with and those of the stages before it that are finished in `out`.

    Args:
        recipe: what would be trained.
        out: folder of the run; traces go to `out/profile`.
        steps: to watch.
        device: where.
        stages: names of those to watch; None watches all.
        init_from: folder whose weights the run begins with.

    Raises:
        FileNotFoundError: data or weights are missing.
        ValueError: the recipe, the data and the weights do not fit together.
        OSError: the trace cannot be written.
    """

    def change(stage: StageSettings) -> StageSettings:
        return unwatched(stage, _WARMUP + steps + 1, ema_decay=stage.ema_decay)

    def watch(stage: StageSettings, task: Task, folder: Path, device: torch.device) -> StageProfile:
        trace = Path(out) / "profile" / f"{stage.name}.json"
        return _profile(_Profiled.of(stage, task, folder, device), steps, trace)

    return tuple(
        try_stages(recipe, out, change, watch, device=device, stages=stages, init_from=init_from)
    )


class _EndError(Exception):
    """All steps have been watched."""


class _Profiled(Trainer):
    """Tells the profiler when a step ends, the batch of the next one included."""

    profiler: Any = None

    @classmethod
    def of(
        cls, stage: StageSettings, task: Task, folder: Path, device: torch.device
    ) -> "_Profiled":
        return cls(task.objective, task.source, stage, folder, recipe="{}", device=device)

    def _step(self, batch: Any) -> dict[str, float]:  # noqa: ANN401 - the stage's batch
        values = super()._step(batch)
        self.profiler.step()
        if self.step == self.stage.steps:
            raise _EndError
        return values


def _profile(trainer: _Profiled, steps: int, trace: Path) -> StageProfile:
    on_gpu = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with (
        # else the gradient is computed in a thread of its own, and belongs to no phase
        torch.autograd.set_multithreading_enabled(False),
        profile(
            activities=activities, schedule=schedule(wait=1, warmup=_WARMUP, active=steps)
        ) as profiler,
        suppress(_EndError),
    ):
        trainer.profiler = profiler
        trainer.run()
    events = profiler.key_averages()
    seconds = {
        event.key.removeprefix("training."): _microseconds(event, on_gpu=on_gpu) / 1e6
        for event in events
        if event.key.startswith("training.")
    }
    whole = sum(_microseconds(event, on_gpu=False) / 1e6 for event in events if _is_step(event.key))
    shares = {name: seconds.get(name, 0.0) / whole for name in PHASES}
    trace.parent.mkdir(parents=True, exist_ok=True)
    with replacing(trace) as partial:
        profiler.export_chrome_trace(str(partial))
    sort_by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return StageProfile(
        name=trainer.stage.name,
        steps=steps,
        step_seconds=whole / steps,
        shares=shares | {"other": max(0.0, 1 - sum(shares.values()))},
        operators=events.table(sort_by=sort_by, row_limit=_OPERATORS),
        trace=trace,
    )


def _is_step(key: str) -> bool:
    return key.startswith("ProfilerStep")


def _microseconds(event: Any, *, on_gpu: bool) -> float:  # noqa: ANN401 - untyped in torch
    return float(event.device_time_total if on_gpu else event.cpu_time_total)
