"""The oracle on phantoms: right ones score high, mirrored ones lose the side, swapped ones all."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unix_cxr.data.phantom import MeasuredFinding
from unix_cxr.data.phantom.sampling import sample_phantom
from unix_cxr.data.phantom.studies import phantom_studies
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging import phantom_control
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet
from unix_cxr.evaluation.imaging.phantom_control import about_phantoms, measure_phantom_control
from unix_cxr.evaluation.phantom_controls import score_drawn


@pytest.fixture(scope="module")
def images():
    studies = phantom_studies([sample_phantom(seed) for seed in range(40)], 96)
    return ImageSet(
        "phantoms",
        tuple(
            ImageFile(str(row), study.pixels, str(row), study.labels, study.findings)
            for row, study in enumerate(studies)
        ),
    )


def values(images):
    found = measure_phantom_control(images, Resampling(50))
    return {result.name: result.value for result in found}


@pytest.mark.parametrize(
    ("seen", "share", "f1"),
    [("left", 1.0, 1.0), ("right", 0.0, 1.0), (None, 0.0, 0.0)],
    ids=["on its side", "on the other side", "not found"],
)
def test_a_finding_that_is_not_found_is_on_the_wrong_side(monkeypatch, seen, share, f1):
    measured = [MeasuredFinding("effusion", seen, 0.5, "large", "", 1.0)] if seen else []
    monkeypatch.setattr(phantom_control, "measure", lambda _: measured)
    film = np.zeros((32, 32), dtype=np.float32)
    text = "Large left pleural effusion."
    images = ImageSet("one", tuple(ImageFile(str(n), film, str(n), text=text) for n in range(4)))
    found = {one.name: one for one in measure_phantom_control(images, Resampling(10))}
    assert found["oracle/side"].value == share
    assert found["oracle/f1"].value == f1
    assert "not_found:wrong side" in found["oracle/side"].signature


def test_the_metric_and_the_control_count_the_same(images):
    phantoms = [sample_phantom(seed) for seed in range(40)]
    films = torch.stack([one.load()[0] for one in images]).flip(-1)[:12]
    control = score_drawn(phantoms[:12], films)
    mirrored = changed(images, lambda _, one: {"image": one.image[:, ::-1].copy()})
    metric = values(mirrored.take(range(12)))
    assert metric["oracle/side"] == pytest.approx(control.side_accuracy)
    hits = sum(score.found for score in control.kinds.values())
    wrong = sum(score.imagined + score.present - score.found for score in control.kinds.values())
    assert metric["oracle/f1"] == pytest.approx(2 * hits / (2 * hits + wrong))


def changed(images, change):
    rows = [replace(image, **change(row, image)) for row, image in enumerate(images)]
    return ImageSet(images.name, tuple(rows))


@pytest.mark.slow
def test_the_oracle_finds_what_is_stated_and_notices_what_is_not(images):
    right = values(images)
    assert right["oracle/f1"] > 0.7
    assert right["oracle/side"] > 0.9
    mirrored = values(changed(images, lambda _, one: {"image": one.image[:, ::-1].copy()}))
    assert mirrored["oracle/side"] < 0.2
    assert mirrored["oracle/f1"] > right["oracle/f1"] - 0.15
    others = images.images[1:] + images.images[:1]
    swapped = values(changed(images, lambda row, _: {"text": others[row].text}))
    assert swapped["oracle/f1"] < right["oracle/f1"] - 0.3


def test_texts_about_something_else_are_refused():
    (study,) = phantom_studies([sample_phantom(3)], 64)
    images = ImageSet("one", (ImageFile("0", study.pixels, "0", text=study.findings),))
    assert about_phantoms(images) == bool(study.labels)
    wrong = changed(images.take([0]), lambda *_: {"text": "A cat."})
    assert not about_phantoms(wrong)
    with pytest.raises(ValueError, match=r"'A cat\.' is no sentence about phantoms"):
        measure_phantom_control(wrong, Resampling(10))
    both = "Large left pleural effusion. Small right pleural effusion."
    twice = changed(images.take([0]), lambda *_: {"text": both})
    assert not about_phantoms(twice)
    with pytest.raises(ValueError, match="states a kind of finding twice"):
        measure_phantom_control(twice, Resampling(10))
