"""Did the generator keep patients? The nearest training X-ray of every drawn one.

Axes: n training X-rays, m drawn X-rays, q held-out real X-rays, f features, p pairs, h rows,
w columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unix_cxr.evaluation.bootstrap import weighted_quantile
from unix_cxr.evaluation.copies import CopyFinder, CopySearch
from unix_cxr.evaluation.corpus_metric import (
    Resampling,
    interval_of,
    mean_metric,
    mean_statistics,
)
from unix_cxr.evaluation.imaging.fidelity import FeatureSet
from unix_cxr.evaluation.imaging.image_sets import ImageSet
from unix_cxr.evaluation.neighbours import nearest
from unix_cxr.evaluation.results import MetricResult, PerSample, signature
from unix_cxr.functional.images import resize_and_pad

SIDE: Final = 96
"""X-rays are compared as squares of this side; the search looks at smaller ones yet."""

_BLOCK: Final = 4096
_QUERIES: Final = 512
_TINY: Final = 1e-12


class PairScorer(Protocol):
    """Says how likely two X-rays show one person, such as a re-identification network."""

    name: str

    def __call__(
        self, first: Sequence[Float[Tensor, "1 h w"]], second: Sequence[Float[Tensor, "1 h w"]]
    ) -> Float[Tensor, " p"]:
        """A score per pair; more means rather the same person."""
        ...


@dataclass(frozen=True)
class PrivacySettings:
    """How copies are looked for.

    Args:
        near_share: "near" means as near as this share of held-out real X-rays come to `train`: what
            happens without any copying.
        closest: pairs that are shown.
        resampling: the bootstrap.
        search: see `CopySearch`.
    """

    near_share: float = 0.01
    closest: int = 12
    resampling: Resampling = field(default_factory=Resampling)
    search: CopySearch = field(default_factory=CopySearch)

    def __post_init__(self) -> None:
        if not 0 < self.near_share < 1:
            raise ValueError(f"near_share ({self.near_share}) must lie between 0 and 1")


@dataclass(frozen=True)
class ClosePair:
    """A drawn X-ray and the training X-ray that it comes nearest to.

    Args:
        drawn: id of the drawn X-ray.
        train: id of the training X-ray.
        pixels: 1 - correlation after alignment; 0 for a copy.
        ssim: structural similarity of the two as they are.
        near: whether `pixels` is within the calibrated threshold.
    """

    drawn: str
    train: str
    pixels: float
    ssim: float
    near: bool


@dataclass(frozen=True, eq=False)
class PrivacyReport:
    """What was found.

    Args:
        results: shares that are nearer than real X-rays come, and ratios.
        closest: the closest pairs, nearest first.
        threshold: distance by pixels at or below which a drawn X-ray counts as near.
    """

    results: tuple[MetricResult, ...]
    closest: tuple[ClosePair, ...]
    threshold: float


class NearestTwo(NamedTuple):
    """Distance to the nearest and to the second nearest target, and which the nearest is."""

    first: Float[Tensor, " m"]
    second: Float[Tensor, " m"]
    rows: Int[Tensor, " m"]


def nearest_two(queries: Float[Tensor, "m f"], targets: Float[Tensor, "n f"]) -> NearestTwo:
    """By Euclidean distance; memory does not grow with either set.

    Raises:
        ValueError: fewer than two targets.
    """
    if len(targets) <= 1:
        raise ValueError(f"a ratio of distances needs two targets, got {len(targets)}")
    found = nearest(queries, targets, 2)
    first, second = found.distances.to(queries.dtype).unbind(dim=1)
    return NearestTwo(first, second, found.rows[:, 0])


class NearestPixels(NamedTuple):
    """Distance to the nearest target after alignment, which that is, and that of either half."""

    distances: Float[Tensor, " q"]
    rows: Int[Tensor, " q"]
    halves: Float[Tensor, " q"]


def nearest_by_pixels(
    queries: ImageSet, targets: ImageSet, search: CopySearch | None = None
) -> NearestPixels:
    """Nearest target up to shift, mirror, turn, zoom and contrast, whole and by its nearer half.

    4096 targets are searched at a time, by 512 queries at a time: memory does not grow with either.
    """
    distances = torch.full((len(queries),), torch.inf)
    rows = torch.zeros(len(queries), dtype=torch.long)
    halves = torch.full((len(queries),), torch.inf)
    for start in range(0, len(targets), _BLOCK):
        finder = CopyFinder(load_squares(_part(targets, start, _BLOCK)), search)
        for first in range(0, len(queries), _QUERIES):
            squares = load_squares(_part(queries, first, _QUERIES))
            found = finder.nearest_of_parts(squares, ("whole", "left", "right"))
            mine, whole = slice(first, first + len(squares)), found["whole"]
            rows[mine] = torch.where(
                whole.distances < distances[mine], whole.rows + start, rows[mine]
            )
            distances[mine] = torch.minimum(distances[mine], whole.distances)
            for half in (found["left"], found["right"]):
                halves[mine] = torch.minimum(halves[mine], half.distances)
    return NearestPixels(distances, rows, halves)


def _part(images: ImageSet, start: int, count: int) -> ImageSet:
    return images.take(range(start, min(start + count, len(images))))


def load_squares(images: ImageSet, side: int = SIDE) -> Float[Tensor, "n 1 h w"]:
    """Small squares of all X-rays of a set."""
    return torch.cat([resize_and_pad(one.load()[None], side).clamp(0, 1) for one in images])


def measure_privacy(
    train: tuple[ImageSet, FeatureSet],
    drawn: tuple[ImageSet, FeatureSet],
    held_out: tuple[ImageSet, FeatureSet],
    facts: dict[str, object],
    settings: PrivacySettings | None = None,
    scorers: Sequence[PairScorer] = (),
) -> PrivacyReport:
    """How many drawn X-rays come nearer to `train` than unseen real X-rays do.

    The threshold is calibrated: the nearest `near_share` of held-out real X-rays is near, so that
    share is what a generator without memory gets.

    Args:
        train: what the generator learned from, and its features.
        drawn: what it drew.
        held_out: real X-rays of other patients.
        facts: of the extractor, for signatures.
        settings: how.
        scorers: re-identification networks; each scores every drawn X-ray's nearest pair.

    Raises:
        ValueError: too few X-rays.
    """
    settings = settings or PrivacySettings()
    mine = nearest_two(drawn[1].features, train[1].features)
    real = nearest_two(held_out[1].features, train[1].features)
    pixels = nearest_by_pixels(drawn[0], train[0], settings.search)
    real_pixels = nearest_by_pixels(held_out[0], train[0], settings.search)
    facts = facts | {"near_share": settings.near_share, "held_out": len(held_out[0])}
    threshold = _threshold(real_pixels.distances, settings.near_share)
    both = {
        "features": (mine.first, real.first),
        "pixels": (pixels.distances, real_pixels.distances),
        "halves": (pixels.halves, real_pixels.halves),
    }
    results = [
        _share_near(name, near, usual, drawn[1], held_out[1], facts, settings)
        for name, (near, usual) in both.items()
    ]
    results += _ratios(mine, real, drawn[1], held_out[1], facts, settings)
    for scorer in scorers:
        scores = [
            -_score(scorer, one[0], train[0], near.rows)
            for one, near in ((drawn, pixels), (held_out, real_pixels))
        ]
        name = f"identity/{scorer.name}"
        results.append(
            _share_near(name, scores[0], scores[1], drawn[1], held_out[1], facts, settings)
        )
    closest = _closest(drawn[0], train[0], pixels, threshold, settings.closest)
    return PrivacyReport(tuple(results), closest, threshold)


def _threshold(distances: Float[Tensor, " q"], share: float) -> float:
    return float(weighted_quantile(distances, share, torch.ones(1, len(distances))))


def _share_near(
    name: str,
    drawn: Float[Tensor, " m"],
    real: Float[Tensor, " q"],
    drawn_set: FeatureSet,
    real_set: FeatureSet,
    facts: dict[str, object],
    settings: PrivacySettings,
) -> MetricResult:
    """Share of drawn X-rays within the threshold; both sets are drawn again in each replicate."""
    near: Bool[Tensor, " m"] = drawn <= _threshold(real, settings.near_share)
    value = float(near.double().mean())
    resampling = settings.resampling
    interval, replicates, notes = None, None, []
    if resampling.replicates:
        other = replace(resampling, seed=resampling.seed + 1_000_003)
        shares = []
        for weights, real_weights in zip(
            resampling.blocks(drawn_set.groups), other.blocks(real_set.groups), strict=True
        ):
            limits = weighted_quantile(real, settings.near_share, real_weights)
            inside = drawn[None] <= limits[:, None]
            shares.append((inside * weights).sum(1) / weights.sum(1))
        replicates = torch.cat(shares).double()
        interval, note = interval_of(value, replicates, f"{drawn_set.unit} and {real_set.unit}")
        notes = [note] if note else []
    if len(real) * settings.near_share < 1:
        notes.append(
            f"{len(real)} held-out X-rays cannot tell the nearest {settings.near_share:.0%}: the "
            "threshold is the nearest one of them"
        )
    return MetricResult(
        name=f"near_train/{name}",
        value=value,
        interval=interval,
        n=len(drawn),
        per_sample=PerSample(drawn_set.ids, tuple(drawn.tolist())),
        signature=signature({"metric": f"near_train/{name}", **facts, **resampling.facts()}),
        comparable=False,
        higher_is_better=False,
        warnings=tuple(notes),
        replicates=replicates,
    )


def _ratios(
    mine: NearestTwo,
    real: NearestTwo,
    drawn_set: FeatureSet,
    real_set: FeatureSet,
    facts: dict[str, object],
    settings: PrivacySettings,
) -> list[MetricResult]:
    """d1 / d2: near 1 where no training X-ray stands out, near 0 where one was copied."""
    found = []
    for name, near, one in (("", mine, drawn_set), ("_real", real, real_set)):
        ratios = near.first / near.second.clamp_min(_TINY)
        metric = mean_metric(f"nearest_ratio{name}", facts=facts, comparable=False)
        resampling = replace(settings.resampling, unit=one.unit)
        found.append(metric.measure(mean_statistics(ratios), one.ids, one.groups, resampling))
    return found


def _score(
    scorer: PairScorer, queries: ImageSet, targets: ImageSet, rows: Int[Tensor, " q"]
) -> Float[Tensor, " q"]:
    scores = []
    for query, row in zip(queries, rows.tolist(), strict=True):
        scores.append(scorer([query.load()], [targets.images[row].load()]))
    return torch.cat(scores)


def _closest(
    drawn: ImageSet, train: ImageSet, near: NearestPixels, threshold: float, count: int
) -> tuple[ClosePair, ...]:
    from torchmetrics.functional.image import structural_similarity_index_measure

    pairs = []
    for place in near.distances.argsort()[:count].tolist():
        query, target = drawn.images[place], train.images[int(near.rows[place])]
        a, b = (resize_and_pad(one.load()[None], SIDE).clamp(0, 1) for one in (query, target))
        distance = float(near.distances[place])
        pairs.append(
            ClosePair(
                query.id,
                target.id,
                distance,
                float(cast("Tensor", structural_similarity_index_measure(a, b, data_range=1.0))),
                distance <= threshold,
            )
        )
    return tuple(pairs)
