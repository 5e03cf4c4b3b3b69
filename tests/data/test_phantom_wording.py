"""Reports of phantoms: what they state can be read back exactly, by us and by the rule labeler."""

import random

from hypothesis import given
from hypothesis import strategies as st

from unix_cxr.data.phantom import (
    KINDS,
    Stated,
    all_sentences,
    every_finding,
    findings_text,
    impression_text,
    parse,
    prompt,
    reports_of,
    sample_phantom,
    stated,
)
from unix_cxr.data.phantom.wording import ABSENT, NORMAL, PRESENT, sentences_of
from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.labeler import label_report
from unix_cxr.vocabulary import NO_FINDING


@given(st.integers(0, 5_000_000), st.integers(0, 1_000_000))
def test_a_text_is_read_back_exactly(seed, wording):
    phantom = sample_phantom(seed)
    read = parse(findings_text(phantom, random.Random(wording)))
    kinds = {finding.kind for finding in phantom.findings}
    assert read.present == {stated(finding) for finding in phantom.findings}
    assert not read.absent & kinds
    assert read.view in ("", phantom.view)
    assert read.unknown == ()


def test_denials_are_read_back_exactly():
    for kinds, wordings in ABSENT.items():
        for sentence in wordings:
            assert parse(sentence).absent == set(kinds), sentence
            assert not parse(sentence).present


def test_every_wording_of_every_finding_is_read_back():
    assert set(PRESENT) == set(KINDS)
    for finding in every_finding():
        assert parse(prompt(finding)).present == {finding}
        assert parse(prompt(finding)).unknown == ()


def test_no_two_meanings_share_a_sentence():
    sentences = all_sentences()
    assert len(sentences) == len(set(sentences))
    assert all(sentences_of(sentence) == [sentence] for sentence in sentences)


def test_prompts_are_short_and_canonical():
    assert prompt(Stated("effusion", "left", "large", "")) == "Large left pleural effusion."
    assert prompt(Stated("nodule", "right", "", "upper")) == "Right upper zone nodule."
    assert prompt(Stated("tube", "", "low", "")) == "Endotracheal tube in low position."


def test_what_is_no_phantom_sentence_is_told():
    read = parse("Large left pleural effusion.  The bowel gas is normal. No pneumothorax.")
    assert read.unknown == ("The bowel gas is normal.",)
    assert read.present == {Stated("effusion", "left", "large", "")}
    assert parse("Large left pleural effusions.").present == frozenset()
    assert parse("").present == parse(NORMAL[0]).present == frozenset()


def test_wording_varies():
    phantom = sample_phantom(0)
    texts = {findings_text(phantom, random.Random(number)) for number in range(50)}
    assert len(texts) > 40
    denied = {parse(text).absent for text in texts}
    assert len(denied) > 20


def test_impressions_state_what_is_there():
    for seed in range(100):
        phantom = sample_phantom(seed)
        read = parse(impression_text(phantom))
        assert read.present == {stated(finding) for finding in phantom.findings}
        assert read.unknown == ()


def test_the_rule_labeler_reads_the_same_labels():
    """CheXpert's labels of the clean text; a hernia is none of them."""
    for seed in range(250):
        phantom = sample_phantom(seed)
        labels = label_report(reports_of(phantom)[0])
        positive = {name for name, label in labels.items() if label.state == "positive"}
        assert positive - {NO_FINDING} == phantom.labels - {"Hernia", NO_FINDING}, seed


def test_dirt_is_dirt_and_cleaning_finds_the_clean_counterpart():
    cleaner = ReportCleaner()
    blanks = 0
    for seed in range(120):
        findings, _, dirty = reports_of(sample_phantom(seed))
        blanks += "___" in dirty
        assert "___" not in findings
        assert parse(dirty).unknown
        clean, read = parse(findings), parse(cleaner.clean(dirty).findings)
        assert (read.present, read.absent, read.unknown) == (clean.present, clean.absent, ()), seed
    assert blanks == 120


def test_reports_are_those_of_the_seed():
    assert reports_of(sample_phantom(8)) == reports_of(sample_phantom(8))
    assert reports_of(sample_phantom(8)) != reports_of(sample_phantom(9))
