"""Features of sets of X-rays, kept on disk by the content of the images.

Axes: b X-rays of a batch, n X-rays, f features, h rows, w columns.
"""

from collections.abc import Container, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from unix_cxr.evaluation.gathering import gather_rows, my_share
from unix_cxr.evaluation.imaging.extractors import FeatureExtractor
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet
from unix_cxr.evaluation.row_store import RowStore


@dataclass(frozen=True)
class Extraction:
    """How features are taken.

    Args:
        batch_size: X-rays at once.
        squash: squeeze each X-ray to a square of this side in 8 bits first; see `Protocol`.
        cache: folder of features that were taken before; None keeps none.
        progress: show a bar.
    """

    batch_size: int = 32
    squash: int | None = None
    cache: Path | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size ({self.batch_size}) must be at least 1")


def extract(
    images: ImageSet, extractor: FeatureExtractor, extraction: Extraction | None = None
) -> Float[Tensor, "n f"]:
    """Features of every X-ray, one batch of pixels in memory at a time.

    What the cache holds is not computed again, so a run that was killed goes on. Under several
    processes each takes its share, and all return everything.

    Raises:
        ValueError: an X-ray cannot be read, or its features are NaN or infinite; the message names
            it.
    """
    return extract_all(images, extractor, (), extraction)[0]


def extract_all(
    images: ImageSet,
    extractor: FeatureExtractor,
    also: Sequence[FeatureExtractor],
    extraction: Extraction | None = None,
) -> list[Float[Tensor, "n _"]]:
    """What several extractors see in every X-ray, each of which is read and decoded once.

    Args:
        images: X-rays.
        extractor: sees them as `extraction` says.
        also: see them as they are, whatever `squash` says.
        extraction: see `extract`.

    Raises:
        ValueError: see `extract`.
    """
    extraction = extraction or Extraction()
    views = [
        _View(extraction.cache, extractor, extraction.squash),
        *(_View(extraction.cache, one, None) for one in also),
    ]
    mine = my_share(images.images)
    found: list[list[Tensor]] = [[] for _ in views]
    bar = tqdm(
        total=len(mine),
        desc=f"{extractor.name}: {images.name}",
        unit="image",
        disable=None if extraction.progress else True,
    )
    with bar, ExitStack() as stack:
        for view in views:
            stack.enter_context(view.store)
        for start in range(0, len(mine), extraction.batch_size):
            batch = _Batch(mine[start : start + extraction.batch_size])
            for rows, view in zip(found, views, strict=True):
                rows.append(view.features(batch))
            bar.update(len(batch.images))
    return [
        gather_rows(torch.cat(rows) if rows else torch.empty(0, view.extractor.width), len(images))
        for rows, view in zip(found, views, strict=True)
    ]


def squashed(image: Float[Tensor, "1 h w"], side: int) -> Float[Tensor, "1 s s"]:
    """A square whatever the aspect, in 8 bits."""
    square = functional.interpolate(
        image[None], (side, side), mode="bilinear", antialias=True, align_corners=False
    )
    return (square[0].clamp(0, 1) * 255).round() / 255


class _Batch:
    """X-rays with the hashes of their contents; pixels are read when somebody needs them."""

    def __init__(self, images: Sequence[ImageFile]) -> None:
        self.images = images
        self.hashes = [image.content_hash() for image in images]
        self._pixels: dict[str, Float[Tensor, "1 h w"]] = {}

    def fresh(self, known: Container[str]) -> dict[str, ImageFile]:
        """Those that are not known, each content once."""
        both = zip(self.hashes, self.images, strict=True)
        return {one: image for one, image in both if one not in known}

    def pixels(self, one: str, image: ImageFile) -> Float[Tensor, "1 h w"]:
        if one not in self._pixels:
            self._pixels[one] = image.load()
        return self._pixels[one]


class _View:
    """What one extractor sees, of which nothing is looked at twice."""

    def __init__(
        self, folder: Path | None, extractor: FeatureExtractor, squash: int | None
    ) -> None:
        self.extractor, self.squash = extractor, squash
        self.store = RowStore(folder, {**extractor.facts(), "squash": squash})

    def features(self, batch: _Batch) -> Float[Tensor, "b f"]:
        found = self.store.known(batch.hashes)
        fresh = batch.fresh(found)
        if fresh:
            pixels = [batch.pixels(one, image) for one, image in fresh.items()]
            if self.squash is not None:
                pixels = [squashed(image, self.squash) for image in pixels]
            features = self.extractor(pixels)
            wrong = ~torch.isfinite(features).all(dim=1)
            if wrong.any():
                first = list(fresh.values())[int(wrong.nonzero()[0])]
                raise ValueError(
                    f"{self.extractor.name} gives NaN or infinity for {int(wrong.sum())} X-rays "
                    f"(first: {first.id}); use another dtype, or look at the image"
                )
            seen = dict(zip(fresh, features, strict=True))
            found.update(seen)
            self.store.keep(seen)
        return torch.stack([found[one] for one in batch.hashes])
