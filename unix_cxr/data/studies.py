"""Studies: an image with what is known about it, and a reader for a folder with a CSV table."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

from unix_cxr.data.pixels import Source
from unix_cxr.files import check_text

Split = Literal["train", "dev", "val"]
"""The parts that `read_table` knows."""

SPLITS: Final = ("train", "dev", "val", "test", "")
SEXES: Final = ("M", "F", "")
VIEWS: Final = ("AP", "PA", "LATERAL", "")

_VIEW_NAMES: Final = {
    "AP": ("AP", "AP SUPINE", "AP ERECT", "AP_HORIZONTAL", "ANTEROPOSTERIOR", "ANTERO-POSTERIOR"),
    "PA": ("PA", "PA ERECT", "POSTEROANTERIOR", "POSTERO-ANTERIOR"),
    "LATERAL": ("L", "LL", "RL", "LATERAL", "LEFT LATERAL", "RIGHT LATERAL"),
}
_VIEW_OF: Final = {name: view for view, names in _VIEW_NAMES.items() for name in names}

_REQUIRED: Final = ("image", "split", "subset", "view", "labels", "patient_id", "sex", "age")


class Labelled(Protocol):
    """What is stated of a study without a look at its image; a `Study` is one."""

    @property
    def subset(self) -> str:
        """The collection within the source."""
        ...

    @property
    def labels(self) -> frozenset[str]:
        """Stated as present."""
        ...

    @property
    def negative(self) -> frozenset[str]:
        """Stated as absent."""
        ...

    @property
    def uncertain(self) -> frozenset[str]:
        """Stated as uncertain."""
        ...


@dataclass(frozen=True)
class Labels:
    """What is stated of a study, without its image; see `Labelled`."""

    subset: str
    labels: frozenset[str]
    negative: frozenset[str]
    uncertain: frozenset[str]


@dataclass(frozen=True)
class Study:
    """One X-ray and the facts about it; validated when made.

    Args:
        image: what `load_xray` reads: a file path, bytes, an array or a PIL image.
        patient_id: pseudonym, the unit of every split and bootstrap.
        study_id: names the examination in its source; images of one examination share it.
        split: "train", "dev", "val", "test", or "" where the source says nothing; parts share no
            patient.
        subset: the collection within the source.
        view: "AP", "PA", "LATERAL", or "" where the source does not say or says something else.
        labels: stated as present, in the collection's own names.
        negative: stated as absent.
        uncertain: stated as uncertain. A label that is in none of the three was not mentioned.
        findings: text of the report as the source has it.
        impression: the same for the impression.
        sex: "M", "F" or "" where unknown.
        age: as the collection states it, "" where unknown.
        source: the corpus or file that the study was read from.

    Raises:
        ValueError: patient_id is empty, a value is not among those above, or a label is stated in
            two ways.
        TypeError: labels are no frozenset, or there is no image.
    """

    image: Source
    patient_id: str
    study_id: str = ""
    split: str = ""
    subset: str = ""
    view: str = ""
    labels: frozenset[str] = frozenset()
    negative: frozenset[str] = frozenset()
    uncertain: frozenset[str] = frozenset()
    findings: str = ""
    impression: str = ""
    sex: str = ""
    age: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.image is None or (isinstance(self.image, str | bytes) and not self.image):
            raise TypeError("a study needs an image: a path, bytes, an array or a PIL image")
        if not self.patient_id or not isinstance(self.patient_id, str):
            raise ValueError(
                f"{shown(self.image)} has no patient_id; splits need one "
                f"(got {self.patient_id!r}, must be a string)"
            )
        for name, allowed in (("split", SPLITS), ("sex", SEXES), ("view", VIEWS)):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} ({value!r}) must be one of {allowed}")
        self._check_labels()

    def _check_labels(self) -> None:
        for name in ("labels", "negative", "uncertain"):
            value = getattr(self, name)
            if not isinstance(value, frozenset):
                raise TypeError(f"{name} ({value!r}) must be a frozenset of names")
        twice = (
            (self.labels & self.negative)
            | (self.labels & self.uncertain)
            | (self.negative & self.uncertain)
        )
        if twice:
            raise ValueError(
                f"labels {sorted(twice)} are stated in two ways; a label is present, absent or "
                "uncertain"
            )


def shown(image: Source) -> str:
    """A name of an image for messages: its path, or what kind of object it is."""
    return str(image) if isinstance(image, str | Path) else f"an image ({type(image).__name__})"


def view_named(name: str) -> str | None:
    """AP, PA or LATERAL for the names that corpora give to views, None for any other name.

    >>> view_named("AP_horizontal"), view_named("LL"), view_named("SWIMMERS")
    ('AP', 'LATERAL', None)
    """
    return _VIEW_OF.get(name.strip().upper())


def read_table(
    root: str | Path,
    *,
    table: str = "metadata.csv",
    subsets: Sequence[str] | None = None,
    splits: Iterable[Split] = get_args(Split),
) -> list[Study]:
    """Read the studies that a CSV table beside its image files describes.

    Args:
        root: folder of the table; image paths are relative to it.
        table: name of the CSV file, with the columns image, split, subset, view, labels
            (separated by "|"), patient_id, sex and age; further columns are ignored.
        subsets: keep only these collections; all of them where None.
        splits: keep only these parts.

    Raises:
        FileNotFoundError: the table or an image that it names is missing.
        ValueError: a column is missing, a row is invalid (with its line), a subset or a split
            matches nothing, an image is named twice, or a patient is in two splits.
        TypeError: subsets is one name instead of a list.
    """
    if isinstance(subsets, str):
        raise TypeError(f"subsets ({subsets!r}) must be a list of names, such as [{subsets!r}]")
    wanted_splits = set(splits)
    unknown = sorted(wanted_splits - set(get_args(Split)))
    if unknown:
        raise ValueError(f"splits {unknown} are unknown; known splits: {list(get_args(Split))}")
    path = Path(root) / table
    if not path.is_file():
        raise FileNotFoundError(
            f"no table at {path}; set data.root to the folder that holds {table} "
            "(docs/nano-data.md says how to get it)"
        )
    studies = list(_rows(path, subsets))
    _refuse_empty_subsets(studies, subsets, path)
    _refuse_leaks(studies, path)
    chosen = [study for study in studies if study.split in wanted_splits]
    if not chosen:
        raise ValueError(f"{path} has no studies in splits {sorted(wanted_splits)}")
    return chosen


def _rows(path: Path, subsets: Sequence[str] | None) -> Iterator[Study]:
    check_text(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        # strict, or a quote that is never closed would swallow the rows behind it
        reader = csv.DictReader(file, strict=True)
        try:
            missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{path} lacks the columns {missing}; it has {reader.fieldnames}")
            for row in reader:
                if subsets is None or row["subset"] in subsets:
                    yield _located(path, reader.line_num, row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path}, after line {reader.line_num}: not a CSV table in UTF-8 ({error})"
            ) from error


def _located(path: Path, line: int, row: dict[str, str]) -> Study:
    try:
        return _study(path.parent, row)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{path}, line {line}: {error}") from error


def _study(root: Path, row: dict[str, str]) -> Study:
    odd = [name for name in _REQUIRED if row[name] is None]
    if odd or None in row:
        raise ValueError(f"the row has {'too few' if odd else 'too many'} columns")
    image = root / row["image"]
    if not image.is_file():
        raise FileNotFoundError(f"no image file at {image}")
    if row["split"] not in get_args(Split):
        raise ValueError(f"split ({row['split']!r}) must be one of {get_args(Split)}")
    return Study(
        image=image,
        split=row["split"],
        subset=row["subset"],
        view=view_named(row["view"]) or row["view"],
        labels=frozenset(row["labels"].split("|")) - {""},
        patient_id=row["patient_id"],
        sex=row["sex"],
        age=row["age"],
    )


def _refuse_leaks(studies: Sequence[Study], path: Path) -> None:
    split_of: dict[str, str] = {}
    images: set[str] = set()
    for study in studies:
        first = split_of.setdefault(study.patient_id, study.split)
        if first != study.split:
            raise ValueError(
                f"{path}: patient {study.patient_id} is in two splits, {first} and {study.split}; "
                "split by patient"
            )
        name = shown(study.image)
        if name in images:
            raise ValueError(f"{path}: {name} is named twice; keep one of its rows")
        images.add(name)


def _refuse_empty_subsets(
    studies: Sequence[Study], subsets: Sequence[str] | None, path: Path
) -> None:
    found = {study.subset for study in studies}
    absent = sorted(set(subsets or ()) - found)
    if absent:
        raise ValueError(f"{path} has no rows of subset {absent}")
    if not studies:
        raise ValueError(f"{path} has no rows" if subsets is None else "subsets is an empty list")
