"""Open-i, the Indiana University collection: one XML file per report, and PNG images."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from unix_cxr.data.readers.base import OnBadRow, Reader, Row, SourceKind, existing
from unix_cxr.data.readers.tables import csv_rows
from unix_cxr.data.studies import Study

_REPORT_FOLDERS: Final = ("ecgen-radiology", "NLMCXR_reports/ecgen-radiology", "reports", ".")
_IMAGE_FOLDERS: Final = ("NLMCXR_png", "images", "png", ".")
_PROJECTIONS: Final = "indiana_projections.csv"
_MAX_XML_BYTES: Final = 1 << 20


class OpeniReader(Reader):
    """Reads report by report, in the order of their numbers; only the list of files is held.

    Every report is of another patient, so its id is the patient's. The collection does not say
    which image of a report is lateral: `view` is "" unless the table indiana_projections.csv (of
    the copy at Kaggle: uid, filename, projection) lies in the folder, which tells the laterals.
    Labels are the major MeSH headings, as they stand. There is no split, no sex and no age.

    Args:
        path: folder with `ecgen-radiology/1.xml …` (of NLMCXR_reports.tgz) and the PNG files (of
            NLMCXR_png.tgz) in `NLMCXR_png/` or `images/`.
        images: the folder of the PNG files, where it is another.
        on_bad_row: see `Reader`.

    Raises:
        FileNotFoundError: there are no reports.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: str | Path | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> None:
        self._root = Path(path)
        super().__init__(f"openi {self._root}", on_bad_row)
        reports = _reports(self._root)
        if reports is None:
            raise FileNotFoundError(f"no ecgen-radiology/1.xml or the like in {self._root}")
        self._reports = reports
        self._images = _images(self._root) if images is None else Path(images)
        self._laterals = _read_laterals(self._root / _PROJECTIONS)

    def rows(self) -> Iterator[Row]:
        """One row per image of each report; a report without images is a row with a problem."""
        for path in sorted(self._reports.glob("*.xml"), key=_number):
            yield from _report_rows(path)

    def study(self, row: Row) -> Study:
        """The study of an image."""
        values = row.values
        image = existing(self._images / f"{values['image']}.png")
        return Study(
            image=image,
            patient_id=values["report"],
            study_id=values["report"],
            view="LATERAL" if values["image"] in self._laterals else "",
            labels=values["labels"],
            findings=values["findings"],
            impression=values["impression"],
            source="openi",
        )


def _report_rows(path: Path) -> Iterator[Row]:
    data = path.read_bytes()
    if len(data) > _MAX_XML_BYTES:
        yield Row(path, 0, {}, f"file of {len(data):,} bytes, more than {_MAX_XML_BYTES:,}")
        return
    if b"<!ENTITY" in data:
        yield Row(path, 0, {}, "XML with entities is not read")
        return
    try:
        root = ET.fromstring(data)
    except ET.ParseError as error:
        yield Row(path, 0, {}, f"no XML: {error}")
        return
    identity = root.find("uId")
    report = "" if identity is None else identity.get("id", "")
    images = [image.get("id", "") for image in root.iter("parentImage")]
    problem = "" if report else "no uId with an id"
    if not problem and not images:
        problem = "the report has no images"
    values = {
        "report": report,
        "findings": _section(root, "FINDINGS"),
        "impression": _section(root, "IMPRESSION"),
        "labels": frozenset(
            heading for node in root.iter("major") if (heading := "".join(node.itertext()).strip())
        ),
    }
    for image in images or [""]:
        yield Row(path, 0, {**values, "image": image}, problem)


def _section(root: ET.Element, name: str) -> str:
    texts = (
        "".join(part.itertext()).strip()
        for part in root.iter("AbstractText")
        if part.get("Label", "").upper() == name
    )
    return "\n".join(filter(None, texts))


def _read_laterals(table: Path) -> frozenset[str]:
    """Names of the lateral images, as the XML has them: CXR1_1_IM-0001-4001."""
    if not table.is_file():
        return frozenset()
    return frozenset(
        f"CXR{row.values['filename'].split('.')[0]}"
        for row in csv_rows(table, ("uid", "filename", "projection"))
        if not row.problem and row.values["projection"].strip() == "Lateral"
    )


def _number(path: Path) -> tuple[int, str]:
    return (int(path.stem) if path.stem.isdecimal() else 0, path.stem)


def _reports(root: Path) -> Path | None:
    for name in _REPORT_FOLDERS:
        first = next((root / name).glob("*.xml"), None)
        if first is not None and b"<eCitation" in first.read_bytes()[:_MAX_XML_BYTES]:
            return root / name
    return None


def _images(root: Path) -> Path:
    for name in _IMAGE_FOLDERS:
        if next((root / name).glob("CXR*.png"), None) is not None:
            return root / name
    return root / _IMAGE_FOLDERS[0]


KIND: Final = SourceKind(
    name="openi",
    looks_like="ecgen-radiology/*.xml with <eCitation>, and NLMCXR_png/CXR1_1_IM-0001-3001.png",
    recognises=lambda path: path.is_dir() and _reports(path) is not None,
    open=OpeniReader,
)
