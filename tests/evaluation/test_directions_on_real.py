"""Known directions on real X-rays: each fault moves the metric that is there for it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unix_cxr.evaluation.copies import blur
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.extractors import VisionTowerExtractor
from unix_cxr.evaluation.imaging.features import Extraction
from unix_cxr.evaluation.imaging.image_sets import ImageSet, open_images
from unix_cxr.evaluation.imaging.suite import ImageOptions, Judges, evaluate_images
from unix_cxr.evaluation.plugins import ReportPairs
from unix_cxr.evaluation.reading.alignment import LikelihoodScorer, measure_alignment
from unix_cxr.evaluation.text.suite import evaluate_report_pairs
from unix_cxr.pipelines.pipeline import UniXPipeline

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared/data/cxr_real"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real X-rays at {DATA.name}"),
]
OPTIONS = ImageOptions(
    resampling=Resampling(40),
    extraction=Extraction(16, progress=False),
    heavy_replicates=4,
    pairs=8,
)


@pytest.fixture(scope="module")
def pipeline():
    return UniXPipeline.from_pretrained("nano")


def halves(images):
    """Two sets that share no patient."""
    groups = sorted(set(images.groups))
    first = set(groups[::2])
    rows = [row for row, group in enumerate(images.groups) if group in first]
    others = [row for row in range(len(images)) if row not in set(rows)]
    return images.take(rows), images.take(others)


def changed(images, change):
    """Each X-ray as an array that `change` made of its pixels."""
    made = [replace(one, image=change(one.load()[None])[0, 0].numpy()) for one in images]
    return ImageSet(images.name, tuple(made))


def noisy(image):
    noise = 0.15 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image + noise).clamp(0, 1)


def collapsed(images):
    few = [images.images[row % 4] for row in range(len(images))]
    return ImageSet(
        images.name,
        tuple(replace(one, image=few[row].image) for row, one in enumerate(images)),
    )


def swapped(images):
    other = {"Normal": {"Pneumonia"}, "Pneumonia": {"Normal"}}
    made = []
    for one in images:
        label = "Normal" if "Normal" in one.labels else "Pneumonia"
        made.append(replace(one, labels=frozenset(other[label])))
    return ImageSet(images.name, tuple(made))


@pytest.fixture(scope="module")
def measured(pipeline):
    train = open_images(DATA, split="train", subsets=["kermany224"]).first(90)
    dev = open_images(DATA, split="dev", subsets=["kermany224"]).first(100)
    real, unseen = halves(dev)
    judges = Judges(VisionTowerExtractor(pipeline), metrics=[])
    drawn = {
        "unseen": unseen,
        "blurred": changed(unseen, lambda image: blur(image, 3.0)),
        "smeared": changed(unseen, lambda image: blur(image, 10.0)),
        "noised": changed(unseen, noisy),
        "mirrored": changed(unseen, lambda image: image.flip(-1)),
        "collapsed": collapsed(unseen),
        "swapped": swapped(unseen),
        "copies": train.first(len(unseen), seed=1),
    }
    found = {}
    for name, images in drawn.items():
        as_drawn = ImageSet(name, images.images, "image")
        evaluation = evaluate_images(real, as_drawn, judges, train=train, options=OPTIONS)
        found[name] = {result.name: result.value for result in evaluation.results}
    return found


def test_blur_and_noise_move_distances_and_sharpness(measured):
    honest = measured["unseen"]
    print(
        {
            n: {
                k: round(v, 3)
                for k, v in m.items()
                if k
                in (
                    "fd",
                    "kd",
                    "mifid",
                    "coverage",
                    "recall",
                    "vendi",
                    "ms_ssim",
                    "repeated",
                    "sharpness/middle",
                    "near_train/pixels",
                    "near_train/features",
                    "nearest_ratio",
                    "auroc/label_agreement",
                    "auroc/use/drawn",
                )
            }
            for n, m in measured.items()
        }
    )
    for fault in ("smeared", "noised"):
        assert measured[fault]["fd"] > honest["fd"], fault
        assert measured[fault]["kd"] > honest["kd"], fault
    # the tower looks past a slight blur, the sharpness does not
    for fault in ("blurred", "smeared", "noised"):
        assert measured[fault]["sharpness/middle"] < 0.5 * honest["sharpness/middle"], fault


def test_the_wrong_side_moves_distances(measured):
    assert measured["mirrored"]["fd"] > measured["unseen"]["fd"]
    assert measured["mirrored"]["kd"] > measured["unseen"]["kd"]


def test_mode_collapse_moves_recall_coverage_and_variety(measured):
    honest, bad = measured["unseen"], measured["collapsed"]
    assert bad["coverage"] < 0.6 * honest["coverage"]
    assert bad["recall"] < 0.5 * honest["recall"]
    assert bad["vendi"] < honest["vendi"]
    assert bad["ms_ssim"] > honest["ms_ssim"]
    assert bad["repeated"] > 0.9
    assert honest["repeated"] < 0.1


def test_the_wrong_finding_moves_labels_and_use_alone(measured):
    honest, bad = measured["unseen"], measured["swapped"]
    for name in ("auroc/label_agreement", "auroc/use/drawn"):
        assert honest[name] > 0.6, name
        assert bad[name] < 0.5, name
    assert bad["fd"] == honest["fd"]


def test_copies_move_privacy_while_distances_look_well(measured):
    honest, bad = measured["unseen"], measured["copies"]
    assert bad["near_train/pixels"] == 1
    assert bad["near_train/features"] == 1
    assert honest["near_train/pixels"] < 0.1
    assert bad["mifid"] > 10 * honest["mifid"]
    assert bad["nearest_ratio"] < 0.01 < honest["nearest_ratio"]


def test_shuffled_captions_move_alignment(pipeline):
    images = open_images(DATA, split="dev").first(80)
    scorer, resampling = LikelihoodScorer(pipeline), Resampling(40)
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = ImageSet(
        "shuffled",
        tuple(
            replace(one, text=images.images[row].text)
            for one, row in zip(images, order, strict=True)
        ),
    )
    own, other = (
        {result.name: result.value for result in measure_alignment(some, scorer, resampling)}
        for some in (images, shuffled)
    )
    print("alignment", own, other)
    assert own["alignment/wins"] > 0.75
    assert other["alignment/wins"] < 0.62
    assert own["alignment/score"] > other["alignment/score"]


def test_the_wrong_side_and_the_wrong_finding_in_a_report():
    true = [
        "Small left pleural effusion. No pneumothorax.",
        "Right lower lobe consolidation.",
        "The lungs are clear.",
    ] * 6
    turned = [
        text.replace("left", "x")
        .replace("right", "left")
        .replace("x", "right")
        .replace("Right", "Left")
        for text in true
    ]
    denied = [text.replace("No pneumothorax", "Large pneumothorax") for text in true]

    def measure(predictions):
        ids = tuple(str(row) for row in range(len(true)))
        pairs = ReportPairs(ids, ids, tuple(true), tuple(predictions), Resampling(20))
        found = evaluate_report_pairs(pairs, metrics=[])
        return {result.name: result.value for result in found.results}

    same, side, finding = measure(true), measure(turned), measure(denied)
    assert same["bleu_4"] == pytest.approx(1)
    for name in ("bleu_4", "rouge_l", "chrf"):
        assert side[name] < same[name]
    # the 14 labels know no side: this is why words are measured too
    assert side["micro_f1_14/uncertain_positive"] == 1
    assert finding["micro_f1_14/uncertain_positive"] < 1
