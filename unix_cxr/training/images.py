"""X-rays of a recipe by number: kept in memory, or read from prepared shards.

Axes: b batch, s studies, h and w pixels, c latent channels, H and W latents.
"""

import random
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from unix_cxr.data.findings_text import describe
from unix_cxr.data.pixels import load_xray
from unix_cxr.data.prepared import PreparedStudies
from unix_cxr.data.studies import Labelled, Study
from unix_cxr.functional.images import resize_and_pad


class ImageStore(Protocol):
    """Square images of studies and their texts, by number."""

    def __len__(self) -> int:
        """Number of studies."""
        ...

    def __getitem__(self, indices: Int[Tensor, " b"]) -> Float[Tensor, "b 1 h w"]:
        """Images in [0, 1]."""
        ...

    def texts(self, indices: Int[Tensor, " b"], words: random.Random) -> list[str]:
        """Findings texts; where the wording is free, `words` draws it."""
        ...

    def labels(self, indices: Int[Tensor, " b"]) -> Sequence[Labelled]:
        """What is stated of the studies, and the collections that they belong to."""
        ...


class XRayStore:
    """Square 8-bit images of studies: one byte per pixel in memory.

    Args:
        studies: in the order of the store.
        size: side in pixels; the aspect ratio is kept and the rest is black.

    Raises:
        ValueError: there are no studies, or an image cannot be read.
    """

    def __init__(self, studies: Sequence[Study], size: int) -> None:
        if not studies:
            raise ValueError("there are no studies to read; check data.subsets and the splits")
        self.studies = list(studies)
        self.bytes: UInt8[Tensor, "s 1 h w"] = torch.stack(
            [_read(study, size) for study in tqdm(studies, "reading", unit="image", disable=None)]
        )

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, indices: Int[Tensor, " b"]) -> Float[Tensor, "b 1 h w"]:
        return self.bytes[indices].float() / 255

    def texts(self, indices: Int[Tensor, " b"], words: random.Random) -> list[str]:
        """Each study's own findings text, or one that states its labels, worded by `words`."""
        studies = [self.studies[index] for index in indices.tolist()]
        return [study.findings or describe(study, words) for study in studies]

    def labels(self, indices: Int[Tensor, " b"]) -> Sequence[Labelled]:
        """The studies themselves."""
        return [self.studies[index] for index in indices.tolist()]


class PreparedStore:
    """Images and cleaned texts of a prepared folder; nothing is kept in memory.

    Args:
        studies: one split of a prepared folder.
        size: side in pixels; must be the folder's.
        limit: keep only the first studies; None keeps all.

    Raises:
        ValueError: the folder was prepared at another size.
    """

    def __init__(self, studies: PreparedStudies, size: int, limit: int | None = None) -> None:
        prepared = studies.manifest.image_size
        if prepared != size:
            raise ValueError(
                f"{studies.folder} was prepared at {prepared} pixels, the recipe has "
                f"data.image_size {size}; set it to {prepared} or prepare the source again"
            )
        self.prepared = studies
        self._length = min(len(studies), limit or len(studies))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, indices: Int[Tensor, " b"]) -> Float[Tensor, "b 1 h w"]:
        return torch.from_numpy(self.prepared.images(indices.tolist()))[:, None].float() / 255

    def texts(self, indices: Int[Tensor, " b"], words: random.Random) -> list[str]:
        """The studies' cleaned texts."""
        return self.prepared.texts(indices.tolist())

    def labels(self, indices: Int[Tensor, " b"]) -> Sequence[Labelled]:
        """What the folder states of the studies."""
        return self.prepared.labels(indices.tolist())

    def moments(self, indices: Int[Tensor, " b"]) -> Float[Tensor, "b 2c H W"]:
        """Cached moments of the latents' posterior.

        Raises:
            ValueError: the folder was prepared without them.
        """
        return torch.from_numpy(self.prepared.moments(indices.tolist()))

    def features(self, indices: Int[Tensor, " b"]) -> Float[Tensor, "b n f"]:
        """Cached features of a vision tower.

        Raises:
            ValueError: the folder was prepared without them.
        """
        return torch.from_numpy(self.prepared.features(indices.tolist()))


def _read(study: Study, size: int) -> UInt8[Tensor, "1 h w"]:
    pixels = torch.from_numpy(load_xray(study.image).pixels)
    return (resize_and_pad(pixels[None, None], size)[0] * 255).round().to(torch.uint8)
