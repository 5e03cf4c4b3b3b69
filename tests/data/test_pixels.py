"""Every door of `load_xray`: what comes in keeps its grey values, what is no X-ray is refused."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unix_cxr.data.pixels import SourceFacts, Spacing, XRay, load_xray
from unix_cxr.data.png import to_integers, write_png

RAMP8 = np.tile(np.arange(256, dtype=np.uint8), (32, 1))
RAMP16 = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def png(pixels: Any, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, format="PNG")
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A PNG that says it is huge; decoding it would need all of its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00" * 64))
        + chunk(b"IEND", b"")
    )


def test_a_file_its_bytes_its_image_and_its_array_are_the_same_xray(tmp_path: Path) -> None:
    path = tmp_path / "ramp.png"
    path.write_bytes(png(RAMP8))
    sources = [path, str(path), path.read_bytes(), Image.open(path), RAMP8, RAMP8[None]]
    for source in [*sources, RAMP8[..., None]]:
        xray = load_xray(source)
        assert xray.pixels.dtype == np.float32
        np.testing.assert_array_equal(xray.pixels, RAMP8.astype(np.float32) / 255)
    assert load_xray(path).source == str(path)
    assert load_xray(RAMP8).source == "array"


def test_a_16_bit_ramp_keeps_its_histogram(tmp_path: Path) -> None:
    path = tmp_path / "ramp.png"
    path.write_bytes(png(RAMP16))
    tiff = tmp_path / "ramp.tif"
    Image.fromarray(RAMP16).save(tiff)
    for source in (path, tiff, path.read_bytes(), RAMP16):
        pixels = load_xray(source).pixels
        assert len(np.unique(pixels)) == 65536
        np.testing.assert_array_equal(np.rint(pixels * 65535).astype(np.uint16), RAMP16)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "CMYK"])
def test_8_bit_modes_keep_grey_values(mode: str) -> None:
    grey = Image.fromarray(RAMP8)
    # Pillow turns grey into a palette without loss, colour into one of few colours
    image = grey.convert(mode) if mode == "P" else grey.convert("RGB").convert(mode)
    np.testing.assert_allclose(load_xray(image).pixels, RAMP8 / 255, atol=1.01 / 255)


def test_big_endian_and_32_bit_integers_are_read_as_16_bits() -> None:
    big_endian = Image.frombytes("I;16B", (256, 256), RAMP16.astype(">u2").tobytes())
    wide = Image.fromarray(RAMP16.astype(np.int32))
    for image in (big_endian, wide):
        np.testing.assert_array_equal(load_xray(image).pixels, RAMP16.astype(np.float32) / 65535)


def test_bits_are_black_and_white() -> None:
    bits = RAMP8 > 127
    for source in (Image.fromarray(bits), png(bits), bits):
        np.testing.assert_array_equal(load_xray(source).pixels, bits.astype(np.float32))


def test_transparent_pixels_are_black() -> None:
    image = Image.new("RGBA", (20, 20), (255, 255, 255, 0))
    assert load_xray(image).pixels.max() == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are(dtype: Any) -> None:
    values = (RAMP8 / 255).astype(dtype)
    np.testing.assert_array_equal(load_xray(values).pixels, values.astype(np.float32))


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_colour_arrays_of_every_type_become_luminance(dtype: Any, full: int) -> None:
    colours = np.zeros((20, 20, 3), dtype=dtype)
    colours[..., 1] = full  # green
    np.testing.assert_allclose(load_xray(colours).pixels, 0.587, atol=1e-6)
    white = np.full((20, 20, 3), full, dtype=dtype)
    assert load_xray(white).pixels.max() <= 1
    np.testing.assert_allclose(load_xray(white).pixels, 1, atol=1e-6)


@given(st.integers(0, 2**16 - 1), st.sampled_from([np.uint8, np.uint16]))
def test_constants_are_scaled_by_their_types_range(value: int, dtype: Any) -> None:
    full = np.iinfo(dtype).max
    value %= full + 1
    pixels = load_xray(np.full((16, 16), value, dtype=dtype)).pixels
    assert pixels[0, 0] == np.float32(value) / np.float32(full)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((20, 20), np.int64), r"array of int64 has no known scale; give uint8"),
        (np.zeros((20, 20), complex), r"array of complex128 has no known scale"),
        (np.zeros(400, np.uint8), r"must be \[h, w\].*, not \[400\]"),
        (np.zeros((20, 20, 4), np.uint8), r"must be .*, not \[20, 20, 4\]"),
        (np.zeros((3, 20, 20), np.uint8), r"must be .*, not \[3, 20, 20\]"),
        (np.zeros((1, 1), np.uint8), r"array has 1x1 pixels; an X-ray needs at least 16"),
        (np.zeros((0, 0), np.float32), r"array has 0x0 pixels"),
        (np.full((20, 20), np.nan, np.float32), r"array holds values that are not finite"),
        (np.full((20, 20, 3), np.inf), r"array holds values that are not finite"),
        (np.full((20, 20), 255.0), r"array holds floats from 255 to 255; scale them to \[0, 1\]"),
        (np.full((20, 20), -0.5), r"array holds floats from -0.5"),
    ],
)
def test_arrays_that_are_no_xray_are_refused(array: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_xray(array)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"not an image that can be read; PNG, JPEG, TIFF, DICOM and"),
        (b"not an image at all", r"bytes is not an image that can be read"),
        (png(RAMP8)[:-40], r"bytes is corrupt or cut off"),
        (png(RAMP8)[:60], r"bytes is corrupt or cut off"),
        (png(RAMP8[:1, :1]), r"bytes has 1x1 pixels; an X-ray needs at least 16"),
        (huge_png(10_000, 9_000), r"bytes has 10000x9000 = 90,000,000 pixels, more than the limit"),
        (huge_png(60_000, 60_000), r"bytes is too large even for Pillow's own limit"),
    ],
)
def test_files_that_are_no_xray_are_refused(data: bytes, message: str) -> None:
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValueError, match=message):
        load_xray(data)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_cut_off_jpeg_is_refused_as_a_file_and_as_a_lazy_image(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = tmp_path / "cut.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"cut\.jpg is corrupt or cut off"):
        load_xray(path)
    with (
        Image.open(path) as image,
        pytest.raises(ValueError, match="PIL image is corrupt or cut off"),
    ):
        load_xray(image)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_byte_is_an_xray_or_one_clear_error(place: int, value: int) -> None:
    data = bytearray(png(RAMP8))
    data[place % len(data)] = value
    try:
        pixels = load_xray(bytes(data)).pixels
    except ValueError as error:
        message = str(error)
    else:
        message = "bytes are an X-ray" if np.isfinite(pixels).all() else "not finite"
    assert message.startswith("bytes ")


def test_the_limit_of_pixels_is_an_argument() -> None:
    assert load_xray(RAMP8, max_pixels=RAMP8.size).pixels.shape == RAMP8.shape
    with pytest.raises(ValueError, match="more than the limit of 100; shrink it or pass max_pix"):
        load_xray(RAMP8, max_pixels=100)


def test_several_frames_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.tif"
    frame = Image.fromarray(RAMP8)
    frame.save(path, save_all=True, append_images=[frame])
    with pytest.raises(ValueError, match=r"two\.tif holds 2 frames; give one image"):
        load_xray(path)


def test_32_bit_integers_beyond_16_bits_have_no_scale() -> None:
    image = Image.fromarray(np.full((20, 20), 70_000, np.int32))
    with pytest.raises(ValueError, match=r"values 70000\.\.70000, which has no known scale"):
        load_xray(image)


def test_paths_that_are_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no image file at .*absent\.png"):
        load_xray(tmp_path / "absent.png")
    with pytest.raises(IsADirectoryError, match=r"is a folder; give the file of one image"):
        load_xray(tmp_path)


@pytest.mark.parametrize("source", [None, 3, ["a.png"], memoryview(b"x")])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(TypeError, match=f"cannot read an X-ray from {type(source).__name__}; give"):
        load_xray(source)


# NumPy files


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("array", [RAMP16, RAMP8, RAMP16.T, RAMP16.astype(">u2"), RAMP8 > 9])
def test_a_npy_file_is_its_array(array: Any, tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    path.write_bytes(npy(array))
    for source in (path, path.read_bytes()):
        xray = load_xray(source)
        np.testing.assert_array_equal(xray.pixels, load_xray(array).pixels)
        assert xray.facts.format == "NPY"


def npy_of_shape(shape: str, dtype: str = "|u1") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(2000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            npy(np.full((20, 20), None), allow_pickle=True),
            r"bytes holds Python objects, which are never unpickled; save numbers",
        ),
        (npy(RAMP16)[:-1], r"bytes is cut off: its header needs 131,072 bytes, 131,071 follow"),
        (npy(RAMP16)[:30], r"bytes is a corrupt NumPy file"),
        (npy_of_shape("(60000, 60000)"), r"60000x60000 = 3,600,000,000 pixels, more than the lim"),
        (npy_of_shape("(7000, 9000)"), r"its header needs 63,000,000 bytes, 2,000 follow"),
        (npy_of_shape("(-5, -5)"), r"bytes has -5x-5 pixels"),
        (npy_of_shape("(__import__('os'), 2)"), r"bytes is a corrupt NumPy file"),
        (npy_of_shape("(20, 20), )"), r"bytes is a corrupt NumPy file"),
        (npy_of_shape("(20, 20)", "<i8"), r"array of int64 has no known scale"),
        (b"\x93NUMPY\x09\x00" + bytes(200), r"bytes has version \(9, 0\) of the NumPy format"),
    ],
)
def test_npy_files_that_are_no_xray_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_xray(data)


# what headers promise


def huge_headers() -> dict[str, bytes]:
    """Files of every format that say they have 60,000x60,000 pixels, and hold almost none."""
    files = {"PNG": huge_png(60_000, 60_000), "NPY": npy_of_shape("(60000, 60000)")}
    small = Image.fromarray(RAMP8[:, :32])
    huge16, huge32 = struct.pack(">H", 60_000) * 2, struct.pack(">I", 60_000) * 2
    for name in ("JPEG", "TIFF", "JPEG2000", "BMP", "PPM", "GIF"):
        buffer = io.BytesIO()
        small.save(buffer, name)
        files[name] = buffer.getvalue()
    place = files["JPEG"].index(b"\xff\xc0") + 5
    files["JPEG"] = files["JPEG"][:place] + huge16 + files["JPEG"][place + 4 :]
    tiff = files["TIFF"]
    for tag in (b"\x00\x01", b"\x01\x01"):
        entry = (
            tiff.index(tag + b"\x03\x00")
            if tag + b"\x03\x00" in tiff
            else tiff.index(tag + b"\x04\x00")
        )
        wide = tag + b"\x04\x00\x01\x00\x00\x00" + struct.pack("<I", 60_000)
        tiff = tiff[:entry] + wide + tiff[entry + 12 :]
    files["TIFF"] = tiff
    for old in (struct.pack(">II", 32, 32),):
        files["JPEG2000"] = files["JPEG2000"].replace(old, huge32)
    files["BMP"] = files["BMP"][:18] + struct.pack("<ii", 60_000, 60_000) + files["BMP"][26:]
    files["PPM"] = files["PPM"].replace(b"32 32", b"60000 60000")
    files["GIF"] = files["GIF"][:6] + struct.pack("<HH", 60_000, 60_000) + files["GIF"][10:]
    return files


@pytest.mark.parametrize(("name", "data"), huge_headers().items())
def test_a_header_of_60000_by_60000_costs_no_memory(name: str, data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"60000x60000 = 3,600,000,000 pix|Pillow's own limit"):
        load_xray(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_large_picture_that_the_caller_permits_less_of_is_refused_before_decoding() -> None:
    for name, data in huge_headers().items():
        with pytest.raises(ValueError, match=r"pixels|Pillow's own limit"):
            load_xray(data, max_pixels=10_000), name


# pictures with tags


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_whose_white_is_zero_is_turned_round_once(order: str, tmp_path: Path) -> None:
    """Pillow turns 8 bits round and forgets 16."""
    path = tmp_path / "inverse.tif"
    for ramp, full in ((RAMP8, 255), (RAMP16, 65535)):
        stored = ramp if full == 255 else ramp.astype(f"{order}u2")
        path.write_bytes(tiff_of(stored, order, photometric=0))
        if (order, full) == (">", 65535):  # Pillow knows no such files
            with pytest.raises(ValueError, match="is not an image that can be read"):
                load_xray(path)
        else:
            xray = load_xray(path)
            np.testing.assert_allclose(xray.pixels, 1 - ramp / full, atol=1e-7)
            assert xray.facts.inverted
        path.write_bytes(tiff_of(stored, order, photometric=1))
        plain = load_xray(path)
        np.testing.assert_array_equal(plain.pixels, ramp.astype(np.float32) / full)
        assert not plain.facts.inverted


def tiff_of(stored: Any, order: str, photometric: int) -> bytes:
    """A TIFF of one strip, by hand."""
    rows, columns = stored.shape
    data = stored.tobytes()
    bits = 8 * stored.itemsize
    entries = [(256, columns), (257, rows), (258, bits), (259, 1), (262, photometric)]
    entries += [(273, 8), (277, 1), (278, rows), (279, len(data))]
    directory = struct.pack(f"{order}H", len(entries))
    for tag, value in entries:
        directory += struct.pack(f"{order}HHII", tag, 4, 1, value)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}I", 8 + len(data)) + data + directory + bytes(4)


def test_a_12_bit_tiff_uses_its_own_full_scale() -> None:
    values = np.arange(4096, dtype=np.uint16)
    pairs = values.reshape(-1, 2).astype(np.uint32)
    packed = (pairs[:, 0] << 12) | pairs[:, 1]
    data = np.stack([packed >> 16, packed >> 8, packed], -1).astype(np.uint8).reshape(64, 96)
    tiff = bytearray(tiff_of(data, "<", photometric=1))
    entries = len(tiff) - 4 - 12 * 9
    for number, value in ((0, 64), (2, 12)):
        tiff[entries + 12 * number + 8 : entries + 12 * number + 12] = struct.pack("<I", value)
    pixels = load_xray(bytes(tiff)).pixels
    np.testing.assert_allclose(pixels.ravel(), values / 4095, atol=1e-7)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_what_a_viewer_shows(orientation: int, tmp_path: Path) -> None:
    from PIL import ImageOps

    picture = Image.fromarray(np.arange(600, dtype=np.uint16).astype(np.uint8).reshape(20, 30))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("png", "tif"):
        path = tmp_path / f"turned.{suffix}"
        picture.save(path, exif=exif)
        with Image.open(path) as opened:
            seen = np.asarray(ImageOps.exif_transpose(opened))
        np.testing.assert_array_equal(load_xray(path).pixels, seen.astype(np.float32) / 255)


def test_a_palette_is_read_by_its_colours_and_transparency_is_black() -> None:
    picture = Image.fromarray(RAMP8).convert("P")
    picture.putpalette(bytes(255 - value for value in range(256) for _ in range(3)))
    expected = (255 - RAMP8).astype(np.float32) / 255
    np.testing.assert_array_equal(load_xray(png(picture)).pixels, expected)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=0)
    assert (load_xray(buffer.getvalue()).pixels[:, 0] == 0).all()


def test_16_bit_png_written_by_others_keeps_its_values() -> None:
    """From the definition of PNG: rows of big-endian words after a filter byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RAMP16)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 256, 256, 16, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    xray = load_xray(data)
    np.testing.assert_array_equal(xray.pixels, RAMP16.astype(np.float32) / 65535)
    assert (xray.facts.format, xray.facts.bits_stored) == ("PNG", 16)


def test_formats_that_run_programs_are_never_opened() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n"
    with pytest.raises(ValueError, match="not an image that can be read"):
        load_xray(postscript)


# facts and squares


def test_facts_of_pictures_and_arrays() -> None:
    facts = load_xray(png(RAMP8)).facts
    assert facts == SourceFacts("PNG", (32, 256), 8)
    assert load_xray(RAMP16).facts == SourceFacts("array", (256, 256), 16)
    assert load_xray(RAMP8 / 255).facts == SourceFacts("array", (32, 256), 64)
    assert XRay(load_xray(RAMP8).pixels, "made").facts == SourceFacts()


def test_a_square_keeps_the_aspect_ratio_and_knows_its_spacing() -> None:
    white = np.ones((40, 80), np.float32)
    xray = XRay(white, "made", Spacing(0.2, 0.1), "PA").square(20)
    assert xray.pixels.shape == (20, 20)
    assert xray.pixels[5:15].min() == 1
    assert xray.pixels[:5].max() == xray.pixels[15:].max() == 0
    assert xray.spacing_mm == Spacing(0.8, 0.4)
    assert (xray.view, xray.source) == ("PA", "made")


# writing


@pytest.mark.parametrize("bits", [8, 16])
def test_a_written_png_reads_back(bits: int, tmp_path: Path) -> None:
    full = 2**bits - 1
    exact = (RAMP16 if bits == 16 else RAMP8).astype(np.float32) / full
    path = tmp_path / "out.png"
    write_png(path, exact, bits=bits, texts={"Synthetic": "yes: größer"}, xmp="<x/>")
    xray = load_xray(path)
    np.testing.assert_array_equal(xray.pixels, exact)
    assert xray.facts.bits_stored == bits
    with Image.open(path) as image:
        assert image.mode == ("L" if bits == 8 else "I;16")
        assert image.info["Synthetic"] == "yes: größer"
        assert image.info["XML:com.adobe.xmp"] == "<x/>"


@given(st.floats(0, 1), st.sampled_from([8, 16]))
def test_integers_are_the_nearest(value: float, bits: int) -> None:
    whole = to_integers(np.full((16, 16), value), bits)
    assert abs(int(whole[0, 0]) - value * (2**bits - 1)) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (np.zeros((20, 20)), {"bits": 12}, r"bits is 12; 8 and 16 can be written"),
        (np.full((20, 20), 1.5), {}, r"the picture holds floats from 1.5 to 1.5"),
        (np.full((20, 20), np.nan), {}, r"the picture holds values that are not finite"),
        (np.zeros((20, 20, 3)), {}, r"pixels must be \[h, w\], not \[20, 20, 3\]"),
        (np.zeros((20, 20), np.uint8), {}, r"pixels are uint8; give floats in \[0, 1\]"),
        (np.zeros((20, 20)), {"texts": {"": "x"}}, r"'' is no PNG keyword"),
    ],
)
def test_what_cannot_be_written_is_refused(
    pixels: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_png(tmp_path / "no.png", pixels, **options)
    assert not list(tmp_path.iterdir())
