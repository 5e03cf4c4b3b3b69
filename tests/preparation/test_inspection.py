"""An inspection counts right, finds each problem that is put in, and shows nothing unasked."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from tests.data import layouts
from unix_cxr.cli.data import data_app, pairs
from unix_cxr.data.sources import open_source
from unix_cxr.preparation.inspection import inspect_source
from unix_cxr.preparation.inspection_page import write_page

COLUMNS = ("image", "patient_id", "split", "view", "labels", "findings", "impression")


def chest(seed: int) -> np.ndarray:
    """Two dark lungs in a bright body, with its own coarse structure."""
    rows, columns = np.mgrid[0:1:96j, 0:1:96j]
    lungs = sum(
        np.exp(-(((columns - centre) / 0.13) ** 2) - ((rows - 0.45) / 0.25) ** 2)
        for centre in (0.27, 0.73)
    )
    texture = np.asarray(layouts.picture(seed, (96, 96)), dtype=float) / 255
    return ((0.75 - 0.6 * np.clip(lungs, 0, 1) + 0.2 * texture) * 250).astype(np.uint8)


@pytest.fixture
def make_corpus(tmp_path: Path):
    """Six sound studies of four patients, and whatever rows and pictures a test adds."""

    def make(*more: tuple[dict[str, Any], np.ndarray | bytes | None]) -> Path:
        root = tmp_path / "corpus"
        root.mkdir(exist_ok=True)
        rows = []
        for number in range(6):
            Image.fromarray(chest(number)).save(root / f"{number}.png")
            rows.append(
                {"image": f"{number}.png", "patient_id": f"p{number // 2}", "view": "PA",
                 "split": "val" if number > 3 else "train", "labels": "Edema" if number else "",
                 "findings": "Secretword." if number == 1 else ""}
            )  # fmt: skip
        for row, pixels in more:
            rows.append({"split": "train", "view": "PA", **row})
            path = root / row["image"]
            if isinstance(pixels, bytes):
                path.write_bytes(pixels)
            elif pixels is not None:
                Image.fromarray(pixels).save(path)
        with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS, restval="")
            table.writeheader()
            table.writerows(rows)
        return root

    return make


def inspected(root: Path, **options: Any):
    return inspect_source(open_source(root, on_bad_row="count"), **options)


def test_a_sound_corpus_has_no_problems(make_corpus) -> None:
    found = inspected(make_corpus())
    assert found.problems == []
    assert found.groups == []
    summary = found.summary()
    assert (summary["studies"], summary["patients"]) == (6, 3)
    assert summary["images"]["read"] == 6
    assert summary["images"]["common_sizes"] == {"96x96": 6}
    assert summary["images"]["formats"] == {"png": 6}
    assert sum(summary["images"]["grey_values"]) == pytest.approx(1, abs=1e-4)
    assert summary["labels"][0]["prevalence"] == pytest.approx(5 / 6)
    assert found.samples == list(range(6))


PLANTED = {
    "bad row": ({"image": "absent.png", "patient_id": "p9"}, None),
    "unreadable": ({"image": "x.png", "patient_id": "p9"}, b"no picture"),
    "named twice": ({"image": "2.png", "patient_id": "p1"}, None),
    "lateral": ({"image": "x.png", "patient_id": "p9", "view": "LATERAL"}, chest(50)),
    "no view": ({"image": "x.png", "patient_id": "p9", "view": ""}, chest(50)),
    "no split": ({"image": "x.png", "patient_id": "p9", "split": ""}, chest(50)),
    "patient in two splits": ({"image": "x.png", "patient_id": "p0", "split": "val"}, chest(50)),
    "constant": ({"image": "x.png", "patient_id": "p9"}, np.full((64, 64), 9, dtype=np.uint8)),
    "inverted": ({"image": "x.png", "patient_id": "p9"}, 255 - chest(50)),
    "coloured": (
        {"image": "x.png", "patient_id": "p9"},
        np.stack([chest(50), chest(50) // 2, chest(50)], axis=2),
    ),
    "near duplicates in two splits": (
        {"image": "x.png", "patient_id": "p0", "split": "val"},
        chest(0),
    ),
    "near duplicates of two patients": ({"image": "x.png", "patient_id": "p9"}, chest(0)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_problem_is_found_and_shown(name: str, make_corpus, tmp_path: Path) -> None:
    found = inspected(make_corpus(PLANTED[name]))
    problems = {problem.name: problem for problem in found.problems}
    assert name in problems
    assert problems[name].count == 1
    assert problems[name].examples
    # what goes with it by its nature, and nothing else
    along = {
        "near duplicates in two splits": {"patient in two splits"},
        "named twice": set(),
    }
    assert set(problems) == {name} | along.get(name, set())
    write_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f" {name}: " in page.replace("\n", " ")


def test_more_problems_are_counted_than_listed(make_corpus) -> None:
    more = [({"image": f"absent{n}.png", "patient_id": "p9"}, None) for n in range(40)]
    (problem,) = inspected(make_corpus(*more)).problems
    assert problem.count == 40
    assert len(problem.examples) == 12
    assert problem.examples[0].endswith("absent0.png")
    assert "metadata.csv, line 8: no image file" in problem.examples[0]


class Tags(HTMLParser):
    """Which tags there are, and what they would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.fetched += [value or "" for name, value in attributes if name in {"src", "href"}]


def test_the_page_needs_nothing_else_and_escapes(make_corpus, tmp_path: Path) -> None:
    bad = '<script>alert("x")</script>'
    root = make_corpus(
        ({"image": "x.png", "patient_id": bad, "labels": bad, "findings": bad}, chest(60))
    )
    found = inspected(root, with_text=True)
    write_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.seen
    assert tags.fetched
    assert all(link.startswith("data:image/jpeg;base64,") for link in tags.fetched)
    assert "&lt;script&gt;" in page
    assert not re.search(r"url\(|@import", page)


def test_text_is_shown_only_when_asked_for(make_corpus, tmp_path: Path) -> None:
    root = make_corpus()
    for with_text in (False, True):
        found = inspected(root, with_text=with_text)
        write_page(found, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert ("Secretword" in page) is with_text
        assert ("quotes their reports" in page) is with_text
        assert ("secretword" in json.dumps(found.summary())) is with_text


def test_a_limit_is_kept_and_said(make_corpus, tmp_path: Path) -> None:
    root = make_corpus()
    told: list[int] = []
    found = inspected(root, limit=4, progress=told.append)
    assert found.statistics.studies == 4
    assert told == [1, 2, 3, 4]
    write_page(found, tmp_path / "page.html")
    assert "only the first 4 studies" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"limit \(0\) must be 1 or more"):
        inspected(root, limit=0)


def test_nothing_to_inspect_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    text = "image,patient_id\nabsent.png,p1\n"
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"has no studies; the first bad row: .*line 2: no image"):
        inspected(tmp_path)


@pytest.mark.parametrize("kind", ["mimic", "nih", "openi", "webdataset"])
def test_corpora_can_be_inspected(kind: str, tmp_path: Path) -> None:
    root = layouts.LAYOUTS[kind](tmp_path / "corpus")
    found = inspected(root)
    write_page(found, tmp_path / "page.html")
    assert found.pictures.read == found.statistics.studies > 2


def command() -> typer.Typer:
    """As the command line has it: a group of commands."""
    app = typer.Typer()
    app.add_typer(data_app, name="data")
    return app


def test_the_command_writes_the_page_and_says_so(make_corpus, tmp_path: Path) -> None:
    root = make_corpus(PLANTED["lateral"])
    out = tmp_path / "page.html"
    result = CliRunner().invoke(command(), ["data", "inspect", str(root), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"reading folder {root}" in result.output
    assert "7 images of 4 patients" in result.output
    assert "1 lateral: not frontal" in result.output
    assert f"wrote {out}" in result.output
    assert out.is_file()


def test_a_page_that_cannot_be_written_is_refused_before_the_corpus_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for out, error in (("", IsADirectoryError), ("file/page.html", NotADirectoryError)):
        arguments = ["data", "inspect", "nowhere", "--out", f"{tmp_path}/{out}"]
        answer = CliRunner().invoke(command(), arguments)
        assert isinstance(answer.exception, error)


def test_the_command_speaks_json_and_takes_options(make_corpus, tmp_path: Path) -> None:
    root = make_corpus()
    out = tmp_path / "page.html"
    arguments = ["data", "inspect", str(root), "--out", str(out), "--json", "--limit", "3"]
    more = ["--kind", "folder", "--column", "subset=split", "--option", "table=metadata.csv"]
    result = CliRunner().invoke(command(), arguments + more)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["studies"] == 3
    assert values["subsets"] == {"train": 3}
    assert values["written"] == [str(out)]
    result = CliRunner().invoke(command(), [*arguments, "--option", "tabel=x"])
    assert isinstance(result.exception, TypeError)
    assert "has no option ['tabel']" in str(result.exception)


def test_options_are_names_and_values() -> None:
    assert pairs("--column", ["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    with pytest.raises(ValueError, match=r"--column 'a' must be NAME=VALUE"):
        pairs("--column", ["a"])
    with pytest.raises(ValueError, match=r"--column gives 'a' twice"):
        pairs("--column", ["a=b", "a=c"])
