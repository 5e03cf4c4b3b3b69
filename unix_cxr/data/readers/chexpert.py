"""CheXpert (v1.0 and small): train.csv and valid.csv beside the images."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from unix_cxr.data.readers.base import (
    OnBadRow,
    Reader,
    Row,
    SourceKind,
    age_named,
    existing,
    sex_named,
)
from unix_cxr.data.readers.stated import stated_in
from unix_cxr.data.readers.tables import csv_rows, open_text
from unix_cxr.data.studies import Study, view_named
from unix_cxr.vocabulary import FINDINGS

_TABLES: Final = {"train.csv": "train", "valid.csv": "dev"}
_COLUMNS: Final = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
_PATIENT: Final = re.compile(r"(?P<patient>patient\d+)/(?P<study>study\d+)/")
_PREFIX: Final = "CheXpert-v1.0"
_UNKNOWN_AGE: Final = "0"


class ChexpertReader(Reader):
    """Reads train.csv and then valid.csv, row by row.

    1 is present, 0 absent, -1 uncertain, blank not mentioned. `valid` is "dev", the part to choose
    on. Age 0 is CheXpert's unknown. The test part, released later and elsewhere, is not read.

    Args:
        path: the folder that holds train.csv and train/, usually CheXpert-v1.0 or
            CheXpert-v1.0-small.
        on_bad_row: see `Reader`.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a table lacks a column.
    """

    def __init__(self, path: str | Path, *, on_bad_row: OnBadRow = "raise") -> None:
        self._root = Path(path)
        super().__init__(f"chexpert {self._root}", on_bad_row)
        self._tables = [self._root / name for name in _TABLES if (self._root / name).is_file()]
        if not self._tables:
            raise FileNotFoundError(f"no train.csv or valid.csv in {self._root}")

    def rows(self) -> Iterator[Row]:
        """The rows of the tables, with the split of each."""
        for table in self._tables:
            for row in csv_rows(table, (*_COLUMNS, *FINDINGS)):
                values = {**row.values, "split": _TABLES[table.name]}
                yield Row(row.file, row.line, values, row.problem)

    def study(self, row: Row) -> Study:
        """The study of an image."""
        values = row.values
        patient, study = patient_and_study(values["Path"])
        stated = stated_in(values, FINDINGS)
        age = age_named(values["Age"])
        return Study(
            image=self._find(values["Path"]),
            patient_id=patient,
            study_id=study,
            split=values["split"],
            view=chexpert_view(values["Frontal/Lateral"], values["AP/PA"]),
            labels=stated.present,
            negative=stated.absent,
            uncertain=stated.uncertain,
            sex=sex_named(values["Sex"]),
            age="" if age == _UNKNOWN_AGE else age,
            source="chexpert",
        )

    def _find(self, name: str) -> Path:
        """Paths begin with the folder's own name in the releases, and may not in copies."""
        below = Path(name)
        if below.parts and below.parts[0].startswith(_PREFIX):
            below = Path(*below.parts[1:])
        return existing(self._root / below)


def patient_and_study(path: str) -> tuple[str, str]:
    """`patient00001` and `patient00001/study1` of a path.

    Raises:
        ValueError: the path names no patient and study.
    """
    found = _PATIENT.search(path)
    if found is None:
        raise ValueError(f"path {path!r} has no patientNNNNN/studyN/ in it")
    return found["patient"], f"{found['patient']}/{found['study']}"


def chexpert_view(side: str, direction: str) -> str:
    """Lateral, AP or PA; "" for the few frontal images that the table gives another direction."""
    if side.strip() == "Lateral":
        return "LATERAL"
    view = view_named(direction or "")
    return view if view in {"AP", "PA"} else ""


def _recognises(path: Path) -> bool:
    for name in _TABLES:
        table = path / name
        if table.is_file():
            with open_text(table) as file:
                if file.readline().startswith("Path,Sex,Age,Frontal/Lateral"):
                    return True
    return False


KIND: Final = SourceKind(
    name="chexpert",
    looks_like="train.csv or valid.csv whose columns begin Path,Sex,Age,Frontal/Lateral",
    recognises=lambda path: path.is_dir() and _recognises(path),
    open=ChexpertReader,
)
