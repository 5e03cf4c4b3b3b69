"""The oracle on phantoms: right ones score high, mirrored ones lose the side, swapped ones all."""

from dataclasses import replace

import pytest

from unix_cxr.data.phantom.sampling import sample_phantom
from unix_cxr.data.phantom.studies import phantom_studies
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet
from unix_cxr.evaluation.imaging.phantom_control import about_phantoms, measure_phantom_control


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
