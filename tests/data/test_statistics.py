"""Counts of a stream of studies, worked out by hand."""

import pytest

from unix_cxr.data.statistics import TextStatistics, statistics_of
from unix_cxr.data.studies import Study


def study(patient: str, split: str, labels: str = "", **facts: object) -> Study:
    names = frozenset(labels.split())
    return Study(image="a", patient_id=patient, split=split, labels=names, **facts)  # type: ignore[arg-type]


def test_counts_and_balance() -> None:
    counted = statistics_of(
        [
            study("p1", "train", "Edema Mass", study_id="1", view="AP", sex="F", source="x"),
            study("p1", "train", "Edema", study_id="1", view="LATERAL", source="x"),
            study("p2", "train", study_id="2", view="AP", negative=frozenset({"Edema"})),
            study("p1", "val", "Edema", study_id="1", view="", source="y"),
            study("p3", "val", study_id="3"),
        ]
    )
    assert (counted.studies, counted.patients, counted.examinations) == (5, 4, 4)
    assert counted.splits == {"train": 3, "val": 2}
    assert counted.views == {"AP": 2, "LATERAL": 1, "": 2}
    assert counted.without_labels == 1
    assert counted.most_images()[0] == ("p1", 2)
    edema, mass = counted.balance()
    assert (edema.label, edema.present, edema.absent, edema.uncertain) == ("Edema", 3, 1, 0)
    assert edema.prevalence == pytest.approx(0.6)
    assert edema.by_split == {"train": pytest.approx(2 / 3), "val": pytest.approx(0.5)}
    assert edema.imbalance == pytest.approx(2 / 3)
    assert mass.imbalance == pytest.approx(1 / 4)
    assert counted.summary()["labels"][0]["label"] == "Edema"


def test_labels_that_are_only_absent_are_listed() -> None:
    counted = statistics_of([study("p", "", negative=frozenset({"Mass"}))])
    (mass,) = counted.balance()
    assert (mass.present, mass.absent, mass.prevalence, mass.imbalance) == (0, 1, 0, 0)


def test_texts() -> None:
    texts = TextStatistics()
    for text in (
        "The heart's size is normal.",
        "",
        "  ",
        "Clear. " * 12,
        "The heart's size is normal.",
    ):
        texts.add(text)
    summary = texts.summary()
    assert summary["texts"] == 3
    assert summary["mean_words"] == pytest.approx((5 + 12 + 5) / 3)
    assert summary["longest_words"] == 12
    assert summary["repeated_texts"] == 1
    assert summary["texts_by_words"] == {0: 2, 10: 1}
    assert summary["vocabulary"] == 6
    assert summary["common_words"]["clear"] == 12
    assert TextStatistics().summary()["mean_words"] == 0
