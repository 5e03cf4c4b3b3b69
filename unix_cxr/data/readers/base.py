"""What every reader shares: a stream of rows, studies made of them, and a place for bad ones."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args, runtime_checkable

from unix_cxr.data.studies import Study

OnBadRow = Literal["raise", "count"]

_UNKNOWN_SEXES: Final = ("", "o", "u", "nan", "none", "unknown", "other", "not available")
_UNKNOWN_VALUES: Final = ("", "nan", "none")


@dataclass(frozen=True)
class RowProblem:
    """A row that is no study.

    Args:
        file: the table or file.
        line: its line there, counted from 1; 0 where the file is no table of lines.
        reason: what is wrong with it.
    """

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{place(self.file, self.line)}: {self.reason}"


@dataclass(frozen=True)
class Row:
    """The values of one image as its file states them, or why they could not be read."""

    file: Path
    line: int
    values: Mapping[str, Any]
    problem: str = ""

    def checked(self) -> Mapping[str, Any]:
        """The values.

        Raises:
            ValueError: the row has a problem.
        """
        if self.problem:
            raise ValueError(self.problem)
        return self.values


@runtime_checkable
class StudySource(Protocol):
    """A stream of studies that can be read again, in the same order."""

    @property
    def name(self) -> str:
        """The kind of source and where it lies."""
        ...

    @property
    def problems(self) -> Sequence[RowProblem]:
        """The bad rows of the last reading, where they are counted."""
        ...

    def __iter__(self) -> Iterator[Study]:
        """The studies, one at a time."""
        ...


@dataclass(frozen=True)
class SourceKind:
    """A layout that can be read.

    Args:
        name: what `kind=` and `NAME:path` call it.
        looks_like: the files that it is recognised by, for messages.
        recognises: whether a folder or file has this layout; always False for kinds that are only
            taken by name.
        open: makes the source of a path and options.
    """

    name: str
    looks_like: str
    recognises: Callable[[Path], bool]
    open: Callable[..., StudySource]


class Reader(ABC):
    """A source that makes studies of rows.

    Args:
        name: the kind of source and where it lies.
        on_bad_row: "raise" stops at the first bad row with its file and line; "count" passes it
            over and lists it in `problems`.
    """

    def __init__(self, name: str, on_bad_row: OnBadRow) -> None:
        if on_bad_row not in get_args(OnBadRow):
            raise ValueError(f"on_bad_row ({on_bad_row!r}) must be one of {get_args(OnBadRow)}")
        self.name = name
        self._on_bad_row = on_bad_row
        self._problems: list[RowProblem] = []

    @property
    def problems(self) -> Sequence[RowProblem]:
        """The bad rows of the last reading, where they are counted."""
        return self._problems

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Every row of the corpus, in an order that is the same each time."""

    @abstractmethod
    def study(self, row: Row) -> Study:
        """The study of a row without a problem.

        Raises:
            ValueError: a value is missing or wrong.
            FileNotFoundError: there is no such image file.
        """

    def __iter__(self) -> Iterator[Study]:
        """Read from the beginning.

        Raises:
            ValueError, FileNotFoundError: a row is bad, with its file and line, unless bad rows
                are counted.
        """
        self._problems = problems = []
        for row in self.rows():
            try:
                row.checked()
                study = self.study(row)
            except (ValueError, FileNotFoundError) as error:
                if self._on_bad_row == "raise":
                    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
                    raise kind(
                        f"{place(str(row.file), row.line)}: {error} (on_bad_row 'count', --on-bad "
                        "count of `data prepare`, lists such rows and passes them over)"
                    ) from error
                problems.append(RowProblem(str(row.file), row.line, str(error)))
            else:
                yield study


def place(file: str, line: int) -> str:
    """A file and a line as messages name them."""
    return f"{file}, line {line}" if line else file


def existing(path: Path) -> Path:
    """`path`, if a file lies there.

    Raises:
        FileNotFoundError: none does.
    """
    if path.is_dir():
        raise FileNotFoundError(f"no image file at {path}, which is a folder")
    if not path.is_file():
        divided = "; folders are divided by /, not by \\" if "\\" in path.name else ""
        raise FileNotFoundError(f"no image file at {path}{divided}")
    return path


def sex_named(name: str) -> str:
    """M, F or "" for the names that corpora give.

    Raises:
        ValueError: the name is none of them.
    """
    lowered = name.strip().lower()
    if lowered in {"m", "male"}:
        return "M"
    if lowered in {"f", "female"}:
        return "F"
    if lowered in _UNKNOWN_SEXES:
        return ""
    raise ValueError(f"sex ({name!r}) must be M, F, male, female or empty")


def age_named(value: object) -> str:
    """An age as it is stated, whole years without the ".0" that tables of floats put there.

    >>> age_named("68.0"), age_named("058Y"), age_named("nan")
    ('68', '058Y', '')
    """
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in _UNKNOWN_VALUES else text.removesuffix(".0")


def split_named(name: str) -> str:
    """A split in our words: a corpus's validation part is "dev", the part to choose on.

    Raises:
        ValueError: the name is not known.
    """
    lowered = name.strip().lower()
    if lowered in {"valid", "validate", "validation"}:
        return "dev"
    if lowered in {"train", "dev", "val", "test", ""}:
        return lowered
    raise ValueError(f"split ({name!r}) must be train, dev, val, test, validate or empty")


def integer(values: Mapping[str, Any], name: str) -> int:
    """A column that must hold a whole number.

    Raises:
        ValueError: it holds something else.
    """
    value = str(values.get(name, "")).strip()
    if not value.isdecimal():
        raise ValueError(f"{name} ({value!r}) must be a whole number")
    return int(value)
