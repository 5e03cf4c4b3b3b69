"""The page of a run: whole, self-contained, and true of a run in any state."""

import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from unix_cxr.evaluation.page.charts import short
from unix_cxr.pipelines.marking import save_synthetic_png
from unix_cxr.training.drawn_validation import sheet
from unix_cxr.training.run_charts import Line, Mark, lines_chart, thinned
from unix_cxr.training.run_page import write_page
from unix_cxr.training.run_record import read_run, write_run

from .test_loop import StoppedError, StoppingSource
from .toys import trainer

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reading(HTMLParser):
    """Tags that are open, everything that is loaded, and the words."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [
            value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: Path) -> Reading:
    text = page.read_text(encoding="utf-8")
    reading = Reading()
    reading.feed(text)
    assert not reading.open
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in reading.loaded)
    assert not re.search(r"https?:|@import|url\(", text)
    assert "script" not in reading.tags
    return reading


def points(page: Path, chart: str) -> list[list[tuple[float, float]]]:
    """Places of a chart's curves on the picture."""
    text = page.read_text(encoding="utf-8")
    svg = re.search(rf'<svg[^>]*aria-label="{re.escape(chart)}".*?</svg>', text, re.DOTALL)
    assert svg, chart
    curves = re.findall(r'<polyline points="([^"]*)"', svg.group())
    return [[tuple(map(float, p.split(","))) for p in c.split()] for c in curves]  # type: ignore[misc]


STAGES = [
    {"name": name, "objective": {"kind": kind}, "steps": 8}
    for name, kind in (("first", "understanding"), ("second", "generation"), ("third", "joint"))
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a stage that is finished, one that was killed, and one that has not begun."""
    folder = tmp_path / "run"
    recipe = {"name": "a <b>bold</b> recipe", "seed": 3, "stages": STAGES}
    write_run(folder, recipe, ["stage   objective", "first   <understanding>"])
    one = trainer(folder / "first", keep_best="dev_error")
    losses = one.run()
    record = {"steps": 8, "losses": losses} | one.exported
    (folder / "first" / "finished.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(StoppedError):
        trainer(folder / "second", StoppingSource(5)).run()
    with (folder / "second" / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "err')
    for step in range(1, 31):
        images = torch.full((3, 1, 32, 32), step / 40)
        save_synthetic_png(
            sheet(images, step), folder / "second" / "drawn" / f"step-{step:08d}.png", {}
        )
    texts = ["No <script>alert(1)</script> effusion.", "Pneumonia."]
    (folder / "second" / "drawn" / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    return folder


def test_the_page_tells_where_every_stage_stands(run: Path) -> None:
    page = write_page(run)
    assert page == run / "index.html"
    words = " ".join(read(page).words)
    record = json.loads((run / "first" / "finished.json").read_text(encoding="utf-8"))
    assert f"finished; the best step, {record['exported_step']}, is exported" in words
    assert (
        f"dev_error was best at step {record['exported_step']}: {short(record['value'])}" in words
    )
    assert "at step 5 of 8; the log was last written" in words
    assert "not begun" in words
    assert f"torch {torch.__version__}" in words
    assert "begins 1" in words


def test_nothing_of_a_text_becomes_part_of_the_page(run: Path) -> None:
    reading = read(write_page(run))
    assert "b" not in reading.tags[reading.tags.index("h1") :][:2]
    words = " ".join(reading.words)
    for text in (
        "a <b>bold</b> recipe",
        "No <script>alert(1)</script> effusion.",
        "<understanding>",
    ):
        assert text in words


def test_sheets_are_spread_over_the_run_and_the_rest_is_counted(run: Path) -> None:
    reading = read(write_page(run))
    pictures = [link for link in reading.loaded if link.startswith("data:")]
    assert len(pictures) == 12
    assert len(set(pictures)) == 12
    assert "18 more sheets are in the folder second/drawn" in " ".join(reading.words)


def test_curves_are_those_of_the_log(run: Path) -> None:
    page = write_page(run)
    lines = (run / "first" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    train = [row["error"] for row in rows if "error" in row]
    dev = [row["dev_error"] for row in rows if "dev_error" in row]
    ours, validated = points(page, "loss: error")
    assert (len(ours), len(validated)) == (len(train), len(dev))
    both = [*train, *dev]
    places = [y for _, y in (*ours, *validated)]
    order = sorted(range(len(both)), key=lambda i: both[i])
    heights = [places[i] for i in order]
    assert heights == sorted(heights, reverse=True)  # larger is higher up
    assert all(a[0] < b[0] for a, b in itertools.pairwise(ours))
    for title in ("gradient norms before clipping", "learning rate", "speed"):
        assert points(page, title)


def test_a_page_of_a_folder_without_a_record_shows_what_is_there(tmp_path: Path) -> None:
    trainer(tmp_path / "training").run()
    words = " ".join(read(write_page(tmp_path)).words)
    assert "at step 8" in words
    assert tmp_path.name in words


def test_no_run_and_damaged_records_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder at"):
        read_run(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"holds no run: neither run\.json nor a stage's"):
        write_page(tmp_path)
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.json is damaged .*remove it"):
        write_page(tmp_path)


def test_an_old_page_stays_whole_until_the_new_one_is(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_page(run).read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk")))
    with pytest.raises(OSError, match="the disk"):
        write_page(run)
    assert (run / "index.html").read_bytes() == before


def test_long_curves_keep_their_extremes() -> None:
    values = [math.sin(step / 50) for step in range(20_000)]
    values[12_345], values[777] = 9.0, -9.0
    kept = thinned(list(enumerate(values)))
    assert len(kept) < 600
    assert (12_345, 9.0) in kept
    assert (777, -9.0) in kept
    assert kept == sorted(kept)
    assert (kept[0][0], kept[-1][0]) == (0, 19_999)


def test_values_that_are_not_finite_are_left_out() -> None:
    chart = str(lines_chart("t", [Line("a", [(1, 1.0), (2, math.nan), (3, math.inf), (4, 2.0)])]))
    assert "nan" not in chart
    assert "inf" not in chart
    assert len(re.findall("<circle", chart)) == 2
    assert not lines_chart("t", [Line("a", [(1, math.nan)]), Line("b", [])])


@pytest.mark.parametrize("values", [[1.0, 10.0, 100.0], [-1.0, 0.0, 1.0]])
def test_equal_steps_are_equally_far_on_their_scale(values: list[float]) -> None:
    chart = str(lines_chart("t", [Line("a", list(enumerate(values)))], [Mark(1, "spike <1>")]))
    heights = [float(y) for y in re.findall(r'<circle cx="[^"]*" cy="([^"]*)"', chart)]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)
    assert "spike &lt;1&gt;" in chart
