"""Looking through a corpus before anything is trained on it: counts, pictures, and what is wrong.

The source is read twice: once for all counts, once for the few pictures that are shown. Memory
grows by about 100 bytes per image. Axes: n images, k bytes of a hash, h rows, w columns.
"""

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from unix_cxr.data.frontal import (
    COLOURED,
    PICTURE_PROBLEMS,
    is_coloured,
    picture_problems,
    stated_view,
)
from unix_cxr.data.near_duplicates import HASH_BYTES, near_groups, perceptual_hash
from unix_cxr.data.pixels import XRay, load_xray
from unix_cxr.data.readers.base import StudySource
from unix_cxr.data.readers.stated import key_of
from unix_cxr.data.splits import LeakCheck
from unix_cxr.data.statistics import StudyStatistics
from unix_cxr.data.studies import Study

EXAMPLES: Final = 12
"""How many examples of a problem are listed and shown."""

_SAMPLES: Final = 24
_GROUPS: Final = 12
_OF_GROUP: Final = 4
_BINS: Final = 64
_THUMBNAIL: Final = 192
_COMMON_SIZES: Final = 8


@dataclass(frozen=True)
class Shown:
    """One study on the page: its facts and a small picture, "" where it cannot be read."""

    number: int
    study_id: str
    patient_id: str
    split: str
    view: str
    labels: tuple[str, ...]
    findings: str
    impression: str
    picture: str


@dataclass
class Problem:
    """Something that is wrong, or worth a look.

    Args:
        name: in short, for machines.
        explanation: what it means and what to do about it.
        count: how often it was found.
        examples: the first few, in words.
        numbers: the same as positions in the source, for those that can be shown.
    """

    name: str
    explanation: str
    count: int = 0
    examples: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def add(self, example: str, number: int | None = None) -> None:
        """Count one more."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)
            if number is not None:
                self.numbers.append(number)


@dataclass
class Pictures:
    """What the images are like."""

    read: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    grey_values: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS))

    def add(self, study: Study, pixels: Float[NDArray[np.float32], "h w"]) -> None:
        """Count one image."""
        height, width = pixels.shape
        self.read += 1
        self.sizes[width, height] += 1
        self.formats[_format(study)] += 1
        counts, _ = np.histogram(pixels, bins=_BINS, range=(0, 1))
        self.grey_values += counts / pixels.size

    def summary(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        widths, heights = ([size[side] for size in self.sizes] for side in (0, 1))
        return {
            "read": self.read,
            "formats": dict(self.formats),
            "width": [min(widths, default=0), max(widths, default=0)],
            "height": [min(heights, default=0), max(heights, default=0)],
            "common_sizes": {
                f"{width}x{height}": count
                for (width, height), count in self.sizes.most_common(_COMMON_SIZES)
            },
            "grey_values": (self.grey_values / max(self.read, 1)).round(6).tolist(),
        }


@dataclass(frozen=True)
class Inspection:
    """What was found in a source.

    Args:
        source: its name.
        limit: how many studies were looked at, at most; None for all.
        with_text: whether report text may be shown.
        statistics: counts of the studies.
        pictures: counts of the images.
        problems: those that were found.
        groups: near duplicates as positions in the source, the largest groups first.
        samples: studies drawn by a hash of their id, so the same ones each time.
        shown: every study that the page shows, by position.
    """

    source: str
    limit: int | None
    with_text: bool
    statistics: StudyStatistics
    pictures: Pictures
    problems: list[Problem]
    groups: list[list[int]]
    samples: list[int]
    shown: dict[int, Shown]

    def summary(self) -> dict[str, Any]:
        """Everything but the pictures, ready for JSON."""
        statistics = self.statistics.summary()
        if not self.with_text:
            for section in ("findings", "impressions"):
                del statistics[section]["common_words"]
        return {
            "source": self.source,
            "limit": self.limit,
            **statistics,
            "images": self.pictures.summary(),
            "near_duplicate_groups": len(self.groups),
            "images_in_near_duplicate_groups": sum(map(len, self.groups)),
            "problems": {
                problem.name: {"count": problem.count, "examples": problem.examples}
                for problem in self.problems
            },
        }


def inspect_source(
    source: StudySource,
    *,
    limit: int | None = None,
    with_text: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Inspection:
    """Look at every study and every image of a source.

    Args:
        source: best opened with `on_bad_row="count"`, so that bad rows are listed here.
        limit: look at the first so many studies.
        with_text: put report text into the result.
        progress: is told how many studies were read.

    Raises:
        ValueError: the limit is below 1, or the source has no studies.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit ({limit}) must be 1 or more")
    look = _Look()
    for number, study in enumerate(islice(source, limit)):
        look.add(number, study)
        if progress is not None:
            progress(number + 1)
    bad_rows = _bad_rows(source)
    if not look.statistics.studies:
        first = f"; the first bad row: {bad_rows.examples[0]}" if bad_rows.count else ""
        raise ValueError(f"{source.name} has no studies{first}")
    groups = look.groups()
    problems = [bad_rows, *look.problems.values(), look.leaks()]
    found = [problem for problem in problems if problem.count]
    wanted = set(look.samples())
    wanted.update(number for problem in found for number in problem.numbers)
    wanted.update(number for group in groups[:_GROUPS] for number in group[:_OF_GROUP])
    shown = {
        number: _shown(number, study, with_text=with_text)
        for number, study in enumerate(islice(source, limit))
        if number in wanted
    }
    duplicates = _duplicate_problems(groups, _facts(source, limit, groups))
    return Inspection(
        source=source.name,
        limit=limit,
        with_text=with_text,
        statistics=look.statistics,
        pictures=look.pictures,
        problems=[*found, *(problem for problem in duplicates if problem.count)],
        groups=groups,
        samples=look.samples(),
        shown=shown,
    )


class _Look:
    """The first reading."""

    def __init__(self) -> None:
        self.statistics = StudyStatistics()
        self.pictures = Pictures()
        self.problems = {
            name: Problem(name, explanation)
            for name, explanation in {
                "unreadable": "the image cannot be read; mend or leave out the file",
                "named twice": "the same image file is named by two rows; keep one",
                "lateral": "not frontal; FrontalStudies leaves these out",
                "no view": "the source does not say whether the image is frontal; laterals may be "
                "among these, and no look at the picture finds them",
                "no split": "no split is stated; with_splits makes one, by patient",
                **PICTURE_PROBLEMS,
            }.items()
        }
        self._check = LeakCheck()
        self._paths: set[int] = set()
        self._hashes = bytearray()
        self._hashed: list[int] = []
        self._draws: list[tuple[int, int]] = []

    def add(self, number: int, study: Study) -> None:
        self.statistics.add(study)
        self._check.add(study)
        self._draws.append((key_of(f"{study.source}\0{study.study_id}\0{number}"), number))
        if len(self._draws) > 2 * _SAMPLES:
            self._draws = sorted(self._draws)[:_SAMPLES]
        self._add_facts(number, study)
        try:
            xray = load_xray(study.image)
        except (ValueError, OSError, ImportError) as error:
            self.problems["unreadable"].add(f"{study.study_id}: {error}")
            return
        pixels = xray.pixels
        self._add_view(number, study, xray)
        self.pictures.add(study, pixels)
        self._hashed.append(number)
        self._hashes += perceptual_hash(pixels).tobytes()
        found = picture_problems(pixels)
        for name in (*found, COLOURED) if is_coloured(study.image) else found:
            self.problems[name].add(study.study_id, number)

    def _add_facts(self, number: int, study: Study) -> None:
        if not study.split:
            self.problems["no split"].add(study.study_id)
        if isinstance(study.image, str | Path):
            key = key_of(str(study.image))
            if key in self._paths:
                self.problems["named twice"].add(str(study.image), number)
            self._paths.add(key)

    def _add_view(self, number: int, study: Study, xray: XRay) -> None:
        view = stated_view(study, xray)
        if view == "lateral":
            self.problems["lateral"].add(study.study_id, number)
        elif view == "unknown":
            self.problems["no view"].add(study.study_id, number)

    def leaks(self) -> Problem:
        problem = Problem(
            "patient in two splits", "what is learned of a patient is tested on them; split anew"
        )
        for leak in self._check.leaks():
            problem.add(str(leak))
        return problem

    def groups(self) -> list[list[int]]:
        """Near duplicates as positions in the source; the largest groups first."""
        hashes = np.frombuffer(self._hashes, dtype=np.uint8).reshape(-1, HASH_BYTES)
        groups = [[self._hashed[index] for index in group] for group in near_groups(hashes)]
        return sorted(groups, key=lambda group: (-len(group), group))

    def samples(self) -> list[int]:
        return sorted(number for _, number in sorted(self._draws)[:_SAMPLES])


def _bad_rows(source: StudySource) -> Problem:
    problem = Problem("bad row", "the row is no study and was passed over")
    for row in source.problems:
        problem.add(str(row))
    return problem


def _facts(
    source: StudySource, limit: int | None, groups: Iterable[list[int]]
) -> dict[int, tuple[str, str, str]]:
    """Id, patient and split of every study that is in a group."""
    wanted = {number for group in groups for number in group}
    if not wanted:
        return {}
    return {
        number: (study.study_id, f"{study.source}\0{study.patient_id}", study.split)
        for number, study in enumerate(islice(source, limit))
        if number in wanted
    }


def _duplicate_problems(
    groups: list[list[int]], facts: dict[int, tuple[str, str, str]]
) -> Iterator[Problem]:
    """Groups of near duplicates that one person or one split does not explain."""
    splits = Problem(
        "near duplicates in two splits",
        "what is learned is tested again; give both patients one id and split anew",
    )
    patients = Problem(
        "near duplicates of two patients",
        "one picture under two pseudonyms, or two that look alike",
    )
    for group in groups:
        members = [facts[number] for number in group]
        names = ", ".join(study_id for study_id, _, _ in members[:_OF_GROUP])
        if len({split for _, _, split in members if split}) > 1:
            splits.add(names)
        if len({patient for _, patient, _ in members}) > 1:
            patients.add(names)
    yield splits
    yield patients


def _shown(number: int, study: Study, *, with_text: bool) -> Shown:
    return Shown(
        number=number,
        study_id=study.study_id,
        patient_id=study.patient_id,
        split=study.split,
        view=study.view,
        labels=tuple(sorted(study.labels)),
        findings=study.findings if with_text else "",
        impression=study.impression if with_text else "",
        picture=_picture(study),
    )


def _picture(study: Study) -> str:
    """A thumbnail as a data URI, "" where the image cannot be read."""
    try:
        pixels = load_xray(study.image).pixels
    except (ValueError, OSError, ImportError):
        return ""
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _format(study: Study) -> str:
    if isinstance(study.image, str | Path):
        return Path(study.image).suffix.lower().removeprefix(".") or "no suffix"
    return type(study.image).__name__
