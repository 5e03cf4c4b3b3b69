"""The guard refuses each kind of lie, and the cleaner falls back and counts."""

import pytest

from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.guard import report_violations, violations
from unix_cxr.reports.records import Category
from unix_cxr.reports.rules import Rule


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("Left effusion.", "Left lung.", "lost: Pleural Effusion"),
        ("Clear lungs.", "Small effusion.", "gained: Pleural Effusion"),
        ("No pneumothorax.", "Pneumothorax.", "negation: Pneumothorax"),
        ("Possible pneumonia.", "Pneumonia.", "negation: Pneumonia"),
        ("Left effusion.", "Right effusion.", "side: Pleural Effusion"),
        ("Left effusion.", "Effusion.", "side: Pleural Effusion"),
        ("Mild edema.", "Severe edema.", "severity: Edema"),
        ("Mild edema.", "Edema.", "severity: Edema"),
        ("Nodule of 4.5 cm.", "Nodule of 5.4 cm.", "number gained: 5.4"),
        ("Nodule of 4.5 cm.", "Nodule.", "number lost: 4.5"),
        ("No hernia.", "Hernia.", "negation: count"),
        ("Hernia.", "Hernia on the left.", "side gained: left"),
    ],
)
def test_each_lie_is_seen(before, after, problem):
    assert problem in violations(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Mild interval increase in left effusion.", "Left effusion."),
        ("Nodule measures 12 mm, previously 9 mm.", "Nodule measures 12 mm."),
        ("No change in the left effusion.", "Left effusion."),
        ("Right pneumothorax has resolved.", "No right pneumothorax."),
        ("Moderate edema, improved since ___.", "Moderate edema."),
    ],
)
def test_honest_rewrites_pass(before, after):
    assert violations(before, after) == ()


def test_whole_reports():
    assert report_violations("Left effusion. Clear.", "Left effusion.") == ()
    assert report_violations("Left effusion.", "Left effusion. No edema.") == ("gained: Edema",)
    assert report_violations("Nodule of 3 cm.", "Nodule.") == ("number lost: 3",)


def bad_rule(pattern, replacement, example):
    return Rule(
        "change.bad", Category.PRIOR, pattern, frozenset(example.lower().split()[:1]),
        (example, ""), "Nothing.", replacement=replacement,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "pattern", "replacement"),
    [
        ("Left effusion.", "left", "right"),
        ("No pneumothorax.", "no ", ""),
        ("Severe edema.", "severe", "mild"),
        ("Effusion of 4 cm.", "4", "5"),
    ],
)
def test_a_bad_rule_is_stopped_and_counted(text, pattern, replacement):
    cleaner = ReportCleaner(rules=[bad_rule(pattern, replacement, text)])
    report = cleaner.clean(text)
    assert report.text == text
    assert report.guarded


def test_a_removal_that_would_lose_a_finding_is_undone():
    report = ReportCleaner().clean("Dr. ___ was told of a large left pneumothorax by phone.")
    assert "large left pneumothorax" in report.text
    assert "lost: Pneumothorax" in report.guarded
    repeated = ReportCleaner().clean(
        "Large left pneumothorax. Dr. ___ was told of the pneumothorax by phone."
    )
    assert repeated.text == "Large left pneumothorax."
    assert repeated.guarded == ()


def test_no_new_beside_the_old():
    cleaner = ReportCleaner()
    assert cleaner.clean("Right basilar opacity. No new opacity.").text == "Right basilar opacity."
    assert cleaner.clean("Heart is normal. No new opacity.").text == "Heart is normal. No opacity."
