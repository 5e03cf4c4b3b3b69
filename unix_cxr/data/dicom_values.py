"""From stored values of DICOM to grey values in [0, 1]: one table for all pixels.

All steps work on single values (modality LUT, then the window or VOI LUT, then the inversion of
MONOCHROME1, then padding), so they run once for each value that can be stored and not once for each
pixel. PS3.3 C.7.6.3, C.11.1 and C.11.2.

Looking pixels up is slow, arithmetic in float32 is not: it replaces the look-up where it gives what
the table holds, bit for bit, for every value between the image's smallest and largest; padding,
which no arithmetic makes black, is blackened after it.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from unix_cxr.data.dicom_film import BLOCK, BYTE, SIXTEEN, Film, Flags, Values, by_word, misfit
from unix_cxr.data.dicom_header import Header

_LUT_FIELDS: Final = 3
_WHOLE: Final = 1 << 24
"""Float32 holds all whole numbers up to this one."""


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
    """

    greys: Float[NDArray[np.float32], " v"]
    window: str
    inverted: bool
    ends: Ends | None = None

    def compute(self, film: Film) -> NDArray[np.float32] | None:
        """What `look_up` gives, by arithmetic; None where that would differ in any bit."""
        if self.ends is None:
            return None
        low, high = film.span
        first, last = np.clip([math.floor(min(self.ends)), math.ceil(max(self.ends))], low, high)
        listed = by_word(self.greys, low, high)
        greys = np.empty(listed.shape, dtype=np.float32)
        self.ends.greys(np.arange(low, high + 1).clip(first, last), greys)
        differs = greys.view(np.uint32) != listed.view(np.uint32)
        blackened = bool(differs.any())
        if blackened and (differs & ~by_word(film.padded, low, high)).any():
            return None
        words, patterns = film.words, film.patterns.reshape(-1)
        greys = np.empty(words.shape, dtype=np.float32)
        for start in range(0, words.size, BLOCK):
            block = slice(start, start + BLOCK)
            inside = words[block]
            if first > low or last < high:
                inside = inside.clip(words.dtype.type(first), words.dtype.type(last))
            self.ends.greys(inside, greys[block])
            if blackened:
                np.copyto(greys[block], 0, where=film.is_padding(patterns[block]))
        return greys.reshape(film.patterns.shape)

    def look_up(self, film: Film) -> NDArray[np.float32]:
        """Grey values of an image, block by block, so that indices stay in the cache."""
        patterns = film.patterns.reshape(-1)
        greys = np.empty(patterns.shape, dtype=np.float32)
        for start in range(0, patterns.size, BLOCK):
            block = slice(start, start + BLOCK)
            self.greys.take(patterns[block], mode="wrap", out=greys[block])
        return greys.reshape(film.patterns.shape)


def grey_table(header: Header, film: Film, window: int) -> GreyTable:
    """Grey values of all that can be stored.

    Without a window, more than 8 bits are scaled by the range of the values that occur outside
    the padding, and 8 bits by their full range, as PNG is.

    Args:
        header: of the image.
        film: its pixels, which are looked at only where they matter.
        window: index among VOI LUTs, then windows.

    Raises:
        ValueError: a table or window is not usable, or there is no such window.
    """
    stored, padded = film.stored, film.padded
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
        shown = _through_range(header, values, _scaling(header, film))
    inverted = header.text("PhotometricInterpretation") == "MONOCHROME1"
    greys = 1 - shown.greys if inverted else shown.greys
    np.copyto(greys, np.nan, where=~stored.legal)
    np.copyto(greys, 0, where=padded)
    ends = _stored_ends(header, shown.ends)
    if ends and inverted:
        ends = Ends(ends.white, ends.black)
    return GreyTable(greys.astype(np.float32), shown.words, inverted, ends)


class _Shown(NamedTuple):
    """Grey values, what made them in words, and the values at the ends of a linear scale."""

    greys: Values
    words: str
    ends: Ends | None = None


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
    if slope[0] == 0 or not math.isfinite(2**SIXTEEN * slope[0] + intercept[0]):
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
    if table.size != entries or not 1 <= bits <= SIXTEEN:
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


def _scaling(header: Header, film: Film) -> Flags:
    """Patterns whose values become black and white, with or without others between them."""
    if film.stored.bits <= BYTE:
        return film.stored.legal & ~film.padded
    # through a table, any value may be the smallest
    occurring = film.occurring() if header.items("ModalityLUTSequence") else film.extremes()
    if (occurring & ~film.stored.legal).any():
        raise misfit(header, film.stored)
    return occurring


def _through_range(header: Header, values: Values, occurring: Flags) -> _Shown:
    if not occurring.any():
        raise ValueError(f"{header.name} holds nothing but padding")
    low, high = float(values[occurring].min()), float(values[occurring].max())
    if low == high:
        raise ValueError(f"{header.name} holds the single value {low:g}; that is no picture")
    greys = np.clip((values - low) / (high - low), 0, 1)
    return _Shown(greys, f"no window, range {low:g}..{high:g}", Ends(low, high))
