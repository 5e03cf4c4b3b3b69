"""Radiographs from DICOM: what is no single grey X-ray is refused by its header.

pydicom comes with the extra `dicom`. Nothing of a patient's elements is read from a file.
"""

import io
import zlib
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unix_cxr.data.codestream import size_of
from unix_cxr.data.dicom_film import misfit, read_film, stored_values
from unix_cxr.data.dicom_header import EXTRA, KEYWORDS, OVERLAYS, Header, explaining, quietly
from unix_cxr.data.dicom_values import grey_table
from unix_cxr.data.facts import Decoded, SourceFacts, Spacing, check_size, most_bytes

SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_RADIOGRAPHS: Final = {"CR", "DX", "RG"}
_VIEWS: Final = {
    "AP": "AP",
    "PA": "PA",
    "LL": "LATERAL",
    "RL": "LATERAL",
    "LAT": "LATERAL",
    "LATERAL": "LATERAL",
}
_VIEW_CODES: Final = {
    "399348003": "AP",
    "R-10206": "AP",
    "272479007": "PA",
    "R-10214": "PA",
    "R-40888": "PA",
    "399173006": "LATERAL",  # left
    "R-10236": "LATERAL",
    "399198007": "LATERAL",  # right
    "R-10232": "LATERAL",
    "399067008": "LATERAL",
    "R-102CD": "LATERAL",
}
"""SNOMED CT codes of CID 4010, and the older ones of SNOMED RT."""

_PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_META_START: Final = 132
_META_HEAD: Final = 12
_CHUNK: Final = 1 << 20


def read_file(data: bytes, name: str, max_pixels: int, window: int) -> Decoded:
    """Grey values of a DICOM file.

    Raises:
        ImportError: pydicom or a decoder is not installed.
        ValueError: the file is corrupt or no single grey X-ray.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImportError(f"{name} is DICOM, which needs pydicom: {EXTRA}") from error
    _check_deflated(data, name, max_pixels)
    file = io.BytesIO(data)
    with quietly(), explaining(f"{name} is corrupt DICOM"):
        dataset = pydicom.dcmread(file, specific_tags=_tags(), stop_before_pixels=True)
        native = _native_pixels(data, file.tell(), dataset)
        if native is None:
            dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=_tags())
    if not len(dataset):  # pydicom gives up all elements where the pixel data are cut off
        raise ValueError(f"{name} is corrupt DICOM: it is cut off, or has no elements of a picture")
    with quietly():
        return _read(Header(dataset, name), max_pixels, window, native)


def _native_pixels(data: bytes, place: int, dataset: Any) -> memoryview | None:  # noqa: ANN401
    """What PixelData holds at this place of a file without compression, where it lies.

    pydicom copies it twice, which is most of what there is to do with such a file. None for what
    is compressed, deflated, of the other order of bytes or cut off: pydicom knows what to say.
    """
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax not in {ExplicitVRLittleEndian, ImplicitVRLittleEndian}:
        return None
    if data[place : place + 4] != _PIXEL_DATA:
        return None
    # no length begins like OB and OW, for lengths are even
    at = place + (8 if data[place + 4 : place + 6] in {b"OB", b"OW"} else 4)
    length = int.from_bytes(data[at : at + 4], "little")
    pixels = memoryview(data)[at + 4 : at + 4 + length]
    return pixels if len(pixels) == length else None


@cache
def _tags() -> list[Any]:
    """Of all that is read; to look them up takes as long as to read a header."""
    from pydicom.tag import Tag

    overlays = [(0x6000 + 2 * number << 16) + 0x0102 for number in range(OVERLAYS)]
    elements: list[Any] = [*KEYWORDS, *overlays]
    return [Tag(element) for element in elements]


def read_dataset(dataset: Any, name: str, max_pixels: int, window: int) -> Decoded:  # noqa: ANN401
    """Grey values of a `pydicom.Dataset`, which is left as it is.

    Raises:
        ImportError: a decoder is not installed.
        ValueError: the dataset is no single grey X-ray.
    """
    with quietly():
        return _read(Header(dataset, name), max_pixels, window)


def _read(
    header: Header, max_pixels: int, window: int, native: memoryview | None = None
) -> Decoded:
    rows, columns = _check_header(header, max_pixels)
    stored = stored_values(header)
    if native is None:
        patterns, transfer_syntax = _decode(header, rows, columns)
    else:
        patterns = _as_patterns(header, native, rows, columns)
        transfer_syntax = header.dataset.file_meta.TransferSyntaxUID.name
    film = read_film(header, stored, patterns)
    table = grey_table(header, film, window)
    pixels = table.compute(film)
    if pixels is None:
        pixels = table.look_up(film)
        if not stored.legal.all() and np.isnan(pixels.max()):
            raise misfit(header, stored)
    spacing, spacing_source = _spacing(header)
    facts = SourceFacts(
        format="DICOM",
        original_size=(rows, columns),
        bits_stored=stored.bits,
        modality=header.text("Modality"),
        photometric=header.text("PhotometricInterpretation"),
        transfer_syntax=transfer_syntax,
        window=table.window,
        inverted=table.inverted,
        spacing_source=spacing_source,
        burned_in=_yes_or_no(header, "BurnedInAnnotation"),
        synthetic=_yes_or_no(header, "SyntheticData"),
        notes=_notes(header),
    )
    return Decoded(pixels, facts, spacing, _view(header))


def _check_header(header: Header, max_pixels: int) -> tuple[int, int]:
    """Rows and columns of what is a single grey X-ray of a permitted size."""
    name = header.name
    modality = header.text("Modality")
    captured = header.value("SOPClassUID") == SECONDARY_CAPTURE
    if modality not in _RADIOGRAPHS | {""} and not (captured and modality == "OT"):
        raise ValueError(
            f"{name} has modality {_short(modality)}; X-rays of the modalities CR, DX and RG are "
            "read, and OT if it is a Secondary Capture"
        )
    frames = header.integer("NumberOfFrames", 1)
    if frames not in {0, 1}:
        raise ValueError(f"{name} holds {frames} frames; give one image")
    photometric = header.text("PhotometricInterpretation")
    samples = header.integer("SamplesPerPixel", 1)
    if samples != 1 or photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise ValueError(
            f"{name} has {samples} samples per pixel and photometric interpretation "
            f"{_short(photometric)}; an X-ray has 1 and MONOCHROME1 or MONOCHROME2"
        )
    rows, columns = header.integer("Rows"), header.integer("Columns")
    check_size(columns, rows, name, max_pixels)
    return rows, columns


def _as_patterns(
    header: Header, native: memoryview, rows: int, columns: int
) -> NDArray[np.unsignedinteger]:
    """Patterns of bits of a picture that lies in the file as it is."""
    allocated = header.integer("BitsAllocated")
    needed = rows * columns * allocated // 8
    if len(native) < needed:
        raise ValueError(
            f"{header.name} has pixel data that cannot be read as "
            f"{header.dataset.file_meta.TransferSyntaxUID.name}: {len(native):,} bytes, where "
            f"{rows}x{columns} pixels of {allocated} bits need {needed:,}"
        )
    values = np.frombuffer(native[:needed], f"<u{allocated // 8}").reshape(rows, columns)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _decode(header: Header, rows: int, columns: int) -> tuple[NDArray[np.unsignedinteger], str]:
    """Patterns of bits as the file holds them, and the name of their encoding."""
    from pydicom.pixels.decoders.base import get_decoder

    name = header.name
    if "PixelData" not in header.dataset:
        raise ValueError(f"{name} has no PixelData; it holds no picture of whole numbers")
    with explaining(f"{name}: TransferSyntaxUID cannot be read"):
        meta = getattr(header.dataset, "file_meta", None)
        syntax: Any = getattr(meta, "TransferSyntaxUID", None)
    if not hasattr(syntax, "name"):  # absent, or several
        raise ValueError(
            f"{name} does not say its transfer syntax; set dataset.file_meta.TransferSyntaxUID"
        )
    known = f"{syntax.name} ({syntax})"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ValueError(f"{name} has the transfer syntax {known}, which is no picture") from error
    if not decoder.is_available:
        raise ImportError(
            f"{name} has the transfer syntax {known}, and no decoder for it is installed: {EXTRA}"
        )
    with explaining(f"{name} has pixel data that cannot be read as {known}"):
        if syntax.is_encapsulated:
            _check_stream(header, syntax, rows, columns)
        options: dict[str, Any] = {"view_only": True, "correct_unused_bits": False}
        plugin = _plugin(decoder, syntax)
        array, _ = decoder.as_array(header.dataset, raw=True, decoding_plugin=plugin, **options)
        if array.shape != (rows, columns):
            raise ValueError(f"{rows}x{columns} pixels were promised, {array.shape} came")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native.view(f"u{native.itemsize}"), syntax.name


def _plugin(decoder: Any, syntax: Any) -> str:  # noqa: ANN401 - pydicom.pixels.Decoder
    """The decoder to take if it is there; "" leaves the choice to pydicom.

    Pillow reads 8-bit JPEG as it reads the same picture from a JPEG file; pyjpegls is the fastest
    for JPEG-LS, whose values the standard fixes.
    """
    from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, JPEGLSNearLossless

    wanted = {
        JPEGBaseline8Bit: "pillow",
        JPEGLSLossless: "pyjpegls",
        JPEGLSNearLossless: "pyjpegls",
    }
    plugin = wanted.get(syntax, "")
    return plugin if plugin in decoder.available_plugins else ""


def _check_stream(header: Header, syntax: Any, rows: int, columns: int) -> None:  # noqa: ANN401
    """A decoder allocates what the stream asks for: it must be what the header says."""
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    stream = get_frame(header.dataset.PixelData, 0, number_of_frames=1)
    if syntax == RLELossless:
        return
    size = size_of(stream)
    if size != (rows, columns, 1):
        raise ValueError(
            f"the stream inside has {size.rows}x{size.columns} pixels of {size.components} "
            f"components, the header {rows}x{columns} of 1"
        )


def _check_deflated(data: bytes, name: str, max_pixels: int) -> None:
    """Refuse a deflated file that would fill the memory, without inflating it."""
    if data[_META_START : _META_START + 4] != b"\x02\x00\x00\x00":
        if _DEFLATED in data[:1024]:
            raise ValueError(f"{name} is deflated DICOM without the length of its header")
        return
    length = int.from_bytes(data[_META_START + 8 : _META_START + _META_HEAD], "little")
    start = _META_START + _META_HEAD + length
    if _DEFLATED not in data[:start]:
        return
    inflater, left, size = zlib.decompressobj(-zlib.MAX_WBITS), data[start:], 0
    while left and not inflater.eof:
        with explaining(f"{name} is corrupt DICOM"):
            size += len(inflater.decompress(left, _CHUNK))
        left = inflater.unconsumed_tail
        if size > most_bytes(max_pixels):
            raise ValueError(
                f"{name} inflates to more than {size:,} bytes, which no X-ray of {max_pixels:,} "
                "pixels needs; pass max_pixels if it is one"
            )


def _spacing(header: Header) -> tuple[Spacing | None, str]:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing = header.numbers(keyword)
        if len(spacing) == 2 and all(0 < length < 100 for length in spacing):  # noqa: PLR2004
            return Spacing(*spacing), keyword
    return None, ""


def _view(header: Header) -> str:
    view = _VIEWS.get(header.text("ViewPosition"), "")
    codes = [item.text("CodeValue") for item in header.items("ViewCodeSequence")]
    return view or next((_VIEW_CODES[code] for code in codes if code in _VIEW_CODES), "")


def _yes_or_no(header: Header, keyword: str) -> str:
    word = header.text(keyword)
    return word if word in {"YES", "NO"} else ""


def _notes(header: Header) -> tuple[str, ...]:
    notes = []
    shape, photometric = (
        header.text(keyword) for keyword in ("PresentationLUTShape", "PhotometricInterpretation")
    )
    if (shape, photometric) in {("INVERSE", "MONOCHROME2"), ("IDENTITY", "MONOCHROME1")}:
        notes.append(f"PresentationLUTShape {shape} contradicts {photometric}, which decides")
    if header.text("PresentationIntentType") == "FOR PROCESSING":
        notes.append("values of the detector, not processed for display")
    return tuple(notes)


def _short(text: str) -> str:
    return repr(text[:16])
