"""A table of studies is right in every row, or refused with the row and the remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unix_cxr.data.studies import Study, read_table

HEADER = "image,split,subset,view,labels,patient_id,sex,age,note"
ROWS = (
    "a.png,train,one,AP,Normal,p1,,pediatric,",
    "b.png,dev,one,PA,Mass|Nodule,p2,F,70,more",
    "c.png,val,two,PA,,p3,M,,",
)


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., Path]:
    for name in "abc":
        (tmp_path / f"{name}.png").touch()

    def make(*rows: str, header: str = HEADER) -> Path:
        text = "\n".join([header, *rows]) + "\n"
        (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
        return tmp_path

    return make


def test_rows_become_studies(make_table: Callable[..., Path]) -> None:
    root = make_table(*ROWS)
    studies = read_table(root)
    assert [study.image.name for study in studies] == ["a.png", "b.png", "c.png"]
    assert studies[1] == Study(
        image=root / "b.png",
        split="dev",
        subset="one",
        view="PA",
        labels=frozenset({"Mass", "Nodule"}),
        patient_id="p2",
        sex="F",
        age="70",
    )
    assert studies[2].labels == frozenset()
    assert [study.subset for study in read_table(root, subsets=["two"])] == ["two"]
    assert [study.split for study in read_table(root, splits=["train", "dev"])] == ["train", "dev"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(make_table: Any) -> None:
    root = make_table(*ROWS)
    text = (root / "metadata.csv").read_text(encoding="utf-8")
    (root / "metadata.csv").write_text(text, encoding="utf-8-sig")
    assert len(read_table(root)) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a.png,test,one,AP,Normal,p1,,,"], r"csv, line 2: split \('test'\) must be one of"),
        ([ROWS[0], "b.png,dev,one,PA,,p2,X,,"], r"csv, line 3: sex \('X'\) must be one of"),
        (["a.png,train,one,AP,Normal,,,,"], r"csv, line 2: .*a\.png has no patient_id"),
        (["a.png,train,one"], r"csv, line 2: the row has too few columns"),
        (["a.png,train,one,AP,Normal,p1,,,,,"], r"csv, line 2: the row has too many columns"),
        (
            [ROWS[0], "b.png,dev,one,PA,,p1,,,"],
            r"csv: patient p1 is in two splits, train and dev; split by patient",
        ),
        ([ROWS[0], "a.png,dev,one,PA,,p2,,,"], r"csv: .*a\.png is named twice"),
        ([], r"metadata\.csv has no rows"),
    ],
)
def test_wrong_rows_are_refused(
    make_table: Callable[..., Path], rows: list[str], message: str
) -> None:
    root = make_table(*rows)
    with pytest.raises(ValueError, match=message):
        read_table(root)


def test_a_patient_in_two_splits_is_found_across_subsets(make_table: Any) -> None:
    root = make_table("a.png,train,one,AP,,p1,,,", "b.png,val,two,AP,,p1,,,")
    with pytest.raises(ValueError, match="patient p1 is in two splits"):
        read_table(root)


def test_missing_files_are_named(make_table: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no table at .*set data\.root.*nano-data\.md"):
        read_table(tmp_path / "elsewhere")
    root = make_table("absent.png,train,one,AP,Normal,p1,,,")
    with pytest.raises(FileNotFoundError, match=r"csv, line 2: no image file at .*absent\.png"):
        read_table(root)


def test_missing_columns_are_named(make_table: Callable[..., Path]) -> None:
    root = make_table(header="image,split,subset,view,sex,age")
    with pytest.raises(ValueError, match=r"lacks the columns \['labels', 'patient_id'\]; it has"):
        read_table(root)


def test_a_table_that_is_no_utf8_is_named(make_table: Callable[..., Path]) -> None:
    root = make_table(*ROWS)
    with (root / "metadata.csv").open("ab") as file:
        file.write(b"\xff\xfe,")
    with pytest.raises(ValueError, match=r"csv, after line \d+: not a CSV table in UTF-8"):
        read_table(root)


def test_unknown_subsets_and_splits_are_refused(make_table: Callable[..., Path]) -> None:
    root = make_table(*ROWS)
    with pytest.raises(ValueError, match=r"has no rows of subset \['three'\]"):
        read_table(root, subsets=["one", "three"])
    with pytest.raises(ValueError, match=r"subsets is an empty list"):
        read_table(root, subsets=[])
    with pytest.raises(ValueError, match=r"splits \['test'\] are unknown; known splits"):
        read_table(root, splits=["test"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"has no studies in splits \['val'\]"):
        read_table(root, subsets=["one"], splits=["val"])
    with pytest.raises(TypeError, match=r"subsets \('one'\) must be a list"):
        read_table(root, subsets="one")


def test_a_study_needs_an_image_and_a_patient() -> None:
    study = Study(image="a.png", patient_id="p1")
    assert (study.split, study.view, study.labels, study.age) == ("", "", frozenset(), "")
    for nothing in (None, "", b""):
        with pytest.raises(TypeError, match="a study needs an image"):
            Study(image=nothing, patient_id="p1")  # type: ignore[arg-type]
    for nobody in ("", 5):
        with pytest.raises(ValueError, match=r"a\.png has no patient_id; splits need one"):
            Study(image="a.png", patient_id=nobody)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"split": "validate"}, r"split \('validate'\) must be one of \('train', 'dev', 'val'"),
        ({"view": "L"}, r"view \('L'\) must be one of \('AP', 'PA', 'LATERAL', ''\)"),
        ({"sex": "male"}, r"sex \('male'\) must be one of"),
        (
            {"labels": frozenset("ab"), "uncertain": frozenset("bc")},
            r"labels \['b'\] are stated in two ways",
        ),
        ({"labels": frozenset("a"), "negative": frozenset("a")}, r"\['a'\] are stated in two ways"),
    ],
)
def test_impossible_studies_are_refused(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Study(image="a.png", patient_id="p1", **facts)


def test_one_label_is_no_set_of_letters() -> None:
    with pytest.raises(TypeError, match=r"labels \('Edema'\) must be a frozenset of names"):
        Study(image="a.png", patient_id="p1", labels="Edema")  # type: ignore[arg-type]


def test_other_names_of_views_are_understood(make_table: Callable[..., Path]) -> None:
    root = make_table("a.png,train,one,L,,p1,,,", "b.png,train,one,AP Supine,,p2,,,")
    assert [study.view for study in read_table(root)] == ["LATERAL", "AP"]
    root = make_table("a.png,train,one,sideways,,p1,,,")
    with pytest.raises(ValueError, match=r"csv, line 2: view \('sideways'\) must be one of"):
        read_table(root)
