"""What a model sees: probes of its features under masking, and what its likelihoods know.

Axes: n X-rays, h rows, w columns, s side, f features.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.data.findings_text import STATEMENTS
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.extractors import FeatureExtractor
from unix_cxr.evaluation.imaging.features import Extraction, extract
from unix_cxr.evaluation.imaging.image_sets import ImageSet
from unix_cxr.evaluation.reading.alignment import LikelihoodScorer, score_pairs
from unix_cxr.evaluation.reading.curves import area_results, mean_result
from unix_cxr.evaluation.reading.probe import fit_probe, label_table, learnable
from unix_cxr.evaluation.results import MetricResult, content_mark
from unix_cxr.functional.images import resize_and_pad
from unix_cxr.vocabulary import NO_FINDING

if TYPE_CHECKING:
    from unix_cxr.pipelines.pipeline import UniXPipeline

MASKING_RATIOS: Final = (0.0, 0.3, 0.6, 0.9)
"""Shares of the image that are hidden, as in the robustness curve of arXiv:2604.22989."""

_GRID: Final = 8
_SIDE: Final = 128


class MaskedExtractor:
    """An extractor that sees only a part of every X-ray.

    Args:
        extractor: what looks at the rest.
        ratio: share of an 8 × 8 grid of squares that is hidden under the X-ray's mean grey; which
            ones depends on the pixels and the seed alone.
        side: X-rays are padded to squares of this side first; as fine as the extractor looks where
            None, and at least 128, so that hiding nothing of them changes nothing.
        seed: of the choice.
    """

    comparable = False

    def __init__(
        self, extractor: FeatureExtractor, ratio: float, side: int | None = None, seed: int = 0
    ) -> None:
        side = _fine_enough(extractor) if side is None else side
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio ({ratio}) must lie in [0, 1)")
        if side % _GRID:
            raise ValueError(f"side ({side}) must be divisible by {_GRID}")
        self.extractor, self.ratio, self.side, self.seed = extractor, ratio, side, seed
        self.name, self.width = extractor.name, extractor.width

    def facts(self) -> Mapping[str, object]:
        """For the signature."""
        if not self.ratio:
            return self.extractor.facts()
        return {
            **self.extractor.facts(),
            "masked": self.ratio,
            "grid": f"{_GRID}x{_GRID} of {self.side}",
            "mask_seed": self.seed,
        }

    def __call__(self, images: Sequence[Float[Tensor, "1 h w"]]) -> Float[Tensor, "b f"]:
        """Features of what is left."""
        if not self.ratio:
            return self.extractor(images)
        return self.extractor([self.mask(image) for image in images])

    def mask(self, image: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 s s"]:
        """The X-ray with the squares hidden."""
        square = resize_and_pad(image[None], self.side)[0]
        digest = hashlib.sha256(square.numpy().tobytes() + str(self.seed).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        hidden = round(self.ratio * _GRID * _GRID)
        cells = torch.zeros(_GRID * _GRID, dtype=torch.bool)
        cells[torch.randperm(_GRID * _GRID, generator=generator)[:hidden]] = True
        cell = self.side // _GRID
        mask = cells.reshape(_GRID, _GRID).repeat_interleave(cell, 0).repeat_interleave(cell, 1)
        return torch.where(mask[None], square.mean(), square)


def _fine_enough(extractor: FeatureExtractor) -> int:
    """A side that the grid divides and that has all pixels the extractor takes."""
    sides = [int(side) for side in str(extractor.facts().get("size", _SIDE)).split("x")]
    return _GRID * math.ceil(max(_SIDE, *sides) / _GRID)


@dataclass(frozen=True, eq=False)
class Understanding:
    """Probes at each masking ratio.

    Args:
        results: AUROC and AUPRC of every label without masking, and their means at every ratio.
        curve: masking ratio → mean AUROC.
        labels: what was probed.
    """

    results: tuple[MetricResult, ...]
    curve: Mapping[float, MetricResult]
    labels: tuple[str, ...]


def measure_probes(
    train: ImageSet,
    test: ImageSet,
    extractor: FeatureExtractor,
    resampling: Resampling,
    extraction: Extraction | None = None,
    ratios: Sequence[float] = MASKING_RATIOS,
) -> Understanding:
    """Linear probes on a model's features: trained on whole X-rays, tested on masked ones.

    Args:
        train: X-rays with labels.
        test: X-rays of other patients.
        extractor: of the features.
        resampling: the bootstrap.
        extraction: cache and batches.
        ratios: shares that are hidden in the test X-rays.

    Raises:
        ValueError: no label is on both sides in both sets often enough.
    """
    names = learnable([[one.labels for one in images] for images in (train, test)])
    if not names:
        raise ValueError(
            f"no label has 5 X-rays with it and 5 without it in {train.name} and in {test.name}; "
            "a probe needs both classes"
        )
    tables = [label_table([one.labels for one in images], names) for images in (train, test)]
    probe = fit_probe(extract(train, extractor, extraction), tables[0])
    results: list[MetricResult] = []
    curve = {}
    for ratio in ratios:
        masked = MaskedExtractor(extractor, ratio)
        logits = probe(extract(test, masked, extraction))
        facts: dict[str, object] = {
            "probe": "logistic regression",
            "trained_on": len(train),
            "against": content_mark(test.ids),
            **masked.facts(),
        }
        found: list[MetricResult] = []
        for column, name in enumerate(names):
            found += area_results(
                f"probe/{name}",
                logits[:, column],
                tables[1][:, column],
                test.ids,
                test.groups,
                facts,
                resampling,
            )
        if ratio == 0:
            results += found
        means = [
            mean_result(f"{which}/probe/masked_{ratio:g}", _of(found, which), resampling.unit)
            for which in ("auroc", "auprc")
        ]
        results += means
        curve[ratio] = means[0]
    return Understanding(tuple(results), curve, tuple(names))


def _of(results: Sequence[MetricResult], which: str) -> list[MetricResult]:
    return [result for result in results if result.name.startswith(f"{which}/")]


@dataclass(frozen=True)
class Statements:
    """What is said of a label that is there, and of one that is not; several wordings each."""

    present: tuple[str, ...]
    absent: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.present or not self.absent:
            raise ValueError("zero-shot classification needs a statement for each side")


_PNEUMONIA: Final = ("Pneumonia", "Bacterial Pneumonia", "Viral Pneumonia")


def usual_statements(label: str) -> Statements:
    """The wordings that our models learned where there are such, else `Edema.` and `No edema.`.

    The finer kinds of pneumonia stand against its denial, other known labels against `No finding.`

    >>> usual_statements("Lung Lesion")
    Statements(present=('Lung lesion.',), absent=('No lung lesion.',))
    """
    if label == "Normal":
        pneumonia = tuple(words for name in _PNEUMONIA for words in STATEMENTS[name])
        return Statements(tuple(STATEMENTS[label]), pneumonia)
    if label in STATEMENTS and label != NO_FINDING:
        other = "Normal" if label in _PNEUMONIA else NO_FINDING
        return Statements(tuple(STATEMENTS[label]), tuple(STATEMENTS[other]))
    spoken = label.replace("_", " ").capitalize()
    return Statements((f"{spoken}.",), (f"No {spoken.lower()}.",))


def check_opening(opening: str) -> None:
    """Refuse what cannot come before a statement, or cannot be told in a signature.

    Raises:
        ValueError: it has a line break or "|", or is blank but not empty.
    """
    if set(opening) & set("|\n\r") or opening != opening.strip():
        raise ValueError(
            f"opening ({opening!r}) must be one line without '|' and without blanks around it, "
            'such as "AP chest radiograph of a child."'
        )


def zero_shot(
    pipeline: "UniXPipeline",
    images: ImageSet,
    statements: Mapping[str, Statements],
    resampling: Resampling,
    batch_size: int = 16,
    cache: Path | None = None,
    opening: str = "",
) -> list[MetricResult]:
    """Classification without training: which statement does the model find likelier?

    The score is the log of the summed likelihoods of the statements that a label is there, less
    that of the statements that it is not, given the X-ray and the opening. A model is asked what it
    knows only where a statement is likely to stand: reports that never begin with a bare statement
    need the sentence that they do begin with.

    Args:
        pipeline: of the model.
        images: X-rays with labels.
        statements: by label.
        resampling: the bootstrap.
        batch_size: X-rays at once.
        cache: folder of likelihoods; what it holds is not computed again.
        opening: comes before each statement, as one report; its own likelihood cancels. Told in the
            signature where there is one.

    Raises:
        ValueError: a label is on all X-rays or on none, or the opening cannot be told.
    """
    check_opening(opening)
    scorer = LikelihoodScorer(pipeline)
    scored = {**scorer.facts(), "per": "text"}

    def likelihoods(texts: Sequence[str]) -> Float[Tensor, " n"]:
        columns = [
            score_pairs(
                images.images, [text] * len(images), scorer.of_texts, scored, batch_size, cache
            )
            for text in (f"{opening} {text}".strip() for text in texts)
        ]
        return torch.stack(columns, dim=1).logsumexp(dim=1)

    results: list[MetricResult] = []
    for label, wordings in statements.items():
        positive = label_table([one.labels for one in images], [label])[:, 0]
        if positive.all() or not positive.any():
            raise ValueError(
                f"{label!r} is on {int(positive.sum())} of {len(images)} X-rays of {images.name}; "
                "zero-shot classification needs both classes"
            )
        sides = [likelihoods(texts) for texts in (wordings.present, wordings.absent)]
        facts: dict[str, object] = {
            "model": pipeline.model_id,
            "score": "log-likelihood ratio",
            "against": content_mark(images.ids),
            "statements": len(wordings.present) + len(wordings.absent),
            **({"opening": opening} if opening else {}),
        }
        results += area_results(
            f"zero_shot/{label}",
            sides[0] - sides[1],
            positive,
            images.ids,
            images.groups,
            facts,
            resampling,
        )
    return results
