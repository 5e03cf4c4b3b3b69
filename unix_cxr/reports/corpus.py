"""Cleaning a corpus: a stream through worker processes, in order, that a killed run can resume.

The output grows in `OUT.partial`; `OUT.progress` (SQLite) holds, in one transaction, how many rows
were read, how many bytes of output they made, the ids seen and the counts. A run that finds both
truncates the output to the recorded length and goes on, so that its bytes equal those of a run that
was never interrupted.
"""

import contextlib
import json
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import IO, Final, NamedTuple, Protocol

from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.config import CleanerConfig
from unix_cxr.reports.readers import Columns, Row, parse_json_row, read_rows
from unix_cxr.reports.records import CleanReport, Status
from unix_cxr.reports.rules import CATALOGUE
from unix_cxr.reports.statistics import Statistics, stable_hash

CHUNK_ROWS: Final = 256
_CHUNKS_PER_COMMIT: Final = 8
_CHUNKS_AHEAD: Final = 4


@dataclass(frozen=True, slots=True)
class CorpusOptions:
    """What to clean, how, and where the result goes."""

    inputs: tuple[Path, ...]
    out: Path
    config: CleanerConfig = field(default_factory=CleanerConfig)
    columns: Columns = field(default_factory=Columns)
    file_format: str | None = None
    encoding: str = "utf-8"
    workers: int = 1
    overwrite: bool = False
    rewriter: str = ""

    def fingerprint(self) -> str:
        """What must be equal for a run to go on where another one stopped."""
        files = [(str(path), _size_and_time(path)) for path in self.inputs]
        rules = [(rule.name, rule.pattern) for rule in CATALOGUE]
        values = [files, rules, self.config.model_dump(), asdict(self.columns), self.file_format]
        values += [self.encoding, self.rewriter]
        return sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


class Cleaner(Protocol):
    """What a run needs of a cleaner."""

    def clean(self, text: str) -> CleanReport:
        """Clean one report."""


class ChunkResult(NamedTuple):
    """The output lines of one chunk, a hash of each row's id, and the chunk's counts."""

    lines: list[bytes]
    keys: list[int]
    statistics: Statistics


def clean_corpus(
    options: CorpusOptions,
    progress: Callable[[int], None] | None = None,
    cleaner: Cleaner | None = None,
) -> Statistics:
    """Clean every report of the inputs into `options.out`, one line per report, in order.

    Args:
        options: the run.
        progress: called with the number of reports done, after each commit.
        cleaner: cleans in this process in the place of `options.config`;
            `options.rewriter` names it.

    Raises:
        FileExistsError: the output exists and `overwrite` is off.
        ValueError: an interrupted run with other options left its progress, or a column is missing.
        OSError: the output cannot be written; what is done stays and the same command goes on.
    """
    if options.out.exists() and not options.overwrite:
        raise FileExistsError(f"{options.out} exists; remove it or pass --overwrite")
    rows = _all_rows(options)
    first = next(rows, None)  # a missing file or column is told before anything is written
    rows = _chain(first, rows)
    with _Output(options.out, options.fingerprint(), cleaner) as output:
        rows = _skip(rows, output.rows)
        for number, (chunk, result) in enumerate(_results(rows, options, cleaner), start=1):
            output.write(chunk, result, options)
            if number % _CHUNKS_PER_COMMIT == 0:
                output.commit()
                if progress:
                    progress(output.rows)
        output.finish()
        return output.statistics


def find_report(options: CorpusOptions, report_id: str) -> str:
    """The text of one report, for `--explain`.

    Raises:
        KeyError: no row has this id.
        ValueError: the row has a problem and no text.
    """
    for row in _all_rows(options):
        parsed = parse_json_row(row, options.columns, options.encoding)
        if parsed.report_id == report_id:
            if parsed.problem:
                raise ValueError(f"report {report_id!r}: {parsed.problem}")
            return parsed.text or ""
    raise KeyError(f"no report has the id {report_id!r}")


def process(
    rows: Sequence[Row],
    cleaner: Cleaner,
    options: CorpusOptions,
    duplicates: frozenset[int] = frozenset(),
) -> ChunkResult:
    """Clean one chunk; `duplicates` are positions whose id was seen before."""
    result = ChunkResult([], [], Statistics())
    for position, raw in enumerate(rows):
        row = parse_json_row(raw, options.columns, options.encoding)
        report_id = row.report_id if row.report_id is not None else row.fallback_id
        if row.problem:
            report = CleanReport(Status.QUARANTINED, row.problem)
        elif position in duplicates:
            report = CleanReport(Status.QUARANTINED, "duplicate id")
        else:
            report = cleaner.clean(row.text or "")
        line = report.to_json(report_id)
        result.lines.append(line.encode("utf-8", "backslashreplace") + b"\n")
        result.keys.append(stable_hash(report_id) if row.report_id is not None else -1)
        result.statistics.add(report_id, row.text or "", report)
    return result


def _size_and_time(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _all_rows(options: CorpusOptions) -> Iterator[Row]:
    for path in options.inputs:
        yield from read_rows(
            path, options.columns, file_format=options.file_format, encoding=options.encoding
        )


def _chain(first: Row | None, rest: Iterator[Row]) -> Iterator[Row]:
    if first is not None:
        yield first
        yield from rest


def _skip(rows: Iterator[Row], count: int) -> Iterator[Row]:
    return islice(rows, count, None)


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK_ROWS)):
        yield chunk


def _results(
    rows: Iterator[Row], options: CorpusOptions, cleaner: Cleaner | None
) -> Iterator[tuple[list[Row], ChunkResult]]:
    """Chunks with their results, in order; at most a few chunks are held at a time."""
    if options.workers <= 1 or cleaner is not None:
        cleaner = cleaner or ReportCleaner(config=options.config)
        for chunk in _chunks(rows):
            yield chunk, process(chunk, cleaner, options)
        return
    waiting: deque[tuple[list[Row], Future[ChunkResult]]] = deque()
    with ProcessPoolExecutor(
        options.workers, get_context("spawn"), initializer=_start_worker, initargs=(options,)
    ) as pool:
        for chunk in _chunks(rows):
            waiting.append((chunk, pool.submit(_work, chunk)))
            if len(waiting) >= _CHUNKS_AHEAD * options.workers:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()


_worker: dict[str, tuple[ReportCleaner, CorpusOptions]] = {}


def _start_worker(options: CorpusOptions) -> None:
    _worker["state"] = (ReportCleaner(config=options.config), options)


def _work(chunk: list[Row]) -> ChunkResult:
    cleaner, options = _worker["state"]
    return process(chunk, cleaner, options)


class _Output:
    """The growing output file and its progress, committed together."""

    def __init__(self, out: Path, fingerprint: str, cleaner: Cleaner | None) -> None:
        self.out = out
        self.partial = out.with_name(out.name + ".partial")
        self.progress = out.with_name(out.name + ".progress")
        self.statistics = Statistics()
        self.rows = 0
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._database: sqlite3.Connection | None = None
        self._fingerprint = fingerprint
        self._cleaner = cleaner

    def __enter__(self) -> "_Output":
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), self.partial.open("xb"):
            pass
        self._file = self.partial.open("r+b")
        self._database = sqlite3.connect(self.progress, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute("CREATE TABLE IF NOT EXISTS ids (key INTEGER PRIMARY KEY)")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS state (fingerprint TEXT, rows INTEGER, bytes INTEGER, "
            "statistics TEXT)"
        )
        self._resume()
        self._database.execute("BEGIN")
        return self

    def _resume(self) -> None:
        database, file = self._open()
        state = database.execute("SELECT * FROM state").fetchone()
        if state is not None:
            if state[0] != self._fingerprint:
                self.__exit__(None, None, None)
                raise ValueError(
                    f"{self.progress} belongs to a run with other inputs, options or rules; remove "
                    f"it and {self.partial} to begin anew"
                )
            self.rows, self._bytes = state[1], state[2]
            self.statistics = Statistics.from_dict(json.loads(state[3]))
        file.truncate(self._bytes)
        file.seek(self._bytes)

    def _open(self) -> tuple[sqlite3.Connection, IO[bytes]]:
        if self._database is None or self._file is None:
            raise RuntimeError("the output is not open")
        return self._database, self._file

    def write(self, chunk: list[Row], result: ChunkResult, options: CorpusOptions) -> None:
        """Append a chunk; rows whose id was seen before are written as quarantined."""
        _, file = self._open()
        duplicates = self._seen(result.keys)
        if duplicates:
            self._cleaner = self._cleaner or ReportCleaner(config=options.config)
            result = process(chunk, self._cleaner, options, duplicates)
        data = b"".join(result.lines)
        file.write(data)
        self._bytes += len(data)
        self.rows += len(chunk)
        self.statistics.merge(result.statistics)

    def _seen(self, keys: list[int]) -> frozenset[int]:
        database, _ = self._open()
        duplicates = []
        for position, key in enumerate(keys):
            if key < 0:
                continue
            cursor = database.execute("INSERT OR IGNORE INTO ids VALUES (?)", (key,))
            if cursor.rowcount == 0:
                duplicates.append(position)
        return frozenset(duplicates)

    def commit(self) -> None:
        """Make everything so far last: the bytes first, then the record of them."""
        database, file = self._open()
        file.flush()
        database.execute("DELETE FROM state")
        database.execute(
            "INSERT INTO state VALUES (?, ?, ?, ?)",
            (self._fingerprint, self.rows, self._bytes, json.dumps(self.statistics.as_dict())),
        )
        database.execute("COMMIT")
        database.execute("BEGIN")

    def finish(self) -> None:
        """Put the output in its place and remove the progress."""
        database, file = self._open()
        database.execute("ROLLBACK")
        file.flush()
        os.fsync(file.fileno())
        self.__exit__(None, None, None)
        self.partial.replace(self.out)
        for suffix in ("", "-wal", "-shm"):
            self.progress.with_name(self.progress.name + suffix).unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk told of itself when it was written to
                self._file.close()
            self._file = None
        if self._database is not None:
            self._database.close()
            self._database = None
