"""Reading a chest X-ray from a file, bytes, an array or an image into honest pixels."""

import io
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from unix_cxr.data.arrays import NPY_MAGIC, read_array, read_npy
from unix_cxr.data.facts import Decoded, SourceFacts, Spacing, most_bytes
from unix_cxr.data.pictures import read_image, read_picture
from unix_cxr.defaults import MAX_IMAGE_PIXELS

_HEAD_BYTES: Final = 132
_DICOM_MAGIC: Final = b"DICM"  # the last of them
_DICOM_GROUPS: Final = (b"\x02\x00", b"\x08\x00")  # the first groups of a dataset


class DicomDataset(Protocol):
    """A `pydicom.Dataset`, which is named here without importing pydicom."""

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - pydicom's own
        """Value of an element by its keyword."""


Source = str | Path | bytes | NDArray[np.generic] | Image.Image | DicomDataset
"""What `load_xray` reads."""


@dataclass(frozen=True, eq=False)
class XRay:
    """One image: pixels in [0, 1], bright = dense, and where they came from.

    Args:
        pixels: [height, width], float32.
        source: a path, or the kind of object the pixels were read from.
        spacing_mm: distance of neighbouring rows and of neighbouring columns; None where the
            source does not tell. `facts.spacing_source` says what kind of distance it is.
        view: "AP", "PA", "LATERAL", or "" where the source does not tell.
        facts: what is known of the file; nothing of a patient.
    """

    pixels: Float[NDArray[np.float32], "h w"]
    source: str
    spacing_mm: Spacing | None = None
    view: str = ""
    facts: SourceFacts = field(default_factory=SourceFacts)

    def square(self, size: int) -> "XRay":
        """The whole picture on a black square: aspect ratio kept, antialiased, centred.

        Args:
            size: side of the square in pixels.

        Raises:
            ValueError: the picture is so elongated that its short side would vanish.
        """
        import torch

        from unix_cxr.functional.images import resize_and_pad

        pixels = resize_and_pad(torch.from_numpy(self.pixels)[None, None], size)[0, 0].numpy()
        factor = max(self.pixels.shape) / size
        spacing = self.spacing_mm
        if spacing is not None:
            spacing = Spacing(spacing.row * factor, spacing.column * factor)
        return replace(self, pixels=pixels, spacing_mm=spacing)


def load_xray(source: Source, *, max_pixels: int = MAX_IMAGE_PIXELS, window: int = 0) -> XRay:
    """Read an X-ray as float32 grey values in [0, 1], bright = dense.

    8-bit and 16-bit images are scaled by the full range of their type, never clipped. Colour is
    turned into luminance. DICOM goes through its modality LUT and its window, and is inverted once
    if it is MONOCHROME1; padding is black. The size is checked before anything is decoded.

    Args:
        source: a path, the bytes of a file (DICOM, PNG, JPEG, TIFF, .npy), a PIL image, a
            `pydicom.Dataset`, or an array [h, w], [h, w, 1], [1, h, w] or [h, w, 3] of bool,
            uint8, uint16 or floats in [0, 1].
        max_pixels: larger images are refused.
        window: which of a DICOM's views to take: its VOI LUTs come first, then its windows.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: the path is a folder.
        ImportError: the source is DICOM, and pydicom or a decoder is not installed.
        ValueError: the image is too small, too large, corrupt, of an unknown format, no single
            grey picture, or holds values that are not finite or outside [0, 1].
        TypeError: the source is none of the above.
    """
    name, decoded = _decode(source, max_pixels, window)
    if window and decoded.facts.format != "DICOM":
        raise ValueError(
            f"window {window} was asked of {name}, which is {decoded.facts.format}; only DICOM has "
            "windows"
        )
    return XRay(decoded.pixels, name, decoded.spacing_mm, decoded.view, decoded.facts)


def _decode(source: Source, max_pixels: int, window: int) -> tuple[str, Decoded]:
    if isinstance(source, np.ndarray):
        return "array", read_array(source, "array", max_pixels)
    if isinstance(source, Image.Image):
        return "PIL image", read_image(source, "PIL image", max_pixels)
    if isinstance(source, bytes):
        return "bytes", _read_bytes(source, "bytes", max_pixels, window)
    if isinstance(source, str | Path):
        return str(source), _read_path(Path(source), max_pixels, window)
    if _is_dataset(source):
        from unix_cxr.data.dicom import read_dataset

        return "DICOM dataset", read_dataset(source, "DICOM dataset", max_pixels, window)
    raise TypeError(
        f"cannot read an X-ray from {type(source).__name__}; give a path, bytes, an array, a PIL "
        "image or a pydicom dataset"
    )


def _read_path(path: Path, max_pixels: int, window: int) -> Decoded:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the file of one image")
    if not path.is_file():
        raise FileNotFoundError(f"no image file at {path}")
    with path.open("rb") as file:
        if not _is_whole(file.read(_HEAD_BYTES)):
            return read_picture(path, str(path), max_pixels)
        size, limit = os.fstat(file.fileno()).st_size, most_bytes(max_pixels)
        if size > limit:
            raise ValueError(
                f"{path} has {size:,} bytes, more than one X-ray of {max_pixels:,} pixels needs "
                f"({limit:,}); pass max_pixels if it is one"
            )
        file.seek(0)
        return _read_bytes(file.read(), str(path), max_pixels, window)


def _read_bytes(data: bytes, name: str, max_pixels: int, window: int) -> Decoded:
    head = data[:_HEAD_BYTES]
    if head.startswith(NPY_MAGIC):
        return read_npy(data, name, max_pixels)
    if head.endswith(_DICOM_MAGIC):
        from unix_cxr.data.dicom import read_file

        return read_file(data, name, max_pixels, window)
    if head[:2] in _DICOM_GROUPS and head[3:4] == b"\0":
        raise ValueError(
            f"{name} looks like DICOM without its preamble (no DICM at byte 128); if it is, give "
            "the dataset: load_xray(pydicom.dcmread(path, force=True))"
        )
    return read_picture(io.BytesIO(data), name, max_pixels)


def _is_whole(head: bytes) -> bool:
    """Whether a file is read as a whole; Pillow reads the others piece by piece."""
    return head.startswith((NPY_MAGIC, *_DICOM_GROUPS)) or head.endswith(_DICOM_MAGIC)


def _is_dataset(source: object) -> bool:
    module = sys.modules.get("pydicom.dataset")  # without it there can be no dataset
    return module is not None and isinstance(source, module.Dataset)
