"""The command, the audit page and deduplication, as a user meets them."""

import json
import re
from html.parser import HTMLParser

import pytest
import typer
from typer.testing import CliRunner

from unix_cxr.cli.clean import clean
from unix_cxr.reports.dedup import deduplicate

app = typer.Typer()
app.command()(clean)
run = CliRunner().invoke

REPORTS = {
    "a": "FINDINGS: Unchanged right PICC ending in the mid SVC. <b>",
    "b": "FINDINGS: Stable cardiomegaly with <edema>. Dr. Lee was paged.",
    "c": "TECHNIQUE: AP.",
    "d": "FINDINGS: No effusion. Heart size is normal.",
}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [json.dumps({"id": key, "text": text}) for key, text in REPORTS.items()]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_clean_with_an_audit(source, tmp_path):
    out, page = tmp_path / "out.jsonl", tmp_path / "audit.html"
    result = run(app, [str(source), "--out", str(out), "--audit", str(page)])
    assert result.exit_code == 0, result.output
    assert "4 reports = 2 clean + 1 empty + 1 quarantined" in result.output
    assert str(page) in result.output
    values = json.loads((tmp_path / "audit.json").read_text())
    assert values["reports"] == 4
    assert (
        values["rules"]["communication.doctor"] + values["rules"].get("communication.told", 0) == 1
    )


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_audit_page_is_well_formed_self_contained_and_escaped(source, tmp_path):
    page = tmp_path / "audit.html"
    run(app, [str(source), "--out", str(tmp_path / "o.jsonl"), "--audit", str(page)])
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert not [tag for tag, attrs in tags.seen if tag in {"script", "img", "link", "iframe"}]
    assert not [attrs for _, attrs in tags.seen if {"src", "href"} & set(attrs)]
    assert "&lt;edema&gt;" in text
    assert re.search(r"<del>[^<]*Stable", text)
    assert re.search(r"4 = 2 \+ 1 \+ 1", text)


def test_json_output(source, tmp_path):
    result = run(app, [str(source), "--out", str(tmp_path / "o.jsonl"), "--json"])
    assert json.loads(result.output)["status"] == {"clean": 2, "empty": 1, "quarantined": 1}


@pytest.mark.parametrize(("name", "text"), [("empty.csv", "id,text\n"), ("empty.jsonl", "")])
def test_an_input_without_reports_is_told(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    result = run(app, [str(tmp_path / name), "--out", str(tmp_path / "out.jsonl")])
    assert result.exit_code == 0, result.output
    assert f"warning: no report is in {tmp_path / name}" in result.output


def test_explain(source):
    result = run(app, [str(source), "--explain", "b"])
    assert result.exit_code == 0
    assert "[change.steady-adjective]" in result.output
    assert "Dr. ___ was paged." in result.output
    missing = run(app, [str(source), "--explain", "z"])
    assert missing.exit_code == 1
    assert "no report has the id 'z'" in missing.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out is needed"),
        (["--out", "{source}"], "is also an input"),
        (["--out", "o.jsonl", "--preset", "nonsense"], "unix' or 'conservative'"),
        (["--out", "o.jsonl", "--preset", "unix", "--config", "x"], "not both"),
        (["--out", "o.jsonl", "--text-column", "report", "--format", "csv"], "no column"),
        (["--out", "o.jsonl", "--llm-endpoint", "http://x/v1"], "needs --llm-model"),
    ],
)
def test_mistakes_are_told(source, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    filled = [argument.format(source=source) for argument in arguments]
    result = run(app, [str(source), *filled])
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "o.jsonl").exists()


def test_a_cleaned_file_that_is_not_there_is_told(tmp_path):
    result = run(app, [str(tmp_path / "absent.jsonl"), "--dedup", "--out", str(tmp_path / "o")])
    assert result.exit_code == 1
    assert "absent.jsonl; --dedup takes what `clean --out` wrote" in result.output


def write_cleaned(path, texts):
    lines = [json.dumps({"id": f"r{n}", "text": text}) for n, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
    return path


LONG = (
    "The heart is mildly enlarged. There is a small left pleural effusion with bibasilar "
    "atelectasis. The lungs are otherwise clear. No pneumothorax is seen on either side. The bones "
    "are intact and the aorta is calcified. A granuloma of 4 mm projects over the apex."
)


def test_deduplicate(tmp_path):
    texts = [
        LONG,
        LONG.upper(),
        LONG.replace("The bones are", "Bones are"),
        LONG.replace("small left", "small right"),
        LONG.replace("4 mm", "5 mm"),
        LONG.replace("No pneumothorax is", "A pneumothorax is"),
        "",
        "Something else entirely.",
    ]
    source = write_cleaned(tmp_path / "in.jsonl", texts)
    counts = deduplicate(source, tmp_path / "out.jsonl", threshold=0.8)
    kept = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    mapped = [
        json.loads(line) for line in (tmp_path / "out.jsonl.map.jsonl").read_text().splitlines()
    ]
    assert kept == ["r0", "r3", "r4", "r5", "r6", "r7"]
    assert [(m["id"], m["kept"], m["kind"]) for m in mapped] == [
        ("r1", "r0", "exact"),
        ("r2", "r0", "near"),
    ]
    assert (counts.read, counts.kept, counts.exact, counts.near, counts.without_text) == (
        8,
        5,
        1,
        1,
        1,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl", "out.jsonl", "out.jsonl.map.jsonl",
    ]  # fmt: skip


def test_deduplicate_exactly_only(tmp_path):
    source = write_cleaned(tmp_path / "in.jsonl", [LONG, LONG, LONG.replace("The bones", "Bones")])
    counts = deduplicate(source, tmp_path / "out.jsonl", threshold=1)
    assert (counts.kept, counts.exact, counts.near) == (2, 1, 0)


@pytest.mark.parametrize("threshold", [0.9, 1])
def test_texts_in_other_letters_are_not_all_the_same(tmp_path, threshold):
    texts = [
        "Выпот справа.",
        "Лёгкие чистые.",
        "両側肺野に異常陰影を認めません。",
        "胸水なし。",
        "Выпот справа.",
    ]
    source = write_cleaned(tmp_path / "in.jsonl", texts)
    counts = deduplicate(source, tmp_path / "out.jsonl", threshold=threshold)
    assert (counts.kept, counts.exact, counts.near) == (4, 1, 0)


def test_deduplicate_refuses_nonsense(tmp_path):
    source = write_cleaned(tmp_path / "in.jsonl", [LONG])
    with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\], got 0"):
        deduplicate(source, tmp_path / "out.jsonl", threshold=0)
    source.write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"in\.jsonl:1 is no line with id and text"):
        deduplicate(source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_dedup_command(tmp_path):
    source = write_cleaned(tmp_path / "in.jsonl", [LONG, LONG])
    out = tmp_path / "out.jsonl"
    result = run(app, [str(source), "--dedup", "--out", str(out)])
    assert "2 lines = 1 kept + 1 exact and 0 near duplicates + 0 without text" in result.output
    again = run(app, [str(source), "--dedup", "--out", str(out)])
    assert "pass --overwrite" in again.output
