"""Whole networks that learn from real, drawn and both: they learn, equally long, and repeatably."""

from dataclasses import replace

import pytest
import torch

from tests.evaluation.phantoms import phantoms
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet
from unix_cxr.evaluation.reading import use_network
from unix_cxr.evaluation.reading.use import HeldOut, use_results
from unix_cxr.evaluation.reading.use_network import (
    NetworkTraining,
    measure_use_network,
    shared_labels,
    train_network,
)

SHORT = NetworkTraining(steps=40, batch_size=16, size=32, widths=(8, 16), progress=False)


def labelled(name, count, seed, *, swapped=False):
    xrays = phantoms(count, name, seed)
    files = []
    for row, ill in enumerate(xrays.pneumonia.tolist()):
        labels = frozenset({"Pneumonia" if ill != swapped else "Normal"})
        files.append(ImageFile(f"{row}", xrays.images[row, 0].numpy(), f"{name}{row // 2}", labels))
    return ImageSet(name, tuple(files))


@pytest.fixture(scope="module")
def sets():
    return labelled("real", 60, 0), labelled("test", 60, 1)


def by_name(results):
    return {result.name: result for result in results}


def test_networks_learn_what_they_are_given(sets):
    real, test = sets
    wrong = labelled("drawn", 60, 2, swapped=True)
    before = torch.random.get_rng_state()
    found = by_name(measure_use_network(real, wrong, test, Resampling(40), SHORT))
    assert torch.equal(before, torch.random.get_rng_state())
    assert found["auroc/use_network/real"].value > 0.8
    assert found["auroc/use_network/drawn"].value < 0.3
    real_area, both = found["auroc/use_network/real"], found["auroc/use_network/both"]
    gain = found["auroc/use_network/gain"]
    assert gain.value == both.value - real_area.value < 0
    assert torch.equal(gain.replicates, both.replicates - real_area.replicates)
    assert gain.interval.low < gain.value < gain.interval.high
    assert "trained_on:120" in found["auroc/use_network/both/Normal"].signature
    assert "bootstrap by patient" in both.interval.method


def test_the_gain_is_paired():
    generator = torch.Generator().manual_seed(0)
    wanted = torch.rand(40, 1, generator=generator) < 0.5
    ids = tuple(map(str, range(40)))
    tested = HeldOut("use", ["a"], wanted, ids, tuple(str(row // 2) for row in range(40)), {})
    logits = {
        source: wanted + share * torch.randn(40, 1, generator=generator)
        for source, share in (("real", 1.0), ("drawn", 2.0), ("both", 0.8))
    }
    found = by_name(use_results(tested, logits, dict.fromkeys(logits, 40), Resampling(60)))
    both, real = found["auroc/use/both"], found["auroc/use/real"]
    assert real.replicates.std() > 0.01
    assert torch.equal(found["auroc/use/gain"].replicates, both.replicates - real.replicates)


def test_all_of_the_network_learns_and_the_same_call_gives_the_same(sets):
    real, _ = sets
    images = use_network._pixels(real, 32)
    labels = torch.tensor([["Pneumonia" in one.labels] for one in real])
    start, end, same = (
        train_network(images, labels, replace(SHORT, steps=steps)) for steps in (1, 8, 8)
    )
    moved = {
        name: not torch.equal(value, end.state_dict()[name])
        for name, value in start.state_dict().items()
        if "feature_" not in name and not name.startswith("body.head")
    }
    assert all(moved.values()), moved
    assert not end.training
    for name, value in end.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name


def test_more_xrays_are_not_more_steps():
    for count in (5, 16, 100):
        batches = list(
            use_network._batches(count, replace(SHORT, steps=40), torch.Generator().manual_seed(0))
        )
        assert len(batches) == 40
        assert {len(rows) for rows in batches} == {16}
        times = torch.cat(batches).bincount(minlength=count)
        assert times.max() - times.min() <= 1  # passes are whole


def test_what_cannot_be_learned_is_refused(sets):
    real, test = sets
    same = ImageSet("d", tuple(replace(one, labels=frozenset({"Normal"})) for one in real))
    wanted = (
        r"one class only.*Normal is on 30 of 60 real, 60 of 60 drawn, 30 of 60 test; Pneumonia is "
        r"on 30 of 60 real, 0 of 60 drawn"
    )
    with pytest.raises(ValueError, match=wanted):
        shared_labels(real, same, test)
    bare = ImageSet("d", tuple(replace(one, labels=frozenset()) for one in real))
    with pytest.raises(ValueError, match="no X-ray has a label"):
        shared_labels(bare, bare, bare)
    with pytest.raises(ValueError, match=r"steps \(0\) must be at least 1"):
        NetworkTraining(steps=0)
    with pytest.raises(ValueError, match=r"width \(12\) must be divisible by norm_groups \(8\)"):
        NetworkTraining(widths=(12,))
    with pytest.raises(ValueError, match=r"the loss is nan; lower learning_rate \(1e\+30\)"):
        measure_use_network(real, test, test, Resampling(5), replace(SHORT, learning_rate=1e30))
