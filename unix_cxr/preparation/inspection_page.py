"""The page of an inspection: one HTML file that needs nothing else."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined, Template

from unix_cxr import __version__
from unix_cxr.files import write_text
from unix_cxr.preparation.inspection import Inspection, Shown

_LABELS: Final = 60
_GROUPS: Final = 12


def check_page(path: str | Path) -> None:
    """Refuse a page that could not be written, before a corpus is read for it.

    Raises:
        IsADirectoryError: the path is a folder.
        NotADirectoryError: a folder above it is a file.
    """
    page = Path(path)
    if page.is_dir():
        raise IsADirectoryError(
            f"{page} is a folder; give the page's file, {page / 'inspect.html'}"
        )
    in_the_way = [folder for folder in page.parents if folder.is_file()]
    if in_the_way:
        raise NotADirectoryError(f"{in_the_way[0]} is a file; give a folder for the page")


def write_page(inspection: Inspection, path: str | Path) -> None:
    """Write the inspection as one self-contained HTML page.

    Raises:
        OSError: the file cannot be written.
    """
    check_page(path)
    summary = inspection.summary()
    page = _template().render(
        inspection=inspection,
        summary=summary,
        version=__version__,
        labels=summary["labels"][:_LABELS],
        more_labels=max(len(summary["labels"]) - _LABELS, 0),
        splits=sorted(inspection.statistics.splits),
        samples=_chosen(inspection, inspection.samples),
        groups=[(len(group), _chosen(inspection, group)) for group in inspection.groups[:_GROUPS]],
        examples={
            problem.name: _chosen(inspection, problem.numbers) for problem in inspection.problems
        },
        grey_bars=_bars(summary["images"]["grey_values"]),
        length_bars={
            name: _length_bars(summary[name]["texts_by_words"])
            for name in ("findings", "impressions")
        },
    )
    write_text(path, page)


def _chosen(inspection: Inspection, numbers: Iterable[int]) -> list[Shown]:
    return [inspection.shown[number] for number in numbers if number in inspection.shown]


def _bars(values: list[float]) -> list[float]:
    """Heights in percent of the highest."""
    highest = max(values, default=0) or 1
    return [round(100 * value / highest, 2) for value in values]


def _length_bars(counts: dict[int, int]) -> list[dict[str, Any]]:
    heights = _bars([float(count) for count in counts.values()])
    return [
        {"words": words, "count": count, "height": height}
        for (words, count), height in zip(counts.items(), heights, strict=True)
    ]


def _template() -> Template:
    source = files("unix_cxr.preparation").joinpath("inspection.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["thousands"] = "{:,}".format
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    return environment.from_string(source)
