"""Rows of CSV, JSON Lines and parquet files with the line each one stands on, one at a time."""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO, cast

from unix_cxr.data.readers.base import Row
from unix_cxr.files import check_text, explaining_damage

TABLE_SUFFIXES: Final = (".csv", ".csv.gz", ".tsv", ".jsonl", ".jsonl.gz", ".parquet")
_PARQUET_ROWS: Final = 64  # a row may hold a whole image


class MissingColumnsError(ValueError):
    """A table lacks columns that its reader needs."""


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
    """A text file, unpacked where its name ends in .gz; a byte that is no UTF-8 stays visible.

    Raises:
        ValueError: it is no text, or packed otherwise than its name says.
    """
    check_text(path)
    opener = gzip.open if path.suffix == ".gz" else open
    return cast(
        "TextIO",
        opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=""),
    )


def csv_rows(path: Path, required: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a CSV file, of a TSV file by its suffix; `line` is where a row begins.

    Raises:
        ValueError: a column is missing or named twice, or the file is damaged or no text.
    """
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    with open_text(path) as file, explaining_damage(path):
        # strict, or a quote that is never closed would swallow the rows behind it
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header = next(reader, [])
        require_columns(path, header, required)
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice:
            raise ValueError(f"{path} names the columns {twice} twice; rename or remove one each")
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield Row(path, line, {}, no_csv_row(error))
                continue
            if cells is None:
                return
            if cells:
                yield Row(path, line, dict(zip(header, cells, strict=False)), _odd(header, cells))


def json_rows(path: Path, required: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a file with one JSON object per line.

    Raises:
        ValueError: the file is damaged or no text.
    """
    with open_text(path) as file, explaining_damage(path):
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                values = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield Row(path, line, {}, f"no JSON: {error}")
                continue
            if not isinstance(values, dict):
                yield Row(path, line, {}, "no JSON object; each line must be one: {…}")
                continue
            missing = [name for name in required if name not in values]
            problem = f"lacks {missing}; it has {sorted(values)}" if missing else ""
            yield Row(path, line, values, problem or undecodable(values))


def parquet_rows(path: Path, required: Sequence[str] = ()) -> Iterator[Row]:
    """Rows of a parquet file; `line` is the row's number.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file is damaged, or a column is missing.
    """
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ImportError("reading parquet needs pyarrow: pip install 'unix-cxr[data]'") from error
    try:
        opened = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise ValueError(f"{path} is no whole parquet file: {error}") from error
    with opened as file:
        require_columns(path, list(file.schema_arrow.names), required)
        line = 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for values in batch.to_pylist():
                line += 1
                yield Row(path, line, values)


def require_columns(path: Path, present: Sequence[str], required: Sequence[str]) -> None:
    """Refuse a table without the columns that its reader needs.

    Raises:
        MissingColumnsError: a column is missing.
    """
    missing = [name for name in required if name not in present]
    if missing and not present:
        raise MissingColumnsError(
            f"{path} is empty; its first line must name the columns {missing}"
        )
    if missing:
        otherwise = next((d for d in (";", "\t", "|") if len(present) == 1 and d in present[0]), "")
        hint = (
            f"; its columns are divided by {otherwise!r}, and must be by ','" if otherwise else ""
        )
        raise MissingColumnsError(
            f"{path} lacks the columns {missing}; it has {list(present)}{hint}"
        )


def no_csv_row(error: csv.Error) -> str:
    """What is wrong with a row that is no CSV, for a problem or a message."""
    hint = "; a quote is opened and not closed" if "unexpected end" in str(error) else ""
    return f"no CSV row: {error}{hint}"


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
