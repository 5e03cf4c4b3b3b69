"""Findings text states the labels, all of them and nothing else, and can be read back."""

import csv
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unix_cxr.data.findings_text import (
    ADULT,
    CHILD,
    OLDER,
    STATEMENTS,
    age_group,
    all_texts,
    describe,
    labels_of,
    stated_labels,
    unknown_sentences,
)
from unix_cxr.data.studies import Study

REAL_TABLE = Path(__file__).parents[3] / "shared" / "data" / "cxr_real" / "metadata.csv"
TRAINED_ON = {"kermany224", "kermany512", "nih64", "nih512", "hannover"}


def study(**changes: Any) -> Study:
    values: dict[str, Any] = {
        "image": Path("a.png"),
        "split": "train",
        "subset": "one",
        "view": "AP",
        "labels": frozenset({"Normal"}),
        "patient_id": "p",
    }
    return Study(**(values | changes))


studies = st.builds(
    study,
    view=st.sampled_from(["AP", "PA"]),
    labels=st.frozensets(st.sampled_from(sorted(STATEMENTS))),
    sex=st.sampled_from(["M", "F", ""]),
    age=st.sampled_from(["", "1-5 years (pediatric)", "7", "17", "18", "64", "65", "058Y", "011M"]),
)


def test_no_wording_belongs_to_two_labels() -> None:
    owners = [(wording, label) for label, wordings in STATEMENTS.items() for wording in wordings]
    assert len({wording for wording, _ in owners}) == len(owners)
    for wording, label in owners:
        assert labels_of(wording) == {label}


def test_reading_back_inverts_every_pair_of_labels_in_every_wording() -> None:
    for first, second in itertools.combinations(STATEMENTS, 2):
        for a, b in itertools.product(STATEMENTS[first], STATEMENTS[second]):
            assert labels_of(f"AP chest radiograph of a child. {a} {b}") == {first, second}


@given(studies, st.integers(0, 2**32))
def test_reading_back_inverts_describing(one: Study, seed: int) -> None:
    text = describe(one, random.Random(seed))
    assert labels_of(text) == set(stated_labels(one))
    assert not unknown_sentences(text)
    assert describe(one, random.Random(seed)) == text


@given(studies)
def test_the_most_specific_labels_are_stated(one: Study) -> None:
    stated = set(stated_labels(one))
    assert stated <= one.labels
    assert one.labels - stated <= {"Pneumonia"}
    if "Pneumonia" in one.labels - stated:
        assert stated & {"Bacterial Pneumonia", "Viral Pneumonia"}


def test_the_wording_varies() -> None:
    texts = {describe(study(), random.Random(seed)) for seed in range(50)}
    assert len(texts) > 20


def test_no_pneumonia_is_said_only_where_the_label_says_so() -> None:
    for labels in (frozenset[str](), frozenset({"No Finding"}), frozenset({"Mass"})):
        for seed in range(30):
            assert "neumonia" not in describe(study(labels=labels), random.Random(seed))


@pytest.mark.parametrize(
    ("age", "group"),
    [
        ("1-5 years (pediatric)", CHILD),
        ("7", CHILD),
        ("17", CHILD),
        ("18", ADULT),
        ("64", ADULT),
        ("65", OLDER),
        ("072Y", OLDER),
        ("011M", CHILD),
        ("", ADULT),
        ("unknown", ADULT),
    ],
)
def test_age_groups(age: str, group: str) -> None:
    assert age_group(study(age=age)) == group


def test_what_cannot_be_stated_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label 'Broken heart' has no wording; known labels"):
        describe(study(labels=frozenset({"Broken heart"})), random.Random(0))
    with pytest.raises(
        ValueError, match=r"view \('LATERAL'\) of a\.png must be one of \['AP', 'PA'\]"
    ):
        describe(study(view="LATERAL"), random.Random(0))
    with pytest.raises(ValueError, match=r"label 'Flu' has no wording.*; view \(''\) of a\.png"):
        describe(study(labels=frozenset({"Flu"}), view=""), random.Random(0))


def test_unknown_sentences_are_found() -> None:
    text = "AP chest radiograph of a child. No pneumonia. Fractured rib.  Cardiac arrest"
    assert unknown_sentences(text) == ["Fractured rib.", "Cardiac arrest."]
    assert unknown_sentences("") == []
    assert labels_of("Fractured rib.") == frozenset()


def test_every_text_for_the_tokenizer_is_known() -> None:
    assert all(not unknown_sentences(text) for text in all_texts())
    assert len(set(all_texts())) == len(all_texts())


def test_every_label_of_the_real_table_has_a_wording_and_is_read_back() -> None:
    if not REAL_TABLE.is_file():
        pytest.skip("the real X-rays are not beside this checkout; docs/nano-data.md gets them")
    with REAL_TABLE.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["subset"] in TRAINED_ON]
    facts = {(row["view"], row["labels"], row["sex"], row["age"]) for row in rows}
    for view, labels, sex, age in facts:
        one = study(view=view, labels=frozenset(labels.split("|")) - {""}, sex=sex, age=age)
        assert labels_of(describe(one, random.Random(0))) == set(stated_labels(one))
