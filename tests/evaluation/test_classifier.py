import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from unix_cxr.evaluation.classifier import ClassifierConfig, XrayClassifier, classify
from unix_cxr.evaluation.classifier_training import (
    ClassifierTraining,
    augment,
    train_classifier,
)
from unix_cxr.evaluation.xrays import LabelledXrays

from .phantoms import TINY, phantoms


@pytest.fixture(scope="module")
def trained():
    settings = ClassifierTraining(epochs=6, batch_size=16, learning_rate=3e-3)
    return train_classifier(phantoms(80, "t"), phantoms(40, "d", seed=1), TINY, settings)


def test_it_learns_and_keeps_the_best_epoch(trained):
    assert trained.best.dev_auc > 0.95
    assert trained.best.dev_loss == min(epoch.dev_loss for epoch in trained.history)
    assert not trained.classifier.training


def test_features_are_standardised_on_train(trained):
    features = classify(trained.classifier, phantoms(80, "t").images).features
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(dim=0), torch.ones(16), atol=1e-3, rtol=0)


def test_training_is_seeded_and_leaves_the_global_generator_alone():
    settings = ClassifierTraining(epochs=1, batch_size=16, seed=3)
    state = torch.get_rng_state()
    first, second = (
        train_classifier(phantoms(32, "t"), phantoms(16, "d", seed=1), TINY, settings)
        for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.classifier.state_dict().items():
        assert torch.equal(value, second.classifier.state_dict()[name]), name


def test_batches_equal_singles(trained):
    images = phantoms(9, "x", seed=5).images
    batch = classify(trained.classifier, images, batch_size=4)
    single = classify(trained.classifier, images, batch_size=1)
    torch.testing.assert_close(batch.features, single.features, atol=1e-5, rtol=1e-4)


def test_it_does_not_see_brightness_or_contrast(trained):
    images = phantoms(8, "x").images
    dim = classify(trained.classifier, 0.2 + 0.5 * images)
    torch.testing.assert_close(
        dim.logits, classify(trained.classifier, images).logits, atol=2e-3, rtol=2e-3
    )


def test_saved_and_loaded_it_is_the_same(trained, tmp_path):
    trained.classifier.save_pretrained(tmp_path)
    again = XrayClassifier.from_pretrained(tmp_path)
    images = phantoms(5, "x").images
    assert torch.equal(
        classify(again, images).features, classify(trained.classifier, images).features
    )


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), TypeError, "float32 in .*uint8"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.float64), TypeError, "float64"),
        (torch.full((2, 1, 32, 32), 3.0), ValueError, r"lie in \[0, 1\], got 3 to 3"),
        (torch.full((2, 1, 32, 32), -0.5), ValueError, "got -0.5"),
        (torch.full((2, 1, 32, 32), torch.nan), ValueError, "got nan"),
        (torch.zeros(2, 3, 32, 32), ValueError, r"shape \[b, 1, h, w\], got \[2, 3, 32, 32\]"),
        (torch.zeros(32, 32), ValueError, r"got \[32, 32\]"),
        (torch.zeros(0, 1, 32, 32), ValueError, r"got \[0, 1, 32, 32\]"),
    ],
)
def test_it_refuses_wrong_images(images, error, message):
    with pytest.raises(error, match=message):
        classify(XrayClassifier(TINY), images)


def test_loading_is_strict(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no classifier\.json"):
        XrayClassifier.from_pretrained(tmp_path)
    XrayClassifier(TINY).save_pretrained(tmp_path)
    weights = tmp_path / "classifier.safetensors"
    state = load_file(weights)
    save_file({**state, "extra": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match=r"extra is \[1\], expected nothing \(1 differ\)"):
        XrayClassifier.from_pretrained(tmp_path)
    del state["head.bias"]
    save_file(state, weights)
    with pytest.raises(ValueError, match=r"head\.bias is missing, expected \[1\]"):
        XrayClassifier.from_pretrained(tmp_path)
    weights.write_bytes(b"\x80\x04pickle, not safetensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        XrayClassifier.from_pretrained(tmp_path)


def test_the_config_is_strict():
    known = json.loads(TINY.to_json())
    assert ClassifierConfig.from_json(TINY.to_json()) == TINY
    with pytest.raises(ValueError, match=r"has the keys \['input_size', .*\], got .*'depth'"):
        ClassifierConfig.from_json(json.dumps({**known, "depth": 3}))
    with pytest.raises(ValueError, match="got list"):
        ClassifierConfig.from_json("[]")
    with pytest.raises(ValueError, match=r"width \(10\) must be divisible by norm_groups \(4\)"):
        ClassifierConfig(input_size=32, widths=(8, 10), norm_groups=4)
    with pytest.raises(ValueError, match=r"input_size \(4\) is too small for 2 stages"):
        ClassifierConfig(input_size=4, widths=(8, 8), norm_groups=4)


def test_training_refuses_leaks_and_single_classes():
    xrays = phantoms(16, "t")
    with pytest.raises(ValueError, match="16 patients are in train and in dev"):
        train_classifier(xrays, xrays, TINY)
    only = xrays[xrays.pneumonia]
    with pytest.raises(ValueError, match="train must hold both classes, got 8 pneumonia among 8"):
        train_classifier(only, phantoms(16, "d"), TINY)


def test_augmentation_keeps_the_range_and_changes_the_picture():
    images = phantoms(6, "x").images
    moved = augment(images, 0.06, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (moved - images).abs().mean() > 0.005


def test_xrays_are_validated():
    images = torch.rand(3, 1, 16, 16)
    with pytest.raises(ValueError, match="equal length, got 3, 3 and 2"):
        LabelledXrays(images, torch.ones(3, dtype=torch.bool), ("a", "b"))
    with pytest.raises(TypeError, match=r"bool tensor, got torch\.int64"):
        LabelledXrays(images, torch.ones(3, dtype=torch.int64), ("a", "b", "c"))
    xrays = LabelledXrays(images, torch.tensor([True, False, True]), ("a", "b", "c"))
    assert xrays[xrays.pneumonia].groups == ("a", "c")
    assert xrays[torch.tensor([2, 0])].groups == ("c", "a")
