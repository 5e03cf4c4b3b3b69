"""What a compressed picture says of its own size, read before a decoder believes it."""

import struct
from typing import Final, NamedTuple

_JPEG_START: Final = b"\xff\xd8"
_JPEG_END: Final = b"\xff\xd9"
_J2K_START: Final = b"\xff\x4f\xff\x51"
_JP2_START: Final = b"\x00\x00\x00\x0cjP  "
_MARK: Final = 0xFF
_FRAMES: Final = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15 and JPEG-LS
_BARE: Final = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_SCAN: Final = 0xDA
_TAIL: Final = 1024


class Size(NamedTuple):
    """Rows, columns and components of a compressed picture."""

    rows: int
    columns: int
    components: int


def size_of(stream: bytes) -> Size:
    """The size that a JPEG, JPEG-LS or JPEG 2000 stream will have when it is decoded.

    Raises:
        ValueError: the stream is none of them, or cut off.
    """
    if stream.startswith(_JPEG_START):
        if _JPEG_END not in stream[-_TAIL:]:
            raise ValueError("the JPEG stream is cut off before its end")
        return _of_jpeg(stream)
    place = stream.find(_J2K_START, 0, _TAIL) if stream.startswith(_JP2_START) else 0
    if place < 0 or not stream.startswith(_J2K_START, place):
        raise ValueError("the pixel data are no JPEG stream")
    try:
        columns, rows, left, top = struct.unpack_from(">4I", stream, place + 8)
        (components,) = struct.unpack_from(">H", stream, place + 40)
    except struct.error as error:
        raise ValueError("the JPEG 2000 stream is cut off in its header") from error
    return Size(rows - top, columns - left, components)


def _of_jpeg(stream: bytes) -> Size:
    place = len(_JPEG_START)
    while place + 4 <= len(stream):
        if stream[place] != _MARK:
            break
        marker = stream[place + 1]
        if marker == _MARK:  # a filling byte
            place += 1
        elif marker in _BARE:
            place += 2
        elif marker in _FRAMES:
            if place + 10 > len(stream):
                break
            rows, columns, components = struct.unpack_from(">HHB", stream, place + 5)
            return Size(rows, columns, components)
        elif marker == _SCAN:
            break
        else:
            place += 2 + int.from_bytes(stream[place + 2 : place + 4])
    raise ValueError("the JPEG stream has no frame header")
