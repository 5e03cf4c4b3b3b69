"""Drawn X-rays measured against real ones: numbers with intervals that a cheat does not pass.

Axes: n real X-rays held out, m drawn X-rays, r replicates, v values per X-ray.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.evaluation.appearance import detail, tone
from unix_cxr.evaluation.bootstrap import (
    Measured,
    bootstrap_weights,
    mean_with_interval,
    measured,
    weighted_quantile,
)
from unix_cxr.evaluation.classifier import XrayClassifier, classify
from unix_cxr.evaluation.copies import CopyFinder, CopySearch, layout
from unix_cxr.evaluation.neighbours import nearest_distances, pairwise_distances, prdc, spread
from unix_cxr.evaluation.roc import auc
from unix_cxr.evaluation.verdict import Aims, DrawnNumbers, Verdict, judge
from unix_cxr.evaluation.xrays import (
    LabelledXrays,
    group_numbers,
    one_per_group,
    split_groups,
)


@dataclass(frozen=True)
class DrawnSettings:
    """The protocol; numbers taken under different protocols do not compare.

    Args:
        neighbours: k of precision, recall, density and coverage.
        near_share: "near" means as near as this share of real held-out X-rays come.
        inner_share: "in the real range" means among this central share of real X-rays.
        per_class: X-rays per class in the real sample that stands in for drawn ones.
        replicates: bootstrap replicates.
        search: how hard copies are looked for.
        seed: of the bootstrap and of the real sample.
    """

    neighbours: int = 5
    near_share: float = 0.01
    inner_share: float = 0.98
    per_class: int = 300
    replicates: int = 1000
    search: CopySearch = field(default_factory=CopySearch)
    seed: int = 0


@dataclass(frozen=True)
class DrawnEvaluation:
    """Numbers of drawn X-rays, the same numbers of real ones in their place, and the verdicts."""

    drawn: DrawnNumbers
    verdict: Verdict
    real: DrawnNumbers
    real_verdict: Verdict


def evaluate_drawn(
    drawn: LabelledXrays,
    *,
    train: LabelledXrays,
    held_out: LabelledXrays,
    classifier: XrayClassifier,
    settings: DrawnSettings | None = None,
    aims: Aims | None = None,
) -> DrawnEvaluation:
    """Measure drawn X-rays, and beside them real ones: the ceiling.

    Args:
        drawn: X-rays with the class each was asked to show; groups are the seeds.
        train: the real X-rays that the generator (and the classifier) learned from.
        held_out: real X-rays of other patients; `dev` while choosing, `val` once at the end.
        classifier: made by `train_classifier` on `train`.
        settings: the protocol.
        aims: what the verdicts ask for.

    Raises:
        ValueError: sizes that differ, a class that is absent or too small, patients that are in
            both splits, or a seed that was used twice for one class.
    """
    numbers = RealReference(train, held_out, classifier, settings).measure(drawn)
    ceiling = measure_real(train, held_out, classifier, settings)
    return DrawnEvaluation(numbers, judge(numbers, aims), ceiling, judge(ceiling, aims))


def measure_real(
    train: LabelledXrays,
    held_out: LabelledXrays,
    classifier: XrayClassifier,
    settings: DrawnSettings | None = None,
) -> DrawnNumbers:
    """The ceiling: one half of `train` in the place of drawn X-rays, the other in that of `train`.

    The halves share no patient, and a patient gives at most one X-ray of each class.
    """
    settings = settings or DrawnSettings()
    generator = torch.Generator().manual_seed(settings.seed)
    stand_in, rest = split_groups(train, generator)
    sample = one_per_group(stand_in, settings.per_class, generator)
    return RealReference(rest, held_out, classifier, settings).measure(sample)


class RealReference:
    """All that is known of the real X-rays, computed once; `measure` then takes drawn ones."""

    def __init__(
        self,
        train: LabelledXrays,
        held_out: LabelledXrays,
        classifier: XrayClassifier,
        settings: DrawnSettings | None = None,
    ) -> None:
        self.settings = settings or DrawnSettings()
        _check_real(train, held_out, self.settings)
        self.train, self.held_out, self.classifier = train, held_out, classifier
        self.train_features = classify(classifier, train.images).features
        self.features = classify(classifier, held_out.images).features
        self.finder = CopyFinder(train.images, self.settings.search)
        self.near_features = nearest_distances(self.features, self.train_features)
        self.near_pixels = self.finder.nearest(held_out.images).distances
        self.near_halves = self.finder.nearest_half(held_out.images)
        self.layout = layout(held_out.images)
        self.looks = torch.cat([detail(held_out.images), tone(held_out.images)], dim=1)
        self.weights = bootstrap_weights(
            held_out.groups, self.settings.replicates, self._generator(1)
        )
        sample = one_per_group(train, self.settings.per_class, self._generator(2))
        self.repeat_distances = _nearest_other(sample, self.settings.search)
        self.repeat_weights = bootstrap_weights(
            sample.groups, self.settings.replicates, self._generator(3)
        )

    def measure(self, drawn: LabelledXrays) -> DrawnNumbers:
        """Every number of these drawn X-rays.

        The intervals hold the classifier and `train` fixed, and draw the real X-rays by patient
        and the drawn ones by seed; neighbourhoods keep their radii, because X-rays that a
        bootstrap repeats would shrink them.

        Raises:
            ValueError: see `evaluate_drawn`.
        """
        self._check_drawn(drawn)
        seen = classify(self.classifier, drawn.images)
        weights = bootstrap_weights(drawn.groups, self.settings.replicates, self._generator(4))
        samples = prdc(self.features, seen.features, self.settings.neighbours)
        looks = torch.cat([detail(drawn.images), tone(drawn.images)], dim=1)
        near_halves = self.finder.nearest_half(drawn.images)
        near_pixels = self.finder.nearest(drawn.images).distances
        near_features = nearest_distances(seen.features, self.train_features)
        return DrawnNumbers(
            drawn=len(drawn),
            real=len(self.held_out),
            train=len(self.train),
            auc=measured(
                auc(seen.logits, drawn.pneumonia), auc(seen.logits, drawn.pneumonia, weights)
            ),
            precision=mean_with_interval(samples.precise, weights),
            recall=mean_with_interval(samples.recalled, self.weights),
            density=mean_with_interval(samples.density, weights),
            coverage=mean_with_interval(samples.covered, self.weights),
            coverage_normal=self._class_coverage(drawn, seen.features, pneumonia=False),
            coverage_pneumonia=self._class_coverage(drawn, seen.features, pneumonia=True),
            near_train_features=self._near(near_features, self.near_features, weights),
            near_train_pixels=self._near(near_pixels, self.near_pixels, weights),
            near_train_halves=self._near(near_halves, self.near_halves, weights),
            repeated=self._repeated(drawn, weights),
            spread_features=self._spread(drawn, seen.features, self.features, weights),
            spread_pixels=self._spread(drawn, layout(drawn.images), self.layout, weights),
            detail_middle=self._inside(looks[:, :1], self.looks[:, :1], weights),
            detail_fine=self._inside(looks[:, 1:2], self.looks[:, 1:2], weights),
            tone=self._inside(looks[:, 2:], self.looks[:, 2:], weights),
        )

    def _near(
        self,
        drawn: Float[Tensor, " m"],
        real: Float[Tensor, " n"],
        weights: Float[Tensor, "r m"],
    ) -> Measured:
        """Share of `drawn` at most as far as the nearest `near_share` of `real`."""
        return self._near_by(drawn, real, weights, self.weights)

    def _near_by(
        self,
        drawn: Float[Tensor, " m"],
        real: Float[Tensor, " n"],
        weights: Float[Tensor, "r m"],
        real_weights: Float[Tensor, "r n"],
    ) -> Measured:
        share = self.settings.near_share
        limit = weighted_quantile(real, share, torch.ones(1, len(real)))
        limits = weighted_quantile(real, share, real_weights)[:, None]
        return _share(drawn <= limit, drawn <= limits, weights)

    def _repeated(self, drawn: LabelledXrays, weights: Float[Tensor, "r m"]) -> Measured:
        """Share of drawn X-rays whose nearest other is as near as real ones hardly ever come."""
        distances = _nearest_other(drawn, self.settings.search)
        return self._near_by(distances, self.repeat_distances, weights, self.repeat_weights)

    def _class_coverage(
        self, drawn: LabelledXrays, features: Float[Tensor, "m f"], *, pneumonia: bool
    ) -> Measured:
        mine, real = drawn.pneumonia == pneumonia, self.held_out.pneumonia == pneumonia
        covered = prdc(self.features[real], features[mine], self.settings.neighbours).covered
        return mean_with_interval(covered, self.weights[:, real])

    def _spread(
        self,
        drawn: LabelledXrays,
        drawn_points: Float[Tensor, "m f"],
        real_points: Float[Tensor, "n f"],
        weights: Float[Tensor, "r m"],
    ) -> Measured:
        """Mean distance of two drawn X-rays of a class over that of two real ones; mean of both.

        Within a class, because two fixed pictures, one per class, are far apart.
        """
        values, replicates = [], []
        for wanted in (False, True):
            mine, real = drawn.pneumonia == wanted, self.held_out.pneumonia == wanted
            drawn_pairs = pairwise_distances(drawn_points[mine])
            real_pairs = pairwise_distances(real_points[real])
            plain = torch.ones(1, len(drawn_pairs)), torch.ones(1, len(real_pairs))
            values.append(spread(drawn_pairs, plain[0]) / spread(real_pairs, plain[1]))
            replicates.append(
                spread(drawn_pairs, weights[:, mine]) / spread(real_pairs, self.weights[:, real])
            )
        return measured(torch.stack(values).mean(), torch.stack(replicates).mean(dim=0))

    def _inside(
        self,
        drawn: Float[Tensor, "m v"],
        real: Float[Tensor, "n v"],
        weights: Float[Tensor, "r m"],
    ) -> Measured:
        """Share of drawn X-rays whose every value lies in the central range of real ones."""
        tail = (1 - self.settings.inner_share) / 2
        plain = torch.ones(1, len(real))
        inside = torch.ones(1, len(drawn), dtype=torch.bool)
        all_inside = torch.ones(weights.shape, dtype=torch.bool)
        for mine, theirs in zip(drawn.T, real.T, strict=True):
            inside &= _within(mine, theirs, tail, plain)
            all_inside &= _within(mine, theirs, tail, self.weights)
        return _share(inside[0], all_inside, weights)

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.settings.seed * 1000 + stream)

    def _check_drawn(self, drawn: LabelledXrays) -> None:
        if drawn.images.shape[1:] != self.held_out.images.shape[1:]:
            raise ValueError(
                f"drawn X-rays are {list(drawn.images.shape[2:])}, real ones "
                f"{list(self.held_out.images.shape[2:])}; draw and load at one size"
            )
        _check_classes("drawn", drawn, self.settings.neighbours)
        used = list(zip(drawn.groups, drawn.pneumonia.tolist(), strict=True))
        if len(set(used)) != len(used):
            twice = next(pair for pair in used if used.count(pair) > 1)
            raise ValueError(
                f"seed {twice[0]!r} drew {'pneumonia' if twice[1] else 'normal'} more than once; "
                "every X-ray of a class needs its own seed"
            )


def _share(inside: Tensor, inside_by_replicate: Tensor, weights: Float[Tensor, "r m"]) -> Measured:
    shares = (inside_by_replicate * weights).sum(dim=1) / weights.sum(dim=1)
    return measured(inside.double().mean(), shares)


def _within(
    drawn: Float[Tensor, " m"],
    real: Float[Tensor, " n"],
    tail: float,
    weights: Float[Tensor, "r n"],
) -> Tensor:
    low = weighted_quantile(real, tail, weights)[:, None]
    high = weighted_quantile(real, 1 - tail, weights)[:, None]
    return (drawn >= low) & (drawn <= high)


def _nearest_other(xrays: LabelledXrays, search: CopySearch) -> Float[Tensor, " m"]:
    """Distance in pixel space to the nearest X-ray of another group."""
    groups = group_numbers(xrays.groups)
    finder = CopyFinder(xrays.images, search)
    return finder.nearest(xrays.images, groups[:, None] == groups).distances


def _check_real(train: LabelledXrays, held_out: LabelledXrays, settings: DrawnSettings) -> None:
    if train.images.shape[1:] != held_out.images.shape[1:]:
        raise ValueError(
            f"train X-rays are {list(train.images.shape[2:])}, held-out ones "
            f"{list(held_out.images.shape[2:])}; load both at one size"
        )
    shared = sorted(set(train.groups) & set(held_out.groups))
    if shared:
        raise ValueError(
            f"{len(shared)} patients are in train and held out (first: {shared[0]!r}); "
            "split by patient"
        )
    _check_classes("train", train, settings.neighbours)
    _check_classes("held_out", held_out, settings.neighbours)


def _check_classes(name: str, xrays: LabelledXrays, neighbours: int) -> None:
    for wanted, label in ((False, "normal"), (True, "pneumonia")):
        count = int((xrays.pneumonia == wanted).sum())
        if count <= neighbours:
            raise ValueError(
                f"{name} has {count} {label} X-rays; {neighbours} neighbours need at least "
                f"{neighbours + 1}"
            )
    if len(set(xrays.groups)) <= 1:
        raise ValueError(f"{name} has one group only ({xrays.groups[0]!r}); nothing to bootstrap")
