"""X-rays of a recipe, decoded once and kept as bytes in memory."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from unix_cxr.data.pixels import load_xray
from unix_cxr.data.studies import Study
from unix_cxr.functional.images import resize_and_pad


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


def _read(study: Study, size: int) -> UInt8[Tensor, "1 h w"]:
    pixels = torch.from_numpy(load_xray(study.image).pixels)
    return (resize_and_pad(pixels[None, None], size)[0] * 255).round().to(torch.uint8)
