"""What every measurement returns: a number with its interval, its protocol and its samples.

Axes: n samples, r replicates, s statistics per sample.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jaxtyping import Float
from torch import Tensor

from unix_cxr import __version__

_FORBIDDEN: Final = ("|", "\n")


class MetricUnavailable(ValueError):  # noqa: N818 - it says why a number is absent
    """A metric needs a package or weights that are not here; the message is the exact remedy.

    Args:
        metric: name of the metric.
        remedy: what to install or where to put which file, as one sentence.
    """

    def __init__(self, metric: str, remedy: str) -> None:
        super().__init__(f"{metric} is not available: {remedy}")
        self.metric = metric
        self.remedy = remedy


@dataclass(frozen=True)
class Interval:
    """A 95 % interval and how it was made.

    Args:
        low: its lower end.
        high: its upper end.
        method: such as "bootstrap by patient" or "DeLong".
    """

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class PerSample:
    """One value per sample; NaN where a sample has none.

    Args:
        ids: of the samples, in the order of the values.
        values: of the metric.
        groups: what the bootstrap drew whole, such as patients; empty where it is not known.
    """

    ids: tuple[str, ...]
    values: tuple[float, ...]
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.values):
            raise ValueError(f"{len(self.ids)} ids for {len(self.values)} values; give one each")
        if self.groups and len(self.groups) != len(self.ids):
            raise ValueError(f"{len(self.groups)} groups for {len(self.ids)} ids; give one each")


@dataclass(frozen=True, eq=False)
class MetricResult:
    """One number, and all that is needed to trust it.

    Args:
        name: of the metric.
        value: the number, on all samples.
        interval: its 95 % interval; None where none can be given, and then a warning says why.
        n: samples that it was measured on.
        per_sample: one value per sample, where the metric has such.
        signature: extractor, weights, size, N, dtype, seed, versions; numbers with different
            signatures do not compare.
        comparable: whether the number can stand beside published ones of this name.
        higher_is_better: None where neither end is good.
        warnings: what the reader must know.
        replicates: the bootstrap's values, for comparing two runs.
        statistics: sufficient statistics per sample, from which the number is computed.
    """

    name: str
    value: float
    interval: Interval | None
    n: int
    per_sample: PerSample | None
    signature: str
    comparable: bool
    higher_is_better: bool | None
    warnings: tuple[str, ...] = ()
    replicates: Float[Tensor, " r"] | None = field(default=None, repr=False)
    statistics: Float[Tensor, "n s"] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """`bleu_4 0.213 (0.201 to 0.226)`."""
        if self.interval is None:
            return f"{self.name} {self.value:.4g}"
        return f"{self.name} {self.value:.4g} ({self.interval.low:.4g} to {self.interval.high:.4g})"

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON values, without what is stored per sample."""
        return {
            "name": self.name,
            "value": number(self.value),
            "interval": None
            if self.interval is None
            else {
                "low": number(self.interval.low),
                "high": number(self.interval.high),
                "method": self.interval.method,
            },
            "n": self.n,
            "signature": self.signature,
            "comparable": self.comparable,
            "higher_is_better": self.higher_is_better,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Skipped:
    """A metric that was asked for and is absent, and what would make it available."""

    metric: str
    remedy: str


def number(value: float) -> float | None:
    """A float as JSON knows it: NaN and infinity are None."""
    return value if math.isfinite(value) else None


def signature(facts: Mapping[str, object]) -> str:
    """Facts as `name:value|name:value`, ending with the library's version.

    >>> signature({"extractor": "nano", "size": 128})
    'extractor:nano|size:128|unix_cxr:0.1.0'

    Raises:
        ValueError: a fact holds "|" or a line break.
    """
    parts = []
    for name, value in {**facts, "unix_cxr": __version__}.items():
        part = f"{name}:{value}"
        if any(mark in part for mark in _FORBIDDEN):
            raise ValueError(f"{part!r} cannot stand in a signature; leave out '|' and line breaks")
        parts.append(part)
    return "|".join(parts)


def resigned(signed: str, changes: Mapping[str, object]) -> str:
    """A signature with other facts; a fact that becomes None is left out.

    >>> resigned("metric:a|n:3|unix_cxr:0.1.0", {"metric": "b", "n": None})
    'metric:b|unix_cxr:0.1.0'
    """
    parts = (part.partition(":") for part in signed.split("|"))
    facts: dict[str, object] = {name: fact for name, _, fact in parts if name != "unix_cxr"}
    facts.update(changes)
    return signature({name: fact for name, fact in facts.items() if fact is not None})


def content_mark(parts: Sequence[str]) -> str:
    """Eight digits that stand for texts or ids, so that a signature says what was held against."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def by_name(results: Sequence[MetricResult]) -> dict[str, MetricResult]:
    """Results by name.

    Raises:
        ValueError: a name is there twice.
    """
    found: dict[str, MetricResult] = {}
    for result in results:
        if result.name in found:
            raise ValueError(f"the metric {result.name!r} was measured twice; name them apart")
        found[result.name] = result
    return found
