"""Reading a chest X-ray from a path, bytes, an array or a PIL image into honest pixels."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from unix_cxr.defaults import MAX_IMAGE_PIXELS

MIN_SIDE: Final = 16
_EIGHT_BITS: Final = 255
_SIXTEEN_BITS: Final = 65535
_LUMINANCE: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow weighs red, green and blue
_GREY_AXES: Final = 2
_COLOUR_AXES: Final = 3
_SCALES: Final = {"uint8": _EIGHT_BITS, "uint16": _SIXTEEN_BITS, "bool": 1}
_BROKEN: Final = (OSError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)

Source = str | Path | bytes | NDArray[np.generic] | Image.Image
"""What `load_xray` reads."""


@dataclass(frozen=True, eq=False)
class XRay:
    """One image: pixels in [0, 1], bright = dense, and where they came from.

    Args:
        pixels: [height, width], float32.
        source: a path, or the kind of object the pixels were read from.
    """

    pixels: Float[NDArray[np.float32], "h w"]
    source: str


def load_xray(source: Source, *, max_pixels: int = MAX_IMAGE_PIXELS) -> XRay:
    """Read an X-ray as float32 grey values in [0, 1].

    8-bit and 16-bit images are scaled by the full range of their type, never clipped. Colour is
    turned into luminance. The size is checked before anything is decoded.

    Args:
        source: a file path, the bytes of a file, a PIL image, or an array [h, w], [h, w, 1],
            [1, h, w] or [h, w, 3] of bool, uint8, uint16 or floats in [0, 1].
        max_pixels: larger images are refused.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: the path is a folder.
        ValueError: the image is too small, too large, corrupt, of an unknown format, or holds
            values that are not finite or outside [0, 1].
        TypeError: the source is none of the above.
    """
    if isinstance(source, np.ndarray):
        return XRay(_from_array(source, max_pixels), "array")
    if isinstance(source, Image.Image):
        return XRay(_from_pil(source, "PIL image", max_pixels), "PIL image")
    if isinstance(source, bytes):
        return XRay(_decode(io.BytesIO(source), "bytes", max_pixels), "bytes")
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; give the file of one image")
        if not path.is_file():
            raise FileNotFoundError(f"no image file at {path}")
        return XRay(_decode(path, str(path), max_pixels), str(path))
    raise TypeError(
        f"cannot read an X-ray from {type(source).__name__}; give a path, bytes, an array or a "
        "PIL image"
    )


def _decode(file: Path | io.BytesIO, name: str, max_pixels: int) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        # the size is judged here, per call, and not by Pillow's process-wide limit
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with _explaining(name), Image.open(file) as image:
            return _from_pil(image, name, max_pixels)


@contextmanager
def _explaining(name: str) -> Iterator[None]:
    """Say in one manner what the many readers of Pillow raise in many."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} is not an image that can be read; PNG, JPEG and TIFF are"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} is too large even for Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS: {error}"
        ) from error
    except PermissionError:
        raise
    except _BROKEN as error:
        raise ValueError(f"{name} is corrupt or cut off: {error}") from error


def _from_pil(image: Image.Image, name: str, max_pixels: int) -> NDArray[np.float32]:
    _check_size(image.size, name, max_pixels)
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise ValueError(f"{name} holds {frames} frames; give one image")
    with _explaining(name):
        image.load()
    return _check_values(_grey(image, name), name)


def _grey(image: Image.Image, name: str) -> NDArray[np.float32]:
    if image.mode in {"I;16", "I;16L", "I;16B"}:
        return _scaled(np.asarray(image), _SIXTEEN_BITS)
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > _SIXTEEN_BITS:
            raise ValueError(
                f"{name} is a 32-bit image with values {values.min()}..{values.max()}, which has "
                "no known scale; convert it to 8 or 16 bits"
            )
        return _scaled(values, _SIXTEEN_BITS)
    if image.mode in {"F", "1"}:
        return _scaled(np.asarray(image), 1)
    if "A" in image.getbands():
        image = Image.alpha_composite(
            Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA")
        )
    try:
        return _scaled(np.asarray(image.convert("L")), _EIGHT_BITS)
    except ValueError as error:
        raise ValueError(f"{name} has mode {image.mode!r}, which has no grey version") from error


def _from_array(array: NDArray[np.generic], max_pixels: int) -> NDArray[np.float32]:
    grey = array
    if array.ndim == _COLOUR_AXES and array.shape[0] == 1:
        grey = array[0]
    elif array.ndim == _COLOUR_AXES and array.shape[-1] == 1:
        grey = array[..., 0]
    coloured = grey.ndim == _COLOUR_AXES and grey.shape[-1] == len(_LUMINANCE)
    if grey.ndim != _GREY_AXES and not coloured:
        raise ValueError(
            f"an X-ray array must be [h, w], [h, w, 1], [1, h, w] or [h, w, 3], not "
            f"{list(array.shape)}"
        )
    _check_size((grey.shape[1], grey.shape[0]), "array", max_pixels)
    scale = 1 if np.issubdtype(array.dtype, np.floating) else _SCALES.get(array.dtype.name)
    if scale is None:
        raise ValueError(
            f"an X-ray array of {array.dtype} has no known scale; give uint8, uint16 or floats in "
            "[0, 1]"
        )
    pixels = _check_values(_scaled(grey, scale), "array")
    if coloured:
        pixels = _scaled(np.minimum(pixels @ np.asarray(_LUMINANCE, dtype=np.float32), 1), 1)
    return pixels


def _scaled(values: NDArray[np.generic], full: int) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = np.divide(values, np.float32(full), dtype=np.float32)
    return scaled


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if min(width, height) < MIN_SIDE:
        raise ValueError(
            f"{name} has {width}x{height} pixels; an X-ray needs at least {MIN_SIDE} on each side"
        )
    if width * height > max_pixels:
        raise ValueError(
            f"{name} has {width}x{height} = {width * height:,} pixels, more than the limit of "
            f"{max_pixels:,}; shrink it or pass max_pixels"
        )


def _check_values(pixels: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    if not np.isfinite(pixels).all():
        raise ValueError(f"{name} holds values that are not finite")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"{name} holds floats from {low:.4g} to {high:.4g}; scale them to [0, 1] first"
        )
    return pixels
