"""The cheats against real X-rays of children: each must fail, unseen real ones must pass."""

import json
from pathlib import Path

import pytest
import torch

from unix_cxr.data.pixels import load_xray
from unix_cxr.data.studies import read_table
from unix_cxr.evaluation.cheats import CHEATS, HELD_OUT_CHANGES, WRONG_LABELS, make_cheat
from unix_cxr.evaluation.classifier import DEFAULT_CLASSIFIER, classify
from unix_cxr.evaluation.classifier_training import ClassifierTraining, train_classifier
from unix_cxr.evaluation.drawn import DrawnSettings, RealReference
from unix_cxr.evaluation.roc import auc
from unix_cxr.evaluation.verdict import judge
from unix_cxr.evaluation.xrays import LabelledXrays, split_groups
from unix_cxr.functional.images import resize_and_pad

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared/data/cxr_real"
RESULTS = ROOT / "benchmarks/results/drawn_cheats_dev.json"

pytestmark = pytest.mark.slow
real_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real X-rays at {DATA.name}")

SETTINGS = DrawnSettings(per_class=60, replicates=50)


def load(split, limit):
    studies = read_table(DATA, subsets=["kermany224"], splits=(split,))
    order = torch.randperm(len(studies), generator=torch.Generator().manual_seed(0))[:limit]
    studies = [studies[row] for row in order.tolist()]
    pixels = [torch.from_numpy(load_xray(study.image).pixels) for study in studies]
    return LabelledXrays(
        torch.cat([resize_and_pad(image[None, None], 128) for image in pixels]),
        torch.tensor(["Pneumonia" in study.labels for study in studies]),
        tuple(study.patient_id for study in studies),
    )


@pytest.fixture(scope="module")
def measure():
    """A quarter of `train`, a short training: minutes, and the directions are the same."""
    train, dev = load("train", 900), load("dev", 250)
    trained = train_classifier(train, dev, DEFAULT_CLASSIFIER, ClassifierTraining(epochs=6))
    assert auc(classify(trained.classifier, dev.images).logits, dev.pneumonia) > 0.9
    unseen, rest = split_groups(train, torch.Generator().manual_seed(0))
    reference = RealReference(rest, dev, trained.classifier, SETTINGS)
    return lambda name: judge(reference.measure(make_cheat(name, rest, unseen, 60)))


@real_data
def test_real_xrays_pass_and_cheats_fail(measure):
    passed = [name for name in CHEATS if measure(name).passed]
    assert passed == ["unseen"]


def test_the_documented_run_let_no_cheat_through():
    sets = json.loads(RESULTS.read_text(encoding="utf-8"))["sets"]
    assert set(sets) == {"real", *CHEATS}
    assert {name for name, numbers in sets.items() if numbers["passed"]} == {"real", "unseen"}
    # the faults that are not copying are caught without the help of the copy search
    for name in (*HELD_OUT_CHANGES, *WRONG_LABELS):
        assert not any("near_train" in missed for missed in sets[name]["missed"]), name
