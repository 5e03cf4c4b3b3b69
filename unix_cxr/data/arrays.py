"""X-rays from NumPy arrays and `.npy` files."""

import io
import math
import warnings
from dataclasses import replace
from tokenize import TokenError
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unix_cxr.data.facts import Decoded, SourceFacts, check_size, check_values, scaled

NPY_MAGIC: Final = b"\x93NUMPY"
_LUMINANCE: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow weighs red, green and blue
_GREY_AXES: Final = 2
_COLOUR_AXES: Final = 3
_FULL_SCALES: Final = {"uint8": 255, "uint16": 65535, "bool": 1}
_BROKEN: Final = (
    AttributeError,
    MemoryError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    TokenError,
)
"""What NumPy raises while it reads a header that is Python's own notation."""

_READERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_array(array: NDArray[np.generic], name: str, max_pixels: int) -> Decoded:
    """Grey values of an array [h, w], [h, w, 1], [1, h, w] or [h, w, 3].

    Args:
        array: of bool, uint8, uint16 (scaled by the full range of the type) or floats in [0, 1].
        name: what messages call it.
        max_pixels: larger arrays are refused.

    Raises:
        ValueError: the array has another shape or type, or values outside [0, 1].
    """
    height, width, *colours = shape = _picture_shape(array.shape)
    check_size(width, height, name, max_pixels)
    full = _full_scale(array.dtype)
    with np.errstate(over="ignore"):  # what is too large for float32 is outside [0, 1]
        pixels = scaled(array.reshape(shape), full)
    if np.issubdtype(array.dtype, np.floating):
        check_values(pixels, name)
    if colours:
        pixels = scaled(np.minimum(pixels @ np.asarray(_LUMINANCE, dtype=np.float32), 1), 1)
    bits = full.bit_length() if array.dtype.kind in "ub" else 8 * array.dtype.itemsize
    return Decoded(pixels, SourceFacts("array", (height, width), bits))


def read_npy(data: bytes, name: str, max_pixels: int) -> Decoded:
    """The array of a `.npy` file; shape and size are judged before the values are touched.

    Raises:
        ValueError: the file is cut off, holds Python objects, or is no X-ray.
    """
    file = io.BytesIO(data)
    shape, dtype = _header(file, name)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are never unpickled; save numbers")
    height, width = _picture_shape(shape)[:2]
    check_size(width, height, name, max_pixels)
    _full_scale(dtype)
    needed, there = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if there < needed:
        raise ValueError(f"{name} is cut off: its header needs {needed:,} bytes, {there:,} follow")
    file.seek(0)
    decoded = read_array(np.lib.format.read_array(file, allow_pickle=False), name, max_pixels)
    return replace(decoded, facts=replace(decoded.facts, format="NPY"))


def _header(file: io.BytesIO, name: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            version = np.lib.format.read_magic(file)
            shape, _, dtype = _READERS[version](file)
    except KeyError as error:
        raise ValueError(f"{name} has version {error} of the NumPy format, not (1, 0)") from error
    except _BROKEN as error:
        raise ValueError(f"{name} is a corrupt NumPy file: {error}") from error
    return shape, dtype


def _picture_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[h, w] or [h, w, 3], whatever axis of one channel there is."""
    picture = shape
    if len(shape) == _COLOUR_AXES and shape[0] == 1:
        picture = shape[1:]
    elif len(shape) == _COLOUR_AXES and shape[-1] == 1:
        picture = shape[:2]
    coloured = len(picture) == _COLOUR_AXES and picture[-1] == len(_LUMINANCE)
    if len(picture) != _GREY_AXES and not coloured:
        raise ValueError(
            f"an X-ray array must be [h, w], [h, w, 1], [1, h, w] or [h, w, 3], not {list(shape)}"
        )
    return picture


def _full_scale(dtype: np.dtype[np.generic]) -> int:
    full = 1 if np.issubdtype(dtype, np.floating) else _FULL_SCALES.get(dtype.name)
    if full is None:
        raise ValueError(
            f"an X-ray array of {dtype} has no known scale; give uint8, uint16 or floats in [0, 1]"
        )
    return full
