"""What a LoRA run is about to do, and what came of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

_BYTES: Final = 4


@dataclass(frozen=True)
class PartPlan:
    """Scalars of one part of the model: those that learn, and those that stay as they are."""

    name: str
    learning: int
    frozen: int


@dataclass(frozen=True)
class LoraPlan:
    """What a run is about to do.

    Args:
        preset: which branches are adapted.
        rank: of the adapter.
        state: "begins", "goes on at step k" or "finished".
        steps: in all.
        batch_size: studies per step.
        train: studies to learn from.
        dev: studies to validate on.
        parts: of the model.
    """

    preset: str
    rank: int
    state: str
    steps: int
    batch_size: int
    train: int
    dev: int
    parts: tuple[PartPlan, ...]

    @property
    def learning(self) -> int:
        """Scalars that learn."""
        return sum(part.learning for part in self.parts)

    @property
    def frozen(self) -> int:
        """Scalars that stay as they are."""
        return sum(part.frozen for part in self.parts)

    @property
    def share(self) -> float:
        """Scalars that learn over all."""
        return self.learning / (self.learning + self.frozen)

    def text(self) -> str:
        """A line about the run and one per part, in columns."""
        rows = [("part", "learning", "frozen", "share")]
        whole = PartPlan("all", self.learning, self.frozen)
        rows += [
            (
                p.name,
                f"{p.learning:,}",
                f"{p.frozen:,}",
                f"{p.learning / (p.learning + p.frozen):.2%}",
            )
            for p in (*self.parts, whole)
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
                ]
            )
            for row in rows
        ]
        return "\n".join(
            [
                f"LoRA {self.preset}, rank {self.rank}: {self.state}; {self.steps} steps of "
                f"{self.batch_size} from {self.train} studies, {self.dev} to validate on; the "
                f"adapter takes {self.learning * _BYTES / 1e6:.2f} MB",
                *lines,
            ]
        )


@dataclass(frozen=True)
class LoraSummary:
    """What a run planned and did.

    Args:
        model: that was adapted.
        folder: of the run.
        device: it ran on.
        plan: see `LoraPlan`.
        adapter: its folder; None after a dry run.
        before: validation losses without the adapter.
        after: validation losses with it.
        seconds: of training in this run.
        left_out: studies of the source that were not used, by reason.
    """

    model: str
    folder: Path
    device: str
    plan: LoraPlan
    adapter: Path | None
    before: Mapping[str, float]
    after: Mapping[str, float]
    seconds: float
    left_out: Mapping[str, int]

    def text(self) -> str:
        """What came of the run; of a dry run, the plan."""
        if self.adapter is None:
            return self.plan.text()
        losses = ", ".join(
            f"{name} {self.before[name]:.4g} -> {value:.4g}" for name, value in self.after.items()
        )
        return f"adapter of {self.model} in {self.adapter} ({self.seconds:.0f} s): {losses}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        counts = {name: getattr(self.plan, name) for name in ("learning", "frozen", "share")}
        return asdict(self) | {
            "folder": str(self.folder),
            "adapter": None if self.adapter is None else str(self.adapter),
            "plan": asdict(self.plan) | counts,
        }
