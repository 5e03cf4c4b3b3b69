"""DICOM objects that the tests make: small radiographs of any photometric, window and encoding."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian  # noqa: E402

COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
UID = "1.2.826.0.1.3680043.8.498.1"
"""Of all: files are the same bytes in each run, and tests that damage them repeat what failed."""


def make(stored: Any, *, bits: int = 12, **changes: Any) -> Any:
    """A computed radiograph with these stored values; a change to None removes the element."""
    stored = np.asarray(stored)
    allocated = 8 * stored.dtype.itemsize
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values = {
        "SOPClassUID": COMPUTED_RADIOGRAPHY,
        "SOPInstanceUID": UID,
        "Modality": "CR",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": allocated,
        "BitsStored": min(bits, allocated),
        "HighBit": min(bits, allocated) - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "PixelData": stored.astype(stored.dtype.newbyteorder("<")).tobytes(),
    }
    for keyword, value in (values | changes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    return dataset


def to_bytes(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def lut(entries: Any, first: int, bits: int) -> Any:
    """An item of a LUT sequence."""
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return item


def sample(name: str) -> Path:
    """A file of pydicom's own or of the package pydicom-data; never downloaded."""
    from pydicom.data import get_testdata_file

    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"the package pydicom-data with {name} is not installed")
    return Path(path)
