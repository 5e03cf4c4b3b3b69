"""Images that are the same picture: a perceptual hash, and groups of hashes that are near.

Axes: n images, m images of a block, k bytes of a hash, h rows, w columns.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

MAX_DISTANCE: Final = 32
"""Bits in which two hashes of one picture may differ; docs/guides/corpora says what that finds."""

HASH_BYTES: Final = 32

_SIDE: Final = 64
_LOW: Final = 16
_BITS: Final = HASH_BYTES * 8
_BLOCK: Final = 2048


def perceptual_hash(pixels: Float[NDArray[np.float32], "h w"]) -> UInt8[NDArray[np.uint8], " k"]:
    """255 bits that change little with size, compression and brightness.

    The picture is shrunk to 64 × 64, squashed if need be; each bit says whether one of its lowest
    16 × 16 cosine coefficients (but the mean) is above their median.
    """
    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    coefficients = dctn(np.asarray(small, dtype=np.float64), norm="ortho")[:_LOW, :_LOW].ravel()[1:]
    bits: NDArray[np.uint8] = np.packbits(coefficients > np.median(coefficients))
    return bits


def near_pairs(
    hashes: UInt8[NDArray[np.uint8], "n k"], *, distance: int = MAX_DISTANCE
) -> Iterator[tuple[int, int, int]]:
    """Every pair of images whose hashes differ in at most `distance` bits, and in how many.

    Every pair is compared, block by block: nothing is missed, and memory stays small. A search by
    bands of the hash would miss pairs here: bands that are sure to find 32 changed bits of 256
    would be 7 bits long, and chests agree in most of those.

    Raises:
        ValueError: hashes have another size, or the distance is not between 0 and 127.
    """
    if hashes.ndim != 2 or hashes.shape[1] != HASH_BYTES:  # noqa: PLR2004 - a table of hashes
        raise ValueError(f"hashes must be [n, {HASH_BYTES}], not {list(hashes.shape)}")
    if not 0 <= distance < _BITS // 2:
        raise ValueError(f"distance ({distance}) must be between 0 and {_BITS // 2 - 1} bits")
    for top in range(0, len(hashes), _BLOCK):
        rows = _signs(hashes[top : top + _BLOCK])
        for left in range(top, len(hashes), _BLOCK):
            agreement = rows @ _signs(hashes[left : left + _BLOCK]).T
            near = np.argwhere(agreement >= _BITS - 2 * distance)
            for first, second in near.tolist():
                if top + first < left + second:
                    differing = round((_BITS - float(agreement[first, second])) / 2)
                    yield top + first, left + second, differing


def near_groups(
    hashes: UInt8[NDArray[np.uint8], "n k"], *, distance: int = MAX_DISTANCE
) -> list[list[int]]:
    """Groups of two and more images that are near, or linked by images that are; by first number.

    Raises:
        ValueError: as `near_pairs` does.
    """
    parent = list(range(len(hashes)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for first, second, _ in near_pairs(hashes, distance=distance):
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for number in range(len(hashes)):
        groups.setdefault(root(number), []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def _signs(hashes: UInt8[NDArray[np.uint8], "m k"]) -> NDArray[np.float32]:
    """Bits as -1 and 1: the product of two rows is what agrees less what differs."""
    bits = np.unpackbits(hashes, axis=1).astype(np.float32)
    signs: NDArray[np.float32] = 2 * bits - 1
    return signs
