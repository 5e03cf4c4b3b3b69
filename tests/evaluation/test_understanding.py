"""AUROC, AUPRC and DeLong against others; probes, masking, zero-shot, alignment, use."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.fidelity import FeatureSet
from unix_cxr.evaluation.reading.curves import area_results, average_precision, mean_result
from unix_cxr.evaluation.reading.delong import delong
from unix_cxr.evaluation.reading.probe import fit_probe, learnable
from unix_cxr.evaluation.reading.understanding import MaskedExtractor
from unix_cxr.evaluation.reading.use import measure_label_agreement, measure_use
from unix_cxr.evaluation.results import signature
from unix_cxr.evaluation.roc import auc

# albumin, total protein, K-G score and outcome of 43 patients (DeLong et al. 1988, as listed in the
# manual of SAS/STAT, "Comparing Receiver Operating Characteristic Curves")
OVARIAN = """
3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0 1.6 5.6 5 1
3.8 5.7 5 1 3.7 6.7 6 1 3.2 5.4 4 1 3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1 4.3 7.0 4 1 3.6 6.7 4 0
2.3 4.4 6 1 4.2 7.6 4 0 4.0 6.6 6 0 3.5 5.8 6 1 3.8 6.8 7 1 3.0 4.7 8 0 4.5 7.4 5 1 3.7 7.4 5 1
3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1 4.3 6.5 4 1 3.2 5.1 5 1 2.6 4.7 6 1 3.3 6.8 6 0 1.7 4.0 7 0
3.7 6.1 5 1 3.3 6.3 7 1 4.2 7.7 6 1 3.5 6.2 5 1 2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0 4.0 7.0 7 1
3.3 5.7 6 1 3.7 6.9 5 1 3.6 6.6 5 1
"""


def test_delong_gives_the_published_areas_and_errors():
    table = torch.tensor([float(word) for word in OVARIAN.split()]).reshape(-1, 4)
    assert len(table) == 43
    found = delong([table[:, 0], table[:, 1], 10 - table[:, 2]], table[:, 3] == 1)
    errors = found.covariance.diagonal().sqrt()
    for name, row, area, error, low, high in (
        ("albumin", 0, 0.7366, 0.0927, 0.5549, 0.9182),
        ("total protein", 1, 0.6478, 0.1000, 0.4518, 0.8439),
        ("K-G", 2, 0.7258, 0.1028, 0.5243, 0.9273),
    ):
        assert float(found.areas[row]) == pytest.approx(area, abs=5e-5), name
        assert float(errors[row]) == pytest.approx(error, abs=5e-5), name
        interval = found.interval(row)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4), name
    assert delong([table[:, 0], table[:, 0]], table[:, 3] == 1).p_value() == 1


def test_the_paired_test_equals_placements_counted_one_by_one():
    generator = torch.Generator().manual_seed(5)
    positive = torch.arange(30) % 3 == 0
    systems = [(torch.randn(30, generator=generator) + positive).round(decimals=1) for _ in "ab"]

    def beats(a, b):
        return 1.0 if a > b else 0.5 if a == b else 0.0

    hits, misses = [], []
    for one in systems:
        ill, well = one[positive].tolist(), one[~positive].tolist()
        hits.append([np.mean([beats(a, b) for b in well]) for a in ill])
        misses.append([np.mean([beats(a, b) for a in ill]) for b in well])
    covariance = np.cov(hits) / 10 + np.cov(misses) / 20
    apart = np.mean(hits[0]) - np.mean(hits[1])
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = delong(systems, positive)
    assert np.abs(found.covariance.numpy() - covariance).max() < 1e-12
    assert found.p_value() == pytest.approx(2 * norm.sf(abs(apart / error)))


def scored(count=120, seed=0, ties=True):
    generator = torch.Generator().manual_seed(seed)
    positive = torch.rand(count, generator=generator) < 0.3
    scores = torch.randn(count, generator=generator) + positive
    return (scores * 4).round() / 4 if ties else scores, positive


@pytest.mark.parametrize("ties", [True, False])
def test_areas_equal_scikit_learn(ties):
    scores, positive = scored(ties=ties)
    assert float(auc(scores, positive)) == pytest.approx(roc_auc_score(positive, scores))
    assert float(delong([scores], positive).areas[0]) == pytest.approx(
        roc_auc_score(positive, scores)
    )
    assert float(average_precision(scores, positive)) == pytest.approx(
        average_precision_score(positive, scores)
    )
    weights = torch.randint(0, 4, (3, 120), generator=torch.Generator().manual_seed(1)).float()
    theirs = [average_precision_score(positive, scores, sample_weight=row) for row in weights]
    assert average_precision(scores, positive, weights).tolist() == pytest.approx(theirs)


def test_delong_agrees_with_the_bootstrap():
    scores, positive = scored(400, ties=False)
    interval = delong([scores], positive).interval()
    ids = [str(row) for row in range(400)]
    weights = Resampling(2000).weights(ids)
    low, high = auc(scores, positive, weights).quantile(torch.tensor([0.025, 0.975]).double())
    assert (interval.low, interval.high) == pytest.approx((float(low), float(high)), abs=0.01)


def test_delongs_interval_is_for_independent_samples_only():
    scores, positive = scored()
    ids = [str(row) for row in range(120)]
    alone = area_results("x", scores, positive, ids, ids, {}, Resampling(100))
    assert alone[0].interval.method == "DeLong"
    patients = [str(row // 4) for row in range(120)]
    grouped = area_results("x", scores, positive, ids, patients, {}, Resampling(100))
    assert grouped[0].interval.method == "bootstrap by patient"
    assert alone[1].warnings[0] == f"chance is {float(positive.double().mean()):.3f}"
    mean = mean_result("auroc/mean", [alone[0], alone[0]], "image")
    assert mean.value == pytest.approx(alone[0].value)
    assert mean.signature.startswith("metric:auroc/mean|n:120|")  # its own, not the first label's
    assert "|mean_of:x, x|" in mean.signature
    assert "positive" not in mean.signature


@pytest.mark.parametrize("positive", [torch.ones(4).bool(), torch.zeros(4).bool()])
def test_one_class_only_is_refused(positive):
    ids = list("abcd")
    with pytest.raises(ValueError, match="needs both classes"):
        area_results("x", torch.rand(4), positive, ids, ids, {}, Resampling(10))
    with pytest.raises(ValueError, match="two samples of each class"):
        delong([torch.rand(4)], positive)
    with pytest.raises(ValueError, match=r"label 0 has one class only"):
        fit_probe(torch.rand(4, 2), positive[:, None])


def test_scores_that_are_no_numbers_are_refused():
    positive = torch.tensor([True, False, True, False])
    wrong = torch.tensor([1.0, torch.nan, 0.0, 2.0])
    for measure in (auc, average_precision):
        with pytest.raises(ValueError, match=r"1 .*NaN"):
            measure(wrong, positive)
    with pytest.raises(ValueError, match="1 scores are NaN"):
        delong([wrong], positive)
    with pytest.raises(ValueError, match="needs positives"):
        average_precision(torch.ones(2), torch.zeros(2).bool())


def test_the_probe_is_scikit_learns_logistic_regression():
    generator = torch.Generator().manual_seed(2)
    features = 3 + 2 * torch.randn(150, 6, generator=generator)
    labels = torch.stack([features[:, 0] > 3, features[:, 1] + features[:, 2] > 7], dim=1)
    labels ^= torch.rand(150, 2, generator=generator) < 0.1
    probe = fit_probe(features, labels, strength=0.02)
    points = features.double().numpy()
    points = (points - points.mean(0)) / points.std(0, ddof=1)
    for column in range(2):
        theirs = LogisticRegression(C=1 / (150 * 0.02), tol=1e-10, max_iter=1000)
        theirs.fit(points, labels[:, column].numpy())
        assert probe.weight[column].tolist() == pytest.approx(theirs.coef_[0].tolist(), abs=1e-5)
        ours = probe(features)[:, column].numpy()
        assert np.abs(ours - theirs.decision_function(points)).max() < 1e-4


def test_bad_features_are_refused_by_the_probe():
    labels = torch.tensor([[True], [False], [True]])
    with pytest.raises(ValueError, match="2 features for 3 labels"):
        fit_probe(torch.rand(2, 2), labels)
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        fit_probe(torch.full((3, 2), torch.nan), labels)
    with pytest.raises(ValueError, match="all 3 feature vectors are equal"):
        fit_probe(torch.ones(3, 2), labels)
    one_flat = torch.cat([torch.ones(3, 1), torch.tensor([[0.0], [1.0], [0.2]])], dim=1)
    assert torch.isfinite(fit_probe(one_flat, labels).weight).all()


class Corner:
    """Features: the mean grey of each quarter."""

    name, width, comparable = "corner", 4, False

    def facts(self):
        return {"extractor": self.name}

    def __call__(self, images):
        self.seen = images
        return torch.stack(
            [x.unfold(1, 32, 32).unfold(2, 32, 32).mean((0, 3, 4)).flatten() for x in images]
        )


def test_masking_hides_the_share_and_depends_on_the_pixels_alone():
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(1, 64, 64, generator=generator)
    half = MaskedExtractor(Corner(), 0.5, side=64)
    masked = half.mask(image)
    assert (masked == image.mean()).float().mean() == 0.5
    assert torch.equal(masked, half.mask(image.clone()))
    assert ((masked == image) | (masked == image.mean())).all()
    none = MaskedExtractor(Corner(), 0.0, side=64)
    assert none.facts() == Corner().facts()
    assert half.facts()["masked"] == 0.5
    assert torch.equal(none([image]), Corner()([image]))
    with pytest.raises(ValueError, match=r"ratio \(1\) must lie in \[0, 1\)"):
        MaskedExtractor(Corner(), 1)
    with pytest.raises(ValueError, match=r"side \(60\) must be divisible by 8"):
        MaskedExtractor(Corner(), 0.1, side=60)


def labelled(count, seed, signal=2.0, swapped=False):
    """Features in which one direction is the label, or its opposite."""
    generator = torch.Generator().manual_seed(seed)
    ill = torch.arange(count) % 2 == 0
    features = torch.randn(count, 5, generator=generator)
    features[:, 0] += signal * ill.float() * (-1 if swapped else 1)
    ids = tuple(f"{seed}-{row}" for row in range(count))
    labels = [frozenset({"Pneumonia"}) if one else frozenset({"Normal"}) for one in ill.tolist()]
    return FeatureSet(features, ids, ids), labels


def test_drawn_xrays_with_the_right_finding_are_of_use_and_swapped_ones_are_not():
    real, test = labelled(80, 0), labelled(100, 1)
    good = {r.name: r for r in measure_use(real, labelled(80, 2), test, {}, Resampling(50))}
    bad = {
        r.name: r
        for r in measure_use(real, labelled(80, 2, swapped=True), test, {}, Resampling(50))
    }
    assert good["auroc/use/drawn"].value > 0.85
    assert bad["auroc/use/drawn"].value < 0.2
    assert good["auroc/use/real"].value == bad["auroc/use/real"].value
    assert good["auroc/use/both"].value > bad["auroc/use/both"].value
    assert good["auroc/use/drawn/Pneumonia"].interval is not None
    agree = {r.name: r for r in measure_label_agreement(real, labelled(60, 3), {}, Resampling(50))}
    swap = measure_label_agreement(real, labelled(60, 3, swapped=True), {}, Resampling(50))
    assert agree["auroc/label_agreement"].value > 0.85
    assert next(r for r in swap if r.name == "auroc/label_agreement").value < 0.2


def test_labels_that_cannot_be_learned_are_left_out_or_refused():
    real, (features, labels) = labelled(40, 0), labelled(40, 1)
    assert learnable([real[1], labels]) == ["Normal", "Pneumonia"]
    rare = [frozenset({"Hernia"}) if row < 3 else found for row, found in enumerate(labels)]
    assert "Hernia" not in learnable([rare, rare])
    same = (features, [frozenset({"Normal"})] * 40)
    with pytest.raises(ValueError, match="a classifier needs both classes"):
        measure_use(real, same, real, {}, Resampling(10))
    with pytest.raises(ValueError, match="agreement needs both classes"):
        measure_label_agreement(real, same, {}, Resampling(10))
    with pytest.raises(ValueError, match="nothing to average"):
        mean_result("x", [], "image")


def test_masks_are_as_fine_as_the_extractor_looks():
    class Fine(Corner):
        def facts(self):
            return {"extractor": self.name, "size": "518x364"}

    image = torch.rand(1, 600, 520, generator=torch.Generator().manual_seed(3))
    assert MaskedExtractor(Fine(), 0.5).mask(image).shape == (1, 520, 520)
    assert MaskedExtractor(Corner(), 0.5).mask(image).shape == (1, 128, 128)
    assert "grid:8x8 of 520" in signature(MaskedExtractor(Fine(), 0.5).facts())
