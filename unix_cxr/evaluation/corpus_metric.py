"""Metrics that are a function of sums over samples: one bootstrap, one paired test for all.

Each sample gives a row of statistics (matches and lengths for BLEU, true positives for F1, the
value itself for a mean). The number is a function of their weighted sum, so replicates, paired
tests and several processes need nothing but the rows.

Axes: n samples, r replicates, s statistics per sample.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.evaluation.bootstrap import bootstrap_blocks, bootstrap_weights, measured
from unix_cxr.evaluation.results import Interval, MetricResult, PerSample, signature

OfSums = Callable[[Tensor], Tensor]
"""Sums [r, s] to values [r]."""


@dataclass(frozen=True)
class Resampling:
    """The bootstrap behind every interval.

    Args:
        replicates: how many; 0 gives no intervals.
        seed: of the draws.
        unit: what a group is, for the signature.
    """

    replicates: int = 1000
    seed: int = 0
    unit: str = "patient"

    def __post_init__(self) -> None:
        if self.replicates < 0:
            raise ValueError(f"replicates ({self.replicates}) must not be negative")

    def weights(self, groups: Sequence[str]) -> Float[Tensor, "r n"]:
        """How often each sample occurs in each replicate; groups are drawn whole."""
        generator = torch.Generator().manual_seed(self.seed)
        return bootstrap_weights(groups, self.replicates, generator)

    def blocks(self, groups: Sequence[str]) -> Iterator[Float[Tensor, "b n"]]:
        """The rows of `weights`, some at a time: memory does not grow with the replicates."""
        generator = torch.Generator().manual_seed(self.seed)
        return bootstrap_blocks(groups, self.replicates, generator)

    def sums(self, statistics: Float[Tensor, "n s"], groups: Sequence[str]) -> Float[Tensor, "r s"]:
        """The weighted sum of the rows in each replicate."""
        rows = statistics.double()
        found = [block.double() @ rows for block in self.blocks(groups)]
        return torch.cat(found) if found else rows.new_empty(0, rows.shape[1])

    def facts(self) -> dict[str, object]:
        """For the signature."""
        return {"replicates": self.replicates, "seed": self.seed, "unit": self.unit}


@dataclass(frozen=True)
class CorpusMetric:
    """A number that is a function of summed statistics.

    Args:
        name: of the metric.
        of_sums: sums [r, s] to values [r]; NaN where the value does not exist.
        higher_is_better: None where neither end is good.
        facts: what its signature says.
        comparable: whether the number can stand beside published ones.
    """

    name: str
    of_sums: OfSums
    higher_is_better: bool | None = True
    facts: Mapping[str, object] = field(default_factory=dict)
    comparable: bool = True

    def measure(
        self,
        statistics: Float[Tensor, "n s"],
        ids: Sequence[str],
        groups: Sequence[str],
        resampling: Resampling | None = None,
        warnings: Sequence[str] = (),
        *,
        sums: Float[Tensor, "r s"] | None = None,
    ) -> MetricResult:
        """The number with its interval and its value for every sample alone.

        Args:
            statistics: one row per sample.
            ids: of the samples.
            groups: what the bootstrap draws whole, such as patients.
            resampling: how.
            warnings: what the reader must know.
            sums: `resampling.sums` of the same, where several metrics share them; drawn where None.

        Raises:
            ValueError: no samples, counts that differ, or statistics that are not finite.
        """
        resampling = resampling or Resampling()
        rows = _checked(self.name, statistics, ids, groups).double()
        value = float(self.of_sums(rows.sum(dim=0, keepdim=True))[0])
        replicates, interval = None, None
        notes = list(warnings)
        if resampling.replicates:
            replicates = self.of_sums(resampling.sums(rows, groups) if sums is None else sums)
            interval, note = interval_of(value, replicates, resampling.unit)
            notes += [note] if note else []
        return MetricResult(
            name=self.name,
            value=value,
            interval=interval,
            n=len(rows),
            per_sample=PerSample(tuple(ids), tuple(self.of_sums(rows).tolist()), tuple(groups)),
            signature=signature(
                {"metric": self.name, **self.facts, "n": len(rows), **resampling.facts()}
            ),
            comparable=self.comparable,
            higher_is_better=self.higher_is_better,
            warnings=tuple(notes),
            replicates=replicates,
            statistics=rows,
        )


def mean_metric(
    name: str,
    *,
    higher_is_better: bool | None = True,
    facts: Mapping[str, object] | None = None,
    comparable: bool = True,
) -> CorpusMetric:
    """The metric whose number is the mean of a value per sample; see `mean_statistics`."""
    return CorpusMetric(
        name,
        lambda sums: sums[:, 0] / sums[:, 1],
        higher_is_better=higher_is_better,
        facts=facts or {},
        comparable=comparable,
    )


def mean_statistics(values: Float[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    """Statistics of `mean_metric`: the value, and 1 to count it."""
    return torch.stack([values.double(), torch.ones(len(values), dtype=torch.float64)], dim=1)


def interval_of(
    value: float, replicates: Float[Tensor, " r"], unit: str
) -> tuple[Interval | None, str | None]:
    """The percentile interval, or None with the reason why there is none."""
    try:
        found = measured(value, replicates)
    except ValueError as error:
        return None, f"no interval: {error}"
    return Interval(found.low, found.high, f"bootstrap by {unit}"), None


def _checked(
    name: str, statistics: Tensor, ids: Sequence[str], groups: Sequence[str]
) -> Float[Tensor, "n s"]:
    counts = (len(statistics), len(ids), len(groups))
    if len(set(counts)) != 1 or not len(statistics):
        raise ValueError(
            f"{name}: statistics, ids and groups must be equally many and at least one, got "
            f"{counts[0]}, {counts[1]} and {counts[2]}"
        )
    wrong = ~torch.isfinite(statistics).all(dim=1)
    if wrong.any():
        first = ids[int(wrong.nonzero()[0])]
        raise ValueError(
            f"{name}: the statistics of {int(wrong.sum())} samples are NaN or infinite "
            f"(first: {first!r})"
        )
    return statistics
