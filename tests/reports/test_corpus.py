"""A corpus run: every row accounted for, resumable to the byte, whatever the input holds."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pytest
from pyarrow import parquet
from scoring import read_reports

from unix_cxr.reports import corpus, readers
from unix_cxr.reports.config import CleanerConfig
from unix_cxr.reports.corpus import CorpusOptions, clean_corpus, find_report
from unix_cxr.reports.readers import Columns, read_rows

TEXTS = [item["text"] for half in ("dev", "frozen") for item in read_reports(half)]


def write_jsonl(path, count):
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            text = f"{TEXTS[number % len(TEXTS)]} Nodule of {number} mm in the left base."
            file.write(json.dumps({"id": f"r{number}", "text": text}) + "\n")
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_line_per_report_and_the_counts_add_up(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", 600)
    out = tmp_path / "out.jsonl"
    statistics = clean_corpus(CorpusOptions((source,), out))
    written = lines(out)
    assert [line["id"] for line in written] == [f"r{n}" for n in range(600)]
    assert Counter(line["status"] for line in written) == statistics.status
    assert statistics.status.total() == 600
    assert set(written[0]) == {
        "id", "status", "reason", "findings", "impression", "text", "labels", "removed", "rewritten",  # noqa: E501 - data
    }  # fmt: skip
    assert sum(statistics.categories.values()) == sum(len(line["removed"]) for line in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_workers_write_the_same_bytes(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", 700)
    runs = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}.jsonl"
        statistics = clean_corpus(CorpusOptions((source,), out, workers=workers))
        runs.append((out.read_bytes(), json.dumps(statistics.as_dict())))
    assert runs[0] == runs[1]


class StopError(Exception):
    pass


def interrupted(options, after):
    def stop(done):
        if done >= after:
            raise StopError

    with pytest.raises(StopError):
        clean_corpus(options, stop)


def test_an_interrupted_run_resumes_to_the_same_bytes_and_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "CHUNK_ROWS", 8)
    source = write_jsonl(tmp_path / "in.jsonl", 400)
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    expected = clean_corpus(CorpusOptions((source,), whole))
    options = CorpusOptions((source,), parts)
    interrupted(options, 100)
    # as after a kill: bytes beyond the last commit
    with (tmp_path / "parts.jsonl.partial").open("ab") as file:
        file.write(b'{"id": "half a li')
    interrupted(options, 250)
    statistics = clean_corpus(options)
    assert parts.read_bytes() == whole.read_bytes()
    assert statistics.as_dict() == expected.as_dict()


KILLED = """
import os, signal, sys
from pathlib import Path
from unix_cxr.reports import corpus

corpus.CHUNK_ROWS = 8
write = corpus._Output.write

def write_and_die(self, *arguments):
    write(self, *arguments)
    if self.rows >= 200:
        self._file.flush()  # bytes that no commit knows of
        os.kill(os.getpid(), signal.SIGKILL)

corpus._Output.write = write_and_die
corpus.clean_corpus(corpus.CorpusOptions((Path(sys.argv[1]),), Path(sys.argv[2])))
"""


def test_a_killed_process_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "CHUNK_ROWS", 8)
    source = write_jsonl(tmp_path / "in.jsonl", 280)
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    commits = []
    clean_corpus(CorpusOptions((source,), whole), commits.append)
    before = [done for done in commits if done < 200]
    command = [sys.executable, "-c", KILLED, str(source), str(parts)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not parts.exists()
    assert (tmp_path / "parts.jsonl.partial").stat().st_size > 0
    after = []
    clean_corpus(CorpusOptions((source,), parts), after.append)
    assert before
    assert [*before, *after] == commits  # nothing twice, nothing left out
    assert parts.read_bytes() == whole.read_bytes()


def test_a_run_with_other_options_does_not_continue_the_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "CHUNK_ROWS", 16)
    source = write_jsonl(tmp_path / "in.jsonl", 600)
    out = tmp_path / "out.jsonl"
    interrupted(CorpusOptions((source,), out), 100)
    other = CorpusOptions((source,), out, config=CleanerConfig(preset="conservative"))
    with pytest.raises(ValueError, match="belongs to a run with other inputs, options or rules"):
        clean_corpus(other)


def test_an_existing_output_is_not_replaced_unasked(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", 3)
    out = tmp_path / "out.jsonl"
    out.write_text("precious")
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        clean_corpus(CorpusOptions((source,), out))
    assert out.read_text() == "precious"
    clean_corpus(CorpusOptions((source,), out, overwrite=True))
    assert len(lines(out)) == 3


def test_bad_rows_are_quarantined_with_their_reason_and_the_rest_goes_on(tmp_path):
    rows = [
        b'{"id": "good", "text": "Lungs are clear."}',
        b'{"id": "utf8", "text": "Clear \xff\xfe"}',
        b'{"id": "nul", "text": "Lungs are\\u0000 clear."}',
        b"not json",
        b"[1, 2]",
        b'{"id": "missing"}',
        b'{"text": "No id."}',
        b'{"id": "good", "text": "The same id again."}',
        b'{"id": "number", "text": 7}',
        b'{"id": "null", "text": null}',
        b'{"id": "html", "text": "<html><p>Clear</p></html>"}',
        b'{"id": "rtf", "text": "{\\\\rtf1 Clear}"}',
        '{"id": "russian", "text": "Лёгкие чистые, выпота нет, сердце не расширено."}'.encode(),
        b'{"id": "surrogate", "text": "Clear \\ud800 lungs."}',
        b'{"id": "deep", "text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id": "long", "text": "' + b"x" * 200_000 + b'"}',
        b'{"id": "last", "text": "No effusion."}',
    ]
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\n".join(rows) + b"\n")
    out = tmp_path / "out.jsonl"
    statistics = clean_corpus(CorpusOptions((source,), out))
    got = [(line["id"], line["status"], line["reason"].split(":")[0]) for line in lines(out)]
    assert got == [
        ("good", "clean", ""),
        ("in.jsonl:2", "quarantined", "encoding"),
        ("nul", "clean", ""),
        ("in.jsonl:4", "quarantined", "no JSON"),
        ("in.jsonl:5", "quarantined", "no JSON object"),
        ("missing", "quarantined", "missing column 'text'"),
        ("in.jsonl:7", "quarantined", "missing column 'id'"),
        ("good", "quarantined", "duplicate id"),
        ("number", "quarantined", "text is int, no string"),
        ("null", "empty", "no text"),
        ("html", "quarantined", "html"),
        ("rtf", "quarantined", "rtf"),
        ("russian", "quarantined", "language"),
        ("surrogate", "quarantined", "encoding"),
        ("in.jsonl:15", "quarantined", "no JSON"),
        ("long", "quarantined", "too long"),
        ("last", "clean", ""),
    ]
    assert statistics.status.total() == len(rows)


def test_a_line_of_50_megabytes_is_passed_over_without_being_held(tmp_path):
    source = tmp_path / "in.jsonl"
    with source.open("wb") as file:
        file.write(b'{"id": "a", "text": "')
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"id": "b", "text": "Clear lungs."}\n')
    rows = list(read_rows(source))
    assert rows[0].problem == f"line of 50000024 bytes, at most {readers.MAX_LINE_BYTES}"
    out = tmp_path / "out.jsonl"
    clean_corpus(CorpusOptions((source,), out))
    assert [(line["id"], line["status"]) for line in lines(out)] == [
        ("in.jsonl:1", "quarantined"),
        ("b", "clean"),
    ]


def test_empty_input_gives_an_empty_output(tmp_path):
    source = tmp_path / "in.jsonl"
    source.touch()
    statistics = clean_corpus(CorpusOptions((source,), tmp_path / "out.jsonl"))
    assert statistics.reports == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_every_format_gives_the_same_reports(tmp_path):
    texts = {
        f"s{n}": text for n, text in enumerate(["Lungs are clear.", 'A "quote",\nno effusion.'])
    }
    columns = Columns("study", "report")
    pairs = [{"study": key, "report": text} for key, text in texts.items()]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write((tmp_path / "a.jsonl").read_text())
    body = "\ufeffstudy,report\n" + "".join(
        f'{key},"{text.replace(chr(34), chr(34) * 2)}"\n' for key, text in texts.items()
    )
    (tmp_path / "c.csv").write_text(body, encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(pairs), tmp_path / "d.parquet")
    folder = tmp_path / "plain"
    mimic = tmp_path / "mimic" / "files" / "p10" / "p10000032"
    folder.mkdir()
    mimic.mkdir(parents=True)
    for key, text in texts.items():
        (folder / f"{key}.txt").write_text(text)
        (mimic / f"{key}.txt").write_text(text)
    for name in ("a.jsonl", "b.jsonl.gz", "c.csv", "d.parquet", "plain", "mimic"):
        rows = [readers.parse_json_row(row, columns) for row in read_rows(tmp_path / name, columns)]
        assert {row.report_id: row.text for row in rows} == texts, name


def test_openi_xml(tmp_path):
    (tmp_path / "1.xml").write_text(
        '<eCitation><uId id="CXR1"/><AbstractText Label="FINDINGS">Clear &lt;lungs.</AbstractText>'
        '<AbstractText Label="IMPRESSION">Normal.</AbstractText></eCitation>'
    )
    (tmp_path / "2.xml").write_text("<eCitation>")
    (tmp_path / "3.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><x/>')
    rows = list(read_rows(tmp_path))
    assert rows[0].report_id == "CXR1"
    assert rows[0].text == "FINDINGS: Clear <lungs.\nIMPRESSION: Normal."
    assert rows[1].problem.startswith("no XML")
    assert rows[2].problem == "XML with entities is not read"


def test_findings_and_impression_in_columns_of_their_own(tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("id,f,i\n1,Clear lungs.,Normal chest.\n")
    options = CorpusOptions(
        (source,), tmp_path / "out.jsonl", columns=Columns(findings="f", impression="i")
    )
    clean_corpus(options)
    (line,) = lines(options.out)
    assert (line["findings"], line["impression"]) == ("Clear lungs.", "Normal chest.")


def test_a_missing_column_is_told_before_anything_is_written(tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("study,report\n1,Clear.\n")
    with pytest.raises(ValueError, match=r"no column 'id'; its columns: 'study', 'report'"):
        clean_corpus(CorpusOptions((source,), tmp_path / "out.jsonl"))
    assert not list(tmp_path.glob("out*"))


def test_a_missing_file_and_an_unknown_format(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "reports.doc").touch()
    with pytest.raises(ValueError, match="give --format"):
        read_rows(tmp_path / "reports.doc")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", 3)
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        clean_corpus(CorpusOptions((source,), folder / "out.jsonl"))


def test_an_output_that_cannot_be_opened_is_an_error(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", 3)
    (tmp_path / "file.txt").touch()
    with pytest.raises(OSError, match=r"file\.txt"):
        clean_corpus(CorpusOptions((source,), tmp_path / "file.txt" / "out.jsonl"))


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(tmp_path, monkeypatch):
    """A limit on the file size stands for the disk: writing beyond it is an OSError too."""
    monkeypatch.setattr(corpus, "CHUNK_ROWS", 8)
    source = write_jsonl(tmp_path / "in.jsonl", 280)
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    commits, after = [], []
    clean_corpus(CorpusOptions((source,), whole), commits.append)
    limit = whole.stat().st_size * 2 // 3
    code = (
        "import sys; from pathlib import Path\n"
        "from unix_cxr.reports import corpus\n"
        "corpus.CHUNK_ROWS = 8\n"
        "try:\n"
        f"    corpus.clean_corpus(corpus.CorpusOptions((Path({str(source)!r}),), "
        f"Path({str(out)!r})))\n"
        "except OSError as error:\n"
        "    sys.exit(f'told: {error}')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert result.returncode == 1
    assert "told: " in result.stderr
    assert not out.exists()
    clean_corpus(CorpusOptions((source,), out), after.append)
    assert after == commits[-len(after) :]
    assert after[0] > commits[0]  # and not from the beginning
    assert out.read_bytes() == whole.read_bytes()


def test_find_report(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", 5)
    options = CorpusOptions((source,), tmp_path / "unused")
    assert "Nodule of 3 mm" in find_report(options, "r3")
    with pytest.raises(KeyError, match="no report has the id 'r9'"):
        find_report(options, "r9")


def test_memory_stays_flat(tmp_path):
    """Twelve times the rows, the same peak within a few megabytes."""
    peaks = []
    for count in (500, 6_000):
        source = write_jsonl(tmp_path / f"in{count}.jsonl", count)
        code = (
            "import resource; from pathlib import Path\n"
            "from unix_cxr.reports.corpus import CorpusOptions, clean_corpus\n"
            f"clean_corpus(CorpusOptions((Path({str(source)!r}),), Path({str(source)!r} + '.out')))\n"  # noqa: E501 - data
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        output = subprocess.check_output([sys.executable, "-c", code], text=True)
        peaks.append(int(output) / 1024)
    assert peaks[1] - peaks[0] < 25
