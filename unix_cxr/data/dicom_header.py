"""The elements of a DICOM file that decide how its picture looks, each read with care."""

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

EXTRA: Final = "pip install 'unix-cxr[dicom]'"

_BROKEN: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom and its decoders raise on damaged files."""

OVERLAYS: Final = 16
_OVERLAY_POSITION: Final = 0x60000102
_ANY_OVERLAY: Final = 0xFFE1FFFF
"""Bits of a tag that are the same for all sixteen."""

KEYWORDS: Final = (
    "SOPClassUID",
    "SyntheticData",
    "Modality",
    "PresentationIntentType",
    "ImagerPixelSpacing",
    "ViewPosition",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "BurnedInAnnotation",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTFunction",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "ViewCodeSequence",
    "PresentationLUTShape",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
)
"""All that is read of a file; a patient's elements are passed over unread."""


@contextmanager
def quietly() -> Iterator[None]:
    """Keep from the user what pydicom warns of: what matters becomes an error or a note."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def explaining(what: str) -> Iterator[None]:
    """Say in one manner what pydicom raises in many.

    Args:
        what: a clause that the cause is added to.

    Raises:
        ValueError: whatever pydicom raised.
    """
    try:
        yield
    except _broken() as error:
        raise ValueError(f"{what}: {_first_line(error)}") from error


def _broken() -> tuple[type[BaseException], ...]:
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*_BROKEN, BytesLengthException, InvalidDicomError)


@cache
def _tag(keyword: str) -> Any:  # noqa: ANN401 - pydicom.tag.BaseTag
    from pydicom.tag import Tag

    return Tag(keyword)


@dataclass(frozen=True)
class Header:
    """Elements of a dataset by keyword; a value of the wrong kind is an error that names it.

    Args:
        dataset: of pydicom.
        name: what messages call the file.
    """

    dataset: Any
    name: str

    def value(self, keyword: str) -> Any:  # noqa: ANN401 - as various as DICOM
        """The value of an element; None where it is absent or empty.

        Most are absent, which pydicom's own `get` finds out by an exception.
        """
        tag = _tag(keyword)
        if tag not in self.dataset:
            return None
        try:
            value = self.dataset[tag].value
            return None if hasattr(value, "__len__") and not len(value) else value
        except _broken() as error:
            raise ValueError(
                f"{self.name}: {keyword} cannot be read: {_first_line(error)}"
            ) from error

    def holds_overlay(self) -> bool:
        """Whether an overlay lies in the unused bits of pixels (retired, but found in old CR)."""
        tags = self.dataset.keys()  # iterating over the dataset itself would read all elements
        found = [tag for tag in tags if tag & _ANY_OVERLAY == _OVERLAY_POSITION]
        with explaining(f"{self.name}: an overlay cannot be read"):
            return any(self.dataset[tag].value not in {None, 0} for tag in found)

    def text(self, keyword: str) -> str:
        """A word in capitals, "" where it is absent."""
        value = self.value(keyword)
        return value.strip().upper() if isinstance(value, str) else ""

    def integer(self, keyword: str, default: int | None = None) -> int:
        """One whole number.

        Raises:
            ValueError: it is absent and has no default, or it is no whole number.
        """
        value = self.value(keyword)
        if value is None and default is not None:
            return default
        if isinstance(value, int):
            return int(value)
        found = "absent" if value is None else f"{str(value)[:40]!r}"
        raise ValueError(f"{self.name}: {keyword} is {found}; a DICOM image needs a whole number")

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """All numbers of an element, none where it is absent.

        Raises:
            ValueError: one is no number.
        """
        value = self.value(keyword)
        if value is None:
            return ()
        with explaining(f"{self.name}: {keyword} is not a list of numbers"):
            many = isinstance(value, Sequence) and not isinstance(value, str | bytes)
            return tuple(float(number) for number in (value if many else [value]))

    def items(self, keyword: str) -> Sequence["Header"]:
        """Items of a sequence, none where it is absent."""
        value = self.value(keyword)
        with explaining(f"{self.name}: {keyword} is not a sequence"):
            return [Header(item, self.name) for item in value or () if hasattr(item, "get")]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
