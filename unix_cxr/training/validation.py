"""What the dev split says of a stage: the mean of every loss, and the velocity's by time.

Axes: b batch.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from unix_cxr.training.batches import to_device
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.processes import Processes

B = TypeVar("B")
TermsOf = Callable[[Any], Mapping[str, LossTerm]]

_BUCKETS: Final = 5
_TIMED: Final = ("velocity",)
"""Loss terms that depend on a sample's time."""


class Examiner(Protocol):
    """Draws and measures with the networks of a stage as they stand."""

    def draw(self, step: int) -> Path:
        """Draw the fixed texts and write the sheet of this step."""
        ...

    def measure(self) -> dict[str, float]:
        """What the stage's `measure` asks for, by the name that it has in the log."""
        ...


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Watching:
    """Who looks at a stage while it runs.

    Args:
        examiner: draws and measures; None does neither.
        changed: called when there is something new to see.
    """

    examiner: Examiner | None = None
    changed: Callable[[], None] = _nothing


@dataclass(frozen=True)
class DevLosses:
    """Losses of the whole dev split.

    Args:
        means: of every loss term, named "dev_…"; of several the weighted sum too, "dev_loss".
        by_time: the velocity's in each fifth of the time, such as "dev_velocity_t0.0-0.2"; a fifth
            in which no dev sample lies is left out.
    """

    means: Mapping[str, float]
    by_time: Mapping[str, float]


def dev_losses(
    terms_of: TermsOf,
    batches: Sequence[Any],
    weights: Mapping[str, float],
    processes: Processes,
) -> DevLosses:
    """Mean losses over fixed batches; each process takes its share, and all return everything.

    Totals are added up in float64, so that the number of processes does not change the sum.

    Args:
        terms_of: the objective's loss terms of a batch.
        batches: the same ones every time.
        weights: of the loss terms.
        processes: that share the batches.
    """
    names = list(weights)
    keys = [(name, bucket) for name in names for bucket in range(_BUCKETS)]
    sums = torch.zeros(len(keys), 2, dtype=torch.float64)
    for batch in batches[processes.rank :: processes.count]:
        for bucket, part in by_time(batch):
            for name, term in terms_of(to_device(part, processes.device)).items():
                row = keys.index((name, bucket))
                sums[row] += torch.tensor([float(term.total), term.count], dtype=torch.float64)
    if processes.count > 1:
        sums = processes.sum(sums.to(processes.device)).cpu()
    return _means(sums.unflatten(0, (len(names), _BUCKETS)), names, weights)


def _means(sums: Tensor, names: Sequence[str], weights: Mapping[str, float]) -> DevLosses:
    """Axes of `sums`: loss terms, buckets of time, total and count."""
    means: dict[str, float] = {}
    timed: dict[str, float] = {}
    for name, of_buckets in zip(names, sums, strict=True):
        total, count = of_buckets.sum(dim=0).tolist()
        if count:
            means[name] = total / count
        if name in _TIMED:
            timed |= {
                f"dev_{name}_t{bucket / _BUCKETS:.1f}-{(bucket + 1) / _BUCKETS:.1f}": total / count
                for bucket, (total, count) in enumerate(of_buckets.tolist())
                if count
            }
    losses = {f"dev_{name}": mean for name, mean in means.items()}
    if len(names) > 1:
        losses["dev_loss"] = sum(weights[name] * mean for name, mean in means.items())
    return DevLosses(losses, timed)


def by_time(batch: B) -> Iterator[tuple[int, B]]:
    """A batch in parts of like time, each with the number of its bucket; whole without times."""
    times: Tensor | None = getattr(batch, "times", None)
    if times is None:
        yield 0, batch
        return
    buckets = (times * _BUCKETS).long().clamp(0, _BUCKETS - 1)
    for bucket in buckets.unique().tolist():
        yield bucket, rows_of(batch, (buckets == bucket).nonzero()[:, 0])


def rows_of(batch: B, rows: Int[Tensor, " b"]) -> B:
    """Some samples of a batch."""
    parts = {field.name: getattr(batch, field.name)[rows] for field in fields(batch)}  # type: ignore[arg-type]  # every batch is a dataclass
    return type(batch)(**parts)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside the block, the process's generators go on as if it had not been."""
    python = random.getstate()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
