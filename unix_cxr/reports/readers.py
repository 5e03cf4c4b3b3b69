"""Reading corpora of reports as a stream of rows; a bad row is a row with its problem."""

import csv
import gzip
import json
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from unix_cxr.files import check_text, explaining_damage

MAX_LINE_BYTES: Final = 1 << 20
"""A longer line or file is a problem row; its bytes are passed over, never held."""

FORMATS: Final = ("jsonl", "csv", "tsv", "parquet", "txt", "mimic", "openi")
_PARQUET_ROWS: Final = 1024


class Row(NamedTuple):
    """One report as it was found. `raw` is an undecoded JSON line, read by whoever cleans it."""

    fallback_id: str
    report_id: str | None = None
    text: str | None = None
    problem: str = ""
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the fields; findings and impression, where given, take the place of `text`."""

    report_id: str = "id"
    text: str = "text"
    findings: str | None = None
    impression: str | None = None

    @property
    def wanted(self) -> tuple[str, ...]:
        """Every field a row must have."""
        if self.findings or self.impression:
            parts = (self.findings, self.impression)
            return (self.report_id, *(part for part in parts if part))
        return (self.report_id, self.text)


def read_rows(
    path: str | Path,
    columns: Columns | None = None,
    *,
    file_format: str | None = None,
    encoding: str = "utf-8",
) -> Iterator[Row]:
    """Every report below `path`, in an order that is the same each time.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: the format is not known, or a table lacks a named column.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    columns = columns or Columns()
    kind = file_format or guess_format(path)
    if kind not in FORMATS:
        raise ValueError(f"format {kind!r} is not known; formats: {', '.join(FORMATS)}")
    if kind == "jsonl":
        return _read_jsonl(path, encoding)
    if kind in {"csv", "tsv"}:
        return _read_csv(path, columns, "\t" if kind == "tsv" else ",", encoding)
    if kind == "parquet":
        return _read_parquet(path, columns)
    if kind == "openi":
        return _read_files(path, ".xml", _openi_row, encoding)
    return _read_files(path, ".txt", _mimic_row if kind == "mimic" else _text_row, encoding)


def guess_format(path: Path) -> str:
    """The format by a file's suffix or a folder's contents.

    Raises:
        ValueError: neither tells.
    """
    if path.is_dir():
        if any(path.glob("p[0-9][0-9]")) or any(path.glob("files/p[0-9][0-9]")):
            return "mimic"
        return "openi" if next(path.rglob("*.xml"), None) else "txt"
    name = path.name.lower().removesuffix(".gz")
    for suffix, kind in (
        (".jsonl", "jsonl"), (".ndjson", "jsonl"), (".csv", "csv"), (".tsv", "tsv"),
        (".parquet", "parquet"), (".tgz", "openi"), (".tar", "openi"), (".xml", "openi"),
        (".txt", "txt"),
    ):  # fmt: skip
        if name.endswith(suffix):
            return kind
    raise ValueError(f"the format of {path} cannot be told by its name; give --format")


def parse_json_row(row: Row, columns: Columns, encoding: str = "utf-8") -> Row:
    """Decode the raw line of a JSONL row; what is wrong with it becomes its problem."""
    if row.raw is None:
        return row
    try:
        values = json.loads(row.raw.decode(encoding).lstrip("\ufeff"))
    except UnicodeDecodeError as error:
        return row._replace(problem=f"encoding: not {encoding} at byte {error.start}", raw=None)
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        return row._replace(problem=f"no JSON: {error}"[:120], raw=None)
    if not isinstance(values, dict):
        return row._replace(problem="no JSON object", raw=None)
    return _row_of(values, columns, row.fallback_id)


def _row_of(values: dict[str, Any], columns: Columns, fallback: str) -> Row:
    missing = [name for name in columns.wanted if name not in values]
    identity = values.get(columns.report_id)
    report_id = str(identity) if identity is not None and identity != "" else None
    if report_id is not None and not report_id.isprintable():
        report_id = report_id.encode("unicode_escape").decode("ascii")
    if missing:
        return Row(fallback, report_id, problem=f"missing column {missing[0]!r}")
    if report_id is None:
        return Row(fallback, problem=f"empty column {columns.report_id!r}")
    if columns.findings or columns.impression:
        text = _sectioned(values, columns)
    else:
        text = values[columns.text]
    if text is None:
        text = ""
    if not isinstance(text, str):
        return Row(fallback, report_id, problem=f"text is {type(text).__name__}, no string")
    if _has_surrogates(text):
        return Row(fallback, report_id, problem="encoding: not valid Unicode")
    return Row(fallback, report_id, text)


def _sectioned(values: dict[str, Any], columns: Columns) -> str:
    parts = []
    for header, name in (("FINDINGS", columns.findings), ("IMPRESSION", columns.impression)):
        value = values.get(name) if name else None
        if value:
            parts.append(f"{header}: {value}")
    return "\n".join(parts)


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)


def _open_binary(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def _read_jsonl(path: Path, encoding: str) -> Iterator[Row]:
    check_text(path, encoding)
    with _open_binary(path) as file, explaining_damage(path):
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            name = f"{path.name}:{number}"
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                length = len(line) + _pass_over(file)
                yield Row(name, problem=f"line of {length} bytes, at most {MAX_LINE_BYTES}")
            elif line.strip():
                yield Row(name, raw=line)


def _pass_over(file: IO[bytes]) -> int:
    passed = 0
    while piece := file.readline(MAX_LINE_BYTES):
        passed += len(piece)
        if piece.endswith(b"\n"):
            break
    return passed


def _read_csv(path: Path, columns: Columns, delimiter: str, encoding: str) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    opener = gzip.open if path.suffix == ".gz" else open
    check_text(path, encoding)
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    with (
        opener(path, "rt", encoding=encoding, errors="surrogateescape", newline="") as file,
        explaining_damage(path),
    ):
        # strict, or a quote that is never closed would swallow the reports behind it
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header = next(reader, None)
        if header is None:
            raise ValueError(f"{path} is empty; its first line must name the columns")
        _require(columns.wanted, header, path)
        yield from _csv_rows(reader, header, columns, path.name)


def _csv_rows(reader: Any, header: list[str], columns: Columns, name: str) -> Iterator[Row]:  # noqa: ANN401 - csv's reader
    number = 1
    while True:
        number += 1
        fallback = f"{name}:{number}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Row(fallback, problem=f"no CSV row: {error}"[:120])
            continue
        if cells is None:
            return
        if any(cells[len(header) :]):  # a comma in a text without quotes cuts it in two
            problem = f"too many columns: {len(cells)} instead of {len(header)}; quote the text"
            yield Row(fallback, problem=problem)
        elif cells:
            yield _row_of(dict(zip(header, cells, strict=False)), columns, fallback)


def _require(wanted: tuple[str, ...], present: list[str], path: Path) -> None:
    for name in wanted:
        if name not in present:
            raise ValueError(
                f"{path} has no column {name!r}; its columns: {', '.join(map(repr, present))}. "
                "Name yours with --id-column and --text-column; a .csv is divided by commas"
            )
        if present.count(name) > 1:
            raise ValueError(f"{path} names the column {name!r} twice; rename one of them")


def _read_parquet(path: Path, columns: Columns) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ImportError("reading parquet needs pyarrow: pip install unix-cxr[reports]") from error
    try:
        opened = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise ValueError(f"{path} is no whole parquet file: {error}") from error
    with opened as file:
        _require(columns.wanted, list(file.schema_arrow.names), path)
        number = 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=list(columns.wanted)):
            for values in batch.to_pylist():
                number += 1
                yield _row_of(values, columns, f"{path.name}:{number}")


def _read_files(
    path: Path, suffix: str, make: Callable[[str, bytes, str], Row], encoding: str
) -> Iterator[Row]:
    if path.is_file() and (path.suffix == ".tgz" or ".tar" in path.suffixes):
        yield from _read_archive(path, make, encoding)
        return
    files = [path] if path.is_file() else sorted(path.rglob(f"*{suffix}"))
    if not files:
        raise ValueError(f"{path} holds no *{suffix}; name the file or folder of the reports")
    for found in files:
        name = found.name if path.is_file() else found.relative_to(path).as_posix()
        with found.open("rb") as stream:
            yield _checked(name, stream.read(MAX_LINE_BYTES + 1), make, encoding)


def _read_archive(
    path: Path, make: Callable[[str, bytes, str], Row], encoding: str
) -> Iterator[Row]:
    try:
        with explaining_damage(path), tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith((".xml", ".txt")):
                    file = archive.extractfile(member)
                    data = b"" if file is None else file.read(MAX_LINE_BYTES + 1)
                    reader = _openi_row if member.name.endswith(".xml") else make
                    yield _checked(member.name, data, reader, encoding)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no whole tar archive: {error}") from error


def _checked(name: str, data: bytes, make: Callable[[str, bytes, str], Row], encoding: str) -> Row:
    if len(data) > MAX_LINE_BYTES:
        return Row(name, problem=f"file of more than {MAX_LINE_BYTES} bytes")
    return make(name, data, encoding)


def _text_row(name: str, data: bytes, encoding: str) -> Row:
    report_id = name.removesuffix(".txt")
    try:
        return Row(name, report_id, data.decode(encoding).lstrip("\ufeff"))
    except UnicodeDecodeError as error:
        return Row(name, report_id, problem=f"encoding: not {encoding} at byte {error.start}")


def _mimic_row(name: str, data: bytes, encoding: str) -> Row:
    """`files/p10/p10000032/s50414267.txt` is the study s50414267."""
    return _text_row(name, data, encoding)._replace(report_id=Path(name).stem)


def _openi_row(name: str, data: bytes, _encoding: str) -> Row:
    if b"<!ENTITY" in data:
        return Row(name, problem="XML with entities is not read")
    try:
        root = ET.fromstring(data)
    except ET.ParseError as error:
        return Row(name, problem=f"no XML: {error}")
    identity = root.find("uId")
    parts = [
        f"{part.get('Label', '').upper()}: {''.join(part.itertext()).strip()}"
        for part in root.iter("AbstractText")
        if "".join(part.itertext()).strip()
    ]
    report_id = identity.get("id") if identity is not None else None
    return Row(name, report_id or Path(name).stem, "\n".join(parts))
