"""Uncompressed films of 2500 x 2048 pixels, one for each way to grey values."""

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ROWS: Final = 2500
COLUMNS: Final = 2048
MARGIN: Final = 100
"""Columns without any film on the left."""

WINDOW: Final = {"WindowCenter": 2048, "WindowWidth": 4096}
NARROW: Final = {"WindowCenter": 1800, "WindowWidth": 2400}

FILMS: Final[dict[str, dict[str, Any]]] = {
    "MONOCHROME2, window": WINDOW,
    "MONOCHROME1, window": {"PhotometricInterpretation": "MONOCHROME1", **WINDOW},
    "MONOCHROME1, window that clips": {"PhotometricInterpretation": "MONOCHROME1", **NARROW},
    "window, rescaled": {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 1024}
    | {"WindowWidth": 4096},
    "no window": {},
    "MONOCHROME1, padding": {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
    | WINDOW,
    "no window, padding": {"PixelPaddingValue": 0},
    "sigmoid": {"VOILUTFunction": "SIGMOID", **WINDOW},
}
"""Elements of a film of 12 bits in 16 by its name."""


def film() -> NDArray[np.uint16]:
    """Made-up stored values of 12 bits: a soft picture with noise beside an empty margin."""
    rows, columns = np.ogrid[:ROWS, :COLUMNS]
    soft = 2000 + 900 * np.sin(rows / 400) * np.cos(columns / 300)
    noise = np.random.default_rng(0).normal(0, 40, (ROWS, COLUMNS))
    stored = (soft + noise).clip(1, 4095).astype(np.uint16)
    stored[:, :MARGIN] = 0
    return stored


def films() -> dict[str, bytes]:
    """The bytes of a file for each of `FILMS`."""
    stored = film().astype("<u2").tobytes()
    return {name: written(stored, elements) for name, elements in FILMS.items()}


def written(stored: bytes, elements: dict[str, Any]) -> bytes:
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1",
        "SOPInstanceUID": generate_uid(),
        "Modality": "CR",
        "ViewPosition": "PA",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": ROWS,
        "Columns": COLUMNS,
        "PixelSpacing": [0.16, 0.16],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": stored,
    }
    for keyword, value in (values | elements).items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
