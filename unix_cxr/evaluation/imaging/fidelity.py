"""How near drawn X-rays come to real ones: FD, KD, precision, recall, density, coverage, variety.

Axes: n real X-rays, m drawn X-rays, f features, r replicates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.evaluation.corpus_metric import (
    Resampling,
    interval_of,
    mean_metric,
    mean_statistics,
)
from unix_cxr.evaluation.imaging.diversity import memorisation_informed_fd, vendi_score
from unix_cxr.evaluation.imaging.frechet import frechet_distance, frechet_replicates
from unix_cxr.evaluation.imaging.kernel import kernel_distance, kernel_distance_of_subsets
from unix_cxr.evaluation.neighbours import prdc
from unix_cxr.evaluation.protocols import Protocol
from unix_cxr.evaluation.results import Interval, MetricResult, PerSample, signature

ENOUGH_PER_FEATURE: Final = 10
"""Below this many X-rays per feature the Fréchet distance measures the sample size too."""

HEAVY_REPLICATES: Final = 100
"""At most so many for FD, KD and Vendi, each of which costs a decomposition or all pairs."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of one set of X-rays.

    Args:
        features: one row per X-ray.
        ids: of the X-rays.
        groups: what the bootstrap draws whole.
        unit: what a group is.
    """

    features: Float[Tensor, "n f"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    unit: str = "patient"

    def __post_init__(self) -> None:
        counts = (len(self.features), len(self.ids), len(self.groups))
        if len(set(counts)) != 1:
            raise ValueError(
                f"features, ids and groups must be equally many, got {counts[0]}, {counts[1]} and "
                f"{counts[2]}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> "FeatureSet":
        """The X-rays at these rows."""
        return FeatureSet(
            self.features[list(rows)],
            tuple(self.ids[row] for row in rows),
            tuple(self.groups[row] for row in rows),
            self.unit,
        )


@dataclass(frozen=True)
class FidelitySettings:
    """How fidelity is measured.

    Args:
        protocol: see `Protocol`.
        resampling: the bootstrap.
        facts: extractor, weights, size and preprocessing, for signatures.
        comparable: whether others publish numbers with this extractor.
        heavy_replicates: replicates of FD, KD and Vendi.
    """

    protocol: Protocol
    resampling: Resampling
    facts: Mapping[str, object]
    comparable: bool
    heavy_replicates: int = HEAVY_REPLICATES

    @property
    def heavy(self) -> Resampling:
        """The bootstrap of the costly numbers."""
        few = min(self.heavy_replicates, self.resampling.replicates)
        return replace(self.resampling, replicates=few)


def measure_fidelity(
    real: FeatureSet, drawn: FeatureSet, settings: FidelitySettings, suffix: str = ""
) -> list[MetricResult]:
    """FD, KD, PRDC and the Vendi score of drawn X-rays against real ones.

    Under a protocol with shards both sets are cut in their order, and every value is the mean of
    its shards.

    Args:
        real: features of real X-rays.
        drawn: features of drawn ones, by the same extractor.
        settings: how.
        suffix: is put behind the names, such as "/Edema".

    Raises:
        ValueError: too few X-rays, features that are not finite, or a set without any spread.
    """
    shards = settings.protocol.shards
    for name, one in (("real", real), ("drawn", drawn)):
        require_enough(name + suffix, len(one), settings.protocol)
    parts = [
        _one_shard(a, b, settings, suffix)
        for a, b in zip(_cut(real, shards), _cut(drawn, shards), strict=True)
    ]
    results = (
        parts[0] if shards == 1 else [_mean_of(list(same)) for same in zip(*parts, strict=True)]
    )
    return [_signed(result, real, drawn, settings) for result in results]


def require_enough(name: str, count: int, protocol: Protocol) -> None:
    """Refuse sets in which an X-ray has too few neighbours.

    Raises:
        ValueError: fewer than a shard's neighbours and one more.
    """
    least = protocol.shards * (protocol.neighbours + 1)
    if count < least:
        raise ValueError(
            f"{name} holds {count} X-rays; {protocol.neighbours} neighbours in {protocol.shards} "
            f"shards need at least {least}"
        )


def _one_shard(
    real: FeatureSet, drawn: FeatureSet, settings: FidelitySettings, suffix: str
) -> list[MetricResult]:
    return [
        _frechet(real, drawn, settings, suffix),
        _kernel(real, drawn, settings, suffix),
        *_neighbours(real, drawn, settings, suffix),
        *_vendi(real, drawn, settings, suffix),
    ]


def _frechet(
    real: FeatureSet, drawn: FeatureSet, settings: FidelitySettings, suffix: str
) -> MetricResult:
    value = frechet_distance(real.features, drawn.features)
    width, fewest = real.features.shape[1], min(len(real), len(drawn))
    notes = []
    if fewest < ENOUGH_PER_FEATURE * width:
        notes.append(
            f"{fewest} X-rays are fewer than {ENOUGH_PER_FEATURE} x {width} features: a small "
            "sample makes FD larger; look at its curve against N, and prefer kd"
        )
    weights = _both_weights(real, drawn, settings.heavy)
    replicates = frechet_replicates(real.features, drawn.features, *weights)
    return _centred("fd" + suffix, value, replicates, real, drawn, settings, notes)


def _kernel(
    real: FeatureSet, drawn: FeatureSet, settings: FidelitySettings, suffix: str
) -> MetricResult:
    weights = _both_weights(real, drawn, settings.heavy)
    # the kernel is dear, so the value is made with its replicates: each X-ray counts once in it
    counts = [torch.cat([torch.ones(1, one.shape[1]), one]) for one in weights]
    found = kernel_distance(real.features, drawn.features, *counts)
    value, replicates, notes = float(found[0]), found[1:], []
    if settings.protocol.kernel_subsets != "all pairs":
        value = kernel_distance_of_subsets(real.features, drawn.features, settings.resampling.seed)
        notes.append("100 subsets as large as the smaller set: their spread is not an interval")
    return _centred("kd" + suffix, value, replicates, real, drawn, settings, notes)


def _neighbours(
    real: FeatureSet, drawn: FeatureSet, settings: FidelitySettings, suffix: str
) -> list[MetricResult]:
    k = settings.protocol.neighbours
    samples = prdc(real.features, drawn.features, k)
    facts = {"k": k}
    found = []
    for name, values, one in (
        ("precision", samples.precise, drawn),
        ("recall", samples.recalled, real),
        ("density", samples.density, drawn),
        ("coverage", samples.covered, real),
    ):
        metric = mean_metric(name + suffix, facts=facts, comparable=settings.comparable)
        resampling = replace(settings.resampling, unit=one.unit)
        found.append(metric.measure(mean_statistics(values), one.ids, one.groups, resampling))
    return found


def _vendi(
    real: FeatureSet, drawn: FeatureSet, settings: FidelitySettings, suffix: str
) -> list[MetricResult]:
    found = []
    for name, one in (("vendi", drawn), ("vendi_real", real)):
        value = float(vendi_score(one.features))
        weights = replace(settings.heavy, unit=one.unit).weights(one.groups)
        replicates = vendi_score(one.features, weights) if len(weights) else torch.empty(0)
        notes = ["the score of the real X-rays: what a perfect generator would get"]
        result = _centred(
            name + suffix, value, replicates, one, one, settings, notes if name != "vendi" else []
        )
        found.append(replace(result, n=len(one), higher_is_better=None))
    return found


def _both_weights(
    real: FeatureSet, drawn: FeatureSet, resampling: Resampling
) -> tuple[Float[Tensor, "r n"], Float[Tensor, "r m"]]:
    other = replace(resampling, seed=resampling.seed + 1_000_003)
    return resampling.weights(real.groups), other.weights(drawn.groups)


def _centred(
    name: str,
    value: float,
    replicates: Float[Tensor, " r"],
    real: FeatureSet,
    drawn: FeatureSet,
    settings: FidelitySettings,
    notes: Sequence[str],
) -> MetricResult:
    """The interval of a number that the bootstrap biases: its replicates, moved to the value.

    A replicate holds about 63 % different samples, so distances come out larger and varieties
    smaller; the spread is right, the place is not.
    """
    moved = replicates - replicates.mean() + value if len(replicates) else replicates
    if name.startswith("fd"):
        moved = moved.clamp_min(0)  # a Fréchet distance has no negative values
    interval = None
    notes = list(notes)
    if len(moved):
        found, note = interval_of(value, moved, real.unit)
        notes += [note] if note else []
        if found is not None:
            interval = Interval(
                found.low, found.high, f"bootstrap by {real.unit} and {drawn.unit}, centred"
            )
    return MetricResult(
        name=name,
        value=value,
        interval=interval,
        n=len(drawn),
        per_sample=None,
        signature="",
        comparable=settings.comparable,
        higher_is_better=False,
        warnings=tuple(notes),
        replicates=moved if len(moved) else None,
    )


def _mean_of(results: Sequence[MetricResult]) -> MetricResult:
    """One result of the same metric on several shards."""
    first = results[0]
    value = sum(result.value for result in results) / len(results)
    stacked = [result.replicates for result in results if result.replicates is not None]
    replicates = torch.stack(stacked).mean(dim=0) if len(stacked) == len(results) else None
    interval = None
    if replicates is not None and first.interval is not None:
        found, _ = interval_of(value, replicates, "shard")
        if found is not None:
            interval = Interval(found.low, found.high, f"{first.interval.method}, mean of shards")
    samples = [result.per_sample for result in results if result.per_sample is not None]
    return replace(
        first,
        value=value,
        interval=interval,
        n=sum(result.n for result in results),
        per_sample=None
        if len(samples) < len(results)
        else PerSample(
            tuple(one for part in samples for one in part.ids),
            tuple(one for part in samples for one in part.values),
            tuple(one for part in samples for one in part.groups),
        ),
        warnings=tuple(dict.fromkeys(note for result in results for note in result.warnings)),
        replicates=replicates,
        statistics=None,  # a mean of shards is no function of sums
    )


def _signed(
    result: MetricResult, real: FeatureSet, drawn: FeatureSet, settings: FidelitySettings
) -> MetricResult:
    protocol = settings.protocol
    facts: dict[str, object] = {
        "metric": result.name,
        "protocol": protocol.name,
        **settings.facts,
        "real": len(real),
        "drawn": len(drawn),
        "k": protocol.neighbours,
        "shards": protocol.shards,
        "squash": protocol.squash or "no",
        "pairs": protocol.kernel_subsets,
        "arithmetic": "float64",
        "replicates": 0 if result.replicates is None else len(result.replicates),
        "seed": settings.resampling.seed,
        "unit": f"{real.unit} and {drawn.unit}",
        **_library(),
    }
    return replace(result, signature=signature(facts))


def measure_mifid(train: FeatureSet, drawn: FeatureSet, settings: FidelitySettings) -> MetricResult:
    """The Fréchet distance, divided where drawn X-rays lie near training ones."""
    facts = {
        "metric": "mifid",
        "protocol": settings.protocol.name,
        **settings.facts,
        "train": len(train),
        "drawn": len(drawn),
        "threshold": 0.1,
    }
    return MetricResult(
        name="mifid",
        value=memorisation_informed_fd(train.features, drawn.features),
        interval=None,
        n=len(drawn),
        per_sample=None,
        signature=signature(facts),
        comparable=settings.comparable,
        higher_is_better=False,
        warnings=("no interval: repeating training X-rays would change what copies are",),
    )


def _library() -> dict[str, object]:
    from importlib.metadata import version

    return {"torchmetrics": version("torchmetrics"), "torch": version("torch")}


def _cut(one: FeatureSet, shards: int) -> list[FeatureSet]:
    """Parts in order, the first ones larger by one where it does not come out even."""
    base, more = divmod(len(one), shards)
    starts = [index * base + min(index, more) for index in range(shards + 1)]
    return [one.take(range(start, end)) for start, end in pairwise(starts)]


def per_label(
    real_labels: Sequence[frozenset[str]],
    drawn_labels: Sequence[frozenset[str]],
    least: int,
    measure: Callable[[list[int], list[int], str], Sequence[MetricResult]],
) -> tuple[list[MetricResult], list[str]]:
    """A measurement repeated for every label that both sets hold often enough.

    Args:
        real_labels: of each real X-ray.
        drawn_labels: of each drawn X-ray.
        least: X-rays of a label that both sets must hold.
        measure: takes rows of real, rows of drawn ones and "/label".

    Returns:
        The results, and a note for each label that is too rare.
    """
    names = sorted(set().union(*real_labels) & set().union(*drawn_labels))
    results: list[MetricResult] = []
    notes = []
    for name in names:
        real = [row for row, labels in enumerate(real_labels) if name in labels]
        drawn = [row for row, labels in enumerate(drawn_labels) if name in labels]
        if min(len(real), len(drawn)) < least:
            notes.append(
                f"{name}: {len(real)} real and {len(drawn)} drawn X-rays, fewer than {least}"
            )
            continue
        results.extend(measure(real, drawn, f"/{name}"))
    return results, notes
