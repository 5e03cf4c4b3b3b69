"""One self-contained page of results that a person can read."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from unix_cxr import __version__
from unix_cxr.evaluation.page.charts import Bar, bar_chart, short
from unix_cxr.evaluation.protocols import Protocol
from unix_cxr.evaluation.results import MetricResult, Skipped

_ARROWS: Final[Mapping[bool | None, str]] = {True: "↑", False: "↓", None: ""}
CAUTION: Final = (
    "Numbers compare only where their signatures agree; those marked “own” have no published "
    "counterpart. Drawn X-rays show no person; real ones on "
    "this page do, so keep it where their data may be."
)


@dataclass(frozen=True)
class Table:
    """A plain table."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and what it shows in words."""

    data: str
    about: str


@dataclass(frozen=True)
class Section:
    """One part of the page, in the order: results, charts, pictures, tables.

    Args:
        title: its heading.
        about: one or two sentences on how to read it.
        results: rows of the table of numbers.
        charts: inline SVG.
        pictures: such as contact sheets.
        tables: such as confusions.
    """

    title: str
    about: str = ""
    results: tuple[Mapping[str, object], ...] = ()
    charts: tuple[Markup, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = field(default=())


def render_page(
    title: str, protocol: Protocol, sections: Sequence[Section], skipped: Sequence[Skipped]
) -> str:
    """The page as HTML; every text is escaped, nothing is loaded from elsewhere."""
    source = files("unix_cxr.evaluation.page").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(source).render(
        title=title,
        version=__version__,
        protocol=protocol,
        caution=CAUTION,
        sections=sections,
        skipped=skipped,
    )


def result_rows(
    results: Sequence[MetricResult], ceilings: Mapping[str, MetricResult] | None = None
) -> tuple[Mapping[str, object], ...]:
    """Results as rows of the table; `ceilings` by the name of the metric that they belong to."""
    ceilings = ceilings or {}
    rows = []
    for result in results:
        interval = result.interval
        ceiling = ceilings.get(result.name)
        rows.append(
            {
                "name": result.name,
                "arrow": _ARROWS[result.higher_is_better],
                "comparable": result.comparable,
                "warnings": result.warnings,
                "value": short(result.value),
                "interval": "none"
                if interval is None
                else f"{short(interval.low)} to {short(interval.high)} ({interval.method})",
                "ceiling": "" if ceiling is None else short(ceiling.value),
                "n": result.n,
                "signature": result.signature,
            }
        )
    return tuple(rows)


def bars_of(title: str, results: Sequence[MetricResult], highest: float | None = 1.0) -> Markup:
    """A bar for each result, labelled by the part of its name behind the first slash."""
    bars = [
        Bar(
            result.name.split("/")[1] if "/" in result.name else result.name,
            result.value,
            None if result.interval is None else result.interval.low,
            None if result.interval is None else result.interval.high,
        )
        for result in results
    ]
    return bar_chart(title, bars, highest)


def data_uri(image: Image.Image) -> str:
    """A picture as PNG inside the page."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
