"""Keeping the frontal X-rays: by what is stated, then by a look at the picture.

The look finds pictures that cannot be what they should be: blank, coloured, far from square, or
with bright and dark exchanged. It cannot tell a lateral from a frontal X-ray. Axes: h rows,
w columns.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from unix_cxr.data.pixels import Source, XRay, load_xray
from unix_cxr.data.readers.base import RowProblem, StudySource
from unix_cxr.data.studies import Study

View = Literal["frontal", "lateral", "unknown"]
Unknown = Literal["drop", "look", "keep"]

CONSTANT: Final = "constant"
CLIPPED: Final = "clipped"
ASPECT: Final = "aspect"
INVERTED: Final = "inverted"
COLOURED: Final = "coloured"
PICTURE_PROBLEMS: Final = {
    CONSTANT: "every pixel is nearly the same",
    CLIPPED: "a third or more of all pixels are full white",
    ASPECT: "one side is more than twice the other",
    INVERTED: "bright and dark seem exchanged (MONOCHROME1 read as MONOCHROME2?)",
    COLOURED: "the picture has colours, an X-ray has none",
}
"""What a look at a picture can find."""

_SIDE: Final = 64
_SMALLEST_RANGE: Final = 0.02
_LARGEST_WHITE: Final = 1 / 3
_LONGEST: Final = 2.0
_COLOUR: Final = 24  # of 255: JPEG alone tints grey by less
_COLOURED_SHARE: Final = 0.02
_ROWS: Final = slice(16, 44)
_LEFT, _MIDDLE, _RIGHT = slice(10, 24), slice(29, 35), slice(40, 54)
_BELLY: Final = (slice(54, 64), slice(16, 48))
_APEX_ROWS: Final = slice(16, 36)
_APEX_LEFT, _APEX_RIGHT = slice(12, 24), slice(40, 52)


def stated_view(study: Study, xray: XRay | None = None) -> View:
    """Frontal, lateral or unknown: by what the source states, then by the tags of the file.

    Args:
        study: its source's word goes first.
        xray: the image as it was read; a DICOM file may state a view.
    """
    view = study.view or ("" if xray is None else xray.view)
    if view in {"AP", "PA"}:
        return "frontal"
    return "lateral" if view == "LATERAL" else "unknown"


def polarity(pixels: Float[NDArray[np.float32], "h w"]) -> float:
    """Above 0 where spine and belly are brighter than the lungs, as they should be.

    In units of the picture's standard deviation; the negative exactly changes its sign. The
    patches are fixed, so this holds for chests that fill the picture.
    """
    small = _thumbnail(pixels)
    lungs = _mean(small[_ROWS, _LEFT], small[_ROWS, _RIGHT])
    upper_lungs = _mean(small[_APEX_ROWS, _APEX_LEFT], small[_APEX_ROWS, _APEX_RIGHT])
    contrast = small[_ROWS, _MIDDLE].mean() - lungs + small[_BELLY].mean() - upper_lungs
    return float(contrast / max(float(small.std()), 1e-6))


def picture_problems(pixels: Float[NDArray[np.float32], "h w"]) -> tuple[str, ...]:
    """Which of `PICTURE_PROBLEMS` grey values show; none says little, each is worth a look."""
    height, width = pixels.shape
    small = _thumbnail(pixels)
    if float(np.ptp(small)) < _SMALLEST_RANGE:
        return (CONSTANT,)
    found = []
    if float((pixels >= 1).mean()) >= _LARGEST_WHITE:
        found.append(CLIPPED)
    if max(height, width) > _LONGEST * min(height, width):
        found.append(ASPECT)
    if polarity(pixels) < 0:
        found.append(INVERTED)
    return tuple(found)


def is_coloured(image: Source) -> bool:
    """Whether a PNG, JPEG or TIFF file, its bytes, or a PIL image shows colours.

    Grey pictures that are stored in three channels are not coloured; arrays and files that Pillow
    does not read, such as DICOM, count as grey.
    """
    if isinstance(image, Image.Image):
        return _shows_colours(image)
    if not isinstance(image, str | Path | bytes):
        return False
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            if opened.mode[0] in "LIF1":  # L, LA, I, I;16, F, 1: grey without a look
                return False
            opened.draft("RGB", (_SIDE, _SIDE))  # JPEG need not be decoded in full for this
            return _shows_colours(opened)
    except UnidentifiedImageError:
        return False


class FrontalStudies:
    """The frontal studies of a source: itself a source.

    Args:
        source: any source of studies.
        unknown: studies whose view is not stated are left out ("drop"), or kept ("keep"), or the
            image is read ("look"): the view in a DICOM file's tags is believed, and without one
            the study is kept where the picture has no problem. A look does not find laterals.
    """

    def __init__(self, source: StudySource, *, unknown: Unknown = "drop") -> None:
        if unknown not in get_args(Unknown):
            raise ValueError(f"unknown ({unknown!r}) must be one of {get_args(Unknown)}")
        self.name = f"frontal of {source.name}"
        self.left_out: Counter[str] = Counter()
        self._source = source
        self._unknown = unknown

    @property
    def problems(self) -> Sequence[RowProblem]:
        """The bad rows of the source below."""
        return self._source.problems

    def __iter__(self) -> Iterator[Study]:
        """The frontal studies; `left_out` counts the others by reason."""
        self.left_out = left_out = Counter[str]()
        for study in self._source:
            reason = self._reason_against(study)
            if reason:
                left_out[reason] += 1
            else:
                yield study

    def _reason_against(self, study: Study) -> str:
        view = stated_view(study)
        if view == "lateral":
            return "lateral"
        if view == "frontal" or self._unknown == "keep":
            return ""
        if self._unknown == "drop":
            return "unknown view"
        xray = load_xray(study.image)
        if stated_view(study, xray) != "unknown":
            return "" if stated_view(study, xray) == "frontal" else "lateral"
        if is_coloured(study.image):
            return COLOURED
        problems = picture_problems(xray.pixels)
        return problems[0] if problems else ""


def _thumbnail(pixels: Float[NDArray[np.float32], "h w"]) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX))


def _mean(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(np.concatenate([first, second], axis=1).mean())


def _shows_colours(image: Image.Image) -> bool:
    small = np.asarray(image.convert("RGB").resize((_SIDE, _SIDE)), dtype=np.int16)
    spread = small.max(axis=2) - small.min(axis=2)
    return float((spread > _COLOUR).mean()) > _COLOURED_SHARE
