"""Reference and predicted reports from two tables, matched by id."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.plugins import ReportPairs
from unix_cxr.evaluation.results import MetricUnavailable
from unix_cxr.evaluation.tables import csv_rows, json_rows, text_cell

ID_COLUMNS: Final = ("id", "study_id", "image")
TEXT_COLUMNS: Final = ("text", "report", "findings")
PATIENT_COLUMNS: Final = ("patient_id", "patient", "subject_id")
_SHOWN: Final = 3


@dataclass(frozen=True)
class ReportTable:
    """Reports by id, and the patients where the table names them.

    Args:
        path: where they come from.
        texts: by id, in the order of the file.
        patients: by id; empty where the table has no such column.
    """

    path: Path
    texts: Mapping[str, str]
    patients: Mapping[str, str]


def read_reports(
    path: str | Path, id_column: str | None = None, text_column: str | None = None
) -> ReportTable:
    """Read a JSONL, CSV, TSV or parquet table of reports.

    Args:
        path: the file.
        id_column: holds the ids; the first of `ID_COLUMNS` that is there where None.
        text_column: holds the texts; the first of `TEXT_COLUMNS` that is there where None. A text
            may be empty or null: a report that says nothing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the format is unknown, a column is missing, an id is there twice or empty, or
            there are no rows; the message names the row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no table of reports at {path}")
    texts: dict[str, str] = {}
    patients: dict[str, str] = {}
    names: tuple[str, str] | None = None
    for number, row in _rows(path):
        names = names or (
            _column(path, row, ID_COLUMNS if id_column is None else (id_column,)),
            _column(path, row, TEXT_COLUMNS if text_column is None else (text_column,)),
        )
        missing = [name for name in names if name not in row]
        if missing:
            raise ValueError(f"{path}, row {number}: {missing} is missing")
        identity = _written(row[names[0]])
        if not identity or identity in texts:
            problem = f"id {identity!r} is there twice" if identity else "the id is empty"
            raise ValueError(f"{path}, row {number}: {problem}")
        texts[identity] = text_cell(path, number, row, names[1])
        patient = next(filter(None, (_written(row.get(name)) for name in PATIENT_COLUMNS)), None)
        if patient is not None:
            patients[identity] = patient
    if not texts:
        raise ValueError(f"{path} holds no reports")
    return ReportTable(path, texts, patients)


def pair_reports(
    references: ReportTable, predictions: ReportTable, resampling: Resampling | None = None
) -> ReportPairs:
    """Match two tables by id; every reference needs its prediction, and the other way round.

    The bootstrap draws patients where the reference table names them for every report, else
    reports.

    Raises:
        ValueError: ids that only one table has, or references without text; the message names them.
    """
    for table, other in ((references, predictions), (predictions, references)):
        lost = [identity for identity in table.texts if identity not in other.texts]
        if lost:
            raise ValueError(
                f"{len(lost)} of {len(table.texts)} ids of {table.path} are not in {other.path} "
                f"(first: {lost[:_SHOWN]}); write an empty text for a report that could not be "
                "made, and leave out of both tables what is not to be measured"
            )
    ids = tuple(references.texts)
    empty = [identity for identity in ids if not references.texts[identity].strip()]
    if empty:
        raise ValueError(
            f"{len(empty)} references are empty (first: {empty[:_SHOWN]}); there is nothing to "
            "measure against: leave their ids out of both tables"
        )
    known = all(identity in references.patients for identity in ids)
    resampling = resampling or Resampling()
    return ReportPairs(
        ids=ids,
        groups=tuple(references.patients[identity] if known else identity for identity in ids),
        references=tuple(references.texts[identity] for identity in ids),
        predictions=tuple(predictions.texts[identity] for identity in ids),
        resampling=Resampling(
            resampling.replicates, resampling.seed, "patient" if known else "report"
        ),
    )


def _written(value: object) -> str:
    """A cell as text; the number 0 is one, and nothing is none."""
    return "" if value is None else str(value)


def _column(path: Path, row: Mapping[str, Any], wanted: Sequence[str]) -> str:
    for name in wanted:
        if name in row:
            return name
    raise ValueError(f"{path} has none of the columns {list(wanted)}; it has {sorted(row)}")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = path.suffix.lower()
    if suffix in {".csv", ".tsv"}:
        yield from csv_rows(path, "\t" if suffix == ".tsv" else ",")
    elif suffix in {".jsonl", ".ndjson"}:
        yield from json_rows(path)
    elif suffix == ".parquet":
        yield from enumerate(_parquet_rows(path), start=1)
    else:
        raise ValueError(f"{path} must be .jsonl, .csv, .tsv or .parquet")


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MetricUnavailable(str(path), f"{error}; pip install 'unix-cxr[eval]'") from error
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows
