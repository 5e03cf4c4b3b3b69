"""Counts, outcomes and errors on a terminal, each on a line of its own."""

import sys
from typing import Final

import typer
from tqdm import tqdm

_LINE_AGAIN: Final = "\r\x1b[K"


def tell_error(error: BaseException) -> None:
    """Print an error as a line of its own, the last one; bars that are still shown end first."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    if sys.stderr.isatty():
        typer.echo(_LINE_AGAIN, nl=False, err=True)
    typer.secho(f"error: {error}", fg="red", err=True)


def tell_count(text: str) -> None:
    """Say how far a command is, over what was said before; where nobody looks, nothing."""
    if sys.stderr.isatty():
        typer.echo(f"\r{text}", nl=False, err=True)


def tell_outcome(text: str) -> None:
    """Print the first line of an outcome, over the count that a terminal still shows."""
    if sys.stderr.isatty():
        typer.echo(_LINE_AGAIN, nl=False, err=True)
    typer.echo(text)
