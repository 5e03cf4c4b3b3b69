"""What a model does with phantoms, held against their truth: sides that are drawn, findings read.

Axes: b films, h rows, w columns, k kinds of findings, c counts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unix_cxr.data.phantom import (
    KINDS,
    SIDED,
    Kind,
    MeasuredFinding,
    Phantom,
    Stated,
    parse,
    sample_phantom,
    stated,
)
from unix_cxr.data.phantom.oracle import measure_batch
from unix_cxr.data.phantom.oracle_scoring import KindScore

FRESH_SEED: Final = 2_000_000
"""First of the seeds that controls use: below those of the oracle, above those of any recipe."""


COUNTS: Final = tuple(field.name for field in fields(KindScore))
"""Columns of `film_counts`: what `KindScore` holds of a kind."""


@dataclass(frozen=True)
class DrawnControl:
    """Drawn films against the phantoms whose findings texts were the prompts.

    Args:
        kinds: counts for each of the twelve kinds.
    """

    kinds: Mapping[Kind, KindScore]

    @property
    def side_accuracy(self) -> float:
        """Of all requested findings with a side, the share that was drawn on that side.

        A finding that the oracle does not see counts as wrong. NaN where none was requested.
        """
        wanted = sum(self.kinds[kind].present for kind in SIDED)
        return _share(sum(self.kinds[kind].side_right for kind in SIDED), wanted)

    @property
    def found(self) -> float:
        """Share of the requested findings that the oracle sees; NaN where none was requested."""
        wanted = sum(score.present for score in self.kinds.values())
        return _share(sum(score.found for score in self.kinds.values()), wanted)

    @property
    def imagined(self) -> float:
        """Share of the kinds that were not requested and that the oracle sees."""
        absent = sum(score.absent for score in self.kinds.values())
        return _share(sum(score.imagined for score in self.kinds.values()), absent)


@dataclass(frozen=True)
class KindF1:
    """How well reports state one kind.

    Args:
        both: reports that rightly state it; for `sided` scores with the right side.
        stated: reports that state it as present.
        present: films that have it.
    """

    both: int
    stated: int
    present: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where nothing was right."""
        return 2 * self.both / max(1, self.stated + self.present)


@dataclass(frozen=True)
class WrittenControl:
    """Reports of films against the phantoms that the films show.

    Args:
        kinds: whether each kind is stated.
        sided: the same, where only the right side counts.
        unknown: reports with a sentence outside the known wordings.
        reports: all of them.
    """

    kinds: Mapping[Kind, KindF1]
    sided: Mapping[Kind, KindF1]
    unknown: int
    reports: int

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the twelve kinds."""
        return sum(score.f1 for score in self.kinds.values()) / len(self.kinds)

    @property
    def micro_f1(self) -> float:
        """F1 of all kinds together."""
        return _pooled(list(self.kinds.values())).f1

    @property
    def sided_micro_f1(self) -> float:
        """F1 of the kinds with a side together, where only the right side counts."""
        return _pooled(list(self.sided.values())).f1


def fresh_phantoms(count: int, first: int = FRESH_SEED) -> list[Phantom]:
    """Phantoms that no recipe has trained on."""
    return [sample_phantom(seed) for seed in range(first, first + count)]


def score_drawn(phantoms: Sequence[Phantom], films: Float[Tensor, "b h w"]) -> DrawnControl:
    """Look at drawn films with the oracle.

    Args:
        phantoms: whose findings texts were the prompts, one per film.
        films: drawn, in [0, 1].

    Raises:
        ValueError: not as many films as phantoms, or films that the oracle cannot read.
    """
    wanted = [[stated(finding) for finding in phantom.findings] for phantom in phantoms]
    totals = film_counts(wanted, measure_batch(films)).sum(dim=0).tolist()
    scores = (KindScore(**dict(zip(COUNTS, row, strict=True))) for row in totals)
    return DrawnControl(dict(zip(KINDS, scores, strict=True)))


def film_counts(
    wanted: Sequence[Sequence[Stated]], seen: Sequence[Sequence[MeasuredFinding]]
) -> Int[Tensor, "b k c"]:
    """What was asked for against what is there, film by film and kind by kind.

    A finding that is not seen is on no side, so it never counts as `side_right`.

    Args:
        wanted: findings of each film, at most one of a kind.
        seen: what the oracle measured in it.

    Returns:
        The counts named by `COUNTS`, each 0 or 1, for every kind of `KINDS`.

    Raises:
        ValueError: not as many films on both sides, or a kind that a film is asked for twice.
    """
    if len(wanted) != len(seen):
        raise ValueError(f"{len(seen)} films for {len(wanted)} texts or phantoms; give one each")
    rows = []
    for asked, measured in zip(wanted, seen, strict=True):
        by_kind = {one.kind: one for one in asked}
        if len(by_kind) != len(asked):
            kinds = sorted(one.kind for one in asked)
            raise ValueError(f"a phantom has a kind of finding once, got {kinds}")
        there: dict[Kind, MeasuredFinding] = {}
        for found in measured:
            there.setdefault(found.kind, found)
        rows.append([_counts(by_kind.get(kind), there.get(kind)) for kind in KINDS])
    return torch.tensor(rows).reshape(len(rows), len(KINDS), len(COUNTS))


def _counts(wanted: Stated | None, seen: MeasuredFinding | None) -> list[int]:
    """One row of `film_counts`, in the order of `COUNTS`."""
    if wanted is None:
        return [0, 0, 1, int(seen is not None), 0, 0, 0]
    if seen is None:
        return [1, 0, 0, 0, 0, 0, 0]
    same = (
        wanted.side == seen.side,
        wanted.severity == seen.severity,
        wanted.zone == seen.zone,
    )
    return [1, 1, 0, 0, *map(int, same)]


def score_written(phantoms: Sequence[Phantom], reports: Sequence[str]) -> WrittenControl:
    """Read reports back and compare them with what is there.

    Raises:
        ValueError: not as many reports as phantoms.
    """
    if len(phantoms) != len(reports):
        raise ValueError(f"{len(reports)} reports for {len(phantoms)} phantoms; give one each")
    read = [parse(report) for report in reports]
    stated = [{finding.kind: finding.side for finding in each.present} for each in read]
    truth = [{finding.kind: finding.side for finding in p.findings} for p in phantoms]

    def score(kind: Kind, *, side: bool) -> KindF1:
        pairs = [(s.get(kind), t.get(kind)) for s, t in zip(stated, truth, strict=True)]
        right = [s is not None and t is not None and (s == t or not side) for s, t in pairs]
        return KindF1(
            both=sum(right),
            stated=sum(s is not None for s, _ in pairs),
            present=sum(t is not None for _, t in pairs),
        )

    return WrittenControl(
        kinds={kind: score(kind, side=False) for kind in KINDS},
        sided={kind: score(kind, side=True) for kind in SIDED},
        unknown=sum(bool(each.unknown) for each in read),
        reports=len(reports),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _pooled(scores: Sequence[KindF1]) -> KindF1:
    return KindF1(
        both=sum(score.both for score in scores),
        stated=sum(score.stated for score in scores),
        present=sum(score.present for score in scores),
    )
