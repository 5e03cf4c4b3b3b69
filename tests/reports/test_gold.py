"""The gold set: half of it was frozen before the first rule was written."""

import pytest
from scoring import read_reports, read_sentences, score, score_reports

HALVES = ("frozen", "dev")


def test_the_gold_set_is_large_enough():
    sentences = {half: read_sentences(half) for half in HALVES}
    assert sum(map(len, sentences.values())) >= 400
    assert sum(len(read_reports(half)) for half in HALVES) >= 60
    frozen = {item.sentence for item in sentences["frozen"]}
    assert not frozen & {item.sentence for item in sentences["dev"]}


@pytest.mark.parametrize("half", HALVES)
def test_categories_and_rewrites(half):
    scores = score(half)
    assert scores.category_f1 >= 0.95, scores.errors
    assert scores.rewrite_exact >= 0.95, scores.errors
    assert scores.rewrite_content >= 0.95, scores.errors
    assert scores.kept_survive >= 0.995, scores.errors
    assert scores.kept_untouched >= 0.98, scores.errors


@pytest.mark.parametrize("half", HALVES)
def test_whole_reports(half):
    share, errors = score_reports(half)
    assert share >= 0.95, errors


def test_a_cleaner_that_does_nothing_fails():
    from unix_cxr.reports.cleaner import ReportCleaner
    from unix_cxr.reports.rules import rule_named

    idle = ReportCleaner(rules=[rule_named("residue.x-ray")])
    scores = score("frozen", idle)
    assert scores.category_f1 < 0.5
    assert scores.rewrite_content < 0.2
