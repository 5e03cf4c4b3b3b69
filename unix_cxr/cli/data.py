"""`unix-cxr data`: looking at corpora and preparing them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from unix_cxr.cli.options import AsJson
from unix_cxr.cli.terminal import tell_count, tell_outcome

data_app = typer.Typer(help="Look at a corpus, and prepare it.", no_args_is_help=True)

Source = Annotated[
    str, typer.Argument(help="A folder or file, or KIND:REST such as datasets:owner/name.")
]
Kind = Annotated[
    str | None, typer.Option(help="The layout, where it shall not be recognised: mimic, nih, …")
]
Column = Annotated[
    list[str] | None,
    typer.Option(help="FIELD=NAME, such as patient_id=subject; for tables. May be repeated."),
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--option", help="NAME=VALUE of the kind, such as reports=FOLDER. May be repeated."
    ),
]


@data_app.command()
def inspect(
    source: Source,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("inspect.html"),
    kind: Kind = None,
    column: Column = None,
    option: Setting = None,
    limit: Annotated[int | None, typer.Option(help="Look at the first so many studies.")] = None,
    with_text: Annotated[
        bool, typer.Option("--with-text", help="Quote reports and common words on the page.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Write one HTML page about a corpus: counts, views, labels, samples, problems found.

    Bad rows are counted and listed, never passed over in silence. The page shows thumbnails and
    pseudonyms, and report text only with --with-text.
    """
    from json import dumps

    from unix_cxr.data.sources import open_source
    from unix_cxr.preparation.inspection import inspect_source
    from unix_cxr.preparation.inspection_page import check_page, write_page

    check_page(out)
    options = typed(pairs("--option", option))
    if column:
        options["columns"] = pairs("--column", column)
    opened = open_source(source, kind=kind, on_bad_row="count", **options)
    if not json:
        typer.echo(f"reading {opened.name}")
    found = inspect_source(
        opened, limit=limit, with_text=with_text, progress=None if json else counter("images")
    )
    write_page(found, out)
    if json:
        typer.echo(dumps({**found.summary(), "written": [str(out)]}))
        return
    statistics = found.statistics
    tell_outcome(f"{statistics.studies:,} images of {statistics.patients:,} patients")
    for problem in found.problems:
        typer.echo(f"  {problem.count:,} {problem.name}: {problem.explanation}")
    typer.echo(f"wrote {out}")


def pairs(flag: str, values: list[str] | None) -> dict[str, str]:
    """NAME=VALUE options as a dictionary.

    Raises:
        ValueError: one has no "=", or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in values or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ValueError(f"{flag} {text!r} must be NAME=VALUE")
        if name in found:
            raise ValueError(f"{flag} gives {name!r} twice")
        found[name] = value
    return found


def typed(values: dict[str, str]) -> dict[str, object]:
    """Values of `--option` as numbers and booleans where they look like some.

    >>> typed({"size": "64", "dirty": "true", "reports": "files/reports"})
    {'size': 64, 'dirty': True, 'reports': 'files/reports'}
    """
    found: dict[str, object] = {}
    for name, value in values.items():
        words = {"true": True, "false": False}
        found[name] = int(value) if value.isdigit() else words.get(value.lower(), value)
    return found


def counter(what: str, every: int = 100) -> Callable[[int], None]:
    """Writes to standard error how far it is, every so many."""

    def tell(done: int) -> None:
        if done % every == 0:
            tell_count(f"{done:,} {what}")

    return tell
