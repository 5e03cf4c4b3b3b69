"""The rule labeler: by hand, against CheXpert's own sample, and on the NegBio gold labels."""

import csv
from hashlib import sha256

import pytest

from unix_cxr.reports.devices import DEVICES
from unix_cxr.reports.labeler import NEGATIVE, POSITIVE, UNCERTAIN, label_report
from unix_cxr.reports.readers import read_rows
from unix_cxr.reports.records import Label
from unix_cxr.vocabulary import FINDINGS


@pytest.mark.parametrize(
    ("text", "finding", "state"),
    [
        ("No pneumothorax.", "Pneumothorax", NEGATIVE),
        ("No pleural effusion, consolidation, or pneumothorax.", "Pneumothorax", NEGATIVE),
        ("No pneumothorax, large right effusion.", "Pleural Effusion", POSITIVE),
        ("No pneumothorax there is a small effusion.", "Pleural Effusion", POSITIVE),
        ("No pneumothorax and there are effusions.", "Pleural Effusion", POSITIVE),
        ("No effusion but mild edema.", "Edema", POSITIVE),
        ("No consolidation, large effusion/pneumothorax.", "Pleural Effusion", NEGATIVE),
        ("No consolidation, large effusion/pneumothorax.", "Pneumothorax", NEGATIVE),
        ("Small effusion and questionable edema.", "Pleural Effusion", POSITIVE),
        ("Without comparisons, this is pneumonia.", "Pneumonia", POSITIVE),
        ("Pneumothorax is not seen.", "Pneumothorax", NEGATIVE),
        ("Right effusion has resolved.", "Pleural Effusion", NEGATIVE),
        ("Pneumonia cannot be excluded.", "Pneumonia", UNCERTAIN),
        ("Opacity may represent pneumonia.", "Pneumonia", UNCERTAIN),
        ("Opacity concerning for atelectasis.", "Atelectasis", UNCERTAIN),
        ("No change in the left effusion.", "Pleural Effusion", POSITIVE),
        ("Left effusion is not significantly changed.", "Pleural Effusion", POSITIVE),
        ("The lungs are clear of consolidation.", "Consolidation", NEGATIVE),
        ("Vascular congestion.", "Edema", UNCERTAIN),
        ("Heart size is normal.", "Cardiomegaly", NEGATIVE),
        ("The heart is mildly enlarged.", "Cardiomegaly", POSITIVE),
        ("The heart is not enlarged.", "Cardiomegaly", NEGATIVE),
        ("Heart size is at the upper limits of normal.", "Cardiomegaly", UNCERTAIN),
        ("Old healed rib fractures.", "Fracture", POSITIVE),
        ("Widened mediastinum.", "Enlarged Cardiomediastinum", POSITIVE),
        ("Right PICC in the SVC.", "Support Devices", POSITIVE),
    ],
)
def test_state(text, finding, state):
    assert label_report(text)[finding].state == state


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("History of pneumonia.", "Pneumonia"),
        ("Evaluate for pneumothorax.", "Pneumothorax"),
        ("The chest tube has been removed.", "Support Devices"),
        ("Soft tissue mass effect is absent.", "Lung Lesion"),
        ("Vertebral body collapse.", "Atelectasis"),
        ("Pericardial effusion.", "Pleural Effusion"),
        ("The effusion has nearly resolved.", "Pleural Effusion"),
        ("Stable heart size.", "Cardiomegaly"),
    ],
)
def test_absent(text, finding):
    assert finding not in label_report(text)


def test_sides_and_severity():
    labels = label_report("Small left effusion with moderate right basilar atelectasis.")
    assert labels["Pleural Effusion"] == Label(POSITIVE, ("left",), "mild")
    assert labels["Atelectasis"] == Label(POSITIVE, ("right",), "moderate")
    both = label_report("Bilateral effusions, left greater than right.")["Pleural Effusion"]
    assert both.sides == ("left", "right")
    after = label_report("Effusion at the left base.")["Pleural Effusion"]
    assert after.sides == ("left",)
    another = label_report("Effusion at the base, left lung is clear.")["Pleural Effusion"]
    assert another.sides == ()


def test_severity_of_a_change_is_not_the_findings_own():
    assert (
        label_report("Mild interval increase in the effusion.")["Pleural Effusion"].severity is None
    )


def test_no_finding():
    assert label_report("Lungs are clear. No effusion.")["No Finding"].state == POSITIVE
    assert label_report("Right PICC.")["No Finding"].state == POSITIVE
    assert "No Finding" not in label_report("Small effusion.")
    assert label_report("") == {}
    assert set(label_report("Small effusion.")) <= set(FINDINGS)


def test_chexperts_own_sample(shared):
    """Stanford's labeler on its four sample reports: all 56 labels agree."""
    folder = shared / "data" / "reports"
    with (folder / "chexpert_sample_reports.csv").open(newline="") as file:
        texts = [row[0] for row in csv.reader(file)]
    with (folder / "chexpert_sample_labels.csv").open(newline="") as file:
        golden = list(csv.DictReader(file))
    values = {"1.0": POSITIVE, "0.0": NEGATIVE, "-1.0": UNCERTAIN}
    differ = set()
    for number, (text, row) in enumerate(zip(texts, golden, strict=True)):
        labels = label_report(text)
        for finding in FINDINGS:
            want = values.get(row[finding])
            have = labels[finding].state if finding in labels else None
            if want != have:
                differ.add((number, finding, want, have))
    assert differ == set()


def is_dev(report_id):
    """The documented split: rules and phrases were tuned on this half of the ids only."""
    return int(sha256(f"unix_cxr:{report_id}".encode()).hexdigest(), 16) % 2 == 0


def gold_scores(shared, openi, *, dev):
    """Finding -> F1, precision, recall and counts on one half of the NegBio gold labels."""
    names = {
        "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Effusion": "Pleural Effusion",  # noqa: E501 - data
        "Pneumonia": "Pneumonia", "Pneumothorax": "Pneumothorax", "Consolidation": "Consolidation",
        "Edema": "Edema",
    }  # fmt: skip
    wanted = ("FINDINGS", "IMPRESSION")
    texts = {}
    for row in read_rows(openi):
        parts = [part.split(": ", 1) for part in row.text.split("\n") if ": " in part]
        texts[row.report_id] = " ".join(body for header, body in parts if header in wanted)
    counts = {name: [0, 0, 0] for name in names}
    path = shared / "data" / "reports" / "openi_gold_labels_negbio.csv"
    with path.open(newline="") as file:
        for gold in csv.DictReader(file):
            if is_dev(gold["filename"]) != dev:
                continue
            labels = label_report(texts[gold["filename"]])
            for name, finding in names.items():
                said = finding in labels and labels[finding].state == POSITIVE
                true = gold[name] == "1"
                counts[name][0] += said and true
                counts[name][1] += said and not true
                counts[name][2] += true and not said
    return {
        name: {"f1": 2 * a / max(1, 2 * a + b + c), "tp": a, "fp": b, "fn": c}
        for name, (a, b, c) in counts.items()
    }


def test_negbio_gold_on_the_half_that_was_not_tuned_on(shared, openi):
    """Floors a little under what docs/guides/cleaning.md reports, so that a loss is seen."""
    scores = {name: s["f1"] for name, s in gold_scores(shared, openi, dev=False).items()}
    floors = {
        "Atelectasis": 0.94, "Cardiomegaly": 0.94, "Effusion": 0.91, "Consolidation": 0.85,
        "Pneumothorax": 0.87, "Edema": 0.90, "Pneumonia": 0.83,
    }  # fmt: skip
    assert {name: f1 for name, f1 in scores.items() if f1 < floors[name]} == {}


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("The tip of the endotracheal tube is in low position.", ("endotracheal tube",)),
        ("Right subclavian central venous line.", ("central line",)),
        ("Left chest pacemaker.", ("pacemaker",)),
        (
            "Left chest tube, right PICC and sternotomy wires.",
            ("central line", "chest tube", "sternal wires"),
        ),
        ("ET tube was removed. Feeding tube in the stomach.", ("enteric tube",)),
        ("No pacemaker. Right internal jugular line.", ("central line",)),
        ("Lines and tubes are unchanged.", ()),
        ("Multiple monitoring devices.", ()),
    ],
)
def test_devices_are_told_apart(text, devices):
    label = label_report(text)["Support Devices"]
    assert (label.state, label.devices) == ("positive", devices)
    assert set(devices) <= set(DEVICES)
    assert label.as_dict().get("devices", []) == list(devices)


def test_other_findings_name_no_device():
    labels = label_report("Effusion beside the left chest tube. Fracture at the pacemaker lead.")
    assert {name for name, label in labels.items() if label.devices} == {"Support Devices"}
