"""What is read in a shorter way is read alike, bit for bit."""

import io
import itertools
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies
from PIL import Image

from unix_cxr.data import pictures
from unix_cxr.data.pixels import load_xray

SHORT = ("LINEAR", "LINEAR_EXACT")
WINDOWS = [
    *itertools.product(SHORT, [2048, 2047.5, 1000.25], [4096, 4095, 301]),
    ("SIGMOID", 2048, 4096),
    ("LINEAR", 0, 1),
    ("LINEAR", 1e300, 1e300),
    ("LINEAR_EXACT", 1e-300, 1e-300),
    ("LINEAR_EXACT", 2000, 1e-3),
    ("LINEAR", -1000, 2000),
]
RESCALES = [(1, 0), (1, -1024), (2, 7), (-1, 4095), (0.37, 0.11), (1e-9, 0), (1e9, 1)]
CASES = [
    *((window, RESCALES[0]) for window in WINDOWS),
    *((window, rescale) for window in WINDOWS[::6] for rescale in RESCALES[1:]),
]


def films() -> dict[str, Any]:
    """Stored values: the whole range, part of it, signed ones and 8 bits."""
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    return {
        "whole": (ramp, 12),
        "part": (np.clip(ramp, 900, 1100), 12),
        "16 bits": ((ramp * 16).astype(np.uint16), 16),
        "signed": ((ramp.astype(np.int16) - 2048), 12),
        "negative": ((ramp.astype(np.int16) - 4096), 13),
        "far below zero": ((ramp.astype(np.int16) - 8000), 14),
        "signed, cut": (((ramp.astype(np.int16) - 2048) & 0x0FFF), 12),
        "8 bits": (ramp.astype(np.uint8), 8),
    }


def both(dataset: Any) -> tuple[Any, Any]:
    """Grey values by arithmetic (None where the table does not allow it) and by looking up."""
    from unix_cxr.data.dicom import _decode
    from unix_cxr.data.dicom_film import read_film, stored_values
    from unix_cxr.data.dicom_header import Header
    from unix_cxr.data.dicom_values import grey_table

    header = Header(dataset, "film")
    patterns, _ = _decode(header, dataset.Rows, dataset.Columns)
    film = read_film(header, stored_values(header), patterns)
    table = grey_table(header, film, 0)
    return table.compute(film), table.look_up(film)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("film", films())
def test_arithmetic_gives_what_the_table_holds_or_nothing(film: str, photometric: str) -> None:
    """Every window and rescale; and the arithmetic is used, or this would compare nothing."""
    dicoms = pytest.importorskip("tests.data.dicoms")
    stored, bits = films()[film]
    used = dict.fromkeys(["window", "range"], 0)
    for (function, centre, width), (slope, intercept) in CASES:
        dataset = dicoms.make(
            stored,
            bits=bits,
            PhotometricInterpretation=photometric,
            WindowCenter=centre,
            WindowWidth=width,
            VOILUTFunction=function,
            RescaleSlope=slope,
            RescaleIntercept=intercept,
        )
        computed, looked_up = both(dataset)
        assert computed is None or same(computed, looked_up), (function, centre, width, slope)
        assert function in SHORT or computed is None
        used["window"] += computed is not None
    for slope, intercept in RESCALES:
        computed, looked_up = both(
            dicoms.make(
                stored,
                bits=bits,
                PhotometricInterpretation=photometric,
                RescaleSlope=slope,
                RescaleIntercept=intercept,
            )
        )
        assert computed is None or same(computed, looked_up), slope
        used["range"] += computed is not None
    # what is not sign-extended is no arithmetic of the words as they are
    assert film in {"signed, cut", "far below zero"} or min(used.values()) > 0, used


def same(first: Any, second: Any) -> bool:
    return bool((first.view(np.uint32) == second.view(np.uint32)).all())


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "window",
    [{}, {"WindowCenter": 2048, "WindowWidth": 4096}, {"WindowCenter": 9, "WindowWidth": 8}],
)
def test_the_windows_of_real_files_take_the_short_way(
    photometric: str, window: dict[str, int]
) -> None:
    dicoms = pytest.importorskip("tests.data.dicoms")
    stored, bits = films()["whole"]
    computed, looked_up = both(
        dicoms.make(stored, bits=bits, PhotometricInterpretation=photometric, **window)
    )
    assert computed is not None
    assert same(computed, looked_up)


def test_high_bits_are_looked_up() -> None:
    dicoms = pytest.importorskip("tests.data.dicoms")
    stored, bits = films()["whole"]
    dataset = dicoms.make(
        (stored << 4).astype(np.uint16),
        bits=bits,
        HighBit=15,
        PhotometricInterpretation="MONOCHROME1",
    )
    computed, looked_up = both(dataset)
    assert computed is None
    assert same(load_xray(dataset).pixels, looked_up)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "padding",
    [
        {"PixelPaddingValue": 4000},
        {"PixelPaddingValue": 0},
        {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4090},
        {"PixelPaddingValue": 700, "PixelPaddingRangeLimit": 1500},
    ],
)
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2048, "WindowWidth": 300}])
def test_padding_is_blackened_after_the_arithmetic(
    padding: dict[str, int], window: dict[str, int], photometric: str
) -> None:
    dicoms = pytest.importorskip("tests.data.dicoms")
    stored, bits = films()["whole"]
    dataset = dicoms.make(
        stored, bits=bits, PhotometricInterpretation=photometric, **padding, **window
    )
    computed, looked_up = both(dataset)
    assert computed is not None
    assert same(computed, looked_up)


def test_a_film_of_padding_alone_is_black() -> None:
    dicoms = pytest.importorskip("tests.data.dicoms")
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    padding = {"PixelPaddingValue": -5, "PixelPaddingRangeLimit": 300}
    dataset = dicoms.make(stored, WindowCenter=128, WindowWidth=256, bits=8, **padding)
    assert not load_xray(dataset).pixels.any()


@given(data=strategies.data(), signed=strategies.booleans(), tabled=strategies.booleans())
def test_without_a_window_the_range_outside_the_padding_decides(
    data: strategies.DataObject,
    signed: bool,
    tabled: bool,
) -> None:
    """Wherever the padding lies, beside an oracle; and through a table without order."""
    dicoms = pytest.importorskip("tests.data.dicoms")
    low, high = (-2048, 2047) if signed else (0, 4095)
    few = data.draw(strategies.lists(strategies.integers(low, high), min_size=2, max_size=6))
    stored = np.resize(np.asarray(few, dtype=np.int16 if signed else np.uint16), (16, 16))
    first = data.draw(strategies.sampled_from(few) | strategies.integers(low - 9, high + 9))
    limit = data.draw(strategies.sampled_from([*few, first]))
    disorder = np.arange(4096) * 1237 % 4096
    numbers = stored.astype(int)
    beyond = 65536 if first < 0 and not signed else 0
    inside = (numbers < min(first, limit)) | (numbers > max(first, limit))
    dataset = dicoms.make(
        stored,
        PixelPaddingValue=first + beyond,
        PixelPaddingRangeLimit=limit + beyond if limit != first else None,
        ModalityLUTSequence=[dicoms.lut(disorder, low, 16)] if tabled else None,
    )
    if len(set(numbers[inside].tolist())) < 2:
        with pytest.raises(ValueError, match=r"single value|nothing but padding"):
            load_xray(dataset)
        return
    values = disorder[numbers - low] if tabled else numbers
    black, white = values[inside].min(), values[inside].max()
    expected = np.where(inside, (values - black) / (white - black), 0)
    np.testing.assert_allclose(load_xray(dataset).pixels, expected, atol=1e-7)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("film", films())
def test_pixels_are_read_where_they_lie_in_the_file(film: str, implicit: bool) -> None:
    dicoms = pytest.importorskip("tests.data.dicoms")
    pydicom = pytest.importorskip("pydicom")
    from unix_cxr.data import dicom

    stored, bits = films()[film]
    dataset = dicoms.make(stored, bits=bits)
    if implicit:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    data = dicoms.to_bytes(dataset)
    file = io.BytesIO(data)
    header = pydicom.dcmread(file, stop_before_pixels=True)
    native = dicom._native_pixels(data, file.tell(), header)
    assert native is not None
    assert bytes(native) == dataset.PixelData
    assert dicom._native_pixels(data[:-2], file.tell(), header) is None
    ours, theirs = load_xray(data), load_xray(pydicom.dcmread(io.BytesIO(data)))
    assert same(ours.pixels, theirs.pixels)
    assert ours.facts == theirs.facts


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("rows_per_strip", [48, 7])
@pytest.mark.parametrize("photometric", [0, 1])
def test_a_tiff_without_compression_is_read_at_once(
    order: str, rows_per_strip: int, photometric: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40) * 30
    kinds = [stored.astype(f"{order}u2"), (stored >> 8).astype(np.uint8)]
    if (order, photometric) == (">", 0):  # Pillow knows no such files of 16 bits
        kinds = kinds[1:]
    for values in kinds:
        data = tiff_of_strips(values, order, rows_per_strip, photometric)
        with Image.open(io.BytesIO(data)) as image:
            short = pictures._uncompressed(image)
        # Pillow turns 8 bits round by itself
        assert (short is None) == (values.itemsize == 1 and photometric == 0)
        ours = load_xray(data)
        with monkeypatch.context() as patch:
            patch.setattr(pictures, "_uncompressed", lambda _: None)
            long = load_xray(data)
        assert same(ours.pixels, long.pixels)
        assert ours.facts == long.facts
        expected = values / np.iinfo(values.dtype).max
        np.testing.assert_allclose(
            ours.pixels, expected if photometric else 1 - expected, atol=1e-7
        )
        with pytest.raises(ValueError, match="bytes is corrupt or cut off"):
            load_xray(data[:-200])


def tiff_of_strips(stored: Any, order: str, rows: int, photometric: int) -> bytes:
    """A TIFF of many strips, the last of them first, behind its directory."""
    height, width = stored.shape
    strips = [stored[top : top + rows].tobytes() for top in range(0, height, rows)]
    entries = {
        256: [width],
        257: [height],
        258: [8 * stored.itemsize],
        259: [1],
        262: [photometric],
        273: [0] * len(strips),
        277: [1],
        278: [rows],
        279: [len(strip) for strip in strips],
    }
    end = 8 + 2 + 12 * len(entries) + 4
    lists = {tag: values for tag, values in entries.items() if len(values) > 1}
    start = end + sum(4 * len(values) for values in lists.values())
    total = start + stored.nbytes
    place = total
    offsets = []
    for strip in strips:
        place -= len(strip)
        offsets.append(place)
    entries[273] = offsets
    directory, behind = struct.pack(f"{order}H", len(entries)), b""
    for tag, values in entries.items():
        packed = struct.pack(f"{order}{len(values)}I", *values)
        value = packed
        if len(values) > 1:
            value = struct.pack(f"{order}I", end + len(behind))
            behind += packed
        directory += struct.pack(f"{order}HHI", tag, 4, len(values)) + value
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + directory + bytes(4) + behind + b"".join(reversed(strips))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_turned_tiff_is_turned_once(orientation: int, compression: str | None) -> None:
    stored = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40) * 30
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "TIFF", exif=exif, compression=compression)
    turns = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored[::-1].T,
        7: stored[::-1, ::-1].T,
        8: stored[:, ::-1].T,
    }
    expected = turns[orientation].astype(np.float32) / np.float32(65535)
    np.testing.assert_array_equal(load_xray(buffer.getvalue()).pixels, expected)
