"""What a run is about to do, said before it begins."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from unix_cxr.training.costs import StageCosts
from unix_cxr.training.kinds import KINDS
from unix_cxr.training.objective_settings import GenerationObjectiveSettings
from unix_cxr.training.settings import StageSettings
from unix_cxr.training.stages import ALWAYS_FROZEN, learning_names, matches

FINISHED_STATE: Final = "finished"
LEFT_OUT: Final = "left out"
BEGINS: Final = "begins"
GOES_ON: Final = "goes on at step "


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of scalar parameters.

    Args:
        loaded: with weights of a folder, or of an earlier stage.
        new: with random weights.
    """

    loaded: int
    new: int

    def text(self) -> str:
        """Such as "3.1 M (new 0.2 M)"."""
        return f"{_millions(self.loaded + self.new)} (new {_millions(self.new)})"


@dataclass(frozen=True)
class StagePlan:
    """What one stage is about to do.

    Args:
        name: of the stage.
        objective: its kind.
        state: "finished", "goes on at step k", "begins", or "left out".
        steps: steps in all.
        batch_size: samples per step.
        learning: parameters that learn.
        frozen: parameters that are read and stay as they are.
        costs: of its steps on this machine; None where nobody asked, or no step is left.
    """

    name: str
    objective: str
    state: str
    steps: int
    batch_size: int
    learning: ParameterCount
    frozen: ParameterCount
    costs: StageCosts | None = None

    @property
    def steps_left(self) -> int:
        """Steps that are about to be taken."""
        if self.state in {FINISHED_STATE, LEFT_OUT}:
            return 0
        going_on = self.state.removeprefix(GOES_ON)
        return self.steps - (int(going_on) if going_on != self.state else 0)


@dataclass(frozen=True)
class StageResult:
    """What became of one stage.

    Args:
        name: of the stage.
        steps: steps in all.
        skipped: it was finished before.
        seconds: of this run.
        losses: of the dev split at the end.
    """

    name: str
    steps: int
    skipped: bool
    seconds: float
    losses: Mapping[str, float]


@dataclass(frozen=True)
class RunSummary:
    """What a run planned and did.

    Args:
        recipe: its name.
        folder: of the run.
        device: it ran on.
        plan: one entry per stage of the recipe.
        results: one entry per stage that ran or was finished before; empty after a dry run.
        pipeline: the exported folder; None where a part was never trained, or after a dry run.
        random_parts: parts of the networks that nothing has trained or loaded.
    """

    recipe: str
    folder: Path
    device: str
    plan: tuple[StagePlan, ...]
    results: tuple[StageResult, ...]
    pipeline: Path | None
    random_parts: tuple[str, ...]

    def text(self) -> str:
        """What came of the run; of a dry run, the table of the plan."""
        lines = [f"{self.recipe} in {self.folder} on {self.device}"]
        if not self.results:
            lines += plan_lines(self.plan)
        for result in self.results:
            losses = ", ".join(f"{name} {value:.4g}" for name, value in result.losses.items())
            how = "was finished" if result.skipped else f"took {result.seconds:.0f} s"
            lines.append(f"{result.name} {how}: {losses}")
        if self.pipeline is not None:
            lines.append(f"pipeline in {self.pipeline}")
        elif self.random_parts and self.results:
            lines.append(f"no pipeline: {', '.join(self.random_parts)} still random")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {
            "folder": str(self.folder),
            "pipeline": None if self.pipeline is None else str(self.pipeline),
        }


def plan_lines(plan: Sequence[StagePlan]) -> list[str]:
    """One line per stage, in columns; below, another per stage whose costs are known."""
    rows = [("stage", "objective", "state", "steps", "batch", "learning", "frozen")]
    rows += [
        (
            stage.name,
            stage.objective,
            stage.state,
            str(stage.steps),
            str(stage.batch_size),
            stage.learning.text(),
            stage.frozen.text(),
        )
        for stage in plan
    ]
    return [*_columns(rows), *_cost_lines(plan)]


def _cost_lines(plan: Sequence[StagePlan]) -> list[str]:
    known = {stage.name: stage.costs for stage in plan if stage.costs is not None}
    if not known:
        return []
    rows = [("stage", "tokens a step", "FLOP a step", "memory", "s a step", "in all")]
    rows += [
        (
            name,
            ", ".join(f"{branch} {n:,}" for branch, n in costs.tokens.items()) or "-",
            _scaled(costs.flop, ("", "K", "M", "G", "T", "P", "E"), 1000),
            _bytes(costs.memory.total),
            f"{costs.step_seconds:.3g}",
            _duration(costs.seconds),
        )
        for name, costs in known.items()
    ]
    lines = ["", *_columns(rows), *(_memory_line(name, costs) for name, costs in known.items())]
    some = next(iter(known.values()))
    lines.append(
        f"steps alone take {_duration(sum(costs.seconds for costs in known.values()))}: the time "
        "of a pass forward and backward over a few samples, scaled to the batch, and of the "
        f"optimizer's step; a large matrix product runs at {some.gemm_flops / 1e9:,.0f} GFLOP/s"
    )
    return lines


def _memory_line(name: str, costs: StageCosts) -> str:
    memory = costs.memory
    parts = ("weights", "gradients", "optimizer", "average", "activations")
    sizes = ", ".join(
        f"{part} {_bytes(getattr(memory, part))}" for part in parts if getattr(memory, part)
    )
    there = costs.memory_there
    short = "; MORE THAN THERE IS: raise accumulation, or set activation_checkpointing"
    return f"{name}: {sizes}; of {_bytes(there)}{short if memory.total > there else ''}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def plan_stage(
    stage: StageSettings, sizes: Mapping[str, int], known: set[str], state: str
) -> StagePlan:
    """Count what a stage reads and teaches; `known` grows by what it is about to teach.

    Args:
        stage: its patterns are matched.
        sizes: number of scalars of every parameter, named "vae.…" and "model.…".
        known: names of the parameters that were trained or loaded before the stage.
        state: see `StagePlan`.

    Raises:
        ValueError: a pattern matches nothing, a frozen parameter that the stage reads is random
            (unless the stage allows that), or the objective stops the gradient of what should
            learn.
    """
    kind = stage.objective.kind
    learning = learning_of(stage, sizes)
    read = [name for name in sizes if matches(name, KINDS[kind].reads)]
    frozen = [name for name in read if name not in learning]
    random = [n for n in frozen if n not in known and not matches(n, ALWAYS_FROZEN)]
    if random and not stage.allow_random and state != LEFT_OUT:
        raise ValueError(
            f"stage {stage.name!r} reads {len(random)} frozen parameters that nothing has trained "
            f"or loaded ({', '.join(parts_of(random))}): run the stage that trains them, begin "
            "from a folder that has them (--init-from), or say allow_random: true"
        )
    _refuse_stopped_gradients(stage, learning)
    plan = StagePlan(
        name=stage.name,
        objective=kind,
        state=state,
        steps=stage.steps,
        batch_size=stage.batch_size,
        learning=_count(learning, sizes, known),
        frozen=_count(frozen, sizes, known | set(frozen) - set(random)),
    )
    if state != LEFT_OUT:
        known |= learning
    return plan


def learning_of(stage: StageSettings, names: Mapping[str, object]) -> set[str]:
    """Names of the parameters that a stage teaches.

    Raises:
        ValueError: a pattern matches nothing, or nothing is left to learn.
    """
    among = [name for name in names if matches(name, KINDS[stage.objective.kind].chooses)]
    return set(learning_names(among, stage.trains, stage.freezes))


def parts_of(names: Sequence[str]) -> list[str]:
    """The networks' parts that parameters belong to, such as "model.vision"."""
    return sorted(
        {".".join(name.split(".")[: 2 if name.startswith("model.") else 1]) for name in names}
    )


def _refuse_stopped_gradients(stage: StageSettings, learning: set[str]) -> None:
    settings = stage.objective
    if not isinstance(settings, GenerationObjectiveSettings) or settings.understanding_gradient:
        return
    stopped = [name for name in learning if not name.startswith("model.generation.")]
    if stopped:
        raise ValueError(
            f"stage {stage.name!r} trains {', '.join(parts_of(stopped))}, but "
            "understanding_gradient is 0, which stops their gradient; raise it or narrow trains"
        )


def _count(
    names: Sequence[str] | set[str], sizes: Mapping[str, int], known: set[str]
) -> ParameterCount:
    loaded = sum(sizes[name] for name in names if name in known)
    return ParameterCount(loaded, sum(sizes[name] for name in names) - loaded)


def _bytes(count: int) -> str:
    return f"{_scaled(count, ('', 'Ki', 'Mi', 'Gi', 'Ti'), 1024)}B"


def _scaled(count: float, prefixes: Sequence[str], step: int) -> str:
    power = 0
    while count >= step and power + 1 < len(prefixes):
        count, power = count / step, power + 1
    return f"{count:.3g} {prefixes[power]}"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 100:  # noqa: PLR2004 - below, minutes are too coarse
        return f"{seconds:.0f} s"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count else "0"
