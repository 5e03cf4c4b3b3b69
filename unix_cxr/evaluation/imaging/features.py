"""Features of sets of X-rays, kept on disk by the content of the images.

Axes: b X-rays of a batch, n X-rays, f features, h rows, w columns.
"""

import hashlib
import json
import time
from collections.abc import Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from unix_cxr.evaluation.gathering import gather_rows, my_share
from unix_cxr.evaluation.imaging.extractors import FeatureExtractor
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet
from unix_cxr.files import replacing

_KEY_LENGTH: Final = 16
_IMAGES: Final = "images"
_ROWS: Final = 1024
_SECONDS: Final = 10.0


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
    views = [(extractor, extraction.squash), *((one, None) for one in also)]
    caches = [FeatureCache(extraction.cache, *view) for view in views]
    mine = my_share(images.images)
    found: list[list[Tensor]] = [[] for _ in views]
    bar = tqdm(
        total=len(mine),
        desc=f"{extractor.name}: {images.name}",
        unit="image",
        disable=None if extraction.progress else True,
    )
    with bar, ExitStack() as stack:
        for cache in caches:
            stack.enter_context(cache)
        for start in range(0, len(mine), extraction.batch_size):
            batch = _Batch(mine[start : start + extraction.batch_size])
            for rows, cache in zip(found, caches, strict=True):
                rows.append(cache.features(batch))
            bar.update(len(batch.images))
    widths = (one.width for one, _ in views)
    return [
        gather_rows(torch.cat(rows) if rows else torch.empty(0, width), len(images))
        for rows, width in zip(found, widths, strict=True)
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


class FeatureCache:
    """What an extractor saw, found by the images' content and the extractor.

    Features wait in memory until they are many or ten seconds old, and then become one file, which
    is whole or absent. Batches stay together: after a kill those that are missing are the batches
    of a run that was not killed, and so are their features, to the last bit.

    Args:
        folder: of all features; None keeps none.
        extractor: sees the X-rays.
        squash: see `Extraction`.
    """

    def __init__(
        self, folder: Path | None, extractor: FeatureExtractor, squash: int | None = None
    ) -> None:
        self.extractor, self.squash = extractor, squash
        self.key = json.dumps({**extractor.facts(), "squash": squash}, sort_keys=True)
        digest = hashlib.sha256(self.key.encode()).hexdigest()[:_KEY_LENGTH]
        self.folder = None if folder is None else folder / digest
        self._places: dict[str, tuple[Path, int]] = {}
        self._waiting: dict[str, Float[Tensor, " f"]] = {}
        self._written = time.monotonic()
        if self.folder is not None and self.folder.is_dir():
            for path in sorted(self.folder.glob("*.safetensors")):
                self._index(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def features(self, batch: _Batch) -> Float[Tensor, "b f"]:
        """Of every X-ray of a batch; those that are not known are looked at, and kept.

        Raises:
            ValueError: features that are NaN or infinite; the message names the X-ray.
        """
        found = self.known(batch.hashes)
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
            self._keep(seen)
        return torch.stack([found[one] for one in batch.hashes])

    def known(self, hashes: Sequence[str]) -> dict[str, Float[Tensor, " f"]]:
        """The features that are there, by the hash of the image."""
        wanted = set(hashes)
        found = {one: self._waiting[one] for one in wanted & self._waiting.keys()}
        by_file: dict[Path, list[tuple[str, int]]] = {}
        for one in wanted & self._places.keys():
            path, row = self._places[one]
            by_file.setdefault(path, []).append((one, row))
        for path, rows in by_file.items():
            with safe_open(path, framework="pt") as file:
                features = file.get_tensor("features")
            found.update({one: features[row].clone() for one, row in rows})
        return found

    def _keep(self, features: Mapping[str, Float[Tensor, " f"]]) -> None:
        if self.folder is None:
            return
        self._waiting.update(features)
        if len(self._waiting) >= _ROWS or time.monotonic() - self._written >= _SECONDS:
            self._write()

    def _write(self) -> None:
        if self.folder is None or not self._waiting:
            return
        hashes = list(self._waiting)
        name = hashlib.sha256("".join(hashes).encode()).hexdigest()[:_KEY_LENGTH]
        path = self.folder / f"{name}.safetensors"
        metadata = {_IMAGES: json.dumps(hashes), "extractor": self.key}
        features = torch.stack(list(self._waiting.values()))
        with replacing(path) as temporary:
            save_file({"features": features}, temporary, metadata=metadata)
        self._places.update({one: (path, row) for row, one in enumerate(hashes)})
        self._waiting.clear()
        self._written = time.monotonic()

    def _index(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                hashes = json.loads(file.metadata()[_IMAGES])
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} is no file of features ({error}); remove it, and they are taken again"
            ) from error
        self._places.update({one: (path, row) for row, one in enumerate(hashes)})
