"""Writing drawn X-rays as DICOM Secondary Capture that says of itself that it is synthetic.

The object follows the Secondary Capture Image IOD (PS3.3 A.8.1). It is never of the class of the
X-rays that a machine takes, has new UIDs, names no person, and carries `SyntheticData` YES.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from unix_cxr import __version__
from unix_cxr.data.dicom import SECONDARY_CAPTURE
from unix_cxr.data.dicom_header import EXTRA
from unix_cxr.data.facts import Spacing
from unix_cxr.data.png import to_integers
from unix_cxr.files import replacing

IMPLEMENTATION_UID: Final = "2.25.264853929855253619950567554199948769606"
"""Of this library as a writer of DICOM; derived from a UUID, as PS3.5 B.2 allows."""

_MAKER: Final = "unix_cxr"
_LONGEST_WORD: Final = 64  # of value representation LO
_LONGEST_TEXT: Final = 1024  # of value representation ST
_UID: Final = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_VIEWS: Final = {"AP": "AP", "PA": "PA", "LATERAL": "LL", "": ""}
_DESCRIPTION: Final = "Drawn by a generative model; not an X-ray of any person"


@dataclass(frozen=True)
class SyntheticStudy:
    """What the synthetic images of one made-up study share.

    Args:
        study_uid: of the study; new if "".
        series_uid: of the series; new if "".
        number: of the image in its series.
        model: name and version of what drew it, up to 64 characters.
        description: how it was derived; leave out prompts that may name a patient.
    """

    study_uid: str = ""
    series_uid: str = ""
    number: int = 1
    model: str = ""
    description: str = _DESCRIPTION

    def __post_init__(self) -> None:
        if len(self.model) > _LONGEST_WORD or "\\" in self.model:
            raise ValueError(f"model is {self.model!r}; up to 64 characters without backslash")
        if len(self.description) > _LONGEST_TEXT:
            raise ValueError(f"description has {len(self.description)} characters; up to 1024 fit")
        for name in ("study_uid", "series_uid"):
            uid = getattr(self, name)
            if uid and (len(uid) > _LONGEST_WORD or not _UID.fullmatch(uid)):
                raise ValueError(f"{name} is {uid!r}, which is no UID: up to 64 digits and dots")


def write_dicom(
    path: str | Path,
    pixels: Float[NDArray[np.floating], "h w"],
    *,
    bits: int = 16,
    spacing_mm: Spacing | tuple[float, float] | None = None,
    view: str = "",
    study: SyntheticStudy | None = None,
) -> str:
    """Write a drawn X-ray as DICOM that is marked as synthetic; it appears whole or not at all.

    Args:
        path: of the file.
        pixels: in [0, 1], bright = dense.
        bits: 8 or 16 for each pixel.
        spacing_mm: distance of neighbouring rows and of neighbouring columns.
        view: "AP", "PA", "LATERAL" or "".
        study: what images of one study share; a new study by default.

    Returns:
        The SOP instance UID of the image.

    Raises:
        ImportError: pydicom is not installed.
        ValueError: the pixels are no picture in [0, 1], or another argument is not one of those.
        OSError: the disk is full or read-only.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImportError(f"writing DICOM needs pydicom: {EXTRA}") from error
    if view not in _VIEWS:
        raise ValueError(f"view is {view!r}; known are {sorted(_VIEWS)}")
    whole = to_integers(pixels, bits)
    dataset = pydicom.Dataset()
    _add_identity(dataset, study or SyntheticStudy())
    _add_picture(dataset, whole, bits)
    if spacing_mm is not None:
        _add_spacing(dataset, spacing_mm)
    if view:
        dataset.ViewPosition = _VIEWS[view]
    dataset.PatientOrientation = ["L", "F"] if view in {"AP", "PA"} else None
    with replacing(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return str(dataset.SOPInstanceUID)


def _add_identity(dataset: Any, study: SyntheticStudy) -> None:  # noqa: ANN401 - pydicom.Dataset
    """Patient, study, series and equipment: all made up, and said to be."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    now = datetime.now(UTC)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = UID(SECONDARY_CAPTURE)
    dataset.SOPInstanceUID = generate_uid(prefix=None)
    dataset.StudyInstanceUID = (
        UID(study.study_uid) if study.study_uid else generate_uid(prefix=None)
    )
    dataset.SeriesInstanceUID = (
        UID(study.series_uid) if study.series_uid else generate_uid(prefix=None)
    )
    pseudonym = hashlib.sha256(str(dataset.StudyInstanceUID).encode()).hexdigest()[:12].upper()
    dataset.PatientName = f"SYNTHETIC^{pseudonym}"
    dataset.PatientID = f"SYNTHETIC-{pseudonym}"
    for empty in ("PatientBirthDate", "PatientSex", "ReferringPhysicianName", "AccessionNumber"):
        setattr(dataset, empty, "")
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Synthetic: drawn by a model, of no person"
    dataset.StudyID = ""
    dataset.StudyDate = dataset.ContentDate = dataset.InstanceCreationDate = f"{now:%Y%m%d}"
    dataset.StudyTime = dataset.ContentTime = dataset.InstanceCreationTime = f"{now:%H%M%S}"
    dataset.TimezoneOffsetFromUTC = "+0000"
    dataset.StudyDescription = "Synthetic chest X-ray"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = study.number
    dataset.Modality = "OT"
    dataset.BodyPartExamined = "CHEST"
    dataset.ConversionType = "SYN"
    dataset.Manufacturer = _MAKER
    dataset.SecondaryCaptureDeviceManufacturer = _MAKER
    dataset.SecondaryCaptureDeviceSoftwareVersions = __version__
    dataset.SyntheticData = "YES"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.DerivationDescription = study.description
    dataset.BurnedInAnnotation = "NO"
    dataset.ContributingEquipmentSequence = [_equipment(study.model)]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    dataset.file_meta.ImplementationVersionName = f"UNIX_CXR_{__version__}"[:16]


def _equipment(model: str) -> Any:  # noqa: ANN401 - pydicom.Dataset
    from pydicom import Dataset

    purpose = Dataset()
    purpose.CodeValue = "109102"
    purpose.CodingSchemeDesignator = "DCM"
    purpose.CodeMeaning = "Processing Equipment"
    equipment = Dataset()
    equipment.Manufacturer = _MAKER
    equipment.ManufacturerModelName = model or "generative model"
    equipment.SoftwareVersions = __version__
    equipment.ContributionDescription = "Drew the image"
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    return equipment


def _add_picture(dataset: Any, whole: NDArray[np.unsignedinteger], bits: int) -> None:  # noqa: ANN401
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = whole.shape
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    # this linear window maps 0 to black and the largest value to white, and clips nothing
    dataset.WindowCenter = str(2 ** (bits - 1))
    dataset.WindowWidth = str(2**bits)
    data = whole.astype(f"<u{bits // 8}").tobytes()
    dataset.add_new("PixelData", "OW" if bits > 8 else "OB", data + b"\0" * (len(data) % 2))  # noqa: PLR2004


def _add_spacing(dataset: Any, spacing_mm: tuple[float, float]) -> None:  # noqa: ANN401
    from pydicom.valuerep import DSfloat

    if len(spacing_mm) != 2 or not all(0 < length < np.inf for length in spacing_mm):  # noqa: PLR2004
        raise ValueError(f"spacing_mm is {spacing_mm}; give two positive lengths in millimetres")
    dataset.PixelSpacing = [DSfloat(length, auto_format=True) for length in spacing_mm]
