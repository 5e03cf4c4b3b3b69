"""NIH ChestX-ray14: Data_Entry_2017.csv, the official lists, and twelve folders of images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from unix_cxr.data.readers.base import OnBadRow, Reader, Row, SourceKind, age_named, sex_named
from unix_cxr.data.readers.tables import csv_rows
from unix_cxr.data.studies import Study, view_named

_COLUMNS: Final = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
_LISTS: Final = {"train_val_list.txt": "train", "test_list.txt": "test"}


class NihReader(Reader):
    """Reads the table row by row; which patients are in which official list is held (2 MB).

    The labels were mined from reports: a finding that is not listed is not stated as absent.
    The official lists are "train" (train_val_list.txt) and "test"; a validation part is left to the
    user to cut from train, by patient.

    Args:
        path: folder with `Data_Entry_2017*.csv`, the two lists, and the images in `images/`, in
            `images_001/images/` to `images_012/images/`, or directly beside the table.
        on_bad_row: see `Reader`.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: the table lacks a column, or a patient is in both lists.
    """

    def __init__(self, path: str | Path, *, on_bad_row: OnBadRow = "raise") -> None:
        self._root = Path(path)
        super().__init__(f"nih {self._root}", on_bad_row)
        table = _table(self._root)
        if table is None:
            raise FileNotFoundError(f"no Data_Entry_2017*.csv in {self._root}")
        self._table = table
        self._folders = _image_folders(self._root)
        self._splits = _read_lists(self._root)

    def rows(self) -> Iterator[Row]:
        """The rows of the table."""
        return csv_rows(self._table, _COLUMNS)

    def study(self, row: Row) -> Study:
        """The study of an image."""
        values = row.values
        patient = values["Patient ID"].strip()
        if not patient.isdecimal():
            raise ValueError(f"Patient ID ({patient!r}) must be a whole number")
        name = values["Image Index"]
        # "Patient Sex" in the table of 2017's second edition
        sex = values.get("Patient Gender", values.get("Patient Sex", ""))
        return Study(
            image=self._find(name),
            patient_id=patient,
            study_id=name.rsplit(".", 1)[0],
            split=self._splits.get(int(patient), ""),
            view=view_named(values["View Position"]) or "",
            labels=frozenset(values["Finding Labels"].split("|")) - {""},
            sex=sex_named(sex),
            age=age_named(values["Patient Age"]),
            source="nih",
        )

    def _find(self, name: str) -> Path:
        """The image, in the folder of the last one first: the table goes folder by folder."""
        for position, folder in enumerate(self._folders):
            path = folder / name
            if path.is_file():
                self._folders.insert(0, self._folders.pop(position))
                return path
        raise FileNotFoundError(
            f"no image {name} in images/, images_001/images/ … of {self._root}, or beside the table"
        )


def _table(root: Path) -> Path | None:
    found = sorted(root.glob("Data_Entry_2017*.csv*"))
    return found[-1] if found else None


def _image_folders(root: Path) -> list[Path]:
    candidates = [root / "images", *sorted(root.glob("images_*/images")), root]
    return [folder for folder in candidates if folder.is_dir()]


def _read_lists(root: Path) -> dict[int, str]:
    """Split by patient: the number that an image's name begins with."""
    splits: dict[int, str] = {}
    for file_name, split in _LISTS.items():
        path = root / file_name
        if not path.is_file():
            continue
        with path.open(encoding="utf-8") as file:
            for line, text in enumerate(file, start=1):
                patient = text.strip().split("_")[0]
                if not patient:
                    continue
                if not patient.isdecimal():
                    raise ValueError(f"{path}, line {line}: {text.strip()!r} is no image name")
                if splits.setdefault(int(patient), split) != split:
                    raise ValueError(f"{path}, line {line}: patient {patient} is in both lists")
    return splits


KIND: Final = SourceKind(
    name="nih",
    looks_like="Data_Entry_2017*.csv, with images/ or images_001/images/ …",
    recognises=lambda path: _table(path) is not None,
    open=NihReader,
)
