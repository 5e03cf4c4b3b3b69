"""Distances of features against closed forms and other implementations."""

from dataclasses import replace

import numpy as np
import prdc as naver
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.diversity import (
    memorisation_informed_fd,
    random_pairs,
    vendi_score,
)
from unix_cxr.evaluation.imaging.fidelity import (
    FeatureSet,
    FidelitySettings,
    measure_fidelity,
    per_label,
)
from unix_cxr.evaluation.imaging.frechet import (
    AsTheyAre,
    FrechetAccumulator,
    frechet_curve,
    frechet_distance,
    frechet_replicates,
    weighted_frechet_distance,
)
from unix_cxr.evaluation.imaging.kernel import kernel_distance, kernel_distance_of_subsets
from unix_cxr.evaluation.neighbours import prdc
from unix_cxr.evaluation.protocols import PROTOCOLS, STRICT


def normal(count, width, seed, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(count, width, generator=generator)


def exactly(points, mean, deviations):
    """Points whose sample mean and covariance are these, to rounding."""
    centred = points.double() - points.double().mean(dim=0)
    factor = torch.linalg.cholesky(torch.cov(centred.T))
    white = torch.linalg.solve_triangular(factor, centred.T, upper=False).T
    return mean + white * deviations


def test_fd_of_gaussians_is_the_closed_form():
    mean, a, b = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.0, 0.5]), torch.arange(1, 7), torch.ones(6) * 3
    real = exactly(normal(400, 6, 0), torch.zeros(6), a.double())
    drawn = exactly(normal(300, 6, 1), mean.double(), b.double())
    wanted = float((mean**2).sum() + ((a - b) ** 2).sum())
    assert frechet_distance(real, drawn) == pytest.approx(wanted, rel=1e-9)
    ones = torch.ones(400), torch.ones(300)
    assert weighted_frechet_distance(real, drawn, *ones) == pytest.approx(wanted, rel=1e-9)


def test_fd_of_rotated_gaussians():
    # Σ' = R Σ Rᵀ in two dimensions: tr (Σ Σ')^½ = sqrt(tr(ΣΣ') + 2 sqrt(det(ΣΣ')))
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    base = exactly(normal(200, 2, 2), torch.zeros(2), torch.tensor([3.0, 1.0]).double())
    sigma = torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64))
    product = sigma @ turn @ sigma @ turn.T
    root = (product.trace() + 2 * product.det().sqrt()).sqrt()
    wanted = float(2 * sigma.trace() - 2 * root)
    assert frechet_distance(base, base @ turn.T) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "width"), [(200, 150, 20), (30, 40, 64), (100, 20, 40)])
def test_the_two_ways_to_fd_agree(n, m, width):
    real, drawn = normal(n, width, 3), normal(m, width, 4, 0.3, 1.5)
    direct = weighted_frechet_distance(real, drawn, torch.ones(n), torch.ones(m))
    assert direct == pytest.approx(frechet_distance(real, drawn), rel=1e-5)
    twice = weighted_frechet_distance(
        real, drawn, torch.arange(n).remainder(3).float(), torch.ones(m)
    )
    repeated = torch.cat([real[torch.arange(n) % 3 == k].repeat(k, 1) for k in (1, 2)])
    assert twice == pytest.approx(frechet_distance(repeated, drawn), rel=1e-5)


def test_fd_does_not_depend_on_batches():
    real, drawn = normal(100, 8, 5), normal(90, 8, 6, 0.2)
    accumulator = FrechetAccumulator(8)
    for part in torch.split(real, 7):
        accumulator.update(part, real=True)
    for part in torch.split(drawn, 13):
        accumulator.update(part, real=False)
    assert accumulator.compute() == pytest.approx(frechet_distance(real, drawn), rel=1e-12)


def test_fd_falls_with_n_and_its_limit_is_nearer_to_the_truth():
    real, drawn = normal(600, 32, 7), normal(600, 32, 8)
    curve = frechet_curve(real, drawn)
    assert curve.sizes[0] == 150
    assert list(curve.values) == sorted(curve.values, reverse=True)
    assert abs(curve.limit) < 0.2 * curve.values[-1]


def test_replicates_of_fd_are_biased_and_the_interval_is_moved_back():
    real, drawn = normal(150, 10, 9), normal(150, 10, 10, 0.3)
    weights = [Resampling(40, seed).weights([str(n) for n in range(150)]) for seed in (0, 1)]
    assert frechet_replicates(real, drawn, *weights).mean() > frechet_distance(real, drawn)
    result = by_name(feature_set(real), feature_set(drawn))["fd"]
    assert result.interval.low < result.value < result.interval.high
    assert "centred" in result.interval.method


def test_kd_equals_torchmetrics_and_a_loop():
    real, drawn = normal(40, 6, 11), normal(40, 6, 12, 0.5)
    value = float(kernel_distance(real, drawn))
    assert value == pytest.approx(float(poly_mmd(real.double(), drawn.double())), rel=1e-9)
    assert kernel_distance_of_subsets(real, drawn) == pytest.approx(value, rel=1e-4)
    assert kernel_distance_of_subsets(real, drawn[:30]) == kernel_distance_of_subsets(
        real, drawn[:30]
    )

    def kernel(a, b):
        return float((a.double() @ b.double() / 6 + 1) ** 3)

    uneven = drawn[:25]
    within = [
        np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
        for x in (real, uneven)
    ]
    between = np.mean([kernel(a, b) for a in real for b in uneven])
    assert float(kernel_distance(real, uneven)) == pytest.approx(sum(within) - 2 * between)


def test_kd_is_unbiased_and_fd_is_not():
    values, distances = [], []
    for seed in range(100):
        real, drawn = normal(20, 8, 2 * seed), normal(15, 8, 2 * seed + 1)
        values.append(float(kernel_distance(real, drawn)))
        distances.append(weighted_frechet_distance(real, drawn, torch.ones(20), torch.ones(15)))
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert min(distances) > 1


def test_kd_with_weights_leaves_out_pairs_of_a_sample_with_itself():
    real, drawn = normal(12, 4, 13), normal(10, 4, 14)
    weights = torch.stack([torch.ones(12), torch.arange(12).float()])
    found = kernel_distance(real, drawn, weights, torch.ones(2, 10))
    assert float(found[0]) == pytest.approx(float(kernel_distance(real, drawn)))
    rows = torch.arange(12).repeat_interleave(torch.arange(12))
    gram = (real[rows].double() @ real[rows].double().T / 4 + 1) ** 3
    apart = rows[:, None] != rows
    cross = (real[rows].double() @ drawn.double().T / 4 + 1) ** 3
    own = (drawn.double() @ drawn.double().T / 4 + 1) ** 3
    other = ~torch.eye(10, dtype=torch.bool)
    wanted = gram[apart].mean() + own[other].mean() - 2 * cross.mean()
    assert float(found[1]) == pytest.approx(float(wanted))


def test_prdc_equals_the_authors_package(capsys):
    real, drawn = normal(80, 12, 15), normal(60, 12, 16, 0.3, 0.8)
    theirs = naver.compute_prdc(real.double().numpy(), drawn.double().numpy(), nearest_k=5)
    capsys.readouterr()
    ours = prdc(real.double(), drawn.double(), 5)
    for name, values in (
        ("precision", ours.precise),
        ("recall", ours.recalled),
        ("density", ours.density),
        ("coverage", ours.covered),
    ):
        assert float(values.mean()) == pytest.approx(theirs[name], abs=1e-6), name


def test_the_vendi_score_counts_what_is_different():
    assert float(vendi_score(torch.eye(7))) == pytest.approx(7)
    assert float(vendi_score(torch.ones(9, 4))) == pytest.approx(1)
    halves = torch.cat([torch.eye(5)[:1].repeat(6, 1), torch.eye(5)[1:2].repeat(6, 1)])
    assert float(vendi_score(halves)) == pytest.approx(2)
    features = normal(30, 50, 17)
    units = features / features.norm(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh(units @ units.T / 30).clamp_min(1e-30)
    assert float(vendi_score(features)) == pytest.approx(
        float(torch.exp(-(values * values.log()).sum())), rel=1e-4
    )
    weights = torch.tensor([[1.0] * 6 + [0.0] * 6, [1.0] * 12])
    assert vendi_score(halves, weights).tolist() == pytest.approx([1, 2])
    with pytest.raises(ValueError, match="1 feature vectors are zero"):
        vendi_score(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


def test_memorisation_makes_fd_larger():
    train = normal(60, 16, 18)
    fresh, copies = normal(60, 16, 19), train + normal(60, 16, 20, 0, 0.05)
    assert frechet_distance(train, copies) < frechet_distance(train, fresh)
    punished = memorisation_informed_fd(train, copies) / frechet_distance(train, copies)
    spared = memorisation_informed_fd(train, fresh) / frechet_distance(train, fresh)
    assert spared == pytest.approx(1, rel=1e-3)
    assert punished > 100


def test_pairs_are_different_and_reproducible():
    for count, pairs in ((5, 100), (300, 20)):
        found = random_pairs(count, pairs)
        assert len(found) == min(pairs, 10 if count == 5 else pairs)
        assert (found[:, 0] < found[:, 1]).all()
        assert len({tuple(pair) for pair in found.tolist()}) == len(found)
        assert torch.equal(found, random_pairs(count, pairs))
    with pytest.raises(ValueError, match="1 X-rays make no pair"):
        random_pairs(1, 3)


def feature_set(features, unit="patient", groups=None):
    ids = tuple(str(row) for row in range(len(features)))
    return FeatureSet(features, ids, groups or ids, unit)


SETTINGS = FidelitySettings(
    STRICT,
    Resampling(60),
    {"extractor": "made-up", "weights": "0"},
    comparable=False,
    heavy_replicates=15,
)


def by_name(real, drawn, settings=SETTINGS, suffix=""):
    return {result.name: result for result in measure_fidelity(real, drawn, settings, suffix)}


def test_every_number_says_how_it_was_taken():
    results = by_name(feature_set(normal(50, 8, 21)), feature_set(normal(40, 8, 22), "image"))
    assert list(results) == [
        *("fd", "kd", "precision", "recall", "density", "coverage", "vendi", "vendi_real"),
    ]
    for result in results.values():
        for fact in ("extractor:made-up", "weights:0", "real:50", "drawn:40", "seed:0", "torch:"):
            assert fact in result.signature, (result.name, fact)
        assert not result.comparable
        assert result.interval is not None
    assert "fewer than 10 x 8 features" in results["fd"].warnings[0]
    assert results["precision"].interval.method == "bootstrap by image"
    assert results["recall"].interval.method == "bootstrap by patient"
    many = by_name(feature_set(normal(90, 8, 21)), feature_set(normal(90, 8, 22)))
    assert not many["fd"].warnings


def test_shards_are_averaged_in_order():
    real, drawn = feature_set(normal(80, 4, 23)), feature_set(normal(62, 4, 24, 0.4))
    settings = replace(SETTINGS, protocol=PROTOCOLS["chexgenbench"])
    sharded = by_name(real, drawn, settings)
    parts = [
        by_name(real.take(range(20 * k, 20 * k + 20)), drawn.take(rows))
        for k, rows in enumerate((range(16), range(16, 32), range(32, 47), range(47, 62)))
    ]
    for name in ("fd", "precision", "coverage"):
        wanted = np.mean([part[name].value for part in parts])
        assert sharded[name].value == pytest.approx(wanted), name
        assert sharded[name].interval.low <= sharded[name].value <= sharded[name].interval.high
    assert "shards:4" in sharded["fd"].signature
    assert "protocol:chexgenbench" in sharded["fd"].signature
    assert "their spread is not an interval" in sharded["kd"].warnings[0]


def test_labels_that_are_too_rare_are_named():
    real = [frozenset({"Edema"})] * 8 + [frozenset({"Fracture"})] * 2
    drawn = [frozenset({"Edema"})] * 9 + [frozenset({"Fracture", "Hernia"})] * 7
    calls = []
    results, notes = per_label(
        real, drawn, 6, lambda a, b, s: calls.append((len(a), len(b), s)) or []
    )
    assert calls == [(8, 9, "/Edema")]
    assert results == []
    assert notes == ["Fracture: 2 real and 7 drawn X-rays, fewer than 6"]


@pytest.mark.parametrize(
    ("real", "drawn", "message"),
    [
        (normal(5, 3, 0), normal(20, 3, 1), "real holds 5 X-rays; 5 neighbours in 1 shards"),
        (torch.ones(20, 3), normal(20, 3, 1), "all 20 feature vectors of real are equal"),
        (normal(20, 3, 0), torch.full((20, 3), torch.nan), "features of drawn hold NaN"),
        (normal(20, 3, 0), normal(20, 4, 0), "real has 3 features, drawn 4"),
    ],
)
def test_bad_features_are_refused(real, drawn, message):
    with pytest.raises(ValueError, match=message):
        measure_fidelity(feature_set(real), feature_set(drawn), SETTINGS)


def test_counts_that_differ_are_refused():
    with pytest.raises(ValueError, match="equally many, got 3, 2 and 2"):
        FeatureSet(torch.ones(3, 2), ("a", "b"), ("a", "b"))
    with pytest.raises(ValueError, match="a kernel distance needs 2"):
        kernel_distance(torch.ones(1, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="a Fréchet distance needs 2"):
        frechet_distance(torch.ones(1, 2), torch.ones(3, 2))


def test_the_kernel_in_blocks_is_the_kernel(monkeypatch):
    real, drawn = normal(53, 5, 30), normal(38, 5, 31, 0.4)
    weights = [
        Resampling(7, seed).weights([str(row // 2) for row in range(count)])
        for seed, count in ((1, 53), (2, 38))
    ]
    whole = kernel_distance(real, drawn, *weights)
    monkeypatch.setattr("unix_cxr.evaluation.imaging.kernel._CELLS", 10 * 38)
    torch.testing.assert_close(kernel_distance(real, drawn, *weights), whole, rtol=1e-10, atol=0)


def test_memorisation_is_torchmetrics_with_the_roles_of_the_paper(monkeypatch):
    from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

    monkeypatch.setattr("unix_cxr.evaluation.imaging.diversity._CELLS", 60 * 7)
    train = normal(60, 16, 18)
    for drawn in (normal(45, 16, 19), train[:45] + normal(45, 16, 20, 0, 0.05)):
        theirs = MemorizationInformedFrechetInceptionDistance(
            feature=AsTheyAre(16), sync_on_compute=False
        ).set_dtype(torch.float64)
        theirs.update(drawn.double(), real=True)
        theirs.update(train.double(), real=False)
        wanted = float(theirs.compute())
        assert memorisation_informed_fd(train, drawn) == pytest.approx(wanted, rel=1e-6)
