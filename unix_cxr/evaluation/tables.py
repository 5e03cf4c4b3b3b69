"""Rows of CSV and JSONL files, with errors that name file and row."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_SHOWN: Final = 60


def csv_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a CSV file by their numbers, from 1.

    Raises:
        ValueError: it is no text, or a row has more or fewer cells than the header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # strict, or a quote that is never closed would swallow the rows behind it
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            for number, row in enumerate(reader, start=1):
                # csv puts what is left over under None, and None where a cell is missing
                more, fewer = row.pop(None, None), None in row.values()
                if more or fewer:
                    raise ValueError(
                        f"{path}, row {number}: {'more' if more else 'fewer'} cells than the "
                        f"header's {len(row)}; put texts with commas or line breaks in quotes"
                    )
                yield number, row
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no table in UTF-8: {error}; save it as one") from error
    except csv.Error as error:
        raise ValueError(f"{path} is no whole CSV: {error}; close its quotes") from error


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSONL file by the numbers of their lines, from 1; empty lines are left out.

    Raises:
        ValueError: it is no text, or a line is no JSON object.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _json_row(path, number, line)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}; save it as one") from error


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, row {number}: no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(  # noqa: TRY004 - the value of a file, not of an argument
            f"{path}, row {number}: {type(row).__name__}, not a JSON object"
        )
    return row


def text_cell(path: Path, number: int, row: dict[str, Any], column: str) -> str:
    """A text of a row; "" where it is null.

    Raises:
        ValueError: there is something else than a text.
    """
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        shown = repr(value)[:_SHOWN]
        raise ValueError(  # noqa: TRY004 - the value of a file, not of an argument
            f"{path}, row {number}: {column} ({shown}) must be a text or null"
        )
    return value
