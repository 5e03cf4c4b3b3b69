"""X-rays from PNG, JPEG, TIFF and the other picture files that Pillow reads."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from unix_cxr.data.facts import Decoded, SourceFacts, check_size, check_values, scaled

Pixels = Float[NDArray[np.float32], "h w"]

_FORMATS: Final = ("PNG", "JPEG", "TIFF", "JPEG2000", "BMP", "PPM", "WEBP", "GIF")
_EIGHT_BITS: Final = 255
_SIXTEEN_BITS: Final = 65535
_BROKEN: Final = (
    OSError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_TIFF_BITS: Final = 258
_TIFF_PHOTOMETRIC: Final = 262
_WHITE_IS_ZERO: Final = 0
_ORIENTATION: Final = 0x0112
_PLAIN: Final = {
    ("L", ("L", 0, 1)): "u1",
    ("I;16", ("I;16", 0, 1)): "<u2",
    ("I;16B", ("I;16B", 0, 1)): ">u2",
}
"""Types of values that a TIFF stores as they are, by Pillow's mode and what its decoder is told."""
_TURNED: Final[dict[int, Callable[[Pixels], Pixels]]] = {
    2: np.fliplr,
    3: lambda pixels: pixels[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda pixels: np.flipud(pixels).T,
    7: lambda pixels: pixels[::-1, ::-1].T,
    8: lambda pixels: np.fliplr(pixels).T,
}
"""How the stored rows become what a viewer shows, by the orientation that EXIF tells."""


def read_picture(file: Path | io.BytesIO, name: str, max_pixels: int) -> Decoded:
    """Grey values of a picture file.

    Raises:
        ValueError: the file is no picture, too large, corrupt, or holds several pictures.
    """
    with _explaining(name):
        image = Image.open(file, formats=_FORMATS)
    with image:
        return read_image(image, name, max_pixels)


def read_image(image: Image.Image, name: str, max_pixels: int) -> Decoded:
    """Grey values of a PIL image, opened or made.

    Raises:
        ValueError: it is too large, corrupt, or has several frames or no known scale.
    """
    width, height = image.size
    check_size(width, height, name, max_pixels)
    with _explaining(name):
        frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise ValueError(f"{name} holds {frames} frames; give one image")
    tags = getattr(image, "tag_v2", {})
    bits, photometric = tags.get(_TIFF_BITS, (16,)), tags.get(_TIFF_PHOTOMETRIC)
    full = 2 ** bits[0] - 1 if image.mode.startswith("I;16") else _SIXTEEN_BITS
    with _explaining(name):
        plain, orientation = _uncompressed(image), 1
        if plain is None:
            image.load()
            orientation = image.getexif().get(_ORIENTATION, 1)
    if plain is None:
        decoded = _grey(image, name, full)
    else:
        decoded = _of(plain, full if plain.itemsize > 1 else _EIGHT_BITS)
    pixels = decoded.pixels
    # Pillow turns 8 bits round, but not 16
    inverted = photometric == _WHITE_IS_ZERO and image.mode.startswith("I")
    if inverted:
        pixels = 1 - pixels
    if orientation in _TURNED:
        pixels = np.ascontiguousarray(_TURNED[orientation](pixels))
    facts = replace(
        decoded.facts,
        format=image.format or "PIL image",
        original_size=(height, width),
        inverted=photometric == _WHITE_IS_ZERO,
    )
    return replace(decoded, pixels=pixels, facts=facts)


def _uncompressed(image: Image.Image) -> NDArray[np.unsignedinteger] | None:
    """Stored values of a grey TIFF without compression; None of others, turned ones or cut ones.

    Pillow copies such values four times, which takes longer than all else that is done with them.
    """
    file: Any = getattr(image, "fp", None)
    tiles = getattr(image, "tile", None)
    if image.format != "TIFF" or not tiles or not hasattr(file, "readinto"):
        return None
    expected = tiles[0][3]
    kind = _PLAIN.get((image.mode, expected))
    if kind is None or image.getexif().get(_ORIENTATION, 1) != 1:
        return None
    width, height = image.size
    values, done = np.empty((height, width), dtype=kind), 0
    for codec, (left, top, right, bottom), offset, options in tiles:
        if (codec, options, left, top, right) != ("raw", expected, 0, done, width):
            return None
        file.seek(offset)
        strip = values[top:bottom].data.cast("B")
        if file.readinto(strip) != strip.nbytes:
            return None
        done = bottom
    return values if done == height else None


@contextmanager
def _explaining(name: str) -> Iterator[None]:
    """Say in one manner what the many readers of Pillow raise in many."""
    try:
        with warnings.catch_warnings():
            # the size is judged here, per call, and not by Pillow's process-wide limit
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} is not an image that can be read; PNG, JPEG, TIFF, DICOM and NumPy are"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} is too large even for Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS: {error}"
        ) from error
    except PermissionError:
        raise
    except _BROKEN as error:
        raise ValueError(f"{name} is corrupt or cut off: {error}") from error


def _grey(image: Image.Image, name: str, full: int) -> Decoded:
    if image.mode in {"I;16", "I;16L", "I;16B", "I;16N"}:
        return _of(np.asarray(image), full)
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > _SIXTEEN_BITS:
            raise ValueError(
                f"{name} is a 32-bit image with values {values.min()}..{values.max()}, which has "
                "no known scale; convert it to 8 or 16 bits"
            )
        return _of(values, _SIXTEEN_BITS)
    if image.mode in {"F", "1"}:
        pixels = check_values(scaled(np.asarray(image), 1), name)
        return Decoded(pixels, SourceFacts(bits_stored=32 if image.mode == "F" else 1))
    if image.mode == "L":
        return _of(np.asarray(image), _EIGHT_BITS)
    if image.has_transparency_data:
        image = Image.alpha_composite(
            Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA")
        )
    try:
        return _of(np.asarray(image.convert("L")), _EIGHT_BITS)
    except ValueError as error:
        raise ValueError(f"{name} has mode {image.mode!r}, which has no grey version") from error


def _of(values: NDArray[np.generic], full: int) -> Decoded:
    return Decoded(scaled(values, full), SourceFacts(bits_stored=full.bit_length()))
