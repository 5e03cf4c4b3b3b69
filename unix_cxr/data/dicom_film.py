"""Pixels of a DICOM image as they are stored: patterns of bits, and the numbers they stand for."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt
from numpy.typing import NDArray

from unix_cxr.data.dicom_header import Header

BYTE: Final = 8
SIXTEEN: Final = 16
BLOCK: Final = 1 << 18
"""Pixels that are handled at once, so that they stay in the cache."""

Values = Float[NDArray[np.float64], " v"]
Flags = Bool[NDArray[np.bool_], " v"]
Patterns = UInt[NDArray[np.unsignedinteger], " p"]
Entry = TypeVar("Entry", bound=np.generic)


@dataclass(frozen=True, eq=False)
class StoredValues:
    """Every pattern of bits that a pixel can hold, and the number that it stands for.

    Args:
        numbers: by pattern.
        legal: patterns whose unused bits are empty, or hold the sign, or an overlay.
        bits: used of each pattern.
        signed: whether the numbers have a sign.
    """

    numbers: Values
    legal: Flags
    bits: int
    signed: bool


@dataclass(frozen=True, eq=False)
class Film:
    """Stored pixels of an image.

    Args:
        patterns: of bits, as the file holds them.
        stored: numbers by pattern; unsigned ones end where no pattern follows that is legal or
            occurs.
        padding: numbers that are no part of the picture.
        span: smallest and largest word, padding included.
    """

    patterns: UInt[NDArray[np.unsignedinteger], "h w"]
    stored: StoredValues
    padding: range
    span: tuple[int, int]

    @property
    def words(self) -> Integer[NDArray[np.integer], " p"]:
        """Patterns as whole numbers of their length; the stored numbers where all bits are used."""
        return _words(self.patterns, signed=self.stored.signed)

    @cached_property
    def padded(self) -> Flags:
        """Patterns that are padding."""
        padded = np.zeros(2 ** (BYTE * self.patterns.itemsize), dtype=np.bool_)
        padded[np.arange(self.padding.start, self.padding.stop) % len(padded)] = True
        return padded[: len(self.stored.numbers)]

    def is_padding(self, patterns: Patterns) -> Bool[NDArray[np.bool_], " p"]:
        """Which of these patterns are padding."""
        if not self.padding:
            return np.zeros(patterns.shape, dtype=np.bool_)
        kind = patterns.dtype.type
        first = kind(self.padding.start % 2 ** (BYTE * patterns.itemsize))
        inside: Bool[NDArray[np.bool_], " p"] = patterns == first
        if len(self.padding) > 1:
            inside = patterns - first <= kind(len(self.padding) - 1)
        return inside

    def occurring(self) -> Flags:
        """Patterns that occur outside the padding."""
        occurs = np.zeros(len(self.stored.numbers), dtype=np.bool_)
        flat = self.patterns.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            occurs[flat[start : start + BLOCK]] = True
        return occurs & ~self.padded

    def extremes(self) -> Flags:
        """Patterns of the smallest and the largest number that occur outside the padding.

        All that occur, where the words are not the numbers.
        """
        low, high = self._span_inside()
        numbers = by_word(self.stored.numbers, low, high)
        if not np.array_equal(numbers, np.arange(low, high + 1)):
            return self.occurring()
        found = np.zeros(len(self.stored.numbers), dtype=np.bool_)
        if low <= high:
            found[[low, high]] = True
        return found & ~self.padded

    def _span_inside(self) -> tuple[int, int]:
        """Smallest and largest word outside the padding; the wrong way round if there is none.

        Padding at one end of the span is passed over by counting from its other side, in the
        unsigned arithmetic of the patterns: what is padding is then far, and the rest near.
        """
        low, high = self.span
        patterns, count = self.patterns.reshape(-1), 2 ** (BYTE * self.patterns.itemsize)
        kind = patterns.dtype.type
        if self.padded[low]:
            after = self.padding.stop % count
            low += (after - low) % count + int((patterns - kind(after)).min())
        if self.padded[high]:
            before = (self.padding.start - 1) % count
            high -= (high - before) % count + int((kind(before) - patterns).min())
        return low, high


def read_film(
    header: Header, stored: StoredValues, patterns: UInt[NDArray[np.unsignedinteger], "h w"]
) -> Film:
    """The pixels of an image with what they stand for.

    Raises:
        ValueError: the padding is no whole number.
    """
    patterns = np.ascontiguousarray(patterns)
    words = _words(patterns, signed=stored.signed)
    low, high = int(words.min()), int(words.max())
    if not stored.signed:
        count = max(len(stored.legal) - int(stored.legal[::-1].argmax()), high + 1)
        stored = replace(stored, numbers=stored.numbers[:count], legal=stored.legal[:count])
    return Film(patterns, stored, _padding(header, patterns.itemsize), (low, high))


def by_word(entries: NDArray[Entry], low: int, high: int) -> NDArray[Entry]:
    """Entries by pattern, for the words from low to high."""
    above = entries[max(low, 0) : max(high + 1, 0)]
    if low >= 0:
        return above
    return np.concatenate([entries[low : min(high + 1, 0) or None], above])


def _words(
    patterns: UInt[NDArray[np.unsignedinteger], "h w"], *, signed: bool
) -> Integer[NDArray[np.integer], " p"]:
    flat = patterns.reshape(-1)
    return flat.view(f"i{flat.itemsize}") if signed else flat


def _padding(header: Header, size: int) -> range:
    if header.value("PixelPaddingValue") is None:
        return range(0)
    first = header.integer("PixelPaddingValue")
    last = header.integer("PixelPaddingRangeLimit", first)
    low, high = min(first, last), max(first, last)
    return range(low, min(high + 1, low + 2 ** (BYTE * size)))


def stored_values(header: Header) -> StoredValues:
    """What the patterns of bits of an image stand for.

    Raises:
        ValueError: the numbers of bits contradict each other or are not 8 or 16 at most.
    """
    allocated, bits = header.integer("BitsAllocated"), header.integer("BitsStored")
    high = header.integer("HighBit", bits - 1)
    if allocated not in {BYTE, SIXTEEN} or not 1 <= bits <= high + 1 <= allocated:
        raise ValueError(
            f"{header.name} has BitsAllocated {allocated}, BitsStored {bits} and HighBit {high}; "
            "8 or 16 bits can be read, with the stored ones inside"
        )
    signed = header.integer("PixelRepresentation", 0) == 1
    stored = _stored(allocated, bits, high, signed)
    if header.holds_overlay():
        return replace(stored, legal=np.ones_like(stored.legal))
    return stored


@lru_cache(maxsize=4)
def _stored(allocated: int, bits: int, high: int, signed: bool) -> StoredValues:  # noqa: FBT001
    patterns = np.arange(2**allocated)
    shift = high + 1 - bits
    numbers = (patterns >> shift) & (2**bits - 1)
    rest = patterns & ~((2**bits - 1) << shift)
    legal = rest == 0
    if signed:
        numbers = numbers - ((numbers >> (bits - 1)) << bits)
        legal |= patterns == numbers % 2**allocated
    stored = StoredValues(numbers.astype(np.float64), legal, bits, signed)
    for shared in (stored.numbers, stored.legal):
        shared.setflags(write=False)
    return stored


def misfit(header: Header, stored: StoredValues) -> ValueError:
    """The error of pixels with bits where none may be."""
    return ValueError(
        f"{header.name} holds values that do not fit into its BitsStored {stored.bits}; correct "
        "the element if the values are right"
    )
