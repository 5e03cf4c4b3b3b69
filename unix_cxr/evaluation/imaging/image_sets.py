"""Sets of X-rays on disk: read one at a time, with patient, labels and text where known.

Axes: h rows, w columns.
"""

import csv
import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.data.findings_text import describe
from unix_cxr.data.pixels import Source, load_xray
from unix_cxr.data.sources import kinds, open_source
from unix_cxr.data.studies import Study, read_table
from unix_cxr.evaluation.tables import csv_rows, json_rows
from unix_cxr.files import sha256

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm")
MANIFESTS: Final = ("manifest.jsonl", "manifest.csv")
TABLE: Final = "metadata.csv"
_SHOWN: Final = 3


@dataclass(frozen=True)
class ImageFile:
    """One X-ray that is read when it is needed.

    Args:
        id: unique in its set.
        image: a file, or what else `load_xray` reads.
        group: what the bootstrap draws whole: the patient of a real X-ray.
        labels: what it shows, or was asked to show.
        text: its report, or the prompt that it was drawn from; "" where unknown.
        subset: the collection it comes from; "" where unknown.
    """

    id: str
    image: Source
    group: str
    labels: frozenset[str] = frozenset()
    text: str = ""
    subset: str = ""

    def load(self) -> Float[Tensor, "1 h w"]:
        """Its pixels in [0, 1].

        Raises:
            FileNotFoundError: the file is gone.
            ValueError: it cannot be read.
        """
        return torch.tensor(load_xray(self.image).pixels)[None]

    def content_hash(self) -> str:
        """SHA-256 of the file, or of the pixels where there is no file."""
        if isinstance(self.image, str | Path):
            return sha256(self.image)
        pixels = load_xray(self.image).pixels
        return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()


@dataclass(frozen=True)
class ImageSet:
    """X-rays that are measured together.

    Args:
        name: of the set, for messages and signatures.
        images: in a fixed order.
        unit: what a group is: "patient" or "image".

    Raises:
        ValueError: no images, or an id that is there twice.
    """

    name: str
    images: tuple[ImageFile, ...]
    unit: str = "patient"

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError(f"{self.name} holds no images")
        seen: set[str] = set()
        for image in self.images:
            if image.id in seen:
                raise ValueError(f"{self.name}: id {image.id!r} is there twice")
            seen.add(image.id)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[ImageFile]:
        return iter(self.images)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the images, in order."""
        return tuple(image.id for image in self.images)

    @property
    def groups(self) -> tuple[str, ...]:
        """Of the images, in order."""
        return tuple(image.group for image in self.images)

    @property
    def mixed(self) -> str | None:
        """A warning where the images come from several collections."""
        subsets = sorted({image.subset for image in self.images})
        if len(subsets) <= 1:
            return None
        return (
            f"{self.name} mixes the collections {', '.join(subsets)}: which one an X-ray comes "
            "from may tell its labels, so probes and use look better than they are; choose one "
            "with --subset"
        )

    def rows_with(self, label: str) -> list[int]:
        """Rows of the images with a label."""
        return [row for row, image in enumerate(self.images) if label in image.labels]

    def take(self, rows: Sequence[int]) -> "ImageSet":
        """The images at these rows."""
        return ImageSet(self.name, tuple(self.images[row] for row in rows), self.unit)

    def first(self, limit: int | None, seed: int = 0) -> "ImageSet":
        """At most `limit` images, drawn at random, in the old order."""
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise ValueError(f"limit ({limit}) must be at least 1")
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(self), generator=generator)[:limit]
        return self.take(sorted(rows.tolist()))


def open_images(
    source: str | Path, *, split: str | None = None, subsets: Sequence[str] | None = None
) -> ImageSet:
    """X-rays of a folder, of a folder with a table, or of a source that `unix_cxr.data` knows.

    The text of an X-ray is its report, its prompt, or findings text made of its labels where those
    have wordings.

    Args:
        source: a folder with `metadata.csv` (real X-rays with split, labels and patients), with
            `manifest.jsonl` (drawn ones: file, prompt, labels) or `manifest.csv` (img_savename,
            prompt); any source of `unix_cxr.data.sources`; or a folder with nothing but images.
        split: keep this part.
        subsets: keep these collections.

    Raises:
        FileNotFoundError: there is nothing at `source`, or an image is missing.
        ValueError: no images, a bad row, or a part that is empty; the message names it.
    """
    folder = Path(source)
    if _has_table(folder):
        splits: dict[str, Any] = {} if split is None else {"splits": (split,)}
        studies: Iterable[Study] = read_table(folder, subsets=subsets, **splits)
        return _from_studies(str(folder), studies, split, subsets)
    manifest = next((folder / name for name in MANIFESTS if (folder / name).is_file()), None)
    if manifest is not None and not _says_splits(manifest):
        if split is not None or subsets is not None:
            raise ValueError(
                f"{manifest} has no splits and no collections, so split {split!r} and subsets "
                f"{subsets} cannot be chosen; leave them out"
            )
        return _from_manifest(manifest)
    if _is_source(str(source)):
        return _from_studies(str(source), open_source(source), split, subsets)
    if folder.is_file():
        raise NotADirectoryError(f"{source} is a file; give the folder that holds the X-rays")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder at {source}, and no source has that name")
    if split is not None or subsets is not None:
        raise ValueError(f"{source} has no {TABLE}, so no split or subset can be chosen of it")
    return _from_files(folder)


def _has_table(folder: Path) -> bool:
    path = folder / TABLE
    if not path.is_file():
        return False
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = next(csv.reader(file), [])
    return {"image", "split", "subset", "labels"} <= set(header)


def _says_splits(manifest: Path) -> bool:
    """Whether it is one of real studies, for `unix_cxr.data.sources`: every row has a split."""
    first = next(_manifest_rows(manifest), None)
    return first is not None and "split" in first[1] and "file" not in first[1]


def _is_source(source: str) -> bool:
    known = kinds()
    if source.partition(":")[0] in known:
        return True
    path = Path(source)
    return path.exists() and any(kind.recognises(path) for kind in known.values())


def _from_studies(
    name: str, studies: Iterable[Study], split: str | None, subsets: Sequence[str] | None
) -> ImageSet:
    images: list[ImageFile] = []
    seen: dict[str, int] = {}
    for study in studies:
        wanted = subsets is None or study.subset in subsets
        if (split is not None and study.split != split) or not wanted:
            continue
        identity = study.study_id or _relative(study.image, name)
        seen[identity] = seen.get(identity, 0) + 1
        if seen[identity] > 1:
            identity = f"{identity}#{seen[identity]}"  # another film of the same examination
        text = study.findings or study.impression or _described(study, identity)
        images.append(
            ImageFile(identity, study.image, study.patient_id, study.labels, text, study.subset)
        )
    if not images:
        raise ValueError(f"{name} has no X-rays in split {split!r} and subsets {subsets}")
    short = Path(name).name
    return ImageSet(short if split is None else f"{short}-{split}", tuple(images))


def _relative(image: Source, root: str) -> str:
    path = Path(str(image))
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(image)


def _described(study: Study, identity: str) -> str:
    """In a wording that does not depend on where the folder lies."""
    try:
        return describe(study, random.Random(identity))
    except ValueError:  # labels or a view that have no wording
        return ""


def _from_manifest(path: Path) -> ImageSet:
    images = []
    for number, row in _manifest_rows(path):
        file = row.get("file") or row.get("img_savename")
        if not file:
            raise ValueError(f"{path}, row {number}: neither file nor img_savename is there")
        image = path.parent / str(file)
        if not image.is_file():
            raise FileNotFoundError(f"{path}, row {number}: no image file at {image}")
        labels = row.get("labels") or ([row["label"]] if row.get("label") else [])
        if isinstance(labels, str):
            labels = labels.split("|")
        if not isinstance(labels, list) or not all(isinstance(one, str) for one in labels):
            raise ValueError(
                f"{path}, row {number}: labels ({labels!r}) must be a list of names, or names "
                "joined by '|'"
            )
        text = str(row.get("prompt") or row.get("text") or "")
        patient = row.get("patient_id")
        group = str(file if patient in {None, ""} else patient)
        images.append(ImageFile(str(file), image, group, frozenset(labels), text))
    return ImageSet(path.parent.name, tuple(images), "image")


def _manifest_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    read = csv_rows if path.suffix == ".csv" else json_rows
    yield from read(path)


def _from_files(folder: Path) -> ImageSet:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    names = [str(path.relative_to(folder)) for path in paths]
    files = zip(names, paths, strict=True)
    return ImageSet(
        folder.name, tuple(ImageFile(name, path, name) for name, path in files), "image"
    )


def split_patients(images: ImageSet, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Two random halves that share no patient.

    Raises:
        ValueError: all images are of one patient.
    """
    groups = sorted(set(images.groups))
    if len(groups) == 1:
        raise ValueError(f"{images.name} holds one patient ({groups[0]}); two halves need two")
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = {groups[place] for place in order[: len(groups) // 2]}
    mine = [row for row, group in enumerate(images.groups) if group in chosen]
    rest = [row for row, group in enumerate(images.groups) if group not in chosen]
    return images.take(mine), images.take(rest)


def refuse_overlap(first: ImageSet, second: ImageSet) -> None:
    """Two sets that must be apart share no file and no patient.

    Raises:
        ValueError: they share some; the message names the first.
    """
    shared = sorted(set(first.groups) & set(second.groups))
    if shared and first.unit == second.unit == "patient":
        raise ValueError(
            f"{len(shared)} patients are in {first.name} and in {second.name} (first: "
            f"{shared[:_SHOWN]}); split by patient"
        )
    files = {str(one.image) for one in first if isinstance(one.image, str | Path)}
    same = [one.id for one in second if str(one.image) in files]
    if same:
        raise ValueError(
            f"{len(same)} X-rays are in {first.name} and in {second.name} (first: "
            f"{same[:_SHOWN]}); give X-rays of others"
        )
