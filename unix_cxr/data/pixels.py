"""Reading a chest X-ray from a path, bytes, an array or a PIL image into honest pixels."""

import io
import warnings
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
            [1, h, w] or [h, w, 3] of uint8, uint16 or floats in [0, 1].
        max_pixels: larger images are refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the image is too small, too large, corrupt, of an unknown format, or holds
            values that are not finite or outside [0, 1].
        TypeError: the source is none of the above.
    """
    if isinstance(source, np.ndarray):
        return XRay(_check(_from_array(source), "array", max_pixels), "array")
    if isinstance(source, Image.Image):
        _check_size(source.size, "PIL image", max_pixels)
        return XRay(_check(_from_pil(source), "PIL image", max_pixels), "PIL image")
    if isinstance(source, bytes):
        return XRay(_decode(io.BytesIO(source), "bytes", max_pixels), "bytes")
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no image file at {path}")
        return XRay(_decode(path, str(path), max_pixels), str(path))
    raise TypeError(
        f"cannot read an X-ray from {type(source).__name__}; give a path, bytes, an array or a "
        "PIL image"
    )


def _decode(file: Path | io.BytesIO, name: str, max_pixels: int) -> NDArray[np.float32]:
    try:
        with warnings.catch_warnings():
            # the size is judged here, per call, and not by Pillow's process-wide limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                _check_size(image.size, name, max_pixels)
                if getattr(image, "n_frames", 1) != 1:
                    raise ValueError(
                        f"{name} holds {getattr(image, 'n_frames', 0)} frames; give one image"
                    )
                image.load()
                return _check(_from_pil(image), name, max_pixels)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} is not an image that can be read; PNG, JPEG and TIFF are"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}; the limit is {max_pixels:,} px") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{name} is corrupt or cut off: {error}") from error


def _from_pil(image: Image.Image) -> NDArray[np.float32]:
    if image.mode in {"I;16", "I;16L", "I;16B"}:
        return np.asarray(image, dtype=np.float32) / _SIXTEEN_BITS
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > _SIXTEEN_BITS:
            raise ValueError(
                f"a 32-bit image with values {values.min()}..{values.max()} has no known scale; "
                "convert it to 8 or 16 bits"
            )
        return values.astype(np.float32) / _SIXTEEN_BITS
    if image.mode == "F":
        return np.asarray(image, dtype=np.float32)
    if image.mode == "1":
        return np.asarray(image, dtype=np.float32)
    if image.mode in {"RGBA", "LA", "PA"}:
        image = Image.alpha_composite(
            Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA")
        )
    return np.asarray(image.convert("L"), dtype=np.float32) / _EIGHT_BITS


def _from_array(array: NDArray[np.generic]) -> NDArray[np.float32]:
    if array.ndim == 3:  # noqa: PLR2004 - an axis of channels
        if array.shape[0] == 1:
            array = array[0]
        elif array.shape[-1] == 1:
            array = array[..., 0]
        elif array.shape[-1] == 3:  # noqa: PLR2004 - red, green, blue
            array = (
                np.asarray(Image.fromarray(array.astype(np.uint8)).convert("L"))
                if (array.dtype == np.uint8)
                else array.mean(axis=-1, dtype=np.float64)
            )
    if array.ndim != 2:  # noqa: PLR2004
        raise ValueError(
            f"an X-ray array must be [h, w], [h, w, 1], [1, h, w] or [h, w, 3], not "
            f"{list(array.shape)}"
        )
    if array.dtype == np.uint8:
        return array.astype(np.float32) / _EIGHT_BITS
    if array.dtype == np.uint16:
        return array.astype(np.float32) / _SIXTEEN_BITS
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    raise ValueError(
        f"an X-ray array of {array.dtype} has no known scale; give uint8, uint16 or floats in "
        "[0, 1]"
    )


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


def _check(pixels: NDArray[np.float32], name: str, max_pixels: int) -> NDArray[np.float32]:
    _check_size((pixels.shape[1], pixels.shape[0]), name, max_pixels)
    if not np.isfinite(pixels).all():
        raise ValueError(f"{name} holds values that are not finite")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"{name} holds floats from {low:.4g} to {high:.4g}; scale them to [0, 1] first"
        )
    return pixels
