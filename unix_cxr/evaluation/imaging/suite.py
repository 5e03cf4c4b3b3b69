"""Every metric of drawn X-rays against real ones.

Axes: n X-rays, f features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.diversity import measure_ms_ssim
from unix_cxr.evaluation.imaging.extractors import FeatureExtractor
from unix_cxr.evaluation.imaging.features import Extraction, extract_all
from unix_cxr.evaluation.imaging.fidelity import (
    HEAVY_REPLICATES,
    FeatureSet,
    FidelitySettings,
    measure_fidelity,
    measure_mifid,
    per_label,
    require_enough,
)
from unix_cxr.evaluation.imaging.frechet import FrechetCurve, frechet_curve, require_spread
from unix_cxr.evaluation.imaging.image_sets import ImageSet, refuse_overlap, split_patients
from unix_cxr.evaluation.imaging.looks import LooksExtractor, measure_looks
from unix_cxr.evaluation.imaging.memorised import (
    PairScorer,
    PrivacyReport,
    PrivacySettings,
    measure_privacy,
)
from unix_cxr.evaluation.imaging.phantom_control import about_phantoms, measure_phantom_control
from unix_cxr.evaluation.neighbours import nearest_distances
from unix_cxr.evaluation.plugins import Metric, OnMissing, installed_metrics, measure_all
from unix_cxr.evaluation.protocols import STRICT, Protocol
from unix_cxr.evaluation.reading.alignment import ImageTextScorer, measure_alignment
from unix_cxr.evaluation.reading.probe import learnable
from unix_cxr.evaluation.reading.use import measure_label_agreement, measure_use
from unix_cxr.evaluation.reading.use_network import (
    NetworkTraining,
    measure_use_network,
    shared_labels,
)
from unix_cxr.evaluation.results import (
    MetricResult,
    Skipped,
    by_name,
    content_mark,
)

Maker = Callable[[], Sequence[MetricResult]]

_PER_LABEL: Final = 10
CEILING: Final = "/ceiling"


@dataclass(frozen=True)
class ImageOptions:
    """How drawn X-rays are measured.

    Args:
        protocol: see `Protocol`.
        resampling: the bootstrap.
        extraction: batches and cache.
        heavy_replicates: replicates of FD, KD and Vendi.
        pairs: pairs for MS-SSIM.
        per_finding: repeat fidelity for every label; the protocol may ask for it too.
        privacy: how copies are looked for.
        use_network: train whole networks too, on real, drawn and both; None leaves it at probes.
        ceiling: which numbers real training X-rays get in the place of drawn ones, named
            NAME/ceiling. "fidelity" draws them from all of `train`; "all" takes patients of one
            half of `train` and holds them against the other half.
        on_missing: "skip" lists what is missing, "raise" stops.
    """

    protocol: Protocol = STRICT
    resampling: Resampling = field(default_factory=Resampling)
    extraction: Extraction = field(default_factory=Extraction)
    heavy_replicates: int = HEAVY_REPLICATES
    pairs: int = 100
    per_finding: bool = False
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    use_network: NetworkTraining | None = None
    ceiling: Literal["fidelity", "all"] = "fidelity"
    on_missing: OnMissing = "skip"


@dataclass(frozen=True)
class Judges:
    """Who looks at the X-rays.

    Args:
        extractor: gives the features.
        alignment: judges X-rays with their texts; None measures no alignment.
        identity: re-identification networks.
        metrics: of other packages; the installed ones where None.
    """

    extractor: FeatureExtractor
    alignment: ImageTextScorer | None = None
    identity: Sequence[PairScorer] = ()
    metrics: Sequence[Metric] | None = None


@dataclass(frozen=True, eq=False)
class ImageComparison:
    """What is measured, and what a plug-in of the kind "images" gets.

    Args:
        real: X-rays that the drawn ones are held against.
        drawn: drawn X-rays.
        train: real X-rays that the generator learned from, of other patients than `real`.
        features: of each set, by its role: "real", "drawn", "train".
        looks: sharpness and exposure of each, see `LooksExtractor`.
        facts: of the extractor, for signatures.
        resampling: the bootstrap.
    """

    real: ImageSet
    drawn: ImageSet
    train: ImageSet | None
    features: dict[str, FeatureSet]
    looks: dict[str, Float[Tensor, "n 4"]]
    facts: dict[str, object]
    resampling: Resampling


@dataclass(frozen=True, eq=False)
class ImageEvaluation:
    """All numbers of one set of drawn X-rays.

    Args:
        results: in the order of measuring.
        skipped: what was missing, or could not be measured on these sets.
        notes: what else the reader must know.
        comparison: what was measured.
        curve: FD against N.
        privacy: the search for copies; None without `train`.
        distances: of each drawn X-ray to the nearest real one, by features.
        protocol: how.
    """

    results: tuple[MetricResult, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    comparison: ImageComparison
    curve: FrechetCurve
    privacy: PrivacyReport | None
    distances: Float[Tensor, " n"]
    protocol: Protocol


def evaluate_images(
    real: ImageSet,
    drawn: ImageSet,
    judges: Judges,
    *,
    train: ImageSet | None = None,
    options: ImageOptions | None = None,
) -> ImageEvaluation:
    """Measure drawn X-rays: fidelity, variety, and with `train` privacy, use and the ceiling.

    The features of all sets are kept in memory (4 bytes × N × f), because neighbours and kernels
    need them; pixels are read a batch at a time.

    Args:
        real: X-rays that nobody trained on.
        drawn: what the generator drew.
        judges: who looks at them.
        train: what the generator learned from.
        options: how.

    Raises:
        MetricUnavailable: something is missing and `on_missing` is "raise".
        ValueError: too few X-rays, patients in both `train` and `real`, X-rays that cannot be read.
    """
    options = options or ImageOptions()
    sets = {"real": real, "drawn": drawn} | ({} if train is None else {"train": train})
    for role, images in sets.items():
        require_enough(role, len(images), options.protocol)
    if train is not None:
        refuse_overlap(train, real)
    halves = _halves(train, real, len(drawn), options)
    if options.use_network is not None:
        if train is None:
            raise ValueError("a network learns from real X-rays too: give them by --train SRC")
        shared_labels(train, drawn, real)
    extraction = replace(options.extraction, squash=options.protocol.squash)
    features, looks = {}, {}
    for role, one in sets.items():
        seen, looks[role] = extract_all(one, judges.extractor, [LooksExtractor()], extraction)
        require_spread(role, seen)
        features[role] = FeatureSet(seen, one.ids, one.groups, one.unit)
    comparison = ImageComparison(
        real,
        drawn,
        train,
        features,
        looks,
        {**judges.extractor.facts(), "against": content_mark(real.ids)},
        options.resampling,
    )
    settings = FidelitySettings(
        options.protocol,
        options.resampling,
        comparison.facts,
        judges.extractor.comparable,
        options.heavy_replicates,
    )
    found: dict[str, PrivacyReport] = {}
    notes = [real.mixed] if real.mixed else []
    makers = _fidelity_makers(comparison, settings, options, notes)
    makers |= _training_makers(comparison, settings, judges, options, found)
    absent = _not_measured(comparison, judges, options.protocol)
    if judges.alignment is not None and not any(one.metric == "alignment" for one in absent):
        scorer = judges.alignment
        makers["alignment"] = lambda: measure_alignment(
            drawn,
            scorer,
            replace(options.resampling, unit=drawn.unit),
            cache=options.extraction.cache,
        )
    plugins = installed_metrics("images") if judges.metrics is None else judges.metrics
    makers |= {metric.name: _measuring(metric, comparison) for metric in plugins}
    results, skipped = measure_all(makers, options.on_missing)
    if halves is not None:
        results += _whole_ceiling(real, halves, judges, options)
    return ImageEvaluation(
        results=tuple(by_name(results).values()),
        skipped=(*skipped, *absent),
        notes=tuple(notes),
        comparison=comparison,
        curve=frechet_curve(features["real"].features, features["drawn"].features),
        privacy=found.get("privacy"),
        distances=nearest_distances(features["drawn"].features, features["real"].features),
        protocol=options.protocol,
    )


def _measuring(metric: Metric, comparison: ImageComparison) -> Maker:
    return lambda: metric.measure(comparison)


def _fidelity_makers(
    comparison: ImageComparison,
    settings: FidelitySettings,
    options: ImageOptions,
    notes: list[str],
) -> dict[str, Maker]:
    real, drawn = comparison.features["real"], comparison.features["drawn"]
    makers: dict[str, Maker] = {
        "fidelity": lambda: measure_fidelity(real, drawn, settings),
        "ms_ssim": lambda: measure_ms_ssim(
            comparison.real, comparison.drawn, options.pairs, options.resampling
        ),
        "looks": lambda: measure_looks(
            (comparison.real, comparison.looks["real"]),
            (comparison.drawn, comparison.looks["drawn"]),
            options.resampling,
            options.privacy.search,
        ),
    }
    if about_phantoms(comparison.drawn):
        by_image = replace(options.resampling, unit=comparison.drawn.unit)
        makers["oracle"] = lambda: measure_phantom_control(comparison.drawn, by_image)
    if options.per_finding or options.protocol.per_finding:

        def by_label() -> list[MetricResult]:
            least = max(_PER_LABEL, options.protocol.shards * (options.protocol.neighbours + 1))
            results, rare = per_label(
                [one.labels for one in comparison.real],
                [one.labels for one in comparison.drawn],
                least,
                lambda a, b, name: measure_fidelity(real.take(a), drawn.take(b), settings, name),
            )
            notes.extend(rare)
            return results

        makers["per finding"] = by_label
    return makers


def _training_makers(
    comparison: ImageComparison,
    settings: FidelitySettings,
    judges: Judges,
    options: ImageOptions,
    found: dict[str, PrivacyReport],
) -> dict[str, Maker]:
    train, features = comparison.train, comparison.features
    if train is None:
        return {}

    def privacy() -> Sequence[MetricResult]:
        report = measure_privacy(
            (train, features["train"]),
            (comparison.drawn, features["drawn"]),
            (comparison.real, features["real"]),
            comparison.facts,
            replace(options.privacy, resampling=options.resampling),
            judges.identity,
        )
        found["privacy"] = report
        return report.results

    labelled = {
        role: (features[role], [one.labels for one in images])
        for role, images in (
            ("real", comparison.real),
            ("drawn", comparison.drawn),
            ("train", train),
        )
    }
    makers: dict[str, Maker] = {
        "mifid": lambda: [measure_mifid(features["train"], features["drawn"], settings)],
        "privacy": privacy,
    }
    if options.ceiling == "fidelity":
        makers["ceiling"] = lambda: _ceiling(comparison, settings)
    if learnable([labelled["train"][1], labelled["drawn"][1]]):
        makers["label_agreement"] = lambda: measure_label_agreement(
            labelled["train"],
            labelled["drawn"],
            comparison.facts,
            replace(options.resampling, unit=comparison.drawn.unit),
        )
    if learnable([labels for _, labels in labelled.values()]):
        makers["use"] = lambda: measure_use(
            labelled["train"],
            labelled["drawn"],
            labelled["real"],
            comparison.facts,
            options.resampling,
        )
    if options.use_network is not None:
        makers["use_network"] = lambda: measure_use_network(
            train, comparison.drawn, comparison.real, options.resampling, options.use_network
        )
    return makers


def _ceiling(comparison: ImageComparison, settings: FidelitySettings) -> list[MetricResult]:
    """The same numbers of real training X-rays in the place of drawn ones."""
    train = comparison.features["train"]
    count = min(len(train), len(comparison.drawn))
    generator = torch.Generator().manual_seed(settings.resampling.seed)
    rows = torch.randperm(len(train), generator=generator)[:count].sort().values
    results = measure_fidelity(
        comparison.features["real"], train.take(rows.tolist()), settings, CEILING
    )
    return [result for result in results if not result.name.startswith("vendi")]


def _halves(
    train: ImageSet | None, real: ImageSet, count: int, options: ImageOptions
) -> tuple[ImageSet, ImageSet] | None:
    """What stands for drawn X-rays in the ceiling of all numbers, and what was learned from.

    Raises:
        ValueError: a half is too small, or holds nothing to learn; before anything is measured.
    """
    if train is None or options.ceiling != "all":
        return None
    honest, rest = split_patients(train, options.resampling.seed)
    honest = honest.first(count, options.resampling.seed)
    halves = (
        replace(honest, name=f"{honest.name}, unseen half"),
        replace(rest, name=f"{rest.name}, other half"),
    )
    for one in halves:
        require_enough(one.name, len(one), options.protocol)
    if options.use_network is not None:
        shared_labels(halves[1], halves[0], real)
    return halves


def _whole_ceiling(
    real: ImageSet, halves: tuple[ImageSet, ImageSet], judges: Judges, options: ImageOptions
) -> list[MetricResult]:
    """Everything again, with real X-rays of half of the training patients as the drawn ones."""
    honest, rest = halves
    options = replace(options, ceiling="fidelity", per_finding=False)
    again = evaluate_images(real, honest, judges, train=rest, options=options)
    return [
        replace(result, name=result.name + CEILING)
        for result in again.results
        if not result.name.endswith((CEILING, "_real"))
    ]


def _not_measured(comparison: ImageComparison, judges: Judges, protocol: Protocol) -> list[Skipped]:
    """What these sets and weights do not allow, and what would."""
    absent = []
    if protocol.name == "chexgenbench":
        remedy = (
            "Inception features need torch-fidelity, torchvision and their weights, which are "
            "never installed here; give them as a FeatureExtractor of your own"
        )
        absent.append(Skipped("fid_inception", remedy))
    if comparison.train is None:
        remedy = "give the X-rays that the generator learned from: --train SRC"
        absent += [Skipped(name, remedy) for name in ("privacy", "ceiling", "mifid", "use")]
    else:
        sets = [comparison.train, comparison.drawn, comparison.real]
        if not learnable([[one.labels for one in images] for images in sets]):
            remedy = (
                "every set needs a label that at least 5 of its X-rays have and 5 lack: write "
                "labels into the manifest of the drawn ones"
            )
            absent.append(Skipped("use", remedy))
    if judges.alignment is not None:
        texts = {one.text.strip() for one in comparison.drawn}
        if "" in texts or len(texts) <= 1:
            remedy = "the drawn X-rays need different prompts: write them into their manifest"
            absent.append(Skipped("alignment", remedy))
    return absent
