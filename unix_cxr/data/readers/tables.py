"""Rows of CSV, JSON Lines and parquet files with the line each one stands on, one at a time."""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO, cast

from unix_cxr.data.readers.base import Row

TABLE_SUFFIXES: Final = (".csv", ".csv.gz", ".tsv", ".jsonl", ".jsonl.gz", ".parquet")
_PARQUET_ROWS: Final = 64  # a row may hold a whole image


def table_rows(path: Path, required: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a table by its suffix.

    Args:
        path: a file with one of `TABLE_SUFFIXES`.
        required: columns that must be there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the suffix is unknown, or a column is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}")
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        return csv_rows(path, required)
    if name.endswith(".jsonl"):
        return json_rows(path, required)
    if name.endswith(".parquet"):
        return parquet_rows(path, required)
    raise ValueError(f"{path} is no table; tables end in {', '.join(TABLE_SUFFIXES)}")


def open_text(path: Path) -> TextIO:
    """A text file, unpacked where its name ends in .gz; a byte that is no UTF-8 stays visible."""
    opener = gzip.open if path.suffix == ".gz" else open
    return cast(
        "TextIO",
        opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=""),
    )


def csv_rows(path: Path, required: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a CSV file, of a TSV file by its suffix; `line` is where a row begins."""
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    with open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = next(reader, [])
        require_columns(path, header, required)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield Row(path, line, {}, f"no CSV row: {error}")
                continue
            if cells is None:
                return
            if cells:
                yield Row(path, line, dict(zip(header, cells, strict=False)), _odd(header, cells))


def json_rows(path: Path, required: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a file with one JSON object per line."""
    with open_text(path) as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                values = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield Row(path, line, {}, f"no JSON: {error}")
                continue
            if not isinstance(values, dict):
                yield Row(path, line, {}, "no JSON object")
                continue
            missing = [name for name in required if name not in values]
            problem = f"lacks {missing}; it has {sorted(values)}" if missing else ""
            yield Row(path, line, values, problem or undecodable(values))


def parquet_rows(path: Path, required: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a parquet file; `line` is the row's number."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("reading parquet needs pyarrow: pip install 'unix-cxr[data]'") from error
    with parquet.ParquetFile(path) as file:
        require_columns(path, list(file.schema_arrow.names), required)
        line = 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for values in batch.to_pylist():
                line += 1
                yield Row(path, line, values)


def require_columns(path: Path, present: Sequence[str], required: Sequence[str]) -> None:
    """Refuse a table without the columns that its reader needs.

    Raises:
        ValueError: a column is missing.
    """
    missing = [name for name in required if name not in present]
    if missing and not present:
        raise ValueError(f"{path} is empty; its first line must name the columns {missing}")
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; it has {list(present)}")


def undecodable(values: Mapping[str, Any]) -> str:
    """Which value held bytes that are no UTF-8, as a problem, or ""."""
    for name, value in values.items():
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return f"{name} is not valid UTF-8"
    return ""


def _odd(header: Sequence[str], cells: Sequence[str]) -> str:
    if len(cells) != len(header):
        kind = "few" if len(cells) < len(header) else "many"
        return f"the row has too {kind} columns ({len(cells)} instead of {len(header)})"
    return undecodable(dict(zip(header, cells, strict=True)))
