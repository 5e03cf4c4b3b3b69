"""From stored values of DICOM to grey values in [0, 1]: one table for all pixels.

All steps work on single values (modality LUT, then the window or VOI LUT, then the inversion of
MONOCHROME1, then padding), so they run once for each value that can be stored and not once for each
pixel. PS3.3 C.7.6.3, C.11.1 and C.11.2.

Looking pixels up is slow, arithmetic in float32 is not: it replaces the look-up where it gives what
the table holds, bit for bit, for every value between the image's smallest and largest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt
from numpy.typing import NDArray

from unix_cxr.data.dicom_header import OVERLAYS, Header, explaining

_BYTE: Final = 8
_SIXTEEN: Final = 16
_LUT_FIELDS: Final = 3
_BLOCK: Final = 1 << 18
_WHOLE: Final = 1 << 24
"""Float32 holds all whole numbers up to this one."""

Values = Float[NDArray[np.float64], " v"]
Flags = Bool[NDArray[np.bool_], " v"]


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


class Ends(NamedTuple):
    """Values that a linear scale shows black and white; what lies beyond is as black or white."""

    black: float
    white: float

    def greys(self, values: NDArray[np.integer], out: NDArray[np.float32]) -> None:
        """Grey values in float32 of values between the ends."""
        np.copyto(out, values)
        black, width = np.float32(self.black), np.float32(abs(self.white - self.black))
        if self.black < self.white:
            np.subtract(out, black, out=out)
        else:  # and not the other way round, which would make -0 of 0
            np.subtract(black, out, out=out)
        np.divide(out, width, out=out)


@dataclass(frozen=True, eq=False)
class GreyTable:
    """Grey value of every pattern of bits; NaN for patterns that must not occur.

    Args:
        greys: by pattern.
        window: what made them, in words.
        inverted: whether bright and dark were exchanged.
        ends: of the linear scale that made them, if one did: stored numbers, not values.
        signed: whether the stored numbers have a sign.
    """

    greys: Float[NDArray[np.float32], " v"]
    window: str
    inverted: bool
    ends: Ends | None = None
    signed: bool = False

    def compute(
        self, patterns: UInt[NDArray[np.unsignedinteger], "h w"]
    ) -> NDArray[np.float32] | None:
        """What `look_up` gives, by arithmetic; None where that would differ in any bit."""
        if self.ends is None:
            return None
        flat = np.ascontiguousarray(patterns).ravel()
        numbers = flat.view(f"i{flat.itemsize}") if self.signed else flat
        low, high = int(numbers.min()), int(numbers.max())
        first, last = np.clip([math.floor(min(self.ends)), math.ceil(max(self.ends))], low, high)
        listed = self.greys[max(low, 0) : high + 1]
        if low < 0:
            listed = np.concatenate([self.greys[low : min(high + 1, 0) or None], listed])
        greys = np.empty(listed.shape, dtype=np.float32)
        self.ends.greys(np.arange(low, high + 1).clip(first, last), greys)
        if not np.array_equal(greys.view(np.uint32), listed.view(np.uint32)):
            return None
        greys = np.empty(flat.shape, dtype=np.float32)
        for start in range(0, flat.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            inside = numbers[block]
            if first > low or last < high:
                inside = inside.clip(numbers.dtype.type(first), numbers.dtype.type(last))
            self.ends.greys(inside, greys[block])
        return greys.reshape(patterns.shape)

    def look_up(self, patterns: UInt[NDArray[np.unsignedinteger], "h w"]) -> NDArray[np.float32]:
        """Grey values of an image, block by block, so that indices stay in the cache."""
        flat = np.ascontiguousarray(patterns).ravel()
        greys = np.empty(flat.shape, dtype=np.float32)
        for start in range(0, flat.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            self.greys.take(flat[block], mode="wrap", out=greys[block])
        return greys.reshape(patterns.shape)


def stored_values(header: Header) -> StoredValues:
    """What the patterns of bits of an image stand for.

    Raises:
        ValueError: the numbers of bits contradict each other or are not 8 or 16 at most.
    """
    allocated, bits = header.integer("BitsAllocated"), header.integer("BitsStored")
    high = header.integer("HighBit", bits - 1)
    if allocated not in {_BYTE, _SIXTEEN} or not 1 <= bits <= high + 1 <= allocated:
        raise ValueError(
            f"{header.name} has BitsAllocated {allocated}, BitsStored {bits} and HighBit {high}; "
            "8 or 16 bits can be read, with the stored ones inside"
        )
    signed = header.integer("PixelRepresentation", 0) == 1
    stored = _stored(allocated, bits, high, signed)
    if any(_overlay_in_pixels(header, number) for number in range(OVERLAYS)):
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


def grey_table(
    header: Header, stored: StoredValues, window: int, present: Callable[[], Flags]
) -> GreyTable:
    """Grey values of all that can be stored.

    Without a window, more than 8 bits are scaled by the range of the values that occur outside
    the padding, and 8 bits by their full range, as PNG is.

    Args:
        header: of the image.
        stored: numbers that patterns of bits stand for.
        window: index among VOI LUTs, then windows.
        present: tells which patterns occur; called only where that matters.

    Raises:
        ValueError: a table or window is not usable, or there is no such window.
    """
    padded = _padding(header, len(stored.numbers))
    usable = stored.legal & ~padded
    values = _modality(header, stored.numbers)
    luts = [item for item in header.items("VOILUTSequence") if item.value("LUTData") is not None]
    centres, widths = header.numbers("WindowCenter"), header.numbers("WindowWidth")
    views = len(luts) + min(len(centres), len(widths))
    if not 0 <= window < max(views, 1):
        raise ValueError(f"{header.name} has {views} windows, so window {window} is none of them")
    if window < len(luts):
        shown = _Shown(_through_lut(luts[window], values), f"VOI LUT {window}")
    elif views:
        number = window - len(luts)
        shown = _through_window(header, values, centres[number], widths[number])
    else:
        occurring = present() if stored.bits > _BYTE else usable
        if (occurring & ~padded & ~stored.legal).any():
            raise misfit(header, stored)
        shown = _through_range(header, values, occurring & usable)
    inverted = header.text("PhotometricInterpretation") == "MONOCHROME1"
    greys = 1 - shown.greys if inverted else shown.greys
    np.copyto(greys, np.nan, where=~stored.legal)
    np.copyto(greys, 0, where=padded)
    ends = _stored_ends(header, shown.ends)
    if ends and inverted:
        ends = Ends(ends.white, ends.black)
    return GreyTable(greys.astype(np.float32), shown.words, inverted, ends, stored.signed)


class _Shown(NamedTuple):
    """Grey values, what made them in words, and the values at the ends of a linear scale."""

    greys: Values
    words: str
    ends: Ends | None = None


def _overlay_in_pixels(header: Header, number: int) -> bool:
    """Whether an overlay lies in the unused bits (retired, but found in old CR)."""
    with explaining(f"{header.name}: an overlay cannot be read"):
        position = header.dataset.get((0x6000 + 2 * number, 0x0102))
        return position is not None and position.value not in {None, 0}


def _padding(header: Header, patterns: int) -> Flags:
    padded = np.zeros(patterns, dtype=np.bool_)
    if header.value("PixelPaddingValue") is not None:
        first = header.integer("PixelPaddingValue")
        last = header.integer("PixelPaddingRangeLimit", first)
        low, high = min(first, last), max(first, last)
        padded[np.arange(low, min(high, low + patterns - 1) + 1) % patterns] = True
    return padded


def _modality(header: Header, numbers: Values) -> Values:
    luts = header.items("ModalityLUTSequence")
    if luts:
        return _lut(luts[0], numbers)[0]
    slope, intercept = _rescale(header)
    return numbers if (slope, intercept) == (1, 0) else numbers * slope + intercept


def _stored_ends(header: Header, ends: Ends | None) -> Ends | None:
    """Stored numbers whose values these are; None where no arithmetic leads there."""
    if ends is None or header.items("ModalityLUTSequence"):
        return None
    slope, intercept = _rescale(header)
    black, white = ((value - intercept) / slope for value in ends)
    exact = abs(black) + abs(white) < _WHOLE and abs(white - black) >= 1
    return Ends(black, white) if exact else None


def _rescale(header: Header) -> tuple[float, float]:
    """Slope and intercept, 1 and 0 where the file does not state both."""
    slope, intercept = header.numbers("RescaleSlope"), header.numbers("RescaleIntercept")
    if not slope or not intercept:
        return 1, 0
    if slope[0] == 0 or not math.isfinite(2**_SIXTEEN * slope[0] + intercept[0]):
        raise ValueError(
            f"{header.name} has RescaleSlope {slope[0]} and RescaleIntercept {intercept[0]}, which "
            "leave no picture"
        )
    return slope[0], intercept[0]


def _through_lut(lut: Header, values: Values) -> Values:
    mapped, bits = _lut(lut, values)
    full = 2**bits - 1
    if mapped.max() > full:
        raise ValueError(
            f"{lut.name} has a VOI LUT of {bits} bits with values up to {mapped.max():.0f}"
        )
    greys: Values = mapped / full
    return greys


def _lut(lut: Header, values: Values) -> tuple[Values, int]:
    """Values through a table, and the bits that its entries have; PS3.3 C.11.1.1."""
    descriptor = [int(number) for number in lut.numbers("LUTDescriptor")]
    if len(descriptor) != _LUT_FIELDS:
        raise ValueError(f"{lut.name} has a LUT whose descriptor is {descriptor}, not 3 numbers")
    entries, first, bits = descriptor[0] % 2**16 or 2**16, descriptor[1], descriptor[2]
    signed = bool(values.min() < 0)  # and the number may have been written as the other kind
    first = (first + 2**15) % 2**16 - 2**15 if signed else first % 2**16
    table = _lut_entries(lut, entries)
    if table.size != entries or not 1 <= bits <= _SIXTEEN:
        raise ValueError(
            f"{lut.name} has a LUT of {entries} entries of {bits} bits with {table.size} entries"
        )
    return table[np.clip(np.rint(values) - first, 0, entries - 1).astype(np.intp)], bits


def _lut_entries(lut: Header, entries: int) -> Values:
    data = lut.value("LUTData")
    if not isinstance(data, bytes):
        return np.asarray(lut.numbers("LUTData"), dtype=np.float64)
    if len(data) in {entries, entries + entries % 2} and entries > 1:
        return np.frombuffer(data, np.uint8, entries).astype(np.float64)  # packed bytes
    order = ">" if lut.dataset.original_encoding[1] is False else "<"
    whole = len(data) // 2 * 2
    return np.frombuffer(data[:whole], f"{order}u2").astype(np.float64)


def _through_window(header: Header, values: Values, centre: float, width: float) -> _Shown:
    function = header.text("VOILUTFunction") or "LINEAR"
    least = 1.0 if function == "LINEAR" else math.nextafter(0, 1)
    if not (math.isfinite(centre) and least <= width < math.inf):
        raise ValueError(
            f"{header.name} has a {function} window with centre {centre:g} and width {width:g}; "
            "delete WindowCenter and WindowWidth of the dataset to scale by its range"
        )
    words, ends = f"{function}, centre {centre:g}, width {width:g}", None
    if function == "LINEAR":
        if width == 1:
            return _Shown((values > centre - 0.5).astype(np.float64), words)
        greys = (values - (centre - 0.5)) / (width - 1) + 0.5
        ends = Ends(centre - width / 2, centre + width / 2 - 1)
    elif function == "LINEAR_EXACT":
        with np.errstate(over="ignore"):  # what is infinite is white
            greys = (values - centre) / width + 0.5
        ends = Ends(centre - width / 2, centre + width / 2)
    elif function == "SIGMOID":
        with np.errstate(over="ignore"):  # exp of much is infinite, and its grey value 0
            greys = 1 / (1 + np.exp(-4 * (values - centre) / width))
    else:
        raise ValueError(
            f"{header.name} has VOILUTFunction {function[:40]!r}; LINEAR, LINEAR_EXACT and SIGMOID "
            "are known"
        )
    return _Shown(greys.clip(0, 1, out=greys), words, ends)


def _through_range(header: Header, values: Values, occurring: Flags) -> _Shown:
    if not occurring.any():
        raise ValueError(f"{header.name} holds nothing but padding")
    low, high = float(values[occurring].min()), float(values[occurring].max())
    if low == high:
        raise ValueError(f"{header.name} holds the single value {low:g}; that is no picture")
    greys = np.clip((values - low) / (high - low), 0, 1)
    return _Shown(greys, f"no window, range {low:g}..{high:g}", Ends(low, high))
