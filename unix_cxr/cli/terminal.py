"""Where the cursor of a terminal stands, so that an error begins on a line of its own."""

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

import typer

_PIECES: Final = re.compile(r"\n|\r|\x1b\[[0-9;]*[A-Za-z]|[^\n\r\x1b]+|\x1b")
_ESCAPE: Final = "\x1b"
_UP: Final = "\x1b[A"
_REST_OF_LINE: Final = ("\x1b[K", "\x1b[0K")


class Line:
    """What can be read on a terminal's line where the cursor is, from what was written to it."""

    def __init__(self) -> None:
        self._text = ""
        self._column = 0
        self._below = 0

    def write(self, text: str) -> None:
        """Follow the cursor through a text."""
        for piece in _PIECES.findall(text):
            if piece == "\n":
                self._text, self._column = "", 0
                self._below = max(0, self._below - 1)
            elif piece == "\r":
                self._column = 0
            elif piece == _UP:
                self._text, self._below = "of another bar", self._below + 1
            elif piece in _REST_OF_LINE:
                self._text = self._text[: self._column]
            elif not piece.startswith(_ESCAPE):
                end = self._column + len(piece)
                before = self._text[: self._column].ljust(self._column)
                self._text, self._column = before + piece + self._text[end:], end

    def to_next(self) -> str:
        """What brings the cursor to the beginning of an empty line; nothing where it is there."""
        if not self._below and not self._text.strip():
            return "\r" if self._column else ""
        return "\n" * (self._below + 1)


class FollowedStream:
    """A stream that passes on everything and tells a line of what is written.

    Args:
        stream: a terminal's.
        line: shared by the streams of one terminal.
    """

    def __init__(self, stream: TextIO, line: Line) -> None:
        self._stream = stream
        self._line = line

    def write(self, text: str) -> int:
        """Write to the stream."""
        written = self._stream.write(text)
        self._line.write(text)
        return written

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)


@contextmanager
def following_terminal() -> Iterator[Line]:
    """Follow standard output and standard error inside, as far as they are terminals."""
    line, streams = Line(), (sys.stdout, sys.stderr)
    followed: list[Any] = [
        FollowedStream(stream, line) if stream is not None and stream.isatty() else stream
        for stream in streams
    ]
    sys.stdout, sys.stderr = followed
    try:
        yield line
    finally:
        sys.stdout, sys.stderr = streams


def tell_error(error: BaseException, line: Line) -> None:
    """Print an error as a line of its own, the last one.

    Bars that the failing code was showing end first: what holds them is released.
    """
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    typer.echo(line.to_next(), nl=False, err=True)
    typer.secho(f"error: {error}", fg="red", err=True)


def tell_count(text: str) -> None:
    """Say how far a command is, over what was said before; where nobody looks, nothing."""
    if sys.stderr.isatty():
        typer.echo(f"\r{text}", nl=False, err=True)


def tell_outcome(text: str) -> None:
    """Print the first line of an outcome, over the count that a terminal still shows."""
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", nl=False, err=True)
    typer.echo(text)
