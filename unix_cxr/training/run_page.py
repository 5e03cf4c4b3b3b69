"""The page of a run: one HTML file that needs nothing else, rewritten while the run goes on."""

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from unix_cxr import __version__
from unix_cxr.evaluation.page.charts import short
from unix_cxr.evaluation.page.pages import Picture
from unix_cxr.files import write_text
from unix_cxr.training.run_charts import Line, Mark, lines_chart
from unix_cxr.training.run_record import RunRecord, StageRecord, read_run
from unix_cxr.training.runlog import CLOCKED

PAGE: Final = "index.html"
_SHEETS_SHOWN: Final = 12
_EVENTS_SHOWN: Final = 60
_MARKED: Final = frozenset({"resumes", "spike", "bad batch", "stops"})
_MARKS: Final = 200
_NO_LOSS: Final = frozenset({"step", "learning_rate", "skipped"}) | CLOCKED
_MEASURES: Final = {
    "dev_fd": "Fréchet distance of drawn to real dev X-rays",
    "dev_report_f1": "F1 of the findings of written reports",
}


@dataclass(frozen=True)
class StageView:
    """What the page shows of a stage.

    Args:
        name: of the stage.
        kind: of its objective.
        state: where it stands, in words.
        best: the best step in words; "" where none is kept.
        versions: in words.
        numbers: the newest value of every key of the log.
        charts: inline SVG.
        sheets: of drawn X-rays, oldest first.
        more_sheets: how many are not shown.
        texts: that they were drawn from.
        events: time, step, name, about; newest first.
        more_events: how many are not shown.
        counts: how often each event happened.
    """

    name: str
    kind: str
    state: str
    best: str
    versions: str
    numbers: Sequence[tuple[str, str]]
    charts: Sequence[Markup]
    sheets: Sequence[Picture]
    more_sheets: int
    texts: Sequence[str]
    events: Sequence[tuple[str, str, str, str]]
    more_events: int
    counts: str


def write_page(folder: str | Path) -> Path:
    """Write `index.html` of a run from what its folder holds.

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: a file of it is damaged.
        OSError: the page cannot be written.
    """
    run = read_run(folder)
    page = Path(folder) / PAGE
    write_text(page, render(run))
    return page


def render(run: RunRecord) -> str:
    """The page as HTML; every text is escaped, nothing is loaded from elsewhere."""
    recipe = yaml.safe_dump(dict(run.recipe), sort_keys=False, allow_unicode=True, width=100)
    return _template().render(
        run=run,
        recipe=recipe if run.recipe else "",
        plan="\n".join(run.plan),
        stages=[_view(stage) for stage in run.stages],
        version=__version__,
        now=_time(datetime.now(UTC)),
    )


def _template() -> Template:
    source = files("unix_cxr.training").joinpath("run_page.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)


def _view(stage: StageRecord) -> StageView:
    shown = _spread(stage.sheets, _SHEETS_SHOWN)
    counts = Counter(str(event.get("event", "")) for event in stage.events)
    events = [
        (str(e.get("time", "")), f"{e['step']:,}", str(e.get("event", "")), str(e.get("about", "")))
        for e in reversed(stage.events)
    ]
    return StageView(
        name=stage.name,
        kind=stage.kind,
        state=_state(stage),
        best=_best(stage),
        versions=" · ".join(f"{key} {value}" for key, value in stage.versions.items()),
        numbers=_newest(stage),
        charts=[chart for chart in _charts(stage) if chart],
        sheets=[Picture(_picture(path), f"Drawn at {path.stem}") for path in shown],
        more_sheets=len(stage.sheets) - len(shown),
        texts=stage.texts,
        events=events[:_EVENTS_SHOWN],
        more_events=max(0, len(events) - _EVENTS_SHOWN),
        counts=", ".join(f"{name} {count}" for name, count in counts.most_common()),
    )


def _state(stage: StageRecord) -> str:
    if stage.finished is not None:
        exported = stage.finished.get("exported_step", stage.finished.get("steps"))
        which = "best" if stage.finished.get("exported") == "best" else "last"
        return f"finished; the {which} step, {exported}, is exported"
    if not stage.rows and not stage.events:
        return "not begun"
    of = "" if stage.steps is None else f" of {stage.steps:,}"
    written = "" if stage.written is None else f"; the log was last written {_time(stage.written)}"
    left = [row["seconds_left"] for row in stage.rows if "seconds_left" in row]
    rest = f"; {left[-1] / 60:,.0f} minutes were left then" if left else ""
    return f"at step {stage.step:,}{of}{written}{rest}"


def _best(stage: StageRecord) -> str:
    if stage.finished is not None and stage.finished.get("exported") == "best":
        record = stage.finished
        return (
            f"{record['metric']} was best at step {record['exported_step']:,}: "
            f"{short(float(record['value']))}"
        )
    return "" if stage.best is None else f"best so far: step {stage.best:,}"


def _newest(stage: StageRecord) -> list[tuple[str, str]]:
    newest: dict[str, Any] = {}
    for row in stage.rows:
        newest |= row
    return [(key, short(value)) for key, value in newest.items() if key != "step"]


def _charts(stage: StageRecord) -> Iterable[Markup]:
    marks = [
        Mark(event["step"], f"step {event['step']}: {event['event']} {event.get('about', '')}")
        for event in stage.events
        if event.get("event") in _MARKED
    ][-_MARKS:]
    for title, lines in _curves(stage):
        yield lines_chart(title, lines, marks, until=max(1, stage.step))


def _curves(stage: StageRecord) -> Iterable[tuple[str, list[Line]]]:
    """Titles of the charts with their curves; a curve without points is left out later."""
    keys = list(dict.fromkeys(key for row in stage.rows for key in row))
    timed = [key for key in keys if "_t0." in key]
    norms = [key for key in keys if key.split("_")[0] == "norm"]
    plain = [k for k in keys if k not in _NO_LOSS and k not in (*timed, *norms, *_MEASURES)]
    for name in dict.fromkeys(key.removeprefix("dev_") for key in plain):
        lines = [_line(stage, name, "train"), _line(stage, f"dev_{name}", "dev", broken=True)]
        yield ("weighted sum of the losses" if name == "loss" else f"loss: {name}"), lines
    by_time = [_line(stage, key, key.rpartition("_t")[2]) for key in timed]
    yield "dev velocity by time (0 is data, 1 is noise)", by_time
    for key, title in _MEASURES.items():
        yield title, [_line(stage, key, key)]
    named = [_line(stage, key, key.removeprefix("norm_")) for key in norms]
    yield "gradient norms before clipping", named
    yield "learning rate", [_line(stage, "learning_rate", "learning rate")]
    speeds = ("samples_per_second", "tokens_per_second")
    yield "speed", [_line(stage, key, key) for key in speeds]
    shares = ("gemm_share", "waiting_share")
    yield (
        "shares: of the machine's peak, of the time spent waiting for data",
        [_line(stage, key, key) for key in shares],
    )


def _line(stage: StageRecord, key: str, name: str, *, broken: bool = False) -> Line:
    points = [(float(row["step"]), float(row[key])) for row in stage.rows if key in row]
    return Line(name, sorted(points, key=lambda point: point[0]), broken)


def _spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most so many, evenly over the run, the first and the last among them."""
    if len(paths) <= count:
        return list(paths)
    return [paths[round(k * (len(paths) - 1) / (count - 1))] for k in range(count)]


def _picture(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
