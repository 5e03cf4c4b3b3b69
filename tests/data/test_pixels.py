"""Every door of `load_xray`: what comes in keeps its grey values, what is no X-ray is refused."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unix_cxr.data.pixels import load_xray

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
        (b"", r"bytes is not an image that can be read; PNG, JPEG and TIFF are"),
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
