"""Every corpus's layout becomes the same studies; bad rows are told with their place or counted."""

import json
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data import layouts
from unix_cxr.data.pixels import load_xray
from unix_cxr.data.readers.base import RowProblem, StudySource
from unix_cxr.data.sources import kinds, open_source
from unix_cxr.data.studies import Study

REAL = Path(__file__).parents[3] / "shared" / "data" / "cxr_real"


def facts(study: Study, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(study, name) for name in names)


@pytest.mark.parametrize("kind", layouts.LAYOUTS)
def test_a_layout_is_recognised_and_read_twice_the_same(kind: str, tmp_path: Path) -> None:
    root = layouts.LAYOUTS[kind](tmp_path / "corpus")
    source = open_source(root)
    assert isinstance(source, StudySource)
    assert source.name.startswith(f"{kind} ")
    first, second = list(source), list(source)
    assert first == second
    assert len(first) >= 2
    assert source.problems == []
    assert all(study.study_id and study.source for study in first)
    for study in first:
        assert load_xray(study.image).pixels.shape == (40, 48)


def test_mimic_joins_its_tables_and_reports(tmp_path: Path) -> None:
    studies = list(open_source(layouts.mimic(tmp_path)))
    assert [facts(s, "patient_id", "study_id", "split", "view") for s in studies] == [
        ("p10000032", "s50414267", "train", "PA"),
        ("p10000032", "s50414267", "train", "LATERAL"),
        ("p10000032", "s53189527", "train", ""),
        ("p10000764", "s57375967", "dev", "AP"),
    ]
    first = studies[0]
    assert first.labels == {"Edema"}
    assert first.negative == {"Pneumonia"}
    assert first.uncertain == {"Atelectasis"}
    assert first.findings == "There is no focal consolidation.\n The heart is normal."
    assert first.impression == "No acute cardiopulmonary process."
    # a study without a row of labels, and with a report without sections
    assert facts(studies[2], "labels", "negative", "uncertain") == (frozenset(),) * 3
    assert studies[2].findings == "FINAL REPORT\n Tube in place."
    assert studies[3].labels == {"No Finding"}


def test_mimic_options(tmp_path: Path) -> None:
    root = layouts.mimic(tmp_path / "jpg")
    assert all(not s.labels for s in open_source(root, labels="none"))
    assert next(iter(open_source(root, labels="chexpert"))).labels == {"Edema"}
    assert next(iter(open_source(root, labels="negbio"))).negative == {"Edema", "Pneumonia"}
    with pytest.raises(ValueError, match=r"labels \('bert'\) must be one of"):
        open_source(root, labels="bert")
    with pytest.raises(FileNotFoundError, match=r"unpack mimic-cxr-reports\.zip there"):
        open_source(root, reports=tmp_path)
    reports = tmp_path / "reports"
    (root / "files/p10/p10000764/s57375967.txt").unlink()
    for path in sorted(root.rglob("s*.txt")):
        target = reports / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    assert all(not s.findings for s in open_source(root))
    source = open_source(root, reports=reports, on_bad_row="count")
    assert [bool(study.findings) for study in source] == [True, True, True]
    assert "no report file at" in source.problems[0].reason


def test_mimic_with_dicom_files(tmp_path: Path) -> None:
    dicom = layouts.mimic(tmp_path / "dicom", suffix=".dcm")
    tables = tmp_path / "tables"
    tables.mkdir()
    for path in dicom.glob("*.csv.gz"):
        path.rename(tables / path.name)
    columns = ("subject_id", "study_id", "dicom_id", "path")
    row = {"subject_id": 10000032, "study_id": 50414267, "dicom_id": "aa-01", "path": "files/…"}
    layouts.write_csv(dicom / "cxr-record-list.csv.gz", columns, [row], packed=True)
    (alone,) = open_source(dicom)
    assert alone.image == dicom / "files/p10/p10000032/s50414267/aa-01.dcm"
    assert facts(alone, "view", "split", "labels") == ("", "", frozenset())
    assert alone.impression == "No acute cardiopulmonary process."
    joined = list(open_source(dicom, tables=tables))
    assert facts(joined[0], "view", "split", "labels") == ("PA", "train", frozenset({"Edema"}))
    assert len(joined) == 4


def test_mimic_tables_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    root = layouts.mimic(tmp_path)
    split = root / "mimic-cxr-2.0.0-split.csv.gz"
    columns = ("dicom_id", "study_id", "subject_id", "split")
    rows = [("a", 1, 10000032, "train"), ("b", 2, 10000032, "test")]
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    layouts.write_csv(split, columns, table, packed=True)
    with pytest.raises(ValueError, match=r"split\.csv\.gz, line 3: patient 10000032 is in two spl"):
        open_source(root)
    split.unlink()
    with pytest.raises(FileNotFoundError, match=r"no mimic-cxr-2\.0\.0-split\.csv\.gz in"):
        open_source(root)
    layouts.mimic(root)
    label_columns = ("subject_id", "study_id", *layouts.MIMIC_LABELS)
    for value, message in (("2.0", r"line 2: label 'Edema' is '2\.0'"), ("", "two rows of labels")):
        labels = [
            {"study_id": 5, "Edema": value or "1.0"},
            {"study_id": 5, "Edema": "0.0"},
        ]
        path = root / "mimic-cxr-2.0.0-chexpert.csv.gz"
        layouts.write_csv(path, label_columns, labels, packed=True)
        with pytest.raises(ValueError, match=message):
            open_source(root)


def test_nih(tmp_path: Path) -> None:
    root = layouts.nih(tmp_path)
    studies = list(open_source(root))
    names = ("patient_id", "study_id", "split", "view", "labels", "sex", "age")
    assert [facts(s, *names) for s in studies] == [
        ("1", "00000001_000", "train", "PA", {"Cardiomegaly", "Effusion"}, "M", "57"),
        ("1", "00000001_001", "train", "AP", {"No Finding"}, "M", "058Y"),
        ("13", "00000013_000", "test", "PA", {"Hernia"}, "F", "60"),
    ]
    assert all(not study.negative for study in studies)
    # the header of 2017 ends in a comma, as its rows do
    table = root / "Data_Entry_2017_v2020.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.unlink()
    old = "\n".join(f"{line}," for line in lines) + "\n"
    (root / "Data_Entry_2017.csv").write_text(old, encoding="utf-8")
    assert list(open_source(root)) == studies
    with (root / "test_list.txt").open("a", encoding="utf-8") as file:
        file.write("00000001_005.png\n")
    with pytest.raises(ValueError, match=r"test_list\.txt, line 2: patient 00000001 is in both"):
        open_source(root)


def test_chexpert(tmp_path: Path) -> None:
    studies = list(open_source(layouts.chexpert(tmp_path / "CheXpert-v1.0-small")))
    names = ("patient_id", "study_id", "split", "view", "sex", "age")
    assert [facts(s, *names) for s in studies] == [
        ("patient00001", "patient00001/study1", "train", "AP", "F", "68"),
        ("patient00002", "patient00002/study2", "train", "LATERAL", "", ""),
        ("patient64541", "patient64541/study1", "dev", "", "M", "73"),
    ]
    assert facts(studies[0], "labels", "negative", "uncertain") == (
        {"No Finding"},
        {"Pneumothorax"},
        {"Edema"},
    )
    assert facts(studies[1], "labels", "negative", "uncertain") == (frozenset(),) * 3


def test_chexpert_plus(tmp_path: Path) -> None:
    root = layouts.chexpert_plus(tmp_path)
    first, second = open_source(root)
    assert first.image == root / "PNG/train/patient42142/study5/view1_frontal.png"
    names = ("patient_id", "study_id", "split", "view", "sex", "age", "findings", "impression")
    assert facts(first, *names) == (
        "patient42142", "patient42142/study5", "train", "PA", "F", "66",
        "Two lines,\nof findings.", "1. Stable.",
    )  # fmt: skip
    assert facts(first, "labels", "negative", "uncertain") == (
        {"Edema"},
        {"Fracture"},
        {"Pneumonia"},
    )
    assert facts(second, "split", "view", "labels") == ("dev", "LATERAL", {"No Finding"})
    assert all(not study.labels for study in open_source(root, labels="none"))
    assert "Edema" in next(iter(open_source(root, labels="report"))).labels
    assert "Edema" in next(iter(open_source(root, labels="findings"))).negative
    assert "Edema" in next(iter(open_source(root, labels="impression"))).uncertain
    (root / "chexbert_labels/findings_fixed.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r'chexbert_labels\.zip there, or pass labels="none"'
    ):
        open_source(root, labels="findings")


def test_openi(tmp_path: Path) -> None:
    root = layouts.openi(tmp_path)
    studies = list(open_source(root))
    assert [study.patient_id for study in studies] == ["CXR1", "CXR1", "CXR2", "CXR10"]
    assert studies[0].labels == {"Cardiomegaly/mild", "normal"}
    assert facts(studies[0], "findings", "impression") == ("Clear lungs.", "Normal.")
    assert all(study.view == "" for study in studies)
    rows = [
        {"uid": 1, "filename": "1_1_IM-0001-3001.dcm.png", "projection": "Frontal"},
        {"uid": 1, "filename": "1_1_IM-0001-4001.dcm.png", "projection": "Lateral"},
    ]
    columns = ("uid", "filename", "projection")
    layouts.write_csv(root / "indiana_projections.csv", columns, rows)
    assert [study.view for study in open_source(root)] == ["", "LATERAL", "", ""]


def test_openi_files_that_are_no_reports_are_problems(tmp_path: Path) -> None:
    root = layouts.openi(tmp_path)
    reports = root / "ecgen-radiology"
    (reports / "3.xml").write_text("<eCitation><uId", encoding="utf-8")
    (reports / "4.xml").write_text(layouts.openi_report(4, ()), encoding="utf-8")
    bomb = '<!DOCTYPE x [<!ENTITY a "b">]>' + layouts.openi_report(5, ["CXR2_IM-0652-1001"])
    (reports / "5.xml").write_text(bomb, encoding="utf-8")
    (reports / "6.xml").write_text(layouts.openi_report(6, ["CXR6_absent"]), encoding="utf-8")
    source = open_source(root, on_bad_row="count")
    assert len(list(source)) == 4
    reasons = [problem.reason for problem in source.problems]
    assert [reason[:12] for reason in reasons] == [
        "no XML: uncl",
        "the report h",
        "XML with ent",
        "no image fil",
    ]
    assert str(source.problems[1]).endswith("4.xml: the report has no images")


def test_padchest(tmp_path: Path) -> None:
    studies = list(open_source(layouts.padchest(tmp_path)))
    names = ("patient_id", "study_id", "view", "labels", "sex", "age")
    assert [facts(s, *names) for s in studies] == [
        ("839", "2053", "PA", {"normal", "hiatal hernia"}, "F", "84"),
        ("313", "1358", "AP", frozenset(), "", ""),
        ("313", "1358", "", frozenset(), "M", "65"),
    ]
    assert studies[0].findings == "sin hallazg patolog ."


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_folder_with_a_table(suffix: str, tmp_path: Path) -> None:
    root = layouts.folder(tmp_path, suffix)
    first, second, third = open_source(root)
    assert first == Study(
        image=root / "a.png",
        patient_id="p1",
        study_id="a",
        split="train",
        view="AP",
        labels=frozenset({"Mass", "Edema"}),
        findings="A mass.",
        sex="F",
        age="70",
        source=root.name,
    )
    assert facts(second, "view", "split", "labels") == ("LATERAL", "dev", frozenset())
    assert facts(third, "view", "split", "labels") == ("", "", {"Normal"})


def test_columns_of_a_table_by_option(tmp_path: Path) -> None:
    columns = ("file", "subject", "image", "Edema", "Mass", "Nodule", "Hernia")
    row = {"file": "a.png", "subject": 7, "image": "not this", "Edema": 1, "Mass": 0, "Nodule": -1}
    layouts.write_csv(tmp_path / "rows.csv", columns, [row])
    layouts.write_picture(tmp_path / "a.png")
    options: dict[str, Any] = {"columns": {"image": "file", "patient_id": "subject"}}
    (study,) = open_source(tmp_path, **options, label_columns=columns[3:])
    assert facts(study, "patient_id", "labels", "negative", "uncertain") == (
        "7", {"Edema"}, {"Mass"}, {"Nodule"},
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"rows\.csv lacks the columns \['patient_id'\]; it has"):
        open_source(tmp_path)
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.csv is empty; its first line must name the col"):
        open_source(tmp_path / "empty.csv")
    (tmp_path / "empty.csv").unlink()
    with pytest.raises(ValueError, match=r"lacks the columns \['gender'\]"):
        open_source(tmp_path, columns={**options["columns"], "sex": "gender"})
    with pytest.raises(ValueError, match=r"columns \['pateint'\] are no fields of a study; fields"):
        open_source(tmp_path, columns={"pateint": "subject"})
    layouts.write_csv(tmp_path / "other.csv", columns, [row])
    with pytest.raises(ValueError, match=r"holds 2 tables \['other.csv', 'rows.csv'\]; name one"):
        open_source(tmp_path)
    assert len(list(open_source(tmp_path, table="rows.csv", **options))) == 1


BAD_ROWS = {
    "too few": ("a.png,p1", r"too few columns \(2 instead of 4\)"),
    "too many": ("a.png,p1,AP,M,more", r"too many columns \(5 instead of 4\)"),
    "no patient": ("a.png,,AP,M", r"a\.png has no patient_id; splits need one"),
    "no image": (",p1,AP,M", r"the image \(str\) must be a path or the bytes"),
    "no file": ("z.png,p1,AP,M", r"no image file at .*z\.png"),
    "view": ("a.png,p1,oblique,M", r"view \('oblique'\) must be AP, PA, LATERAL or empty"),
    "sex": ("a.png,p1,AP,X", r"sex \('X'\) must be M, F"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_stops_with_its_line_or_is_counted(name: str, tmp_path: Path) -> None:
    bad, reason = BAD_ROWS[name]
    good = "a.png,p1,AP,M"
    table = tmp_path / "metadata.csv"
    quoted = 'a.png,p1,AP,"M"'
    text = "\n".join(["image,patient_id,view,sex", good, bad, quoted])
    table.write_text(f"{text}\n", encoding="utf-8")
    layouts.write_picture(tmp_path / "a.png")
    kind = FileNotFoundError if name == "no file" else ValueError
    with pytest.raises(kind, match=rf"metadata\.csv, line 3: .*{reason}"):
        list(open_source(tmp_path))
    source = open_source(tmp_path, on_bad_row="count")
    assert len(list(source)) == 2
    assert len(list(source)) == 2  # the problems of one reading, not of both
    (problem,) = source.problems
    assert isinstance(problem, RowProblem)
    assert (problem.file, problem.line) == (str(table), 3)
    with pytest.raises(ValueError, match=r"on_bad_row \('skip'\) must be one of"):
        open_source(tmp_path, on_bad_row="skip")  # type: ignore[arg-type]


def test_lines_are_those_where_rows_begin(tmp_path: Path) -> None:
    text = 'image,patient_id,findings\na.png,p1,"two\nlines"\nz.png,p2,\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    layouts.write_picture(tmp_path / "a.png")
    source = open_source(tmp_path, on_bad_row="count")
    assert [study.findings for study in source] == ["two\nlines"]
    assert source.problems[0].line == 4


def test_bytes_that_are_no_text_are_a_problem_of_their_row(tmp_path: Path) -> None:
    data = b"image,patient_id,findings\na.png,p1,caf\xe9\na.png,p2,caf\xc3\xa9\n"
    (tmp_path / "metadata.csv").write_bytes(data)
    layouts.write_picture(tmp_path / "a.png")
    source = open_source(tmp_path, on_bad_row="count")
    assert [study.findings for study in source] == ["café"]
    assert str(source.problems[0]).endswith("line 2: findings is not valid UTF-8")


def test_json_lines_that_are_none(tmp_path: Path) -> None:
    lines = ["{", "[1]", '{"image": "a.png"}', '{"image": "a.png", "patient_id": 5}', ""]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    layouts.write_picture(tmp_path / "a.png")
    source = open_source(tmp_path, on_bad_row="count")
    assert [study.patient_id for study in source] == ["5"]
    assert [(p.line, p.reason[:11]) for p in source.problems] == [
        (1, "no JSON: Ex"),
        (2, "no JSON obj"),
        (3, "lacks ['pat"),
    ]


def test_webdataset_tars(tmp_path: Path) -> None:
    studies = list(open_source(layouts.webdataset(tmp_path)))
    assert [study.study_id for study in studies] == ["00", "01", "10", "11"]
    assert facts(studies[3], "patient_id", "view", "labels", "findings") == (
        "p11", "AP", {"Edema"}, "Report 11.",
    )  # fmt: skip
    assert isinstance(studies[0].image, bytes)


def test_broken_samples_of_a_tar_are_problems(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        layouts.add_member(archive, "a/1.json", json.dumps({"patient_id": "p"}).encode())
        layouts.add_member(archive, "a/2.png", layouts.png_bytes())
        layouts.add_member(archive, "a/2.json", b"{")
        layouts.add_member(archive, "a/3.png", layouts.png_bytes())
        layouts.add_member(archive, "a/3.json", json.dumps({"patient_id": "p"}).encode())
    source = open_source(tmp_path / "x.tar", on_bad_row="count")
    assert [study.study_id for study in source] == ["a/3"]
    assert [(p.line, p.reason[:20]) for p in source.problems] == [
        (1, "sample 'a/1' has no "),
        (2, "a/2.json is no JSON:"),
    ]


@pytest.mark.parametrize("cut", [3 * 512 + 700, 5 * 512, 5 * 512 + 100, 9 * 512])
def test_a_tar_that_is_cut_off_is_told_wherever_it_is_cut(cut: int, tmp_path: Path) -> None:
    tar = layouts.webdataset(tmp_path) / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:cut])
    source = open_source(tmp_path, on_bad_row="count")
    assert {study.study_id for study in source} <= {"00", "01", "10"}
    assert "cut off" in source.problems[-1].reason
    with pytest.raises(ValueError, match=r"shard-000001\.tar, line \d: .*cut off"):
        list(open_source(tmp_path))


def test_datasets_are_streamed_with_the_bytes_as_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = layouts.hugging_face(tmp_path / "hub")
    source = open_source(f"datasets:{root}")
    studies = list(source)
    assert [facts(s, "patient_id", "split", "findings") for s in studies] == [
        ("p0", "train", "Text 0."),
        ("p1", "train", "Text 1."),
        ("p2", "dev", "Text 2."),
    ]
    assert studies[0].image == layouts.png_bytes(0)
    assert studies[2].labels == {"Edema"}
    assert studies == list(source)
    assert [s.patient_id for s in open_source(f"datasets:{root}", split="validation")] == ["p2"]
    with pytest.raises(ValueError, match=r"has no split 'test'; splits: \['train', 'validation'\]"):
        list(open_source(f"datasets:{root}", split="test"))
    with pytest.raises(
        ValueError, match=r"train, line 1: lacks the columns \['subject'\].*columns="
    ):
        list(open_source(f"datasets:{root}", columns={"patient_id": "subject"}))


def test_unknown_layouts_kinds_and_options_are_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        ValueError, match=r"is unknown; these can be read:\n(?s:.*)  mimic: mimic-cxr-2"
    ):
        open_source(tmp_path)
    with pytest.raises(ValueError, match=r"kind \('mimik'\) is unknown; these can be read"):
        open_source(tmp_path, kind="mimik")
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        open_source(tmp_path / "absent")
    root = layouts.folder(tmp_path / "folder")
    with pytest.raises(
        TypeError, match=r"kind 'folder' has no option \['tabel'\]; its options: \["
    ):
        open_source(root, tabel="x.csv")
    with pytest.raises(ValueError, match=r"names the kind 'folder', and kind= says 'nih'"):
        open_source(f"folder:{root}", kind="nih")
    with pytest.raises(FileNotFoundError, match="no Data_Entry_2017"):
        open_source(root, kind="nih")
    assert len(list(open_source(f"folder:{root}"))) == 3


def test_every_kind_says_what_it_looks_like() -> None:
    known = kinds()
    assert set(layouts.LAYOUTS) <= set(known)
    assert list(known).index("folder") > max(
        list(known).index(kind) for kind in ("mimic", "chexpert", "nih", "padchest", "openi")
    )
    assert all(kind.looks_like for kind in known.values())


@pytest.mark.parametrize("make", [layouts.nih, layouts.folder, layouts.chexpert])
def test_reading_streams(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first study comes before the last row is read."""
    from unix_cxr.data.readers import base

    made = []
    original = base.Row.__init__

    def counting(self: base.Row, *args: Any, **kwargs: Any) -> None:
        made.append(1)
        original(self, *args, **kwargs)

    source = open_source(make(tmp_path / "x"))
    monkeypatch.setattr(base.Row, "__init__", counting)
    next(iter(source))
    assert len(made) <= 2


def test_the_real_table() -> None:
    if not REAL.is_dir():
        pytest.skip("the real X-rays are not beside this checkout; docs/nano-data.md gets them")
    source = open_source(REAL)
    studies = list(source)
    assert len(studies) == 5080
    assert len({study.study_id for study in studies}) == 5080
    assert {study.view for study in studies} == {"AP", "PA", "LATERAL"}
    assert source.problems == []
    assert load_xray(studies[0].image).pixels.max() <= 1


def test_memory_does_not_grow_with_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = []
    for count in (300, 3_000):
        root = tmp_path / str(count)
        root.mkdir()
        rows = [f"{number}.png,p{number},Edema|Mass,{'text ' * 20}" for number in range(count)]
        text = "\n".join(["image,patient_id,labels,findings", *rows])
        (root / "metadata.csv").write_text(text, encoding="utf-8")
        source = open_source(root)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "is_file", lambda _path: True)
            tracemalloc.start()
            assert sum(1 for _ in source) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    # the larger table has 350 kB of text
    assert peaks[1] < peaks[0] + 60_000
