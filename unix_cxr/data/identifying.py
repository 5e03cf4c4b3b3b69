"""Which elements of a DICOM dataset could tell who the patient is.

This names elements for a person to look at; it is no de-identification, which is PS3.15 Annex E.
"""

from collections.abc import Iterator
from typing import Any, Final

from unix_cxr.data.dicom_header import explaining, quietly

_PERSONAL_GROUPS: Final = {0x0010, 0x0012, 0x0016, 0x0032, 0x0038, 0x0040, 0x4008}
"""Patient, trial, place of the camera, requested study, visit, procedure step, interpretation."""

_MARKS: Final = (0x5000, 0x6000)
"""Curves and overlays, which may hold handwriting."""

_REVEALING: Final = {
    "AE", "AS", "DA", "DT", "LT", "OB", "PN", "ST", "TM", "UC", "UN", "UR", "UT",
}  # fmt: skip
"""Value representations: names, dates, times, ages, free text, addresses, unknown bytes."""

_LABELS: Final = {"LO", "SH"}
"""Short free text: revealing unless the element is one of the harmless ones."""

_HARMLESS: Final = {
    "AcquisitionDeviceProcessingCode",
    "CodeMeaning",
    "CodeValue",
    "CodingSchemeDesignator",
    "CodingSchemeVersion",
    "DeidentificationMethod",
    "FilterMaterial",
    "ICCProfile",
    "ImplementationVersionName",
    "LUTExplanation",
    "Manufacturer",
    "ManufacturerModelName",
    "ModalityLUTType",
    "PatientIdentityRemoved",
    "PhosphorType",
    "PlateType",
    "PrivateInformationCreatorUID",
    "RescaleType",
    "SecondaryCaptureDeviceManufacturer",
    "SecondaryCaptureDeviceManufacturerModelName",
    "SecondaryCaptureDeviceSoftwareVersions",
    "SoftwareVersions",
    "WindowCenterWidthExplanation",
}

_PEOPLE: Final = ("Admitting", "Institution", "Observer", "Operator", "Patient", "Physician", "UDI")
"""Sequences with these in their names tell of people and places, whatever they hold."""

_PLAIN: Final = ("Deidentification", "PurposeOfReference")
"""Sequences of codes that tell of neither, although their groups do."""

_NAMED: Final = {
    "DataSetTrailingPadding",
    "DetectorID",
    "DigitalSignaturesSequence",
    "EncapsulatedDocument",
    "IconImageSequence",
    "IdentifyingComments",
    "InstanceOriginStatus",
    "MAC",
    "ModifyingDeviceID",
    "OriginalAttributesSequence",
    "PatientSex",
    "ReasonForTheAttributeModification",
    "ReferencedDigitalSignatureSequence",
}
"""Of other value representations."""

_PUBLIC_UIDS: Final = {
    "CodingSchemeUID",
    "ContextUID",
    "ImplementationClassUID",
    "MappingResourceUID",
    "MediaStorageSOPClassUID",
    "PrivateInformationCreatorUID",
    "ReferencedSOPClassUID",
    "RelatedGeneralSOPClassUID",
    "SOPClassUID",
    "TransferSyntaxUID",
}
"""UIDs of kinds of things; all others are of one thing, and a key to it."""

_PIXELS: Final = 0x7FE0


def phi_report(dataset: Any) -> tuple[str, ...]:  # noqa: ANN401 - pydicom.Dataset
    """Elements that are not empty and could tell who the patient is; never their values.

    More is listed than Table E.1-1 of PS3.15 asks for: all names, dates, times and free text, all
    of the patient's, the visit's and the procedure's groups, all UIDs of instances, overlays and
    curves, and every private element. Text that is part of the picture is not seen;
    `BurnedInAnnotation` YES, or its absence, is a reason to look.

    Args:
        dataset: a `pydicom.Dataset`; `pydicom.dcmread(path, stop_before_pixels=True)` is enough.

    Returns:
        Keywords in the order of the tags, those within sequences as "Sequence[0].Keyword", private
        ones and those of unknown name as "(gggg,eeee)".

    Raises:
        ValueError: the dataset is corrupt.
    """
    with quietly(), explaining("the dataset cannot be read"):
        return tuple(_identifying(dataset, ""))


def _identifying(dataset: Any, prefix: str, *, personal: bool = False) -> Iterator[str]:  # noqa: ANN401
    for element in dataset:
        label = prefix + (element.keyword or f"({element.tag.group:04x},{element.tag.elem:04x})")
        if element.is_empty or element.tag.group == _PIXELS:
            continue
        if _reveals(element) or (personal and element.VR != "SQ"):
            yield label
        elif element.VR == "SQ":
            inside = personal or _is_personal_sequence(element)
            for number, item in enumerate(element.value):
                yield from _identifying(item, f"{label}[{number}].", personal=inside)


def _is_personal_sequence(element: Any) -> bool:  # noqa: ANN401 - pydicom.DataElement
    """Whether the codes inside, harmless elsewhere, are those of a person or a place."""
    keyword = element.keyword
    if keyword.startswith(_PLAIN):
        return False
    return element.tag.group in _PERSONAL_GROUPS or any(word in keyword for word in _PEOPLE)


def _reveals(element: Any) -> bool:  # noqa: ANN401 - pydicom.DataElement
    keyword, group = element.keyword, element.tag.group
    if keyword in _HARMLESS:
        return False
    return bool(
        element.tag.is_private
        or not keyword
        or group & 0xFF00 in _MARKS
        or keyword in _NAMED
        or element.VR in _REVEALING | _LABELS
        or (element.VR == "UI" and keyword not in _PUBLIC_UIDS)
        or (group in _PERSONAL_GROUPS and element.VR != "SQ")
    )
