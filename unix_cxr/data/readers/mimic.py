"""MIMIC-CXR-JPG (2.0.0 and 2.1.0) and MIMIC-CXR with DICOM files, from PhysioNet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, get_args

from unix_cxr.data.readers.base import (
    OnBadRow,
    Reader,
    Row,
    SourceKind,
    existing,
    integer,
    split_named,
)
from unix_cxr.data.readers.sections import findings_and_impression
from unix_cxr.data.readers.stated import LabelIndex, Stated, packed
from unix_cxr.data.readers.tables import csv_rows
from unix_cxr.data.studies import Study, view_named
from unix_cxr.vocabulary import FINDINGS

Labeler = Literal["chexpert", "negbio", "none"]

_IDS: Final = ("dicom_id", "subject_id", "study_id")


class MimicReader(Reader):
    """Reads the metadata table row by row; splits and labels are held, about 10 MB for all.

    The official split is by patient, so one entry per patient is held (a patient in two splits is
    an error); labels take 16 bytes per study. Views other than AP, PA and lateral ("SWIMMERS",
    "AP LLD", …) become "", as do missing ones. The corpus has no sex and no age: they are in
    MIMIC-IV.

    Args:
        path: the folder of MIMIC-CXR-JPG (its csv.gz tables and `files/`), or of MIMIC-CXR
            (`cxr-record-list.csv.gz` and `files/` with .dcm).
        reports: the folder with `files/p10/p10000032/s50414267.txt` (the unpacked
            mimic-cxr-reports.zip); `path` itself where None, if reports lie there.
        tables: the folder of the csv.gz tables, where they lie elsewhere: with DICOM files, the
            tables of MIMIC-CXR-JPG give view, split and labels.
        labels: which labeler's table to read: "chexpert", "negbio", or "none".
        on_bad_row: see `Reader`.

    Raises:
        FileNotFoundError: a table or the reports are missing.
        ValueError: a table lacks a column, or contradicts itself.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        reports: str | Path | None = None,
        tables: str | Path | None = None,
        labels: Labeler = "chexpert",
        on_bad_row: OnBadRow = "raise",
    ) -> None:
        self._root = Path(path)
        super().__init__(f"mimic {self._root}", on_bad_row)
        if labels not in get_args(Labeler):
            raise ValueError(f"labels ({labels!r}) must be one of {get_args(Labeler)}")
        folder = self._root if tables is None else Path(tables)
        metadata = _table(folder, "metadata")
        self._table = metadata or _record_list(folder)
        self._dicom = _record_list(self._root) is not None
        self._labels: LabelIndex | None = None
        self._splits: dict[int, str] = {}
        if metadata is not None:
            self._splits = _read_splits(_needed(folder, "split"))
            if labels != "none":
                self._labels = _read_labels(_needed(folder, labels))
        self._reports = _reports_folder(self._root, reports)
        self._last_report: tuple[int, tuple[str, str]] = (-1, ("", ""))

    def rows(self) -> Iterator[Row]:
        """The rows of the metadata table, or of the record list where there is none."""
        if self._table is None:  # told when made
            return iter(())
        return csv_rows(self._table, _IDS)

    def study(self, row: Row) -> Study:
        """The study of an image."""
        values = row.values
        subject, study = integer(values, "subject_id"), integer(values, "study_id")
        folder = _patient_folder(self._root, subject)
        suffix = ".dcm" if self._dicom else ".jpg"
        image = existing(folder / f"s{study}" / f"{values['dicom_id']}{suffix}")
        stated = Stated()
        if self._labels is not None:
            stated = self._labels.get(study) or Stated()
        findings, impression = self._report(subject, study)
        return Study(
            image=image,
            patient_id=f"p{subject}",
            study_id=f"s{study}",
            split=self._splits.get(subject, ""),
            view=view_named(values.get("ViewPosition", "")) or "",
            labels=stated.present,
            negative=stated.absent,
            uncertain=stated.uncertain,
            findings=findings,
            impression=impression,
            source="mimic-cxr",
        )

    def _report(self, subject: int, study: int) -> tuple[str, str]:
        """Findings and impression; the images of one study follow each other in the table."""
        if self._reports is None:
            return "", ""
        if self._last_report[0] != study:
            path = _patient_folder(self._reports, subject) / f"s{study}.txt"
            if not path.is_file():
                raise FileNotFoundError(f"no report file at {path}")
            sections = findings_and_impression(path.read_text(encoding="utf-8"))
            self._last_report = (study, sections)
        return self._last_report[1]


def _patient_folder(root: Path, subject: int) -> Path:
    return root / "files" / f"p{str(subject)[:2]}" / f"p{subject}"


def _table(folder: Path, name: str) -> Path | None:
    found = sorted(folder.glob(f"mimic-cxr-*-{name}.csv*"))
    return found[-1] if found else None


def _needed(folder: Path, name: str) -> Path:
    found = _table(folder, name)
    if found is None:
        raise FileNotFoundError(
            f"no mimic-cxr-2.0.0-{name}.csv.gz in {folder}; it comes with MIMIC-CXR-JPG"
        )
    return found


def _record_list(folder: Path) -> Path | None:
    found = sorted(folder.glob("cxr-record-list.csv*"))
    return found[0] if found else None


def _read_splits(table: Path) -> dict[int, str]:
    splits: dict[int, str] = {}
    for row in csv_rows(table, ("subject_id", "split")):
        if row.problem:
            raise ValueError(f"{table}, line {row.line}: {row.problem}")
        patient, split = integer(row.values, "subject_id"), split_named(row.values["split"])
        first = splits.setdefault(patient, split)
        if first != split:
            raise ValueError(
                f"{table}, line {row.line}: patient {patient} is in two splits, {first} and {split}"
            )
    return splits


def _read_labels(table: Path) -> LabelIndex:
    def rows() -> Iterator[tuple[int, int]]:
        for row in csv_rows(table, ("study_id", *FINDINGS)):
            try:
                values = row.checked()
                yield integer(values, "study_id"), packed(values, FINDINGS)
            except ValueError as error:
                raise ValueError(f"{table}, line {row.line}: {error}") from error

    return LabelIndex(FINDINGS, rows())


def _reports_folder(root: Path, reports: str | Path | None) -> Path | None:
    folder = root if reports is None else Path(reports)
    if next((folder / "files").glob("p[0-9][0-9]/p*/s*.txt"), None) is not None:
        return folder
    if reports is None:
        return None
    raise FileNotFoundError(
        f"no files/p10/p10000032/s50414267.txt or the like below {folder}; unpack "
        "mimic-cxr-reports.zip there"
    )


def _recognises(path: Path) -> bool:
    return _table(path, "metadata") is not None or _record_list(path) is not None


KIND: Final = SourceKind(
    name="mimic",
    looks_like="mimic-cxr-2.0.0-metadata.csv.gz (or cxr-record-list.csv.gz) beside files/p10/…",
    recognises=_recognises,
    open=MimicReader,
)
