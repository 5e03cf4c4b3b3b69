"""What a model does with phantoms, held against their truth: sides that are drawn, findings read.

Axes: b films, h rows, w columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from jaxtyping import Float
from torch import Tensor

from unix_cxr.data.phantom import KINDS, SIDED, Kind, Phantom, parse, sample_phantom
from unix_cxr.data.phantom.oracle import measure_batch
from unix_cxr.data.phantom.oracle_scoring import KindScore, score_measured

FRESH_SEED: Final = 2_000_000
"""First of the seeds that controls use: below those of the oracle, above those of any recipe."""


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

        A finding that the oracle does not see counts as wrong.
        """
        wanted = sum(self.kinds[kind].present for kind in SIDED)
        return sum(self.kinds[kind].side_right for kind in SIDED) / wanted

    @property
    def found(self) -> float:
        """Share of the requested findings that the oracle sees."""
        wanted = sum(score.present for score in self.kinds.values())
        return sum(score.found for score in self.kinds.values()) / wanted

    @property
    def imagined(self) -> float:
        """Share of the kinds that were not requested and that the oracle sees."""
        absent = sum(score.absent for score in self.kinds.values())
        return sum(score.imagined for score in self.kinds.values()) / absent


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
    return DrawnControl(score_measured(phantoms, measure_batch(films)))


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


def _pooled(scores: Sequence[KindF1]) -> KindF1:
    return KindF1(
        both=sum(score.both for score in scores),
        stated=sum(score.stated for score in scores),
        present=sum(score.present for score in scores),
    )
