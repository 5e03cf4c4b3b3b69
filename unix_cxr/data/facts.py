"""What every reader of pictures shares: limits that come before decoding, and facts of the file."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

MIN_SIDE: Final = 16
_MOST_BYTES_PER_PIXEL: Final = 8
_SPARE_BYTES: Final = 64 << 20  # headers, icons and the like


class Spacing(NamedTuple):
    """Distance between the centres of neighbouring pixels, in millimetres."""

    row: float
    column: float


@dataclass(frozen=True)
class SourceFacts:
    """What is known of the file that an X-ray came from; nothing of it comes from a patient's tag.

    Every text is one of a fixed set of words or made of numbers: free text is never taken over.

    Args:
        format: "DICOM", "PNG", "JPEG", "TIFF", "NPY", "array", ...
        original_size: rows and columns as stored.
        bits_stored: bits of a stored value; 32 for floats.
        modality: "CR", "DX", "RG", "OT" or "", of DICOM alone, as all that follows.
        photometric: "MONOCHROME1" or "MONOCHROME2".
        transfer_syntax: name of the encoding.
        window: what mapped the stored values to [0, 1].
        inverted: whether the picture was turned round because bright meant thin.
        spacing_source: "PixelSpacing", "ImagerPixelSpacing" (at the detector, not in the patient)
            or "".
        burned_in: whether the file says that text is part of the picture: "YES", "NO" or "".
        synthetic: whether the file says that the picture is made up: "YES", "NO" or "".
        notes: what was odd about the file and what was done.
    """

    format: str = ""
    original_size: tuple[int, int] = (0, 0)
    bits_stored: int = 0
    modality: str = ""
    photometric: str = ""
    transfer_syntax: str = ""
    window: str = ""
    inverted: bool = False
    spacing_source: str = ""
    burned_in: str = ""
    synthetic: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a reader of one format makes of a file.

    Args:
        pixels: [height, width], float32 in [0, 1], bright = dense.
        facts: of the file.
        spacing_mm: of neighbouring rows and columns, if the file tells it.
        view: "AP", "PA", "LATERAL" or "".
    """

    pixels: Float[NDArray[np.float32], "h w"]
    facts: SourceFacts
    spacing_mm: Spacing | None = None
    view: str = ""


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Refuse a picture by its header, before anything is decoded.

    Raises:
        ValueError: the picture is too small or too large.
    """
    if min(width, height) < MIN_SIDE:
        raise ValueError(
            f"{name} has {width}x{height} pixels; an X-ray needs at least {MIN_SIDE} on each side"
        )
    if width * height > max_pixels:
        raise ValueError(
            f"{name} has {width}x{height} = {width * height:,} pixels, more than the limit of "
            f"{max_pixels:,}; shrink it or pass max_pixels"
        )


def most_bytes(max_pixels: int) -> int:
    """More bytes than the file of one X-ray of so many pixels needs."""
    return max_pixels * _MOST_BYTES_PER_PIXEL + _SPARE_BYTES


def scaled(values: NDArray[np.generic], full: int) -> NDArray[np.float32]:
    """Stored values as float32 shares of the largest value of their type, in an array of its own.

    Converting first takes half the time of dividing integers into floats.
    """
    shares = values.astype(np.float32)
    if full != 1:
        shares /= np.float32(full)
    return shares


def check_values(pixels: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """The same pixels, if all are finite and in [0, 1].

    Raises:
        ValueError: they are not; the message names the range.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite(low + high):  # NaN goes through minimum and maximum
        raise ValueError(f"{name} holds values that are not finite")
    if low < 0 or high > 1:
        raise ValueError(
            f"{name} holds floats from {low:.4g} to {high:.4g}; scale them to [0, 1] first"
        )
    return pixels
