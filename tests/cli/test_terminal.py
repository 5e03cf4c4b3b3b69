"""An error is a line of its own, the last one, whatever a terminal shows when it comes."""

import io
import sys
from collections.abc import Callable

import pytest
from tqdm import tqdm

import unix_cxr.cli
from unix_cxr.cli.terminal import tell_count, tell_outcome

Shows = Callable[[], None]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def screen(written: str) -> list[str]:
    """The lines that a terminal shows, and where the next character would go."""
    lines, row, column = [""], 0, 0
    text = written.replace("\x1b[31m", "").replace("\x1b[0m", "").replace("\x1b[A", "\x1e")
    for character in text.replace("\x1b[K", "\x1f"):
        match character:
            case "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            case "\r":
                column = 0
            case "\x1e":
                row -= 1
            case "\x1f":
                lines[row] = lines[row][:column]
            case _:
                before = lines[row].ljust(column)
                lines[row] = before[:column] + character + before[column + 1 :]
                column += 1
    return [line.rstrip() for line in lines]


def failing(shows: Shows) -> Callable[[], None]:
    def command() -> None:
        shows()
        raise ValueError("the value is wrong; give another")

    return command


def run(monkeypatch: pytest.MonkeyPatch, command: Callable[[], None]) -> list[str]:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(unix_cxr.cli, "app", command)
    with pytest.raises(SystemExit) as ended:
        unix_cxr.cli.main()
    assert ended.value.code == 1
    return screen(terminal.getvalue())


def count() -> None:
    tell_count("7,300 reports")


def whole_line() -> None:
    print("reading a.csv")  # noqa: T201 - what a command says


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("shows", "before"),
    [
        (nothing, []),
        (whole_line, ["reading a.csv"]),
        (count, []),
    ],
)
def test_an_error_begins_on_a_line_of_its_own_and_leaves_no_empty_one(
    monkeypatch: pytest.MonkeyPatch, shows: Shows, before: list[str]
) -> None:
    lines = run(monkeypatch, failing(shows))
    assert lines == [*before, "error: the value is wrong; give another", ""]


def bars(nested: bool) -> None:
    for step in tqdm(range(9), "outer", mininterval=0, ncols=60):
        for _ in tqdm(range(4), "inner", mininterval=0, ncols=60, leave=False, disable=not nested):
            if step == 2:
                raise OSError("the disk is full")


def held() -> None:
    bar = tqdm(total=9, desc="outer", mininterval=0, ncols=60)
    bar.update(2)
    raise OSError("the disk is full")


def test_a_bar_that_the_failing_code_holds_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = run(monkeypatch, held)
    assert first.startswith("outer:  22%")
    assert rest == ["error: the disk is full", ""]


@pytest.mark.parametrize("nested", [False, True])
def test_an_error_comes_after_the_bars_that_it_ended(
    monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    lines = run(monkeypatch, lambda: bars(nested))
    assert lines[-2:] == ["error: the disk is full", ""]
    assert lines[0].startswith("outer:  22%")
    assert sum("outer" in line for line in lines) == 1


def wrapped() -> None:
    try:
        bars(nested=False)
    except OSError as error:
        raise ValueError("not written") from error


def test_bars_of_the_cause_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run(monkeypatch, wrapped)
    assert lines[-2:] == ["error: not written", ""]
    assert len(lines) == 3


def test_what_is_no_terminal_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        count()
        tell_outcome("3 reports")
        raise ValueError("wrong")

    monkeypatch.setattr(unix_cxr.cli, "app", command)
    with pytest.raises(SystemExit):
        unix_cxr.cli.main()
    captured = capsys.readouterr()
    assert captured.err == "error: wrong\n"
    assert captured.out == "3 reports\n"


def test_an_outcome_takes_the_counts_place(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    tell_count("123,456,789 reports")
    tell_outcome("2 reports")
    assert screen(terminal.getvalue()) == ["2 reports", ""]
