import csv
import json
import math
from pathlib import Path

import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score

from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.plugins import ReportPairs
from unix_cxr.evaluation.protocols import PROTOCOLS
from unix_cxr.evaluation.results import MetricUnavailable
from unix_cxr.evaluation.text import overlap
from unix_cxr.evaluation.text.label_scores import RuleLabeler, f1_metrics, label_statistics, present
from unix_cxr.evaluation.text.overlap import (
    bleu_of_sums,
    bleu_statistics,
    chrf_of_sums,
    chrf_statistics,
)
from unix_cxr.evaluation.text.report_files import pair_reports, read_reports
from unix_cxr.evaluation.text.suite import evaluate_report_pairs
from unix_cxr.vocabulary import FINDINGS, TOP_FIVE

REFERENCES = (
    "Heart size is normal. No pleural effusion or pneumothorax.",
    "Small left pleural effusion with adjacent atelectasis. Cardiomegaly.",
    "The lungs are clear.",
    "Moderate pulmonary edema, unchanged.",
    "Right lower lobe consolidation may reflect pneumonia.",
)
PREDICTIONS = (
    "The heart is normal in size. No effusion or pneumothorax.",
    "Left pleural effusion and atelectasis.",
    "The lungs are clear.",
    "",
    "Consolidation in the right lower lobe, concerning for pneumonia.",
)
SAMPLES = Path(__file__).resolve().parents[3] / "shared/data/reports"
samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no sample reports at {SAMPLES.name}")


def make_pairs(predictions=PREDICTIONS, references=REFERENCES, replicates=50):
    ids = tuple(f"r{number}" for number in range(len(references)))
    resampling = Resampling(replicates, unit="report")
    return ReportPairs(ids, ids, tuple(references), tuple(predictions), resampling)


def measure(pairs=None, **options):
    found = evaluate_report_pairs(pairs or make_pairs(), metrics=[], **options)
    return {result.name: result for result in found.results}


@pytest.mark.parametrize(
    ("references", "predictions"),
    [
        (REFERENCES, PREDICTIONS),
        (REFERENCES[:1], PREDICTIONS[:1]),
        (("No effusion.",), ("Effusion.",)),  # no 2-grams match: smoothing
        (("a b c d e",), ("a x b y c",)),
        (("Clear.",), ("Clear.",)),  # no 4-grams at all
        (REFERENCES, ("",) * 5),
        (REFERENCES, ("zebra",) * 5),
    ],
)
def test_bleu_and_chrf_equal_sacrebleu(references, predictions):
    sums = bleu_statistics(references, predictions).sum(dim=0, keepdim=True)
    for order in range(1, 5):
        theirs = sacrebleu.BLEU(max_ngram_order=order).corpus_score(predictions, [references])
        ours = float(bleu_of_sums(sums, order))
        assert ours == pytest.approx(theirs.score / 100, abs=1e-12), order
    theirs = sacrebleu.CHRF().corpus_score(predictions, [references]).score
    sums = chrf_statistics(references, predictions).sum(dim=0, keepdim=True)
    assert float(chrf_of_sums(sums)) == pytest.approx(theirs / 100, abs=1e-12)


def test_bleu_of_a_hand_worked_pair():
    # "a b c d" against "a b x d": 3 of 4 words, 1 of 3 pairs; no triples match
    sums = bleu_statistics(["a b x d"], ["a b c d"])
    assert float(bleu_of_sums(sums, 1)) == pytest.approx(3 / 4)
    assert float(bleu_of_sums(sums, 2)) == pytest.approx(math.sqrt(3 / 4 / 3))
    short = bleu_statistics(["a b c d"], ["a b"])
    assert float(bleu_of_sums(short, 1)) == pytest.approx(math.exp(1 - 4 / 2))


def test_rouge_is_the_mean_of_rouge_score():
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(REFERENCES, PREDICTIONS, strict=True)
    theirs = [scorer.score(true, written)["rougeL"].fmeasure for true, written in pairs]
    result = measure()["rouge_l"]
    assert result.value == pytest.approx(sum(theirs) / 5)
    assert list(result.per_sample.values) == pytest.approx(theirs)
    assert theirs[3] == 0


@pytest.mark.parametrize("uncertain", ["positive", "negative"])
def test_f1_equals_scikit_learn(uncertain):
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(60, 14, generator=generator) < 0.3
    predicted = torch.rand(60, 14, generator=generator) < 0.4
    true[:, 2] = predicted[:, 2] = False  # a finding that never occurs
    top = [FINDINGS.index(name) for name in TOP_FIVE]
    statistics = label_statistics(true, predicted)
    for absent in ("zero", "left out"):
        for metric in f1_metrics("x", uncertain, absent)[:4]:
            ours = float(metric.of_sums(statistics.sum(dim=0, keepdim=True)))
            average, _, count = metric.name.split("/")[0].split("_")
            columns = list(range(14)) if count == "14" else top
            if average == "macro" and absent == "left out":
                columns = [column for column in columns if column != 2]
            theirs = f1_score(
                true[:, columns], predicted[:, columns], average=average, zero_division=0
            )
            assert ours == pytest.approx(theirs), metric.name


def test_an_empty_prediction_counts_as_zero_and_the_paper_skips_it():
    strict = measure()
    paper = measure(protocol=PROTOCOLS["unix-paper"])
    assert strict["bleu_4"].n == 5
    assert strict["rouge_l"].per_sample.values[3] == 0
    assert paper["bleu_4"].n == 4
    assert paper["bleu_4"].value > strict["bleu_4"].value
    assert "1 empty predictions were skipped, as unix-paper does" in paper["bleu_4"].warnings
    assert "protocol:unix-paper|empty:skipped" in paper["bleu_4"].signature
    assert "f1/Edema/uncertain_positive" in strict
    assert strict["f1/Edema/uncertain_positive"].value == 0
    with pytest.raises(ValueError, match="all 5 predictions are empty"):
        measure(make_pairs([""] * 5), protocol=PROTOCOLS["unix-paper"])
    nothing = measure(make_pairs([""] * 5))
    assert nothing["bleu_1"].value == nothing["micro_f1_14/uncertain_positive"].value == 0


def test_the_paper_cuts_what_is_labelled():
    long = ("Clear lungs. " * 45) + "Pneumothorax."
    pairs = make_pairs([long], [long])
    name = "f1/Pneumothorax/uncertain_positive"
    assert measure(pairs)[name].value == 1
    paper = measure(pairs, protocol=PROTOCOLS["unix-paper"])
    assert name not in paper
    assert (
        "2 texts were cut at 512 characters" in paper["micro_f1_14/uncertain_positive"].warnings[0]
    )


def test_uncertain_counts_as_what_is_said():
    pairs = make_pairs(["Possible pneumonia."], ["Pneumonia."])
    results = measure(pairs)
    assert results["f1/Pneumonia/uncertain_positive"].value == 1
    assert results["f1/Pneumonia/uncertain_negative"].value == 0


def test_states_with_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"'Hernia': 'positive' is no label"):
        present([{"Hernia": "positive"}], "positive")
    with pytest.raises(ValueError, match=r"'Edema': 'maybe' is no label"):
        present([{"Edema": "maybe"}], "positive")


def test_confusion_counts_every_report_once():
    found = evaluate_report_pairs(make_pairs(), metrics=[])
    for counts in found.confusion.counts.values():
        assert sum(counts.values()) == 5
    assert found.confusion.counts["Pleural Effusion"]["negative", "negative"] == 1
    assert found.confusion.counts["Edema"]["positive", "not stated"] == 1


@samples
def test_the_samples_of_the_original_labeler():
    with (SAMPLES / "chexpert_sample_labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    states = {"1.0": "positive", "0.0": "negative", "-1.0": "uncertain"}
    theirs = [{name: states[row[name]] for name in FINDINGS if row[name]} for row in rows]
    ours = RuleLabeler()([row["Reports"] for row in rows])
    assert len(rows) == 4
    for uncertain in ("positive", "negative"):
        sums = label_statistics(present(theirs, uncertain), present(ours, uncertain)).sum(0)
        found = f1_metrics("rules14", uncertain)[0].of_sums(sums[None])
        assert float(found) >= 0.8, (uncertain, ours)


def test_without_the_extra_the_remedy_is_named_and_the_rest_goes_on(monkeypatch):
    real = overlap.import_module

    def without(name):
        if name == "sacrebleu":
            raise ModuleNotFoundError("No module named 'sacrebleu'")
        return real(name)

    monkeypatch.setattr(overlap, "import_module", without)
    found = evaluate_report_pairs(make_pairs(), metrics=[])
    assert [skipped.metric for skipped in found.skipped] == ["bleu"]
    assert "pip install 'unix-cxr[eval]'" in found.skipped[0].remedy
    assert "chrf" in {result.name for result in found.results}
    with pytest.raises(MetricUnavailable, match="bleu is not available: No module"):
        evaluate_report_pairs(make_pairs(), metrics=[], on_missing="raise")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_tables_are_matched_by_id(tmp_path):
    table = "id,report,patient_id\na,One.,p\nb,Two.,p\n"
    references = read_reports(write(tmp_path / "a.csv", table))
    lines = '{"image": "b", "text": null}\n{"image": "a", "text": "One."}\n'
    predictions = read_reports(write(tmp_path / "b.jsonl", lines))
    pairs = pair_reports(references, predictions, Resampling(20))
    assert pairs.ids == ("a", "b")
    assert pairs.predictions == ("One.", "")
    assert pairs.groups == ("p", "p")
    assert pairs.resampling.unit == "patient"
    assert pair_reports(predictions_as_reference(tmp_path), references).resampling.unit == "report"


def predictions_as_reference(folder):
    return read_reports(write(folder / "c.tsv", "id\ttext\na\tOne.\nb\tTwo.\n"))


def test_parquet_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": ["a"], "text": ["One."]}), tmp_path / "a.parquet")
    assert read_reports(tmp_path / "a.parquet").texts == {"a": "One."}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,text\n", "holds no reports"),
        ("a.csv", "id,text\na,x\na,y\n", "row 2: id 'a' is there twice"),
        ("a.csv", "id,text\n,x\n", "row 1: the id is empty"),
        ("a.csv", "key,text\na,x\n", "has none of the columns"),
        ("a.csv", "id,text\na,x, and y\n", "row 1: more cells than the header's 2; put texts"),
        ("a.csv", "id,text\na,x\nb\n", "row 2: fewer cells than the header's 2"),
        (
            "a.csv",
            'id,text\na,"x\nb,y\n',
            "is no whole CSV: unexpected end of data; close its quotes",
        ),
        (
            "a.jsonl",
            '{"id": "a", "text": ["x"]}',
            r"text \(\['x'\]\) must be a text or null",
        ),
        ("a.jsonl", '{"id": "a", "text": 3}', r"row 1: text \(3\) must be a text or null"),
        ("a.jsonl", "{", "row 1: no JSON"),
        ("a.jsonl", "[1]\n", "row 1: list, not a JSON object"),
        ("a.jsonl", '{"id": "a", "text": "x"}\n{"id": "b"}\n', r"row 2: \['text'\] is missing"),
        ("a.xlsx", "", r"must be \.jsonl"),
    ],
)
def test_bad_tables_are_refused(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_reports(write(tmp_path / name, text))


def test_tables_that_are_no_text_are_refused(tmp_path):
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes(b"id,text\na,\xff\n")
        with pytest.raises(ValueError, match=rf"{name} is no t\w+ in UTF-8: .*; save it as one"):
            read_reports(tmp_path / name)


def test_mismatched_and_empty_references_are_refused(tmp_path):
    a = read_reports(write(tmp_path / "a.csv", "id,text\na,One.\nb,Two.\n"))
    b = read_reports(write(tmp_path / "b.csv", "id,text\na,One.\n"))
    c = read_reports(write(tmp_path / "c.csv", "id,text\na,One.\nb,\n"))
    with pytest.raises(ValueError, match=r"1 of 2 ids of .*a\.csv are not in .*b\.csv"):
        pair_reports(a, b)
    with pytest.raises(ValueError, match=r"1 of 2 ids of .*a\.csv are not in .*b\.csv"):
        pair_reports(b, a)
    with pytest.raises(ValueError, match=r"1 references are empty \(first: \['b'\]\)"):
        pair_reports(c, a)
    with pytest.raises(FileNotFoundError, match="no table of reports"):
        read_reports(tmp_path / "gone.csv")
    with pytest.raises(ValueError, match="give one of each per pair"):
        ReportPairs(("a",), ("a",), ("x", "y"), ("x",), Resampling())


def test_zero_is_an_id_and_a_patient(tmp_path):
    rows = [{"id": row, "text": f"Text {row}.", "patient_id": row // 2} for row in range(4)]
    path = write(tmp_path / "t.jsonl", "\n".join(json.dumps(row) for row in rows))
    table = read_reports(path)
    assert list(table.texts) == ["0", "1", "2", "3"]
    pairs = pair_reports(table, table)
    assert pairs.groups == ("0", "0", "1", "1")
    assert pairs.resampling.unit == "patient"
