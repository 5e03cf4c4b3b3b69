"""A patient's split depends on the patient, the salt and the fractions, and on nothing else."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unix_cxr.data.splits import FRACTIONS, find_leaks, split_of, with_splits
from unix_cxr.data.studies import Study

PATIENTS = [f"p{number}" for number in range(20_000)]


def test_the_splits_of_yesterday_are_those_of_today() -> None:
    """Written down once: a change of the rule would move patients between published splits."""
    found = "".join(split_of(f"p{number}", salt="a study")[0] for number in range(40))
    assert found == "vvtttdtdttttvttttdvvtttttttttttvdtddvttt"


def test_fractions_are_met_and_growth_moves_nobody() -> None:
    splits = {patient: split_of(patient, salt="x") for patient in PATIENTS}
    for split, share in FRACTIONS.items():
        count = sum(found == split for found in splits.values())
        # five standard deviations of a binomial count
        assert abs(count - share * len(PATIENTS)) < 5 * math.sqrt(
            len(PATIENTS) * share * (1 - share)
        )
    studies = [Study(image="a.png", patient_id=patient) for patient in reversed(PATIENTS[:500])]
    assert all(study.split == splits[study.patient_id] for study in with_splits(studies, salt="x"))


def test_another_salt_is_another_split() -> None:
    agree = sum(split_of(p, salt="x") == split_of(p, salt="y") for p in PATIENTS) / len(PATIENTS)
    assert agree == pytest.approx(0.8**2 + 2 * 0.1**2, abs=0.02)


@given(st.text(min_size=1), st.text(min_size=1).filter(str.strip))
def test_every_patient_has_a_split_with_a_share(patient: str, salt: str) -> None:
    fractions = {"train": 0.5, "dev": 0.0, "test": 0.5}
    assert split_of(patient, salt=salt, fractions=fractions) in {"train", "test"}
    assert split_of(patient, salt=salt, fractions={"test": 1.0}) == "test"


@pytest.mark.parametrize("salt", ["", "  "])
def test_an_empty_salt_is_refused(salt: str) -> None:
    with pytest.raises(ValueError, match=r"salt is empty; give a text of your own"):
        split_of("p1", salt=salt)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"train": 0.8, "dev": 0.1}, r"must be shares from 0 to 1 that sum to 1"),
        ({"train": 1.2, "dev": -0.2}, r"must be shares from 0 to 1"),
        ({"train": 0.8, "validation": 0.2}, r"splits \['validation'\] are unknown; known splits"),
        ({"train": 0.8, "": 0.2}, r"splits \[''\] are unknown"),
    ],
)
def test_wrong_fractions_are_refused(fractions: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_of("p1", salt="x", fractions=fractions)


def test_leaks_are_found_within_a_source() -> None:
    def study(patient: str, split: str, source: str = "one") -> Study:
        return Study(image="a.png", patient_id=patient, split=split, source=source)

    clean = [
        study("p1", "train"),
        study("p1", "train"),
        study("p1", ""),
        study("p1", "val", "two"),
        study("p2", "dev"),
    ]
    assert find_leaks(clean) == []
    (leak,) = find_leaks([*clean, study("p2", "test"), study("p2", "train")])
    assert leak.splits == ("dev", "test", "train")
    assert str(leak) == "patient p2 of one is in ('dev', 'test', 'train')"
