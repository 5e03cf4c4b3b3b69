"""Writing pixels as PNG of 8 or 16 bits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, UInt
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unix_cxr.data.facts import check_values
from unix_cxr.files import replacing

_TYPES: Final = {8: np.uint8, 16: np.uint16}
_GREY_AXES: Final = 2
_LATIN_KEY: Final = 79  # a PNG keyword's longest


def to_integers(
    pixels: Float[NDArray[np.floating], "h w"], bits: int
) -> UInt[NDArray[np.unsignedinteger], "h w"]:
    """Grey values in [0, 1] as the nearest whole numbers of 8 or 16 bits.

    Raises:
        ValueError: `bits` is neither, or the pixels are no picture [h, w] in [0, 1].
    """
    if bits not in _TYPES:
        raise ValueError(f"bits is {bits}; 8 and 16 can be written")
    if pixels.ndim != _GREY_AXES or not pixels.size:
        raise ValueError(f"pixels must be [h, w], not {list(pixels.shape)}")
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"pixels are {pixels.dtype}; give floats in [0, 1]")
    check_values(pixels, "the picture")
    whole: NDArray[np.unsignedinteger] = np.rint(pixels * (2**bits - 1)).astype(_TYPES[bits])
    return whole


def write_png(
    path: str | Path,
    pixels: Float[NDArray[np.floating], "h w"],
    *,
    bits: int = 8,
    texts: Mapping[str, str] | None = None,
    xmp: str = "",
) -> None:
    """Write a grey PNG, which appears whole or not at all.

    Args:
        path: of the file.
        pixels: in [0, 1], bright = dense; `load_xray` reads 16 bits back to within half of
            1/65535.
        bits: 8 or 16 for each pixel.
        texts: what the file says of itself, by keyword.
        xmp: an XMP packet to store as it is.

    Raises:
        ValueError: the pixels are no picture in [0, 1], or a keyword is not 1 to 79 letters long.
        OSError: the disk is full or read-only.
    """
    whole = to_integers(pixels, bits)
    info = PngInfo()
    for keyword, text in (texts or {}).items():
        if not (0 < len(keyword) <= _LATIN_KEY and keyword.isascii() and keyword.isprintable()):
            raise ValueError(f"{keyword!r} is no PNG keyword: 1 to 79 ASCII letters")
        info.add_itxt(keyword, text)
    if xmp:
        info.add_itxt("XML:com.adobe.xmp", xmp)
    with replacing(path) as temporary:
        Image.fromarray(whole).save(temporary, format="PNG", pnginfo=info)
