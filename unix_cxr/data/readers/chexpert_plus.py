"""CheXpert Plus: df_chexpert_plus_240401.csv with reports, PNG or DICOM images, CheXbert labels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, get_args

from unix_cxr.data.readers.base import (
    OnBadRow,
    Reader,
    Row,
    SourceKind,
    age_named,
    sex_named,
    split_named,
)
from unix_cxr.data.readers.chexpert import chexpert_view, patient_and_study
from unix_cxr.data.readers.stated import LabelIndex, Stated, key_of, packed
from unix_cxr.data.readers.tables import csv_rows, json_rows
from unix_cxr.data.studies import Study
from unix_cxr.vocabulary import FINDINGS

Labels = Literal["report", "findings", "impression", "none"]

_COLUMNS: Final = (
    "path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "section_findings",
    "section_impression", "age", "sex", "split",
)  # fmt: skip
_LABEL_FOLDERS: Final = ("chexbert_labels", "labels", ".")
_IMAGE_FOLDERS: Final = (".", "PNG", "PNG/PNG", "PNGs", "DICOM", "DICOM/DICOM")
_SUFFIXES: Final = (".png", ".dcm", ".jpg")


class ChexpertPlusReader(Reader):
    """Reads the table row by row; CheXbert's labels are held, 16 bytes per image (4 MB).

    Args:
        path: folder with `df_chexpert_plus_*.csv`, with the images in `PNG/` or `DICOM/`, and
            CheXbert's `report_fixed.json` (or findings, impression) in `chexbert_labels/`.
        labels: which of CheXbert's three files to read, or "none".
        images: the folder that holds `train/patient…`, where it is another.
        on_bad_row: see `Reader`.

    Raises:
        FileNotFoundError: the table or the labels are missing.
        ValueError: the table lacks a column, or the labels are wrong.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        labels: Labels = "report",
        images: str | Path | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> None:
        self._root = Path(path)
        super().__init__(f"chexpert-plus {self._root}", on_bad_row)
        if labels not in get_args(Labels):
            raise ValueError(f"labels ({labels!r}) must be one of {get_args(Labels)}")
        table = _table(self._root)
        if table is None:
            raise FileNotFoundError(f"no df_chexpert_plus_*.csv in {self._root}")
        self._table = table
        self._folders = (
            [Path(images)] if images is not None else [self._root / name for name in _IMAGE_FOLDERS]
        )
        self._labels = None if labels == "none" else _read_labels(self._root, labels)

    def rows(self) -> Iterator[Row]:
        """The rows of the table."""
        return csv_rows(self._table, _COLUMNS)

    def study(self, row: Row) -> Study:
        """The study of an image."""
        values = row.values
        name = values["path_to_image"]
        _, study = patient_and_study(name)
        stated = Stated()
        if self._labels is not None:
            stated = self._labels.get(key_of(name)) or Stated()
        return Study(
            image=self._find(name),
            patient_id=values["deid_patient_id"].strip(),
            study_id=study,
            split=split_named(values["split"]),
            view=chexpert_view(values["frontal_lateral"], values["ap_pa"]),
            labels=stated.present,
            negative=stated.absent,
            uncertain=stated.uncertain,
            findings=values["section_findings"].strip(),
            impression=values["section_impression"].strip(),
            sex=sex_named(values["sex"]),
            age=age_named(values["age"]),
            source="chexpert-plus",
        )

    def _find(self, name: str) -> Path:
        """The table says view1_frontal.jpg; the release has the same name as .png or .dcm."""
        below = Path(name)
        for position, folder in enumerate(self._folders):
            for suffix in _SUFFIXES:
                path = (folder / below).with_suffix(suffix)
                if path.is_file():
                    self._folders.insert(0, self._folders.pop(position))
                    return path
        raise FileNotFoundError(
            f"no image {below.with_suffix('')}{{{','.join(_SUFFIXES)}}} in {self._root}, its PNG/ "
            "or its DICOM/; say where train/ lies with images="
        )


def _read_labels(root: Path, kind: str) -> LabelIndex:
    paths = [root / folder / f"{kind}_fixed.json" for folder in _LABEL_FOLDERS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"no {kind}_fixed.json in {root / _LABEL_FOLDERS[0]}; unpack chexbert_labels.zip "
            'there, or pass labels="none"'
        )

    def rows() -> Iterator[tuple[int, int]]:
        for row in json_rows(path, ("path_to_image",)):
            try:
                values = row.checked()
                yield key_of(str(values["path_to_image"])), packed(values, FINDINGS)
            except ValueError as error:
                raise ValueError(f"{path}, line {row.line}: {error}") from error

    return LabelIndex(FINDINGS, rows())


def _table(root: Path) -> Path | None:
    found = sorted(root.glob("df_chexpert_plus_*.csv*"))
    return found[-1] if found else None


KIND: Final = SourceKind(
    name="chexpert-plus",
    looks_like="df_chexpert_plus_240401.csv, with PNG/ or DICOM/ and chexbert_labels/",
    recognises=lambda path: _table(path) is not None,
    open=ChexpertPlusReader,
)
