"""Phantoms as a source of studies, for all that reads studies."""

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final

import numpy as np
import torch

from unix_cxr.data.phantom.description import LABELS, Kind
from unix_cxr.data.phantom.rendering import MAX_SIZE, MIN_SIZE
from unix_cxr.data.phantom.sampling import COUNTS, sample_phantom
from unix_cxr.data.phantom.studies import PhantomStudy, phantom_studies
from unix_cxr.data.readers.base import RowProblem
from unix_cxr.data.studies import SPLITS, Study

SUBSET: Final = "phantom"
_CHUNK: Final = 16
_AHEAD: Final = 2
"""Chunks per worker that are under way at once."""

_GREY: Final = 255
_DEFAULT_SPLITS: Final[Mapping[str, float]] = {"train": 0.8, "dev": 0.1, "val": 0.1}


@dataclass(frozen=True)
class PhantomSource:
    """Phantoms with seeds from `seed` to `seed + count - 1` as studies, each of its own patient.

    A phantom's seed alone decides its split, so that a longer source keeps those of a shorter one.

    Args:
        count: how many.
        size: pixels on each side; images are uint8 arrays.
        seed: of the first phantom; the oracle has learned from seeds of 10,000,000 and above.
        splits: share of each split; they sum to 1.
        counts: chances of no, one, two, … findings; `COUNTS` or `BUSY`.
        dirty: give the reports with priors, phone calls and blanks instead of the clean ones.
        workers: processes that render; the studies and their order are the same with any number.
            A script that asks for more than one guards its start with `__name__ == "__main__"`.

    Raises:
        ValueError: a count, size, seed or share out of range, no workers, or an unknown split.
    """

    count: int
    size: int
    seed: int = 0
    splits: Mapping[str, float] = field(default_factory=lambda: dict(_DEFAULT_SPLITS))
    counts: Sequence[float] = COUNTS
    dirty: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count ({self.count}) must be at least 1")
        if self.workers < 1:
            raise ValueError(f"workers ({self.workers}) must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed ({self.seed}) must not be negative")
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise ValueError(f"size ({self.size}) must be {MIN_SIZE} to {MAX_SIZE} pixels")
        unknown = sorted(set(self.splits) - set(SPLITS))
        if unknown:
            raise ValueError(f"splits {unknown} are unknown; known splits: {list(SPLITS)}")
        total = sum(self.splits.values())
        if min(self.splits.values(), default=0) < 0 or abs(total - 1) > 1e-6:  # noqa: PLR2004
            raise ValueError(f"splits ({dict(self.splits)}) must be shares that sum to 1")

    @property
    def name(self) -> str:
        """The kind of source and its first and last seed."""
        name = f"phantom:{self.seed}-{self.seed + self.count - 1}"
        return name if tuple(self.counts) == COUNTS else f"{name}:{list(self.counts)}"

    @property
    def problems(self) -> Sequence[RowProblem]:
        """None: every phantom is a study."""
        return ()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Study]:
        starts = range(self.seed, self.seed + self.count, _CHUNK)
        if self.workers == 1:
            for start in starts:
                yield from self._rendered(start)
            return
        pool = ProcessPoolExecutor(
            self.workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        )
        try:
            waiting: deque[Future[list[Study]]] = deque()
            for start in starts:
                waiting.append(pool.submit(self._rendered, start))
                if len(waiting) > self.workers * _AHEAD:
                    yield from waiting.popleft().result()
            for chunk in waiting:
                yield from chunk.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _rendered(self, start: int) -> list[Study]:
        """The studies of the chunk that starts with a seed."""
        seeds = range(start, min(start + _CHUNK, self.seed + self.count))
        phantoms = [sample_phantom(seed, counts=self.counts) for seed in seeds]
        return [self._study(study) for study in phantom_studies(phantoms, self.size)]

    def split_of(self, seed: int) -> str:
        """The split of the phantom with a seed."""
        share = random.Random(f"split {seed}").random()
        for name, part in self.splits.items():
            share -= part
            if share < 0:
                return name
        return list(self.splits)[-1]

    def _study(self, study: PhantomStudy) -> Study:
        phantom = study.phantom
        return Study(
            image=(study.pixels * _GREY).round().astype(np.uint8),
            patient_id=f"phantom-{phantom.seed}",
            study_id=f"phantom-{phantom.seed}",
            split=self.split_of(phantom.seed),
            subset=SUBSET,
            view=phantom.view,
            labels=study.labels,
            negative=_denied(study.statements.absent) - study.labels,
            findings=study.dirty if self.dirty else study.findings,
            impression=study.impression,
            sex=phantom.sex,
            age=str(phantom.age),
            source=self.name,
        )


def _denied(kinds: frozenset[Kind]) -> frozenset[str]:
    """Labels all of whose kinds are denied: no pacemaker is not yet no device."""
    denied = {LABELS[kind] for kind in kinds}
    return frozenset(
        label
        for label in denied
        if all(kind in kinds for kind, name in LABELS.items() if name == label)
    )
