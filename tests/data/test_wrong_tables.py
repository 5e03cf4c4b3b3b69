"""What newcomers hand over: a wrong table says what to do, and no row is lost in silence."""

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unix_cxr.data.sources import open_source
from unix_cxr.data.studies import read_table

HEAD = "image,patient_id\n"
ROWS = "a.png,p1\nb.png,p2\n"
MANY = "".join(f"a.png,p{number * 7919 % 10007}\n" for number in range(5000))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(tmp_path / name)
    return tmp_path


def studies(folder: Path, table: str | bytes, name: str = "t.csv", **options: Any) -> list[Any]:
    data = table.encode() if isinstance(table, str) else table
    (folder / name).write_bytes(data)
    return list(open_source(folder, kind="folder", **options))


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("\ufeff" + HEAD + ROWS, "t.csv"),
        ((HEAD + ROWS).replace("\n", "\r\n"), "t.csv"),
        ((HEAD + ROWS).replace("\n", "\r"), "t.csv"),
        (HEAD + ROWS.rstrip("\n"), "t.csv"),
        ((HEAD + ROWS).replace(",", "\t"), "t.tsv"),
        (gzip.compress((HEAD + ROWS).encode(), mtime=0), "t.csv.gz"),
        ('"image","patient_id"\n"a.png","p1"\nb.png,"p2"\n', "t.csv"),
    ],
)
def test_what_editors_and_spreadsheets_write_is_read(
    folder: Path, table: str | bytes, name: str
) -> None:
    assert [study.patient_id for study in studies(folder, table, name)] == ["p1", "p2"]


@pytest.mark.parametrize(
    ("table", "name", "message"),
    [
        ("", "t.csv", r"t\.csv is empty; its first line must name the columns \['image', 'pat"),
        (ROWS, "t.csv", r"it has \['a\.png', 'p1'\] \(columns=, or --column FIELD=NAME, says how"),
        ((HEAD + ROWS).replace(",", ";"), "t.csv", r"divided by ';', and must be by ','"),
        ((HEAD + ROWS).replace(",", "\t"), "t.csv", r"divided by '\\t', and must be by ','"),
        ((HEAD + ROWS).encode("utf-16"), "t.csv", r"t\.csv is UTF-16; save it as UTF-8"),
        (b"PK\x03\x04\x14\x00", "t.csv", r"an Excel or zip file; save its table as CSV in UTF-8"),
        (
            gzip.compress(HEAD.encode(), mtime=0),
            "t.csv",
            r"t\.csv is packed with gzip; add \.gz to its name",
        ),
        (HEAD + ROWS, "t.csv.gz", r"is not packed with gzip; take \.gz from its name"),
        (HEAD + ROWS, "t.parquet", r"t\.parquet is no whole parquet file: "),
        ("image,patient_id,split,split\n", "t.csv", r"the columns \['split'\] twice; rename"),
        ('[{"image": "a.png"}]', "t.jsonl", r"line 1: no JSON object; each line must be one"),
        (HEAD + '"a.png,p1\n' + ROWS, "t.csv", r"line 2: no CSV row: .* a quote is opened and not"),
        (HEAD + "sub\\c.png,p1\n", "t.csv", r"sub\\c\.png; folders are divided by /, not by "),
        (HEAD + "sub,p1\n", "t.csv", r"no image file at .*sub, which is a folder"),
        (HEAD + "/nowhere/a.png,p1\n", "t.csv", r"line 2: no image file at /nowhere/a\.png"),
        (
            "image,patient_id,findings\na.png,p,\xd6dem".encode("latin-1"),
            "t.csv",
            "not valid UTF-8",
        ),
    ],
)
def test_a_wrong_table_says_what_to_do(
    folder: Path, table: str | bytes, name: str, message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        studies(folder, table, name)


def test_two_tables_are_asked_about(folder: Path) -> None:
    (folder / "x.csv").write_text(HEAD + ROWS)
    with pytest.raises(ValueError, match=r"name one with table= \(--option table=NAME\)"):
        studies(folder, HEAD + ROWS)
    assert len(list(open_source(folder, kind="folder", table="t.csv"))) == 2


@pytest.mark.parametrize("on_bad_row", ["raise", "count"])
@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl.gz"])
def test_a_packed_table_that_is_cut_off_is_never_taken_for_whole(
    folder: Path, name: str, on_bad_row: str
) -> None:
    lines = HEAD + MANY
    if "jsonl" in name:
        lines = "".join(
            f'{{"image": "a.png", "patient_id": "{number * 7919 % 10007}"}}\n'
            for number in range(5000)
        )
    whole = gzip.compress(lines.encode(), mtime=0)
    with pytest.raises(ValueError, match=rf"{name} is cut off or damaged .*; copy or download it"):
        studies(folder, whole[: len(whole) // 2], name, on_bad_row=on_bad_row)
    assert len(studies(folder, whole, name)) == 5000


def test_a_quote_that_is_never_closed_swallows_no_row_in_silence(folder: Path) -> None:
    table = 'image,patient_id,findings\na.png,p1,"no effusion\nb.png,p2,clear\n'
    (folder / "t.csv").write_text(table)
    source = open_source(folder, kind="folder", on_bad_row="count")
    assert list(source) == []
    assert [(problem.line, "quote" in problem.reason) for problem in source.problems] == [(2, True)]
    columns = "image,split,subset,view,labels,patient_id,sex,age\n"
    (folder / "metadata.csv").write_text(
        f'{columns}a.png,train,x,PA,"Edema,p1,,\nb.png,train,x,PA,,p2,,\n'
    )
    with pytest.raises(ValueError, match=r"metadata\.csv, after line .*unexpected end of data"):
        read_table(folder)


@pytest.mark.parametrize("labels", ["Edema, Pneumonia", "edema;Something", "Edema/Pneumonia"])
def test_another_separator_of_labels_is_asked_about(folder: Path, labels: str) -> None:
    rows = f'image,patient_id,labels\na.png,p1,"{labels}"\n'
    with pytest.raises(ValueError, match=r"are not divided by '\|'; name what divides yours with"):
        studies(folder, rows)
    separator = next(mark for mark in ",;/" if mark in labels)
    (study,) = studies(folder, rows, label_separator=separator)
    assert len(study.labels) == 2


def test_labels_of_another_form_are_refused_and_other_names_are_not(folder: Path) -> None:
    for labels in ('{"Edema": 1}', "1", "[1, 2]"):
        row = f'{{"image": "a.png", "patient_id": "p", "labels": {labels}}}\n'
        with pytest.raises(ValueError, match=r"must be names divided by '\|', or a list of names"):
            studies(folder, row, "t.jsonl")
    (folder / "t.jsonl").unlink()
    rows = 'image,patient_id,labels\na.png,p1,"mass, upper lobe|Lung Opacity"\n'
    (study,) = studies(folder, rows)
    assert study.labels == {"mass, upper lobe", "Lung Opacity"}


def test_the_limit_of_a_field_stays_the_processs_own(folder: Path) -> None:
    before = csv.field_size_limit()
    studies(folder, HEAD + ROWS)
    assert csv.field_size_limit() == before
