"""What newcomers hand to the cleaner: every wrong file says what to do, and no report is lost."""

import gzip

import pytest

from unix_cxr.reports.readers import Columns, parse_json_row, read_rows

TEXT = "No effusion. Heart is enlarged."
TABLE = f"id,text\n1,{TEXT}\n2,Edema.\n"


def written(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("r.csv", "", r"r\.csv is empty; its first line must name the columns"),
        ("r.csv", f"1,{TEXT}\n", r"has no column 'id'; its columns: '1', .*--id-column and --text"),
        ("r.csv", TABLE.replace(",", ";"), r"its columns: 'id;text'.*a \.csv is divided by commas"),
        ("r.csv", "id,text,text\n", r"names the column 'text' twice; rename one of them"),
        ("r.csv", TABLE.encode("utf-16"), r"r\.csv is UTF-16; save it as UTF-8"),
        (
            "r.csv",
            gzip.compress(TABLE.encode(), mtime=0),
            r"is packed with gzip; add \.gz to its name",
        ),
        ("r.csv", b"PK\x03\x04\x14\x00", r"is an Excel or zip file; save its table as CSV"),
        ("r.csv.gz", TABLE, r"is not packed with gzip; take \.gz from its name"),
        ("r.parquet", "hello", r"r\.parquet is no whole parquet file"),
        ("r.tgz", "hello", r"r\.tgz is no whole tar archive"),
        ("r.jsonl", gzip.compress(b"{}", mtime=0), r"is packed with gzip; add \.gz to its name"),
    ],
)
def test_a_wrong_file_says_what_to_do(tmp_path, name, data, message):
    with pytest.raises(ValueError, match=message):
        list(read_rows(written(tmp_path, name, data)))


def test_an_empty_folder_is_no_corpus(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \*\.txt; name the file or folder of the rep"):
        list(read_rows(tmp_path))


@pytest.mark.parametrize("name", ["r.csv.gz", "r.jsonl.gz"])
def test_a_packed_corpus_that_is_cut_off_is_never_taken_for_whole(tmp_path, name):
    line = '{{"id": "{0}", "text": "Edema {0}."}}\n' if "jsonl" in name else "{0},Edema {0}.\n"
    head = "" if "jsonl" in name else "id,text\n"
    whole = gzip.compress(
        (head + "".join(line.format(n * 7919 % 10007) for n in range(5000))).encode()
    )
    assert len(list(read_rows(written(tmp_path, name, whole)))) == 5000
    with pytest.raises(ValueError, match=rf"{name} is cut off or damaged .*; copy or download it"):
        list(read_rows(written(tmp_path, name, whole[: len(whole) // 2])))


def test_a_text_without_quotes_is_not_cut_at_its_comma(tmp_path):
    path = written(tmp_path, "r.csv", "id,text\n1,No effusion, heart enlarged.\n2,Edema.,,\n")
    first, second = read_rows(path)
    assert first.text is None
    assert first.problem == "too many columns: 3 instead of 2; quote the text"
    assert (second.report_id, second.text, second.problem) == ("2", "Edema.", "")


def test_a_quote_that_is_never_closed_swallows_no_report_in_silence(tmp_path):
    rows = list(read_rows(written(tmp_path, "r.csv", 'id,text\n1,"No effusion.\n2,Edema.\n')))
    assert [row.text for row in rows] == [None]
    assert rows[0].problem.startswith("no CSV row: unexpected end of data")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_read_where_it_is_named(tmp_path, encoding):
    path = written(tmp_path, "r.csv", "id,text\n1,Ödem.\n".encode(encoding))
    (row,) = read_rows(path, encoding=encoding)
    assert row.text == "Ödem."
    path = written(tmp_path, "r.jsonl", '{"id": "1", "text": "Ödem."}\n'.encode("latin-1"))
    (row,) = read_rows(path, encoding="latin-1")
    assert parse_json_row(row, Columns(), "latin-1").text == "Ödem."
