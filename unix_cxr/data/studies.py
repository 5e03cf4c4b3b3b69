"""Studies: an image with what is known about it, and a reader for a folder with a CSV table."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

Split = Literal["train", "dev", "val"]
Sex = Literal["M", "F", ""]

_REQUIRED: Final = ("image", "split", "subset", "view", "labels", "patient_id", "sex", "age")


@dataclass(frozen=True)
class Study:
    """One frontal X-ray and the facts about it; validated when made.

    Args:
        image: path of the image file.
        split: which part of the data it belongs to; parts share no patient.
        subset: the collection it comes from.
        view: "AP" or "PA".
        labels: the collection's own labels.
        patient_id: pseudonym, the unit of every bootstrap.
        sex: "M", "F" or "" where unknown.
        age: as the collection states it, "" where unknown.
    """

    image: Path
    split: Split
    subset: str
    view: str
    labels: frozenset[str]
    patient_id: str
    sex: Sex = ""
    age: str = ""

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise ValueError(f"split ({self.split!r}) must be one of {get_args(Split)}")
        if self.sex not in get_args(Sex):
            raise ValueError(f"sex ({self.sex!r}) must be one of {get_args(Sex)}")
        if not self.patient_id:
            raise ValueError(f"{self.image} has no patient_id; splits need one")


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
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
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
    return Study(
        image=image,
        split=row["split"],  # type: ignore[arg-type]  # checked by Study itself
        subset=row["subset"],
        view=row["view"],
        labels=frozenset(row["labels"].split("|")) - {""},
        patient_id=row["patient_id"],
        sex=row["sex"],  # type: ignore[arg-type]  # checked by Study itself
        age=row["age"],
    )


def _refuse_leaks(studies: Sequence[Study], path: Path) -> None:
    split_of: dict[str, str] = {}
    images: set[Path] = set()
    for study in studies:
        first = split_of.setdefault(study.patient_id, study.split)
        if first != study.split:
            raise ValueError(
                f"{path}: patient {study.patient_id} is in two splits, {first} and {study.split}; "
                "split by patient"
            )
        if study.image in images:
            raise ValueError(f"{path}: {study.image} is named twice; keep one of its rows")
        images.add(study.image)


def _refuse_empty_subsets(
    studies: Sequence[Study], subsets: Sequence[str] | None, path: Path
) -> None:
    found = {study.subset for study in studies}
    absent = sorted(set(subsets or ()) - found)
    if absent:
        raise ValueError(f"{path} has no rows of subset {absent}")
    if not studies:
        raise ValueError(f"{path} has no rows" if subsets is None else "subsets is an empty list")
