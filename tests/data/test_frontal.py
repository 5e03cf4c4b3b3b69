"""Frontal by tag first; a look finds blank, odd and negative pictures, and says what it cannot."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unix_cxr.data.dicom_writing import write_dicom
from unix_cxr.data.frontal import (
    FrontalStudies,
    Unknown,
    is_coloured,
    picture_problems,
    polarity,
    stated_view,
)
from unix_cxr.data.pixels import load_xray
from unix_cxr.data.sources import open_source
from unix_cxr.data.studies import Study

REAL = Path(__file__).parents[3] / "shared" / "data" / "cxr_real"


def chest(size: int = 128) -> np.ndarray:
    """Bright all over but for two dark lungs."""
    rows, columns = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j].astype(np.float32)
    lungs = sum(
        np.exp(-(((columns - centre) / 0.13) ** 2) - ((rows - 0.45) / 0.25) ** 2)
        for centre in (0.27, 0.73)
    )
    return (0.8 - 0.6 * np.clip(lungs, 0, 1)).astype(np.float32)


class Listed:
    name = "a list"
    problems = ()

    def __init__(self, *studies: Study) -> None:
        self.studies = studies

    def __iter__(self):
        return iter(self.studies)


def test_the_stated_view_is_believed() -> None:
    views = {view: stated_view(Study(image="a", patient_id="p", view=view))
             for view in ("AP", "PA", "LATERAL", "")}  # fmt: skip
    assert views == {"AP": "frontal", "PA": "frontal", "LATERAL": "lateral", "": "unknown"}


def test_a_look_finds_what_cannot_be_a_chest() -> None:
    assert picture_problems(chest()) == ()
    assert picture_problems(1 - chest()) == ("inverted",)
    assert picture_problems(np.full((64, 64), 0.4, dtype=np.float32)) == ("constant",)
    assert picture_problems(chest()[30:90]) == ("aspect",)
    white = chest()
    white[:64] = 1
    assert "clipped" in picture_problems(white)
    assert polarity(1 - chest()) == pytest.approx(-polarity(chest()), abs=1e-4)


def test_colours_are_found_and_grey_in_three_channels_is_grey(tmp_path: Path) -> None:
    grey = Image.fromarray((chest() * 255).astype(np.uint8))
    photo = Image.merge("RGB", [grey, grey.point(lambda v: v // 2), grey])
    for image, coloured in ((grey, False), (grey.convert("RGB"), False), (photo, True)):
        assert is_coloured(image) is coloured
        for kind in ("PNG", "JPEG"):
            buffer = io.BytesIO()
            image.save(buffer, kind)
            assert is_coloured(buffer.getvalue()) is coloured
    photo.save(tmp_path / "a.png")
    assert is_coloured(tmp_path / "a.png")
    assert not is_coloured(np.zeros((20, 20, 3), dtype=np.uint8))
    assert not is_coloured(b"DICM, or anything that Pillow does not know")


@pytest.mark.parametrize(
    ("unknown", "kept", "left_out"),
    [
        ("drop", ["tagged", "odd"], {"lateral": 1, "unknown view": 3}),
        ("look", ["tagged", "odd", "untold"], {"lateral": 1, "inverted": 1, "coloured": 1}),
        ("keep", ["tagged", "odd", "untold", "negative", "photo"], {"lateral": 1}),
    ],
)
def test_the_filter_counts_what_it_leaves_out(
    unknown: Unknown, kept: list[str], left_out: dict[str, int]
) -> None:
    grey = Image.fromarray((chest() * 255).astype(np.uint8))
    photo = Image.merge("RGB", [grey, grey.point(lambda v: v // 2), grey])
    listed = Listed(
        Study(image=chest(), patient_id="1", study_id="tagged", view="AP"),
        # a tag is believed, whatever the picture
        Study(image=1 - chest(), patient_id="2", study_id="odd", view="PA"),
        Study(image=chest(), patient_id="3", study_id="side", view="LATERAL"),
        Study(image=chest(), patient_id="4", study_id="untold"),
        Study(image=1 - chest(), patient_id="5", study_id="negative"),
        Study(image=photo, patient_id="6", study_id="photo"),
    )
    source = FrontalStudies(listed, unknown=unknown)
    for _ in range(2):
        assert [study.study_id for study in source] == kept
        assert source.left_out == left_out
    assert source.name == "frontal of a list"


def test_another_word_for_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown \('maybe'\) must be one of"):
        FrontalStudies(Listed(), unknown="maybe")  # type: ignore[arg-type]


@pytest.mark.slow
def test_polarity_on_real_xrays() -> None:
    """Measured on 5,080: 6 are suspected wrongly, and of the negatives 6 are not suspected."""
    if not REAL.is_dir():
        pytest.skip("the real X-rays are not beside this checkout; docs/nano-data.md gets them")
    pixels = [load_xray(study.image).pixels for study in open_source(REAL)]
    wrongly = sum(polarity(one) < 0 for one in pixels)
    missed = sum(polarity(1 - one) >= 0 for one in pixels)
    assert wrongly <= 10
    assert missed <= 10


def test_the_tags_of_a_dicom_file_are_believed_where_the_source_is_silent(tmp_path: Path) -> None:
    studies = []
    for view in ("PA", "LATERAL", ""):
        path = tmp_path / f"{view}.dcm"
        write_dicom(path, chest(), view=view)
        studies.append(Study(image=path, patient_id="p", study_id=view or "untold"))
    negative = tmp_path / "negative.dcm"
    write_dicom(negative, 1 - chest(), view="AP")
    # the source's own word goes first
    studies.append(Study(image=negative, patient_id="p", study_id="AP"))
    studies.append(Study(image=negative, patient_id="p", study_id="told", view="LATERAL"))
    source = FrontalStudies(Listed(*studies), unknown="look")
    assert [study.study_id for study in source] == ["PA", "untold", "AP"]
    assert source.left_out == {"lateral": 2}
