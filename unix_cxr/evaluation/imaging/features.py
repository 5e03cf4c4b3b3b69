"""Features of sets of X-rays, kept on disk by the content of the images.

Axes: b X-rays of a batch, n X-rays, f features, h rows, w columns.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
    extraction = extraction or Extraction()
    cache = FeatureCache(extraction, extractor)
    mine = my_share(images.images)
    found: list[Tensor] = []
    bar = tqdm(
        total=len(mine),
        desc=f"{extractor.name}: {images.name}",
        unit="image",
        disable=None if extraction.progress else True,
    )
    with bar:
        for start in range(0, len(mine), extraction.batch_size):
            batch = mine[start : start + extraction.batch_size]
            found.append(_batch(batch, extractor, cache, extraction))
            bar.update(len(batch))
    rows = torch.cat(found) if found else torch.empty(0, extractor.width)
    return gather_rows(rows, len(images))


def squashed(image: Float[Tensor, "1 h w"], side: int) -> Float[Tensor, "1 s s"]:
    """A square whatever the aspect, in 8 bits."""
    square = functional.interpolate(
        image[None], (side, side), mode="bilinear", antialias=True, align_corners=False
    )
    return (square[0].clamp(0, 1) * 255).round() / 255


class FeatureCache:
    """Files of features, each whole or absent, found by the images' content and the extractor."""

    def __init__(self, extraction: Extraction, extractor: FeatureExtractor) -> None:
        key = json.dumps({**extractor.facts(), "squash": extraction.squash}, sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()[:_KEY_LENGTH]
        self.folder = None if extraction.cache is None else extraction.cache / digest
        self.key = key
        self._places: dict[str, tuple[Path, int]] = {}
        if self.folder is not None and self.folder.is_dir():
            for path in sorted(self.folder.glob("*.safetensors")):
                self._index(path)

    def known(self, hashes: Sequence[str]) -> Mapping[str, Float[Tensor, " f"]]:
        """The features that are there, by the hash of the image."""
        by_file: dict[Path, list[tuple[str, int]]] = {}
        for one in set(hashes) & self._places.keys():
            path, row = self._places[one]
            by_file.setdefault(path, []).append((one, row))
        found = {}
        for path, rows in by_file.items():
            with safe_open(path, framework="pt") as file:
                features = file.get_tensor("features")
            found.update({one: features[row] for one, row in rows})
        return found

    def keep(self, hashes: Sequence[str], features: Float[Tensor, "b f"]) -> None:
        """Write the features of a batch."""
        if self.folder is None or not hashes:
            return
        name = hashlib.sha256("".join(hashes).encode()).hexdigest()[:_KEY_LENGTH]
        path = self.folder / f"{name}.safetensors"
        metadata = {_IMAGES: json.dumps(list(hashes)), "extractor": self.key}
        with replacing(path) as temporary:
            save_file({"features": features.contiguous()}, temporary, metadata=metadata)
        self._places.update({one: (path, row) for row, one in enumerate(hashes)})

    def _index(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                hashes = json.loads(file.metadata()[_IMAGES])
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no file of features ({error}); remove it, and they are taken again"
            ) from error
        self._places.update({one: (path, row) for row, one in enumerate(hashes)})


def _batch(
    batch: Sequence[ImageFile],
    extractor: FeatureExtractor,
    cache: FeatureCache,
    extraction: Extraction,
) -> Float[Tensor, "b f"]:
    hashes = [image.content_hash() for image in batch]
    found = dict(cache.known(hashes))
    fresh = {one: image for one, image in zip(hashes, batch, strict=True) if one not in found}
    if fresh:
        pixels = [image.load() for image in fresh.values()]
        if extraction.squash is not None:
            pixels = [squashed(image, extraction.squash) for image in pixels]
        features = extractor(pixels)
        wrong = ~torch.isfinite(features).all(dim=1)
        if wrong.any():
            first = list(fresh.values())[int(wrong.nonzero()[0])]
            raise ValueError(
                f"{extractor.name} gives NaN or infinity for {int(wrong.sum())} X-rays (first: "
                f"{first.id}); use another dtype, or look at the image"
            )
        cache.keep(list(fresh), features)
        found.update(zip(fresh, features, strict=True))
    return torch.stack([found[one] for one in hashes])
