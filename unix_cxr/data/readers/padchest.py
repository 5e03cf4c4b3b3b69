"""PadChest (BIMCV): one table of 160,861 images, 16-bit PNG files in numbered folders."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from unix_cxr.data.readers.base import OnBadRow, Reader, Row, SourceKind, sex_named
from unix_cxr.data.readers.tables import csv_rows
from unix_cxr.data.studies import Study, view_named

_COLUMNS: Final = (
    "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth",
    "PatientSex_DICOM", "Projection", "Labels", "Report",
)  # fmt: skip
_YEAR_DIGITS: Final = 4


class PadchestReader(Reader):
    """Reads the table row by row.

    Labels are PadChest's own ("normal" and "unchanged" among them). The report is what the release
    has: Spanish words cut to their stems, without sections; it stands in `findings`. The
    projections COSTAL, EXCLUDE and UNK become "". Age is the year of the study less the year of
    birth. There is no official split.

    Args:
        path: folder with `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` (or .csv.gz), and
            the images in the folders `0/`, `1/` … that the table's ImageDir names, or all together
            in `images/` or beside the table.
        images: the folder of the images, where it is another.
        on_bad_row: see `Reader`.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: the table lacks a column.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: str | Path | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> None:
        self._root = Path(path)
        super().__init__(f"padchest {self._root}", on_bad_row)
        table = _table(self._root)
        if table is None:
            raise FileNotFoundError(f"no PADCHEST_chest_x_ray_images_labels_160K*.csv in {path}")
        self._table = table
        self._images = self._root if images is None else Path(images)

    def rows(self) -> Iterator[Row]:
        """The rows of the table."""
        return csv_rows(self._table, _COLUMNS)

    def study(self, row: Row) -> Study:
        """The study of an image."""
        values = row.values
        return Study(
            image=self._find(values["ImageDir"], values["ImageID"]),
            patient_id=values["PatientID"].strip(),
            study_id=values["StudyID"].strip(),
            view=view_named(values["Projection"]) or "",
            labels=_labels(values["Labels"]),
            findings=values["Report"].strip(),
            sex=sex_named(values["PatientSex_DICOM"]),
            age=_age(values["StudyDate_DICOM"], values["PatientBirth"]),
            source="padchest",
        )

    def _find(self, folder: str, name: str) -> Path:
        if not name.strip():
            raise ValueError("ImageID is empty")
        for place in (folder, ".", "images"):
            path = self._images / place / name
            if path.is_file():
                return path
        raise FileNotFoundError(
            f"no image {name} in {self._images / folder}, {self._images} or its images/"
        )


def _labels(text: str) -> frozenset[str]:
    """The list that the column prints; blank and "nan" are no labels.

    Raises:
        ValueError: the cell is no list of strings.
    """
    if text.strip().lower() in {"", "nan"}:
        return frozenset()
    try:
        labels = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"Labels ({text[:60]!r}) must be a list such as ['normal']")
    return frozenset(label.strip() for label in labels) - {""}


def _age(study_date: str, birth: str) -> str:
    year, born = study_date.strip()[:_YEAR_DIGITS], birth.strip().removesuffix(".0")
    if not (year.isdecimal() and born.isdecimal()) or int(year) < int(born):
        return ""
    return str(int(year) - int(born))


def _table(root: Path) -> Path | None:
    found = sorted(root.glob("PADCHEST_chest_x_ray_images_labels_160K*.csv*"))
    return found[-1] if found else None


KIND: Final = SourceKind(
    name="padchest",
    looks_like="PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv, with folders 0/, 1/ …",
    recognises=lambda path: _table(path) is not None,
    open=PadchestReader,
)
