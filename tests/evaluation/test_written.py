import pytest

from unix_cxr.data.findings_text import labels_of
from unix_cxr.evaluation.written import FIELDS, KnownLabels, evaluate_reports

NORMAL = frozenset({"Normal"})
BACTERIAL = frozenset({"Pneumonia", "Bacterial Pneumonia"})
VIRAL = frozenset({"Pneumonia", "Viral Pneumonia"})
KNOWN = [
    KnownLabels("kermany", f"p{number}", labels)
    for number, labels in enumerate([NORMAL] * 4 + [BACTERIAL] * 8 + [VIRAL] * 8)
]
TEXT = {
    NORMAL: "AP view of the chest of a child. No evidence of pneumonia.",
    BACTERIAL: "AP chest radiograph of a child. Findings of bacterial pneumonia.",
    VIRAL: "AP chest X-ray of a young child. Viral pneumonia.",
}


def by_field(reports, known=KNOWN, **settings):
    results = evaluate_reports(reports, known, labels_of, replicates=200, **settings)
    return {(result.subset, result.field): result for result in results}


def test_right_reports_are_right():
    results = by_field([TEXT[truth.labels] for truth in KNOWN])
    assert set(results) == {("kermany", "pneumonia"), ("kermany", "cause")}
    for result in results.values():
        assert result.accuracy.value == 1
        assert result.balanced.value == 1
        assert result.beats_baseline
    assert results["kermany", "pneumonia"].baseline.value == pytest.approx(0.8)
    assert results["kermany", "cause"].baseline.value == pytest.approx(0.4)
    assert results["kermany", "cause"].answers == {"normal": 4, "bacterial": 8, "viral": 8}


def test_a_constant_report_is_the_baseline_and_no_better():
    result = by_field([TEXT[VIRAL]] * 20)["kermany", "pneumonia"]
    assert result.accuracy == result.baseline
    assert result.gain.value == 0
    assert result.balanced.value == 0.5
    assert not result.beats_baseline


@pytest.mark.parametrize("report", ["", "A heart.", f"{TEXT[NORMAL]} {TEXT[VIRAL]}"])
def test_saying_nothing_or_both_is_wrong(report):
    assert by_field([report] * 20)["kermany", "pneumonia"].accuracy.value == 0


def test_the_wrong_cause_is_still_pneumonia():
    swap = {NORMAL: NORMAL, BACTERIAL: VIRAL, VIRAL: BACTERIAL}
    results = by_field([TEXT[swap[truth.labels]] for truth in KNOWN])
    assert results["kermany", "pneumonia"].accuracy.value == 1
    assert results["kermany", "cause"].accuracy.value == pytest.approx(0.2)


def test_subsets_are_not_mixed_and_a_subset_with_one_answer_is_left_out():
    covid = [
        KnownLabels(
            "hannover", f"h{n}", frozenset({"COVID-19", "in_icu" if n % 2 else "not_in_icu"})
        )
        for n in range(8)
    ]
    one_answer = [KnownLabels("other", "o1", NORMAL)] * 3
    reports = [TEXT[truth.labels] for truth in KNOWN] + ["Intensive care patient."] * 8
    results = by_field(reports + [TEXT[NORMAL]] * 3, KNOWN + covid + one_answer)
    assert set(results) == {
        ("kermany", "pneumonia"),
        ("kermany", "cause"),
        ("hannover", "intensive care"),
    }
    assert results["hannover", "intensive care"].accuracy.value == 0.5
    assert results["kermany", "pneumonia"].reports == 20


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"reports \(1\) and known labels \(20\)"):
        by_field(["x"])
    with pytest.raises(ValueError, match=r"reports \(0\)"):
        by_field([], [])
    with pytest.raises(ValueError, match="nothing to tell apart"):
        by_field(["x"], [KNOWN[0]])


def test_every_label_of_a_field_can_be_written():
    from unix_cxr.data.findings_text import STATEMENTS

    assert {label for field in FIELDS.values() for label in field} <= set(STATEMENTS)
