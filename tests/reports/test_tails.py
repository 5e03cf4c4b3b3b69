"""A comparison at the end of a sentence goes, and the finding before it stays whole."""

import pytest

from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.labeler import label_report
from unix_cxr.reports.records import Status

FINDINGS = [
    ("Stable right effusion", "Right effusion."),
    ("Unchanged cardiomegaly", "Cardiomegaly."),
    ("Mild pulmonary edema", "Mild pulmonary edema."),
    ("Right effusion and left basilar atelectasis", "Right effusion and left basilar atelectasis."),
    ("Surgical clips", "Surgical clips."),
    ("Stable calcified granuloma", "Calcified granuloma."),
    ("Tortuous aorta", "Tortuous aorta."),
    ("Hiatal hernia", "Hiatal hernia."),
    ("No pneumothorax", "No pneumothorax."),
]
"""With a label, without one, in two words, and a denial."""

TAILS = [
    " compared to prior",
    ", compared with the prior",
    " as compared to the previous radiograph",
    " relative to prior",
    " compared to yesterday",
    " compared to earlier today",
    ", unchanged",
    " (unchanged)",
    " (stable in size)",
    ", little changed",
    ", not significantly changed",
    ", unchanged compared to prior",
    ", unchanged since yesterday",
    " since yesterday",
    " from yesterday",
    ", same as prior",
    ", similar to prior",
    " as before",
    " as on prior",
    " as seen previously",
    " as previously seen",
    ", the same as prior",
    " than previously",
    " as seen on prior",
    ", as noted on prior exam",
    " as described previously",
]


@pytest.mark.parametrize(("finding", "kept"), FINDINGS)
@pytest.mark.parametrize("tail", TAILS)
def test_the_finding_stays_and_the_comparison_goes(finding, kept, tail):
    report = ReportCleaner().clean(f"FINDINGS: {finding}{tail}.")
    assert (report.status, report.text) == (Status.CLEAN, kept)


@pytest.mark.parametrize(
    "sentence",
    [
        "Right effusion seen on prior.",
        "Right effusion on the prior exam.",
    ],
)
def test_a_finding_of_an_earlier_image_alone_is_none_of_this_one(sentence):
    assert "Pleural Effusion" not in label_report(sentence)
    assert "effusion" not in ReportCleaner().clean(f"{sentence} Clear lungs.").text.lower()


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("FINDINGS: Hiatal hernia, same as prior.", True),
        ("FINDINGS: Tortuous aorta. Spine lung mets. Med port.", True),
        ("Pulmões sem alterações, seios costofrênicos livres como antes.", False),
        ("Os campos pulmonares livres, seios costofrênicos livres.", False),
        ("Das Herz ist normal, kein Erguss, kein Pneumothorax.", False),
        ("Hjertet er normalt, ikke pleuravæske og ikke pneumothorax.", False),
    ],
)
def test_words_of_two_languages_make_no_report_foreign(text, english):
    assert (ReportCleaner().clean(text).status is Status.CLEAN) == english
