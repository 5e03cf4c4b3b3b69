import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unix_cxr.evaluation.bootstrap import (
    bootstrap_blocks,
    bootstrap_weights,
    mean_with_interval,
    measured,
    weighted_mean,
    weighted_quantile,
)
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.roc import auc


def naive_auc(scores, positive):
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, is_p in zip(scores, positive, strict=True)
        if is_p
        for n, is_n in zip(scores, positive, strict=True)
        if not is_n
    ]
    return sum(pairs) / len(pairs)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: 0 < sum(label for _, label in rows) < len(rows)
    )
)
def test_auc_equals_counting_pairs_also_with_ties(rows):
    scores, positive = [float(s) for s, _ in rows], [p for _, p in rows]
    found = auc(torch.tensor(scores), torch.tensor(positive)).item()
    assert found == pytest.approx(naive_auc(scores, positive))
    # a weight of two is the sample twice
    weights = torch.ones(1, len(rows))
    weights[0, 0] = 2
    twice = naive_auc([*scores, scores[0]], [*positive, positive[0]])
    assert auc(torch.tensor(scores), torch.tensor(positive), weights).item() == pytest.approx(twice)


def test_auc_of_two_gaussians_has_a_closed_form():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40_000, generator=generator)
    positive = torch.arange(40_000) % 2 == 0
    scores[positive] += 1
    # P(X + 1 > Y) = Φ(1 / √2)
    expected = 0.5 * (1 + math.erf(0.5))
    assert auc(scores, positive).item() == pytest.approx(expected, abs=0.01)


def test_auc_needs_both_classes_and_finite_scores():
    with pytest.raises(ValueError, match="both classes, got 0 positives among 3"):
        auc(torch.zeros(3), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        auc(torch.tensor([torch.nan, 1]), torch.tensor([True, False]))


def test_groups_are_drawn_whole():
    generator = torch.Generator().manual_seed(0)
    groups = ["a", "b", "a", "c", "b", "a"]
    weights = bootstrap_weights(groups, 50, generator)
    assert torch.equal(weights[:, 0], weights[:, 2])
    assert torch.equal(weights[:, 0], weights[:, 5])
    assert torch.equal(weights[:, 1], weights[:, 4])
    assert (weights[:, [0, 1, 3]].sum(dim=1) == 3).all()


def test_replicates_are_the_same_however_many_are_drawn_at_once():
    groups = [f"p{row // 3}" for row in range(300)]
    blocks = list(bootstrap_blocks(groups, 150, torch.Generator().manual_seed(5)))
    assert [len(block) for block in blocks] == [64, 64, 22]
    drawn = torch.randint(100, (150, 100), generator=torch.Generator().manual_seed(5))
    times = torch.stack([torch.bincount(row, minlength=100) for row in drawn])
    wanted = times.repeat_interleave(3, dim=1).float()
    assert torch.equal(torch.cat(blocks), wanted)
    rows = torch.rand(300, 4, generator=torch.Generator().manual_seed(6))
    sums = Resampling(150, 5).sums(rows, groups)
    torch.testing.assert_close(sums, wanted.double() @ rows.double())
    assert Resampling(0).sums(rows, groups).shape == (0, 4)
    assert bootstrap_weights(groups, 0, torch.Generator()).shape == (0, 300)


def test_patients_give_the_wider_interval():
    """30 patients with 20 equal X-rays each: image by image the interval is √20 too narrow."""
    values = torch.randn(30, generator=torch.Generator().manual_seed(1)).repeat_interleave(20)
    patients = [str(row // 20) for row in range(600)]

    def width(groups):
        weights = bootstrap_weights(groups, 2000, torch.Generator().manual_seed(2))
        result = mean_with_interval(values, weights)
        return result.high - result.low

    by_patient, by_image = width(patients), width([str(row) for row in range(600)])
    assert by_patient / by_image == pytest.approx(math.sqrt(20), rel=0.1)
    # the closed form: 2 · 1.96 standard errors over 30 patients
    expected = 2 * 1.96 * values[::20].std(correction=0).item() / math.sqrt(30)
    assert by_patient == pytest.approx(expected, rel=0.1)


def test_weighted_quantile_is_that_of_the_repeated_sample():
    values = torch.tensor([5.0, 1.0, 3.0, 4.0])
    weights = torch.tensor([[1.0, 1, 1, 1], [0, 3, 0, 1], [10, 0, 0, 0]])
    assert weighted_quantile(values, 0.5, weights).tolist() == [3, 1, 5]
    assert weighted_quantile(values, 0.01, weights).tolist() == [1, 1, 5]
    assert weighted_quantile(values, 1.0, weights).tolist() == [5, 4, 5]


def test_replicates_without_a_value_are_left_out_and_too_many_refused():
    replicates = torch.tensor([0.2, torch.nan, 0.4, 0.3])
    assert measured(0.3, replicates).low >= 0.2
    with pytest.raises(ValueError, match="exists in 1 of 4 replicates"):
        measured(0.3, torch.tensor([0.2, torch.nan, torch.nan, torch.nan]))
    with pytest.raises(ValueError, match="groups is empty"):
        bootstrap_weights([], 10, torch.Generator())


def test_weighted_mean():
    weights = torch.tensor([[1.0, 3.0], [0.0, 1.0]])
    assert weighted_mean(torch.tensor([1.0, 2.0]), weights).tolist() == [1.75, 2.0]


def test_a_number_reads_well():
    assert str(measured(0.5, torch.tensor([0.25, 0.25]))) == "0.500 (0.250 to 0.250)"
