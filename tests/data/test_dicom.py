"""DICOM in: every photometric, window and encoding against the standard's own words."""

import copy
import io
import math
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.dicoms import lut, make, sample, to_bytes
from unix_cxr.data.pixels import Spacing, load_xray

pydicom = pytest.importorskip("pydicom")
from pydicom import uid  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder  # noqa: E402

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
SIGNED = (np.arange(4096) - 2048).astype(np.int16).reshape(64, 64)
RAMP8 = np.arange(4096).astype(np.uint8).reshape(64, 64)


def smooth(bits: int = 12) -> np.ndarray:
    """Hills with little noise, as an X-ray has them."""
    rows, columns = np.mgrid[0:96, 0:80] / 20
    hills = 0.5 + 0.4 * np.sin(rows) * np.cos(columns)
    noise = np.random.default_rng(0).normal(0, 0.002, hills.shape)
    return ((hills + noise) * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)


# windows -----------------------------------------------------------------------------------------


def by_the_standard(x: float, function: str, c: float, w: float) -> float:
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, with an output range of 0..1."""
    if function == "LINEAR":
        if x <= c - 0.5 - (w - 1) / 2:
            return 0.0
        if x > c - 0.5 + (w - 1) / 2:
            return 1.0
        return (x - (c - 0.5)) / (w - 1) + 0.5
    if function == "LINEAR_EXACT":
        return 0.0 if x <= c - w / 2 else 1.0 if x > c + w / 2 else (x - c) / w + 0.5
    return 1 / (1 + math.exp(-4 * (x - c) / w))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(2048, 4096), (1000.5, 300), (0, 2), (100, 1)])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_windows_are_those_of_the_standard(
    function: str, centre: float, width: float, photometric: str
) -> None:
    dataset = make(
        RAMP,
        WindowCenter=centre,
        WindowWidth=width,
        VOILUTFunction=function,
        PhotometricInterpretation=photometric,
    )
    greys = np.array([by_the_standard(x, function, centre, width) for x in range(4096)])
    if photometric == "MONOCHROME1":
        greys = 1 - greys
    xray = load_xray(dataset)
    np.testing.assert_allclose(xray.pixels.ravel(), greys, atol=6e-8)
    assert xray.facts.window == f"{function}, centre {centre:g}, width {width:g}"
    assert xray.facts.inverted == (photometric == "MONOCHROME1")


@given(
    signed=st.booleans(),
    bits=st.integers(9, 16),
    slope=st.sampled_from([None, 1, 0.5, -2, 3]),
    centre=st.integers(-500, 3000),
    width=st.integers(1, 5000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_modality_and_window_agree_with_pydicom(
    signed: bool, bits: int, slope: Any, centre: int, width: int, function: str
) -> None:
    stored = np.linspace(0, 2**bits - 1, 1024).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
    rescale = {} if slope is None else {"RescaleSlope": slope, "RescaleIntercept": -100}
    dataset = make(
        stored.astype(np.int16 if signed else np.uint16).reshape(32, 32),
        bits=bits,
        WindowCenter=centre,
        WindowWidth=width,
        VOILUTFunction=function,
        **rescale,
    )
    dataset.PixelRepresentation = int(signed)
    values = apply_modality_lut(dataset.pixel_array, dataset)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if slope is not None:
        low, high = low * slope - 100, high * slope - 100
    with np.errstate(over="ignore"):
        theirs = (apply_voi_lut(values, dataset) - low) / (high - low)
    np.testing.assert_allclose(load_xray(dataset).pixels, theirs, atol=1e-6)


def test_the_first_of_several_windows_is_taken_unless_another_is_asked_for() -> None:
    dataset = make(RAMP, WindowCenter=[2048, 100], WindowWidth=[4096, 50])
    first, second = load_xray(dataset), load_xray(dataset, window=1)
    assert np.array_equal(first.pixels, load_xray(dataset, window=0).pixels)
    assert first.facts.window == "LINEAR, centre 2048, width 4096"
    assert second.facts.window == "LINEAR, centre 100, width 50"
    assert second.pixels[0, 50] == 0
    assert second.pixels[3, 0] == 1
    for window in (2, -1):
        with pytest.raises(ValueError, match=f"has 2 windows, so window {window} is none of them"):
            load_xray(dataset, window=window)
    with pytest.raises(ValueError, match="window 1 was asked of array, which is array; only DICOM"):
        load_xray(RAMP, window=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WindowWidth": 0}, r"LINEAR window with centre 100 and width 0; delete WindowCenter"),
        ({"WindowWidth": 0.5}, r"LINEAR window with centre 100 and width 0.5"),
        ({"WindowWidth": 0, "VOILUTFunction": "SIGMOID"}, r"SIGMOID window .* width 0"),
        ({"VOILUTFunction": "CUBIC"}, r"VOILUTFunction 'CUBIC'; LINEAR, LINEAR_EXACT and SIGMOID"),
    ],
)
def test_windows_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_xray(make(RAMP, WindowCenter=100, **({"WindowWidth": 50} | changes)))


# tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 16])
@pytest.mark.parametrize("first", [-100, 0, 700])
def test_a_voi_lut_maps_value_by_value(bits: int, first: int) -> None:
    entries = np.sqrt(np.arange(1000) / 999) * (2**bits - 1)
    entries = entries.astype(int)
    dataset = make(
        SIGNED, VOILUTSequence=[lut(entries, first, bits)], WindowCenter=1, WindowWidth=2
    )
    expected = [entries[min(max(x - first, 0), 999)] / (2**bits - 1) for x in range(-2048, 2048)]
    xray = load_xray(dataset)
    np.testing.assert_allclose(xray.pixels.ravel(), expected, atol=1e-7)
    assert xray.facts.window == "VOI LUT 0"
    window = load_xray(dataset, window=1)
    assert window.facts.window == "LINEAR, centre 1, width 2"


def test_a_lut_of_65536_entries_and_one_of_packed_bytes() -> None:
    whole = make(
        np.arange(65536, dtype=np.uint16).reshape(256, 256),
        bits=16,
        VOILUTSequence=[lut(np.arange(65536)[::-1], 0, 16)],
    )
    np.testing.assert_allclose(
        load_xray(whole).pixels.ravel(), np.arange(65536)[::-1] / 65535, atol=1e-7
    )
    packed = lut(range(256), 0, 8)
    packed.LUTData = bytes(range(256))
    dataset = make(RAMP8, bits=8, VOILUTSequence=[packed])
    np.testing.assert_array_equal(load_xray(dataset).pixels, RAMP8.astype(np.float32) / 255)


def test_a_lut_with_more_than_its_bits_or_other_entries_is_refused() -> None:
    with pytest.raises(ValueError, match="VOI LUT of 8 bits with values up to 300"):
        load_xray(make(RAMP, VOILUTSequence=[lut([0, 300], 0, 8)]))
    short = lut(range(100), 0, 8)
    short.LUTDescriptor = [300, 0, 8]
    with pytest.raises(ValueError, match="LUT of 300 entries of 8 bits with 100 entries"):
        load_xray(make(RAMP, VOILUTSequence=[short]))


def test_a_modality_lut_comes_before_the_window() -> None:
    entries = np.arange(4096)[::-1]
    dataset = make(
        RAMP, ModalityLUTSequence=[lut(entries, 0, 16)], WindowCenter=100, WindowWidth=201
    )
    expected = [by_the_standard(x, "LINEAR", 100, 201) for x in entries]
    np.testing.assert_allclose(load_xray(dataset).pixels.ravel(), expected, atol=1e-7)


@pytest.mark.parametrize("name", ["mlut_18.dcm", "vlut_04.dcm"])
def test_other_peoples_luts_agree_with_pydicom(name: str) -> None:
    dataset = pydicom.dcmread(sample(name))
    dataset.Modality = "CR"
    theirs = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(float)
    ours = load_xray(dataset)
    if ours.facts.window.startswith("VOI"):
        full = 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
        np.testing.assert_allclose(ours.pixels, theirs / full, atol=1e-6)
    else:
        low, high = theirs.min(), theirs.max()
        np.testing.assert_allclose(ours.pixels, (theirs - low) / (high - low), atol=1e-6)


# photometric interpretation ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [None, "IDENTITY", "INVERSE"])
@pytest.mark.parametrize(
    "view",
    [
        {"WindowCenter": 1500, "WindowWidth": 900},
        {"VOILUTSequence": [lut(np.arange(4096) // 16, 0, 8)]},
        {},
    ],
    ids=["window", "LUT", "range"],
)
def test_monochrome1_is_inverted_once_and_the_presentation_shape_changes_nothing(
    shape: str | None, view: dict[str, Any]
) -> None:
    first, second = (
        load_xray(make(RAMP, PhotometricInterpretation=name, PresentationLUTShape=shape, **view))
        for name in ("MONOCHROME1", "MONOCHROME2")
    )
    np.testing.assert_allclose(first.pixels, 1 - second.pixels, atol=6e-8)
    assert second.pixels[0, 0] < second.pixels[-1, -1]
    assert (first.facts.inverted, second.facts.inverted) == (True, False)
    contradictions = [x.facts.notes for x in (first, second) if x.facts.notes]
    expected = {
        None: [],
        "IDENTITY": [("PresentationLUTShape IDENTITY contradicts MONOCHROME1, which decides",)],
        "INVERSE": [("PresentationLUTShape INVERSE contradicts MONOCHROME2, which decides",)],
    }
    assert contradictions == expected[shape]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_no_part_of_the_scale(photometric: str) -> None:
    stored = np.full((20, 20), 1000, np.uint16)
    stored[:, 5:] = 2000
    stored[:, 18:] = 4095
    stored[0, 0] = 4090
    dataset = make(
        stored,
        PhotometricInterpretation=photometric,
        PixelPaddingValue=4095,
        PixelPaddingRangeLimit=4090,
    )
    pixels = load_xray(dataset).pixels
    dark, bright = (1, 0) if photometric == "MONOCHROME1" else (0, 1)
    assert (pixels[:, 18:] == 0).all()
    assert pixels[0, 0] == 0
    assert (pixels[1:, :5] == dark).all()
    assert (pixels[:, 5:18] == bright).all()
    assert load_xray(dataset).facts.window == "no window, range 1000..2000"
    windowed = copy.deepcopy(dataset)
    windowed.WindowCenter, windowed.WindowWidth = 1500, 10_000
    assert (load_xray(windowed).pixels[:, 18:] == 0).all()
    assert (load_xray(windowed).pixels[1:, :18] > 0.1).all()


def test_signed_padding_below_all_that_can_be_stored() -> None:
    stored = SIGNED.copy()
    stored[:, 0] = -30_000
    dataset = make(stored, PixelPaddingValue=-30_000)
    pixels = load_xray(dataset).pixels
    assert (pixels[:, 0] == 0).all()
    assert pixels[-1, -1] == 1
    dataset.PixelPaddingRangeLimit = 30_000
    with pytest.raises(ValueError, match="holds nothing but padding"):
        load_xray(dataset)


# without a window --------------------------------------------------------------------------------


def test_without_a_window_8_bits_are_as_in_png_and_more_use_their_range() -> None:
    narrow = np.clip(RAMP8, 100, 200)
    np.testing.assert_array_equal(load_xray(make(narrow, bits=8)).pixels, narrow.astype("f4") / 255)
    twelve = np.clip(RAMP, 1000, 2000)
    xray = load_xray(make(twelve, RescaleSlope=2, RescaleIntercept=-7))
    np.testing.assert_allclose(xray.pixels, (twelve - 1000.0) / 1000, atol=1e-7)
    assert xray.facts.window == "no window, range 1993..3993"
    with pytest.raises(ValueError, match="holds the single value 5; that is no picture"):
        load_xray(make(np.full((20, 20), 5, np.uint16)))
    with pytest.raises(ValueError, match=r"RescaleSlope 0\.0 and RescaleIntercept 1\.0"):
        load_xray(make(RAMP, RescaleSlope=0, RescaleIntercept=1))


def test_a_16_bit_ramp_keeps_its_histogram() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for window in ({}, {"WindowCenter": 32768, "WindowWidth": 65536}):
        pixels = load_xray(to_bytes(make(ramp, bits=16, **window))).pixels
        assert len(np.unique(pixels)) == 65536
        np.testing.assert_array_equal(np.rint(pixels * 65535), ramp)


# bits --------------------------------------------------------------------------------------------


def test_stored_bits_may_lie_high_or_share_their_word_with_an_overlay() -> None:
    plain = load_xray(make(RAMP)).pixels
    high = make((RAMP << 4).astype(np.uint16))
    high.HighBit = 15
    np.testing.assert_array_equal(load_xray(high).pixels, plain)
    marked = make(RAMP | np.uint16(0x4000))
    with pytest.raises(ValueError, match="holds values that do not fit into its BitsStored 12"):
        load_xray(marked)
    marked.add_new((0x6000, 0x0102), "US", 14)
    np.testing.assert_array_equal(load_xray(marked).pixels, plain)
    np.testing.assert_array_equal(load_xray(to_bytes(marked)).pixels, plain)


def test_signed_values_with_and_without_their_sign_extended() -> None:
    plain = load_xray(make(SIGNED)).pixels
    np.testing.assert_allclose(plain.ravel(), np.arange(4096) / 4095, atol=1e-7)
    cut = make((SIGNED & 0x0FFF).astype(np.int16))
    np.testing.assert_array_equal(load_xray(cut).pixels, plain)


# encodings ---------------------------------------------------------------------------------------

LOSSLESS = [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless]


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_encodings_change_nothing(syntax: Any, bits: int) -> None:
    plain = make(smooth(bits), bits=bits, PhotometricInterpretation="MONOCHROME1")
    packed = copy.deepcopy(plain)
    packed.compress(syntax, generate_instance_uid=False)
    xray = load_xray(to_bytes(packed))
    np.testing.assert_array_equal(xray.pixels, load_xray(plain).pixels)
    assert xray.facts.transfer_syntax == syntax.name


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian],
    ids=lambda syntax: syntax.name,
)
@pytest.mark.parametrize("bits", [8, 12])
def test_uncompressed_encodings_are_one_picture(syntax: Any, bits: int) -> None:
    plain = make(smooth(bits), bits=bits, VOILUTSequence=[lut(np.arange(4096) // 16, 0, 8)])
    other = copy.deepcopy(plain)
    other.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
        words = smooth(bits).astype(">u2") if bits > 8 else smooth(bits)
        other.PixelData = words.tobytes()
        item = other.VOILUTSequence[0]
        item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
    expected = load_xray(plain).pixels
    np.testing.assert_array_equal(load_xray(to_bytes(other)).pixels, expected)


@pytest.mark.parametrize("bits", [8, 12])
def test_lossy_encodings_are_near(bits: int) -> None:
    stored = smooth(bits)
    plain = make(stored, bits=bits)
    for syntax, options in (
        (uid.JPEGLSNearLossless, {"jls_error": 2}),
        (uid.JPEG2000, {"j2k_psnr": [60]}),
    ):
        packed = copy.deepcopy(plain)
        packed.compress(syntax, generate_instance_uid=False, **options)
        assert abs(load_xray(packed).pixels - load_xray(plain).pixels).max() < 0.01


def test_jpeg_baseline_is_as_pillow_decodes_it() -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth(8)).save(buffer, "JPEG", quality=95)
    dataset = make(smooth(8), bits=8)
    dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    dataset.PixelData = encapsulate([buffer.getvalue()])
    theirs = load_xray(buffer.getvalue())
    np.testing.assert_array_equal(load_xray(to_bytes(dataset)).pixels, theirs.pixels)


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("JPEG-LL.dcm", uid.JPEGLosslessSV1),
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", uid.JPEGLosslessSV1),
        ("JPGExtended.dcm", uid.JPEGExtended12Bit),
        ("JPEG2000.dcm", uid.JPEG2000),
        ("MR_small_RLE.dcm", uid.RLELossless),
        ("MR_small_jpeg_ls_lossless.dcm", uid.JPEGLSLossless),
    ],
)
def test_other_peoples_encodings_are_read(name: str, syntax: Any) -> None:
    dataset = pydicom.dcmread(sample(name))
    for keyword in ("WindowCenter", "WindowWidth"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.Modality = "DX"
    assert dataset.file_meta.TransferSyntaxUID == syntax
    stored = dataset.pixel_array.astype(float)
    low, high = (0, 255) if dataset.BitsStored == 8 else (stored.min(), stored.max())
    np.testing.assert_allclose(load_xray(dataset).pixels, (stored - low) / (high - low), atol=1e-6)


def jpeg_lossless(stored: np.ndarray, bits: int) -> bytes:
    """A lossless JPEG (process 14, selection value 1) with one Huffman code of 5 bits per size."""
    wide = stored.astype(np.int64)
    predicted = np.empty_like(wide)
    predicted[:, 1:] = wide[:, :-1]
    predicted[1:, 0] = wide[:-1, 0]
    predicted[0, 0] = 2 ** (bits - 1)
    code = []
    for difference in ((wide - predicted + 2**15) % 2**16 - 2**15).ravel().tolist():
        size = abs(difference).bit_length()
        value = difference if difference >= 0 else difference + 2**size - 1
        code.append(f"{size:05b}" + (f"{value:0{size}b}" if 0 < size < 16 else ""))
    text = "".join(code)
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8).replace(b"\xff", b"\xff\x00")
    rows, columns = stored.shape
    return b"".join(
        [
            b"\xff\xd8\xff\xc3\x00\x0b",
            bytes([bits, rows >> 8, rows & 255, columns >> 8, columns & 255, 1, 1, 0x11, 0]),
            b"\xff\xc4" + (2 + 17 + 17).to_bytes(2) + bytes([0, 0, 0, 0, 0, 17]) + bytes(11),
            bytes(range(17)),
            b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + scan + b"\xff\xd9",
        ]
    )


@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_lossless_changes_nothing(syntax: Any, bits: int) -> None:
    plain = make(smooth(bits), bits=bits)
    packed = copy.deepcopy(plain)
    packed.file_meta.TransferSyntaxUID = syntax
    packed.PixelData = encapsulate([jpeg_lossless(smooth(bits), bits)])
    packed["PixelData"].VR = "OB"
    np.testing.assert_array_equal(load_xray(to_bytes(packed)).pixels, load_xray(plain).pixels)


def test_an_absent_decoder_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = make(smooth())
    packed.compress(uid.JPEGLSLossless)
    monkeypatch.setattr(get_decoder(uid.JPEGLSLossless), "_available", {})
    message = (
        r"transfer syntax JPEG-LS Lossless Image Compression \(1\.2\.840\.10008\.1\.2\.4\.80\), "
        r"and no decoder for it is installed: pip install 'unix-cxr\[dicom\]'"
    )
    with pytest.raises(ImportError, match=message):
        load_xray(to_bytes(packed))


def test_without_pydicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = to_bytes(make(RAMP))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r"bytes is DICOM, which needs pydicom: pip install 'uni"):
        load_xray(data)


# what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Modality": "CT"}, r"has modality 'CT'; X-rays of the modalities CR, DX and RG are read"),
        ({"Modality": "OT"}, r"has modality 'OT'; .* and OT if it is a Secondary Capture"),
        ({"SamplesPerPixel": 3}, r"has 3 samples per pixel and photometric .*; an X-ray has 1"),
        ({"PhotometricInterpretation": "RGB"}, r"photometric interpretation 'RGB'; an X-ray has"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, r"'PALETTE COLOR'; an X-ray has 1"),
        ({"PhotometricInterpretation": None}, r"photometric interpretation ''"),
        ({"NumberOfFrames": 2}, r"holds 2 frames; give one image"),
        ({"NumberOfFrames": -1}, r"holds -1 frames; give one image"),
        ({"Rows": 60_000, "Columns": 60_000}, r"60000x60000 = 3,600,000,000 pixels, more than"),
        ({"Rows": 3}, r"has 64x3 pixels; an X-ray needs at least 16 on each side"),
        ({"Rows": None}, r"Rows is absent; a DICOM image needs a whole number"),
        ({"Rows": 128}, r"pixel data that cannot be read as Explicit VR Little Endian"),
        ({"PixelData": None}, r"has no PixelData; it holds no picture of whole numbers"),
        ({"PixelData": b""}, r"pixel data that cannot be read as"),
        ({"BitsStored": 13, "BitsAllocated": 12}, r"BitsAllocated 12, BitsStored 13"),
        ({"BitsAllocated": 32}, r"pixel data that cannot be read|BitsAllocated 32"),
        ({"HighBit": 15, "BitsStored": 17}, r"BitsStored|pixel data that cannot be read"),
    ],
)
def test_what_is_no_single_grey_xray_is_refused(changes: dict[str, Any], message: str) -> None:
    dataset = make(RAMP, **changes)
    with pytest.raises(ValueError, match=f"DICOM dataset.*{message}"):
        load_xray(dataset)
    if dataset.get("PixelData") != b"":
        with pytest.raises(ValueError, match=f"bytes.*{message}"):
            load_xray(to_bytes(dataset))


def test_what_deidentification_stripped_may_be_absent() -> None:
    dataset = make(RAMP, Modality=None, SOPClassUID=None, SOPInstanceUID=None)
    xray = load_xray(dataset)
    assert (xray.facts.modality, xray.view, xray.spacing_mm) == ("", "", None)
    captured = make(RAMP, Modality="OT", SOPClassUID=uid.SecondaryCaptureImageStorage)
    assert load_xray(captured).facts.modality == "OT"


def test_a_dataset_must_say_its_transfer_syntax() -> None:
    dataset = make(RAMP)
    dataset.file_meta.TransferSyntaxUID = [uid.RLELossless, uid.JPEG2000]
    with pytest.raises(ValueError, match=r"set dataset.file_meta.TransferSyntaxUID"):
        load_xray(dataset)
    del dataset.file_meta.TransferSyntaxUID
    with pytest.raises(ValueError, match=r"set dataset.file_meta.TransferSyntaxUID"):
        load_xray(dataset)
    del dataset.file_meta
    with pytest.raises(ValueError, match=r"set dataset.file_meta.TransferSyntaxUID"):
        load_xray(dataset)
    video = make(RAMP)
    video.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    with pytest.raises(ValueError, match=r"has the transfer syntax MPEG2 .*, which is no picture"):
        load_xray(video)


def test_dicom_without_its_preamble_says_how_to_read_it(tmp_path: Any) -> None:
    data = to_bytes(make(RAMP))
    path = tmp_path / "bare.dcm"
    path.write_bytes(data[132:])
    for source in (path, data[132:]):
        with pytest.raises(
            ValueError, match=r"looks like DICOM without its preamble .* force=True"
        ):
            load_xray(source)
    with pytest.raises(ValueError, match=r"bytes is corrupt DICOM: it is cut off"):
        load_xray(data[:132])


def test_dicom_is_known_by_its_content_and_not_by_its_name(tmp_path: Any) -> None:
    dataset = make(RAMP)
    path = tmp_path / "no_extension"
    path.write_bytes(to_bytes(dataset))
    for source in (path, str(path), path.read_bytes(), dataset):
        assert load_xray(source).facts.format == "DICOM"
        np.testing.assert_array_equal(load_xray(source).pixels, load_xray(dataset).pixels)
    assert load_xray(path).source == str(path)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, *LOSSLESS], ids=lambda x: x.name)
def test_cut_off_files_are_refused(syntax: Any) -> None:
    dataset = make(smooth())
    if syntax.is_encapsulated:
        dataset.compress(syntax)
    data = to_bytes(dataset)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(
            ValueError, match=r"bytes (is corrupt DICOM|has (pixel data|no PixelD))"
        ):
            load_xray(data[: int(share * len(data))])


@pytest.mark.parametrize(
    "syntax",
    [uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000, uid.RLELossless],
    ids=lambda syntax: syntax.name,
)
def test_garbage_inside_is_refused(syntax: Any) -> None:
    dataset = make(smooth())
    dataset.file_meta.TransferSyntaxUID = syntax
    for garbage in (b"garbage!" * 40, b"\xff\xd8" + bytes(100) + b"\xff\xd9", bytes(64)):
        dataset.PixelData = encapsulate([garbage])
        with pytest.raises(ValueError, match=r"has pixel data that cannot be read as .*\(1\.2\.84"):
            load_xray(to_bytes(dataset))


def test_a_stream_that_is_larger_than_its_header_says_is_never_decoded() -> None:
    dataset = make(smooth(8), bits=8)
    buffer = io.BytesIO()
    Image.fromarray(smooth(8)).save(buffer, "JPEG")
    stream = bytearray(buffer.getvalue())
    place = stream.index(b"\xff\xc0") + 5
    stream[place : place + 4] = b"\xea\x60\xea\x60"
    dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    dataset.PixelData = encapsulate([bytes(stream)])
    with pytest.raises(ValueError, match="the stream inside has 60000x60000 pixels of 1 compone"):
        load_xray(to_bytes(dataset))
    packed = make(smooth())
    packed.compress(uid.JPEG2000Lossless)
    packed.PixelData = packed.PixelData.replace(b"\xff\x4f\xff\x51", b"\xff\x4f\xff\x51", 1)
    place = packed.PixelData.index(b"\xff\x4f\xff\x51") + 8
    data = bytearray(packed.PixelData)
    data[place : place + 8] = b"\x00\x00\xea\x60" * 2
    packed.PixelData = bytes(data)
    with pytest.raises(ValueError, match="the stream inside has 60000x60000 pixels"):
        load_xray(to_bytes(packed))


def test_bombs_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = make(RAMP)
    flat.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    data = to_bytes(flat)
    start = 144 + int.from_bytes(data[140:144], "little")
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = bytes(1 << 20)
    deflated = b"".join(bomb.compress(piece) for _ in range(70)) + bomb.flush()
    lies = make(RAMP, Rows=60_000, Columns=60_000)
    long = bytearray(to_bytes(make(RAMP)))
    place = long.rindex(b"OW\x00\x00") + 4
    long[place : place + 4] = b"\xfe\xff\xff\xff"
    tracemalloc.start()
    for source, message in (
        (data[:start] + deflated, r"inflates to more than .* bytes, which no X-ray of 5,000 pixel"),
        (to_bytes(lies), r"more than the limit of"),
    ):
        with pytest.raises(ValueError, match=message):
            load_xray(source, max_pixels=5_000)
    load_xray(bytes(long))  # what is there is whole; the length of 4 GiB is a lie
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


@given(st.data())
def test_a_damaged_file_is_an_xray_or_one_clear_error(data: st.DataObject) -> None:
    source = bytearray(data.draw(st.sampled_from(DAMAGED)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(source) - 1))
        source[place] = data.draw(st.integers(0, 255))
    try:
        pixels = load_xray(bytes(source)).pixels
    except ValueError as error:
        message = str(error)
    else:
        message = "bytes are an X-ray" if 0 <= pixels.min() <= pixels.max() <= 1 else "wrong"
    assert message.startswith(("bytes ", "bytes: ")), message


def damaged() -> list[bytes]:
    files = [to_bytes(make(smooth()[:40, :40], WindowCenter=[1000, 2], WindowWidth=[500, 3]))]
    for syntax in LOSSLESS:
        dataset = make(smooth()[:40, :40], VOILUTSequence=[lut([0, 200, 255], 0, 8)])
        dataset.compress(syntax)
        files.append(to_bytes(dataset))
    return files


DAMAGED = damaged()


def test_every_file_of_pydicoms_own_is_an_xray_or_one_clear_error() -> None:
    """CT, ultrasound in colour, reports, plans, broken headers: what else lies in folders."""
    from pydicom.data import data_manager

    folder = data_manager.DATA_ROOT + "/test_files"
    files = sorted(Path(folder).glob("*.dcm"))
    assert len(files) > 60
    refused = 0
    for path in files:
        try:
            load_xray(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} ")  # noqa: PT017 - both ends are right
            refused += 1
    assert refused == len(files) - 1  # one Secondary Capture of a grey picture


# facts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "spacing", "source"),
    [
        ({}, None, ""),
        ({"PixelSpacing": [0.2, 0.1]}, Spacing(0.2, 0.1), "PixelSpacing"),
        ({"ImagerPixelSpacing": [0.3, 0.4]}, Spacing(0.3, 0.4), "ImagerPixelSpacing"),
        (
            {"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.3, 0.4]},
            Spacing(0.2, 0.1),
            "PixelSpacing",
        ),
        (
            {"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.3, 0.4]},
            Spacing(0.3, 0.4),
            "ImagerPixelSpacing",
        ),
        ({"PixelSpacing": [0.2]}, None, ""),
    ],
)
def test_spacing(elements: dict[str, Any], spacing: Spacing | None, source: str) -> None:
    xray = load_xray(make(RAMP, **elements))
    assert xray.spacing_mm == spacing
    assert xray.facts.spacing_source == source


@pytest.mark.parametrize(
    ("word", "view"),
    [
        ("AP", "AP"),
        ("PA", "PA"),
        ("LL", "LATERAL"),
        ("RL", "LATERAL"),
        ("LATERAL", "LATERAL"),
        ("LLD", ""),
        ("RAO", ""),
        (None, ""),
    ],
)
def test_view(word: str | None, view: str) -> None:
    assert load_xray(make(RAMP, ViewPosition=word)).view == view


def test_view_from_its_code_where_the_word_is_absent() -> None:
    from pydicom.sr.codedict import codes

    concepts = {
        "AP": codes.cid4010.AnteroPosterior,
        "PA": codes.cid4010.PosteroAnterior,
        "LATERAL": codes.cid4010.LeftLateral,
        "": codes.cid4010.Tangential,
    }
    for view, concept in concepts.items():
        code = pydicom.Dataset()
        code.CodeValue, code.CodingSchemeDesignator = concept.value, "SCT"
        code.CodeMeaning = concept.meaning
        assert load_xray(make(RAMP, ViewCodeSequence=[code])).view == view
        other = "PA" if view == "AP" else "AP"
        assert load_xray(make(RAMP, ViewPosition=other, ViewCodeSequence=[code])).view == other


def test_facts_of_a_file() -> None:
    facts = load_xray(
        make(
            RAMP,
            BurnedInAnnotation="YES",
            PresentationIntentType="FOR PROCESSING",
            PhotometricInterpretation="MONOCHROME1",
        )
    ).facts
    assert facts.original_size == (64, 64)
    assert facts.bits_stored == 12
    assert facts.modality == "CR"
    assert facts.photometric == "MONOCHROME1"
    assert facts.burned_in == "YES"
    assert facts.notes == ("values of the detector, not processed for display",)


def test_the_users_dataset_is_left_as_it_is() -> None:
    dataset = make(smooth())
    dataset.compress(uid.JPEGLSLossless)
    before, names = to_bytes(dataset), set(vars(dataset))
    load_xray(dataset)
    assert to_bytes(dataset) == before
    assert dataset._pixel_array is None
    assert set(vars(dataset)) == names


# a real radiograph -------------------------------------------------------------------------------


def test_a_real_monochrome1_radiograph_is_bright_where_it_is_dense() -> None:
    xray = load_xray(sample("RG1_UNCR.dcm"))
    assert xray.pixels.shape == (1955, 1841)
    assert (xray.view, xray.facts.modality) == ("PA", "CR")
    assert xray.facts.photometric == "MONOCHROME1"
    assert xray.facts.inverted
    assert xray.spacing_mm is None  # the file says 0 mm
    upper = slice(380, 500)
    right_lung, left_lung = xray.pixels[upper, 320:600], xray.pixels[upper, 1200:1450]
    mediastinum = xray.pixels[upper, 860:960]
    air = xray.pixels[60:160, 40:140]
    below_diaphragm = xray.pixels[1600:1700, 400:600]
    assert air.mean() < right_lung.mean() < mediastinum.mean() - 0.2
    assert left_lung.mean() < mediastinum.mean() - 0.2
    assert right_lung.mean() < below_diaphragm.mean() - 0.2


def test_the_real_radiograph_is_the_same_in_jpeg_2000() -> None:
    plain = load_xray(sample("RG1_UNCR.dcm")).pixels
    np.testing.assert_array_equal(load_xray(sample("RG1_J2KR.dcm")).pixels, plain)
