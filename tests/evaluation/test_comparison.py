import pytest
import torch

from unix_cxr.evaluation.comparison import compare_replicates, compare_systems
from unix_cxr.evaluation.corpus_metric import Resampling, mean_metric, mean_statistics

MEAN = mean_metric("mean").of_sums


def systems(count, shift, generator):
    shared = torch.randn(count, generator=generator)
    a = shared + 0.5 * torch.randn(count, generator=generator) + shift
    b = shared + 0.5 * torch.randn(count, generator=generator)
    return mean_statistics(a), mean_statistics(b)


def test_a_real_difference_is_found_and_equal_systems_are_not():
    generator = torch.Generator().manual_seed(0)
    groups = [str(number) for number in range(200)]
    a, b = systems(200, 0.3, generator)
    found = compare_systems(MEAN, a, b, groups, Resampling(500))
    assert found.significant
    assert found.p_value == pytest.approx(1 / 501)
    assert 0 < found.interval.low < found.value < found.interval.high
    same = compare_systems(MEAN, a, a, groups, Resampling(500))
    assert same.p_value == 1
    assert same.value == same.interval.low == same.interval.high == 0


def test_the_false_positive_rate_is_what_it_says():
    generator = torch.Generator().manual_seed(1)
    groups = [str(number) for number in range(30)]
    trials = 600
    found = sum(
        compare_systems(
            MEAN, *systems(30, 0.0, generator), groups, Resampling(99, seed)
        ).significant
        for seed in range(trials)
    )
    # p < 0.05 with 99 randomisations means at most 4 of 100: 4 % +- 3 standard errors (0.8 %)
    assert 0.016 < found / trials < 0.064


def test_swapping_by_patient_keeps_the_rate_where_images_depend_on_each_other():
    generator = torch.Generator().manual_seed(2)
    trials, wrong, right = 150, 0, 0
    patients = [str(number // 10) for number in range(100)]
    images = [str(number) for number in range(100)]
    for seed in range(trials):
        per_patient = torch.randn(10, generator=generator).repeat_interleave(10)
        a = mean_statistics(per_patient + 0.1 * torch.randn(100, generator=generator))
        b = mean_statistics(torch.zeros(100))
        right += compare_systems(MEAN, a, b, patients, Resampling(99, seed)).significant
        wrong += compare_systems(MEAN, a, b, images, Resampling(99, seed)).significant
    assert right / trials < 0.1
    assert wrong / trials > 0.3


def test_the_test_equals_all_swaps_counted():
    a = mean_statistics(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    b = mean_statistics(torch.tensor([0.0, 1.5, 3.5, 1.0]))
    differences = torch.tensor([1.0, 0.5, -0.5, 3.0])
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    exact = ((signs @ differences).abs() >= differences.sum().abs()).double().mean()
    found = compare_systems(MEAN, a, b, list("abcd"), Resampling(4000))
    assert found.p_value == pytest.approx(float(exact), abs=0.03)


def test_replicates_are_compared_where_there_are_no_rows():
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1000, generator=generator)
    paired = compare_replicates((5.0, 4.0), (5 + noise, 4 + noise), paired=True)
    assert paired.interval.low == pytest.approx(paired.interval.high)
    assert paired.significant
    other = torch.randn(1000, generator=generator)
    unpaired = compare_replicates((5.0, 4.0), (5 + noise, 4 + other), paired=False)
    assert unpaired.interval.low < 0 < unpaired.interval.high
    assert not unpaired.significant
    with pytest.raises(ValueError, match="1000 and 2 replicates"):
        compare_replicates((0.0, 0.0), (noise, noise[:2]), paired=True)


def test_systems_must_have_the_same_samples():
    with pytest.raises(ValueError, match="the same samples"):
        compare_systems(MEAN, torch.ones(3, 2), torch.ones(2, 2), list("abc"))
    with pytest.raises(ValueError, match="needs replicates"):
        compare_systems(MEAN, torch.ones(3, 2), torch.ones(3, 2), list("abc"), Resampling(0))
