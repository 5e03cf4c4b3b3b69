"""A folder of images with a CSV, JSON Lines or parquet table that names them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from unix_cxr.data.pixels import Source
from unix_cxr.data.readers.base import (
    OnBadRow,
    Reader,
    Row,
    SourceKind,
    age_named,
    existing,
    sex_named,
    split_named,
)
from unix_cxr.data.readers.stated import stated_in
from unix_cxr.data.readers.tables import TABLE_SUFFIXES, MissingColumnsError, table_rows
from unix_cxr.data.studies import Study, view_named
from unix_cxr.vocabulary import FINDINGS

FIELDS: Final = (
    "image", "patient_id", "study_id", "split", "subset", "view", "labels", "negative",
    "uncertain", "findings", "impression", "sex", "age",
)  # fmt: skip
"""What a table can tell; a column of the same name is read unless `columns` names another."""

_UNSAID_VIEWS: Final = ("", "FRONTAL", "UNKNOWN", "UNK", "NAN", "NONE")
_REQUIRED: Final = ("image", "patient_id")
_SEPARATORS: Final = re.compile(r"[,;|/\t]")
_KNOWN_LABELS: Final = frozenset(name.lower() for name in FINDINGS)


class StudyColumns:
    """Where the facts of a study stand in a row.

    Args:
        columns: name of the column of a field, for those that are called otherwise.
        label_columns: columns that hold 1, 0, -1 or blank for the label that they are named after;
            they take the place of the labels column.
        label_separator: between the labels in one cell.

    Raises:
        ValueError: `columns` names a field that a study does not have.
    """

    def __init__(
        self,
        columns: Mapping[str, str] | None = None,
        *,
        label_columns: Sequence[str] = (),
        label_separator: str = "|",
    ) -> None:
        unknown = sorted(set(columns or ()) - set(FIELDS))
        if unknown:
            raise ValueError(f"columns {unknown} are no fields of a study; fields: {list(FIELDS)}")
        if isinstance(label_columns, str):
            raise TypeError(f"label_columns ({label_columns!r}) must be a list of names")
        self._named = dict(columns or {})
        self._label_columns = tuple(label_columns)
        self._separator = label_separator

    @property
    def required(self) -> list[str]:
        """Columns without which no row is a study: those of every study, and those named."""
        return [*(self.column(name) for name in _REQUIRED), *self._optional(), *self._label_columns]

    def column(self, field: str) -> str:
        """The column of a field."""
        return self._named.get(field, field)

    def study(
        self, values: Mapping[str, Any], image: Source, *, source: str, study_id: str
    ) -> Study:
        """The study of a row; `study_id` is its name where the row has none.

        Raises:
            ValueError: a value is missing or wrong.
        """
        labels = self._labels(values)
        return Study(
            image=image,
            patient_id=self._text(values, "patient_id"),
            study_id=self._text(values, "study_id") or study_id,
            split=split_named(self._text(values, "split")),
            subset=self._text(values, "subset"),
            view=_view(self._text(values, "view")),
            findings=self._text(values, "findings"),
            impression=self._text(values, "impression"),
            sex=sex_named(self._text(values, "sex")),
            age=age_named(values.get(self.column("age"))),
            source=source,
            **labels,
        )

    def _optional(self) -> list[str]:
        return [column for field, column in self._named.items() if field not in _REQUIRED]

    def _text(self, values: Mapping[str, Any], field: str) -> str:
        value = values.get(self.column(field))
        return "" if value is None else str(value).strip()

    def _labels(self, values: Mapping[str, Any]) -> dict[str, frozenset[str]]:
        if self._label_columns:
            stated = stated_in(values, self._label_columns)
            return {
                "labels": stated.present,
                "negative": stated.absent,
                "uncertain": stated.uncertain,
            }
        return {
            field: self._set(values.get(self.column(field)))
            for field in ("labels", "negative", "uncertain")
        }

    def _set(self, value: object) -> frozenset[str]:
        if value is None:
            return frozenset()
        if isinstance(value, str):
            names = [name.strip() for name in value.split(self._separator)]
            self._check_separator(names)
        elif isinstance(value, list) and all(isinstance(name, str) for name in value):
            names = [name.strip() for name in value]
        else:
            raise ValueError(
                f"labels {value!r:.80} must be names divided by {self._separator!r}, or a list of "
                "names; label_columns= reads columns that hold 1, 0 and -1"
            )
        return frozenset(names) - {""}

    def _check_separator(self, names: Sequence[str]) -> None:
        """Refuse a list with another separator, which would pass for one label of a long name."""
        for name in names:
            parts = {part.strip().lower() for part in _SEPARATORS.split(name)}
            if len(parts) > 1 and parts & _KNOWN_LABELS:
                raise ValueError(
                    f"labels {name!r} are not divided by {self._separator!r}; name what divides "
                    "yours with label_separator= (--option label_separator=,)"
                )


class FolderReader(Reader):
    """Reads a table beside its images; nothing but one row is held in memory.

    Args:
        path: a folder, or the table itself; image paths are relative to the table's folder.
        table: name of the table in the folder; the only one there, or `metadata.*`, where None.
        columns: see `StudyColumns`, as for the two below.
        label_columns: columns that each hold one label.
        label_separator: between the labels in one cell.
        on_bad_row: see `Reader`.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: there are several tables, or one lacks a column.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        table: str | None = None,
        columns: Mapping[str, str] | None = None,
        label_columns: Sequence[str] = (),
        label_separator: str = "|",
        on_bad_row: OnBadRow = "raise",
    ) -> None:
        self._table = _find_table(Path(path), table)
        super().__init__(f"folder {self._table}", on_bad_row)
        self._columns = StudyColumns(
            columns, label_columns=label_columns, label_separator=label_separator
        )
        # a missing column is told now, not at the first row
        try:
            next(table_rows(self._table, self._columns.required), None)
        except MissingColumnsError as error:
            raise MissingColumnsError(
                f"{error} (columns=, or --column FIELD=NAME, says how yours are called)"
            ) from error

    def rows(self) -> Iterator[Row]:
        """The rows of the table."""
        return table_rows(self._table, self._columns.required)

    def study(self, row: Row) -> Study:
        """The study of a row."""
        values = row.values
        root = self._table.parent
        image = image_in(values.get(self._columns.column("image")), root)
        if isinstance(image, Path):
            below = image.relative_to(root) if image.is_relative_to(root) else Path(image.name)
            name = below.with_suffix("").as_posix()
        else:
            name = f"{self._table.name}-{row.line}"
        return self._columns.study(values, image, source=root.name, study_id=name)


def image_in(value: object, root: Path) -> Source:
    """The image of a cell: a path below `root`, bytes, or both as Hugging Face stores them.

    Raises:
        ValueError: the cell is empty or of another kind.
        FileNotFoundError: there is no such file.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value.strip():
        return existing(root / value.strip())
    raise ValueError(f"the image ({type(value).__name__}) must be a path or the bytes of a file")


def _view(name: str) -> str:
    view = view_named(name)
    if view is not None:
        return view
    if name.upper() in _UNSAID_VIEWS:
        return ""
    raise ValueError(f"view ({name!r}) must be AP, PA, LATERAL or empty")


def tables_in(folder: Path) -> list[Path]:
    """The tables that lie directly in a folder."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name.lower().endswith(TABLE_SUFFIXES)
    )


def _find_table(path: Path, table: str | None) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist")
    if table is not None:
        if not (path / table).is_file():
            raise FileNotFoundError(f"no table at {path / table}")
        return path / table
    tables = tables_in(path)
    preferred = [found for found in tables if found.name.split(".")[0] == "metadata"] or tables
    if len(preferred) != 1:
        names = [found.name for found in tables]
        raise ValueError(
            f"{path} holds {len(names)} tables {names[:8]}; name one with table= "
            "(--option table=NAME)"
        )
    return preferred[0]


def _recognises(path: Path) -> bool:
    if path.is_file():
        return path.name.lower().endswith(TABLE_SUFFIXES)
    return bool(tables_in(path))


KIND: Final = SourceKind(
    name="folder",
    looks_like="a .csv, .tsv, .jsonl or .parquet table with the columns image and patient_id, "
    "beside the images that it names",
    recognises=_recognises,
    open=FolderReader,
)
