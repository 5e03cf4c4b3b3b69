"""Prepared studies: sharded parquet with a manifest, read back at random in any order.

Axes: b rows of a batch, h and w pixels, c latent channels, H and W latents, f features.
"""

import io
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image

from unix_cxr.data.studies import Study
from unix_cxr.files import sha256, write_text

MANIFEST: Final = "manifest.json"
FORMAT_VERSION: Final = 1
_FACTS: Final = ("study_id", "patient_id", "split", "subset", "view", "sex", "age")
_LABELS: Final = ("labels", "negative", "uncertain")
_STUDY_COLUMNS: Final = (*_FACTS, *_LABELS, "text")
_OPEN_FILES: Final = 256
_KEPT_GROUPS: Final = 8


@dataclass(frozen=True)
class Shard:
    """One parquet file of a prepared folder.

    Args:
        file: its name in the folder.
        rows: number of studies in it.
        size_bytes: its length.
        sha256: its checksum.
        splits: one split per row, run-length coded: name and number of rows that follow.
    """

    file: str
    rows: int
    size_bytes: int
    sha256: str
    splits: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds and how it was made.

    Args:
        source: the source's name.
        settings: everything that decided the content, as JSON values.
        image_size: side of the square images in pixels.
        row_group_rows: rows that are read at once.
        shards: the files, in order.
        left_out: number of studies that are not in the shards, by reason.
        moments_shape: [2 c, H, W] of a study's cached latent moments, or None.
        features_shape: [n, f] of a study's cached vision features, or None.
    """

    source: str
    settings: dict[str, Any]
    image_size: int
    row_group_rows: int
    shards: tuple[Shard, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    moments_shape: tuple[int, ...] | None = None
    features_shape: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        """Number of studies in all shards."""
        return sum(shard.rows for shard in self.shards)

    def save(self, folder: Path) -> None:
        """Write the manifest, whole or not at all."""
        content = {"format": FORMAT_VERSION, **asdict(self)}
        write_text(folder / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read the manifest of a folder.

        Raises:
            FileNotFoundError: the folder has none.
            ValueError: it is damaged or of another version.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {MANIFEST}; make it with `unix-cxr data prepare SOURCE --out "
                f"{folder}` (a run that was stopped goes on when it is given again)"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _check_version(content.pop("format"))
            shards = tuple(
                Shard(**{**shard, "splits": tuple((name, n) for name, n in shard["splits"])})
                for shard in content.pop("shards")
            )
            shapes = {
                name: None if content[name] is None else tuple(content.pop(name))
                for name in ("moments_shape", "features_shape")
            }
            return cls(**{**content, **shapes}, shards=shards)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); prepare the folder again") from error


def _check_version(version: object) -> None:
    if version != FORMAT_VERSION:
        raise ValueError(f"format {version}, this version reads {FORMAT_VERSION}")


class RowPlace(NamedTuple):
    """Where a study lies: number of its shard, of its row group, and its row in that group."""

    shard: int
    group: int
    row: int


class PreparedStudies:
    """The studies of one split, or of all, by number; memory does not grow with their number.

    A row is read with its row group; the groups that were read last are kept. Instances can be
    sent to worker processes: each opens its own files.

    Args:
        folder: made by `unix-cxr data prepare`.
        split: keep only this split; all where None.
        verify: compare every shard with its checksum first (reads everything once).

    Raises:
        FileNotFoundError: the folder, its manifest or a shard is missing.
        ValueError: a shard differs from the manifest, or the split has no studies.
    """

    def __init__(
        self, folder: str | Path, split: str | None = None, *, verify: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        self.split = split
        self._check_files(verify=verify)
        self._first_rows = list(accumulate((s.rows for s in self.manifest.shards), initial=0))
        self._rows = self._rows_of_split()
        if not len(self._rows):
            found = sorted({name for shard in self.manifest.shards for name, _ in shard.splits})
            raise ValueError(f"{self.folder} has no studies in split {split!r}; it has {found}")
        self._forget()

    def __len__(self) -> int:
        return len(self._rows)

    def studies(self, indices: Sequence[int]) -> list[Study]:
        """Studies by number, with their image as PNG bytes and the cleaned text as findings."""
        return [_study(row) for row in self.rows(indices, ("image", *_STUDY_COLUMNS))]

    def texts(self, indices: Sequence[int]) -> list[str]:
        """Cleaned texts by number; "" where a study has none."""
        return [row["text"] for row in self.rows(indices, ("text",))]

    def images(self, indices: Sequence[int]) -> UInt8[NDArray[np.uint8], "b h w"]:
        """Images by number, square, one byte per pixel; 16 bits are rounded to 8."""
        return np.stack([_pixels(row["image"]) for row in self.rows(indices, ("image",))])

    def moments(self, indices: Sequence[int]) -> Float[NDArray[np.float32], "b 2c H W"]:
        """Means and log-variances of the latents' posterior by number, not yet normalised.

        Raises:
            ValueError: the folder was prepared without them.
        """
        return self._arrays(indices, "moments", self.manifest.moments_shape, np.float32)

    def features(self, indices: Sequence[int]) -> Float[NDArray[np.float32], "b n f"]:
        """Cached vision features by number.

        Raises:
            ValueError: the folder was prepared without them.
        """
        halves = self._arrays(indices, "features", self.manifest.features_shape, np.float16)
        return halves.astype(np.float32)

    def __iter__(self) -> Iterator[Study]:
        for index in range(len(self)):
            yield from self.studies([index])

    def rows(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Values of some columns by number; what a batch shares a row group of is read once.

        Raises:
            IndexError: there is no such number.
        """
        places = [self._place(int(index)) for index in indices]
        groups = {
            key: self._group(*key, tuple(columns)) for key in {(p.shard, p.group) for p in places}
        }
        return [
            {name: groups[p.shard, p.group][name][p.row].as_py() for name in columns}
            for p in places
        ]

    # -- where rows lie ------------------------------------------------------------------------

    def _rows_of_split(self) -> NDArray[np.int64]:
        """Numbers, over all shards, of the rows that belong to the split."""
        kept, first = [], 0
        for shard in self.manifest.shards:
            for name, count in shard.splits:
                if self.split is None or name == self.split:
                    kept.append(np.arange(first, first + count))
                first += count
        return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)

    def _place(self, index: int) -> RowPlace:
        if not 0 <= index < len(self):
            raise IndexError(f"study {index} of {len(self)}")
        row = int(self._rows[index])
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        group, inside = divmod(row - self._first_rows[shard], self.manifest.row_group_rows)
        return RowPlace(shard, group, inside)

    def _check_files(self, *, verify: bool) -> None:
        for shard in self.manifest.shards:
            path = self.folder / shard.file
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing; prepare the folder again")
            size = path.stat().st_size
            if size != shard.size_bytes:
                raise ValueError(
                    f"{path} has {size:,} bytes, its manifest says {shard.size_bytes:,}; remove it "
                    "and prepare the folder again"
                )
            if verify and sha256(path) != shard.sha256:
                raise ValueError(
                    f"{path} differs from its checksum; remove it and prepare the folder again"
                )

    # -- reading -------------------------------------------------------------------------------

    def _group(self, shard: int, group: int, columns: tuple[str, ...]) -> Any:  # noqa: ANN401 - a pyarrow table
        key = (shard, group, columns)
        if key not in self._groups:
            self._groups[key] = self._file(shard).read_row_group(
                group, columns=list(columns), use_threads=False
            )
            if len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def _file(self, shard: int) -> Any:  # noqa: ANN401 - pyarrow is untyped
        if shard not in self._files:
            self._files[shard] = parquet().ParquetFile(
                self.folder / self.manifest.shards[shard].file
            )
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(shard)
        return self._files[shard]

    def _arrays(
        self, indices: Sequence[int], name: str, shape: tuple[int, ...] | None, kind: type
    ) -> NDArray[Any]:
        if shape is None:
            option = {"moments": "--latents", "features": "--features"}[name]
            raise ValueError(
                f"{self.folder} has no {name}; prepare it with {option} and a model's folder"
            )
        rows = self.rows(indices, (name,))
        return np.stack([np.frombuffer(row[name], dtype=kind).reshape(shape) for row in rows])

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in {"_files", "_groups"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._files: OrderedDict[int, Any] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int, tuple[str, ...]], Any] = OrderedDict()


def parquet() -> Any:  # noqa: ANN401 - a module that has no types
    """The parquet module of pyarrow.

    Raises:
        ImportError: pyarrow is not installed; the message names the extra.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "prepared studies need pyarrow; install it with `pip install 'unix-cxr[data]'`"
        ) from error
    return pyarrow.parquet


def _study(row: dict[str, Any]) -> Study:
    facts: dict[str, Any] = {name: row[name] for name in _FACTS}
    facts |= {name: frozenset(row[name]) for name in _LABELS}
    return Study(image=row["image"], findings=row["text"], source="prepared", **facts)


def _pixels(png: bytes) -> UInt8[NDArray[np.uint8], "h w"]:
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image)
    if pixels.dtype == np.uint8:
        return pixels
    return np.round(pixels / 257).astype(np.uint8)
