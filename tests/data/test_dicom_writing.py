"""DICOM out: what is written is a Secondary Capture, says that it is made up, and names nobody."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.dicoms import make, sample, to_bytes
from unix_cxr.data.dicom_writing import SyntheticStudy, write_dicom
from unix_cxr.data.identifying import phi_report
from unix_cxr.data.pixels import Spacing, load_xray
from unix_cxr.data.png import write_png

pydicom = pytest.importorskip("pydicom")
from pydicom.datadict import dictionary_VR, keyword_dict  # noqa: E402

RAMP = np.linspace(0, 1, 40 * 33).reshape(40, 33).astype(np.float32)

# PS3.3 A.8.1.3, the mandatory modules of the Secondary Capture Image IOD, and their attributes of
# type 1 (present, with a value) and type 2 (present) that hold for a grey picture of one frame
TYPE_1 = {
    "General Study": ["StudyInstanceUID"],
    "General Series": ["Modality", "SeriesInstanceUID"],
    "SC Equipment": ["ConversionType"],
    "Image Pixel": [
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelData",
    ],
    "SOP Common": ["SOPClassUID", "SOPInstanceUID"],
}
TYPE_2 = {
    "Patient": ["PatientName", "PatientID", "PatientBirthDate", "PatientSex"],
    "General Study": [
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
        "StudyID",
    ],
    "General Series": ["SeriesNumber"],
    "General Equipment": ["Manufacturer"],
    "General Image": ["InstanceNumber", "PatientOrientation"],
}


@contextmanager
def strictly() -> Iterator[None]:
    """pydicom refuses every value that the standard does not permit."""
    settings = pydicom.config.settings
    before = settings.reading_validation_mode
    settings.reading_validation_mode = pydicom.config.RAISE
    try:
        yield
    finally:
        settings.reading_validation_mode = before


def read_strictly(path: Path) -> Any:
    with strictly(), warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = pydicom.dcmread(path)
        dataset.walk(lambda _, element: element.value)
    return dataset


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("view", ["AP", "PA", "LATERAL", ""])
def test_what_is_written_reads_back(bits: int, view: str, tmp_path: Path) -> None:
    path = tmp_path / "out.dcm"
    name = write_dicom(path, RAMP, bits=bits, view=view, spacing_mm=(0.1397, 0.14))
    xray = load_xray(path)
    full = 2**bits - 1
    np.testing.assert_allclose(xray.pixels, np.rint(RAMP * full) / full, atol=6e-8)
    assert (xray.view, xray.spacing_mm) == (view, Spacing(0.1397, 0.14))
    facts = xray.facts
    assert (facts.synthetic, facts.burned_in, facts.bits_stored) == ("YES", "NO", bits)
    dataset = read_strictly(path)
    assert str(dataset.SOPInstanceUID) == name
    assert dataset.file_meta.MediaStorageSOPInstanceUID == name


@pytest.mark.parametrize("shape", [(17, 17), (16, 31)])
def test_an_odd_number_of_bytes_is_padded(shape: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "odd.dcm"
    write_dicom(path, np.ones(shape), bits=8)
    assert len(read_strictly(path).PixelData) % 2 == 0
    assert load_xray(path).pixels.shape == shape


def test_it_is_a_secondary_capture_with_all_that_the_standard_demands(tmp_path: Path) -> None:
    path = tmp_path / "out.dcm"
    write_dicom(path, RAMP)
    dataset = read_strictly(path)
    for module, keywords in TYPE_1.items():
        for keyword in keywords:
            assert keyword in dataset, (module, keyword)
            assert not dataset[keyword].is_empty, (module, keyword)
    for module, keywords in TYPE_2.items():
        for keyword in keywords:
            assert keyword in dataset, (module, keyword)
    assert dataset.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert dataset.file_meta.MediaStorageSOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert dataset.DeidentificationMethod  # type 1C: the identity is said to be removed
    for element in dataset:
        assert element.VR in dictionary_VR(element.tag).split(" or ")


def test_it_says_that_it_is_synthetic(tmp_path: Path) -> None:
    path = tmp_path / "out.dcm"
    write_dicom(path, RAMP, study=SyntheticStudy(model="nano 1.0", number=3))
    dataset = read_strictly(path)
    assert dataset.SyntheticData == "YES"
    assert list(dataset.ImageType) == ["DERIVED", "SECONDARY"]
    assert dataset.ConversionType == "SYN"
    assert "generative model" in dataset.DerivationDescription
    (equipment,) = dataset.ContributingEquipmentSequence
    assert equipment.Manufacturer == "unix_cxr"
    assert equipment.ManufacturerModelName == "nano 1.0"
    (purpose,) = equipment.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109102", "DCM")
    assert str(dataset.PatientName).startswith("SYNTHETIC^")
    assert dataset.PatientID.startswith("SYNTHETIC-")
    assert dataset.PatientIdentityRemoved == "YES"
    assert dataset.BurnedInAnnotation == "NO"
    assert dataset.InstanceNumber == 3


def test_uids_are_new_and_a_study_can_be_shared(tmp_path: Path) -> None:
    datasets = []
    for number in range(3):
        path = tmp_path / f"{number}.dcm"
        study = SyntheticStudy(study_uid="2.25.77", series_uid="2.25.78", number=number)
        write_dicom(path, RAMP, study=study if number else None)
        datasets.append(read_strictly(path))
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == 3
    assert datasets[1].StudyInstanceUID == datasets[2].StudyInstanceUID == "2.25.77"
    assert datasets[1].PatientID == datasets[2].PatientID != datasets[0].PatientID
    assert datasets[0].StudyInstanceUID != "2.25.77"
    assert all(uid.is_valid for uid in (x.SOPInstanceUID for x in datasets))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 12}, r"bits is 12; 8 and 16 can be written"),
        ({"view": "LL"}, r"view is 'LL'; known are \['', 'AP', 'LATERAL', 'PA'\]"),
        ({"spacing_mm": (0.1, 0)}, r"spacing_mm is \(0.1, 0\); give two positive lengths"),
        ({"spacing_mm": (0.1, float("nan"))}, r"spacing_mm is"),
    ],
)
def test_what_cannot_be_written_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_dicom(tmp_path / "no.dcm", RAMP, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "x" * 65}, r"model is .* up to 64 characters"),
        ({"model": "a\\b"}, r"model is .* without backslash"),
        ({"description": "x" * 1025}, r"description has 1025 characters; up to 1024 fit"),
        ({"study_uid": "1.02"}, r"study_uid is '1.02', which is no UID"),
        ({"series_uid": "patient"}, r"series_uid is 'patient', which is no UID"),
    ],
)
def test_studies_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticStudy(**changes)


# patients ----------------------------------------------------------------------------------------

SECRET = "ZZSECRET"
PERSONAL = {
    "PatientName": f"{SECRET}^Doe",
    "PatientID": SECRET,
    "PatientBirthDate": "19330405",
    "PatientAge": "077Y",
    "PatientSex": "F",
    "PatientAddress": SECRET,
    "PatientTelephoneNumbers": SECRET,
    "OtherPatientIDs": SECRET,
    "EthnicGroup": SECRET,
    "AdditionalPatientHistory": SECRET,
    "InstitutionName": SECRET,
    "InstitutionAddress": SECRET,
    "ReferringPhysicianName": SECRET,
    "OperatorsName": SECRET,
    "AccessionNumber": SECRET,
    "StudyID": SECRET,
    "StudyDate": "19990405",
    "StudyTime": "121212",
    "StudyDescription": SECRET,
    "SeriesDescription": SECRET,
    "ProtocolName": SECRET,
    "StationName": SECRET,
    "DeviceSerialNumber": SECRET,
    "ImageComments": SECRET,
    "DerivationDescription": SECRET,
    "RequestedProcedureDescription": SECRET,
    "StudyInstanceUID": "1.2.3.99999.1",
    "SeriesInstanceUID": "1.2.3.99999.2",
    "WindowCenterWidthExplanation": SECRET,
}


def full_of_names() -> Any:
    dataset = make(
        (np.arange(4096) % 4096).astype(np.uint16).reshape(64, 64),
        WindowCenter=2048,
        WindowWidth=4096,
        ViewPosition="PA",
        **PERSONAL,
    )
    request = pydicom.Dataset()
    request.ScheduledProcedureStepDescription = SECRET
    dataset.RequestAttributesSequence = [request]
    institution = pydicom.Dataset()
    institution.CodeValue, institution.CodingSchemeDesignator = "1", "99LOCAL"
    institution.CodeMeaning = SECRET
    dataset.InstitutionCodeSequence = [institution]
    block = dataset.private_block(0x0009, "VENDOR", create=True)
    block.add_new(0x01, "LO", SECRET)
    block.add_new(0x02, "US", 7)
    return dataset


def test_nothing_of_a_patient_travels_on(tmp_path: Path) -> None:
    dataset = full_of_names()
    data = to_bytes(dataset)
    assert data.count(SECRET.encode()) > 20
    for source in (dataset, data):
        xray = load_xray(source)
        assert xray.view == "PA"
        text = repr(vars(xray)) + repr(xray)
        for value in ("ZZSECRET", "19330405", "19990405", "1.2.3.99999", "077Y"):
            assert value not in text
        dicom, png = tmp_path / "out.dcm", tmp_path / "out.png"
        write_dicom(dicom, xray.pixels, view=xray.view, spacing_mm=xray.spacing_mm)
        write_png(png, xray.pixels)
        for path in (dicom, png):
            written = path.read_bytes()
            for value in (b"ZZSECRET", b"19330405", b"19990405", b"1.2.3.99999", b"077Y"):
                assert value not in written


def test_a_patients_elements_are_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    original = pydicom.dcmread

    def spy(*arguments: Any, **options: Any) -> Any:
        seen["dataset"] = original(*arguments, **options)
        return seen["dataset"]

    monkeypatch.setattr(pydicom, "dcmread", spy)
    load_xray(to_bytes(full_of_names()))
    assert "Rows" in seen["dataset"]
    assert not [key for key in PERSONAL if key in seen["dataset"]]


def test_words_that_a_file_makes_up_do_not_travel_on() -> None:
    odd = dict.fromkeys(("BurnedInAnnotation", "SyntheticData", "ViewPosition"), SECRET)
    odd |= {"PresentationLUTShape": SECRET, "PresentationIntentType": SECRET}
    xray = load_xray(make(np.arange(4096, dtype=np.uint16).reshape(64, 64), **odd))
    assert SECRET not in repr(vars(xray))


def test_the_report_lists_names_of_elements_and_no_values() -> None:
    report = phi_report(full_of_names())
    missing = set(PERSONAL) - set(report) - {"WindowCenterWidthExplanation"}
    assert not missing
    assert "RequestAttributesSequence[0].ScheduledProcedureStepDescription" in report
    assert "InstitutionCodeSequence[0].CodeMeaning" in report
    assert {"(0009,1001)", "(0009,1002)"} <= set(report)
    assert SECRET not in " ".join(report)
    for harmless in ("Rows", "PixelData", "Modality", "ViewPosition", "SOPClassUID"):
        assert harmless not in report


def test_a_dataset_without_a_person_has_an_empty_report() -> None:
    dataset = make(np.arange(4096, dtype=np.uint16).reshape(64, 64), Manufacturer="Maker")
    del dataset.SOPInstanceUID
    dataset.PatientName = ""
    assert phi_report(dataset) == ()


def test_all_attributes_whose_names_say_patient_or_physician_are_listed() -> None:
    """Found in pydicom's own dictionary: none may be forgotten."""
    words = ("Patient", "Physician", "Operator", "Institution")
    kinds = {"PN": "A^B", "LO": "x", "SH": "x", "DA": "20000101", "TM": "101010", "LT": "x"}
    kinds |= {"ST": "x", "AS": "030Y", "UI": "1.2.3"}
    apart = {"PatientOrientation", "PatientPosition"}
    names = [
        keyword
        for keyword in keyword_dict
        if keyword.startswith(words) and dictionary_VR(keyword) in kinds and keyword not in apart
    ]
    assert len(names) > 30
    for keyword in names:
        dataset = pydicom.Dataset()
        setattr(dataset, keyword, kinds[dictionary_VR(keyword)])
        assert phi_report(dataset) == (keyword,), keyword


def test_the_report_of_a_real_file_warns_of_its_names(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        report = phi_report(pydicom.dcmread(sample("RG1_UNCR.dcm"), stop_before_pixels=True))
    assert {"PatientName", "PatientID", "PatientBirthDate", "InstitutionName"} <= set(report)
    assert not [name for name in report if name.startswith(("Rows", "Window", "Bits"))]
