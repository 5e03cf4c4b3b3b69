"""Prepared studies: sharded parquet with a manifest, read back at random in any order.

Beside each shard lies where the texts, images and caches of its rows are in it, so that these are
read without parquet: a row costs its own bytes, and no file stays open.

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

from unix_cxr.data.studies import Labels, Study
from unix_cxr.files import sha256, write_text

MANIFEST: Final = "manifest.json"
FORMAT_VERSION: Final = 2
PLACED: Final = ("text", "image", "moments", "features")
"""Columns that are stored as they are and read by their places."""

_FACTS: Final = ("study_id", "patient_id", "split", "subset", "view", "sex", "age")
_LABELS: Final = ("labels", "negative", "uncertain")
_OPEN_FILES: Final = 8
_KEPT_GROUPS: Final = 8
_OPENED: Final = frozenset({"_files", "_groups", "_known_places"})
"""What each process opens for itself."""


@dataclass(frozen=True)
class Shard:
    """One parquet file of a prepared folder.

    Args:
        file: its name in the folder.
        rows: number of studies in it.
        size_bytes: its length.
        sha256: its checksum.
        places_sha256: checksum of the file of its rows' places.
        splits: one split per row, run-length coded: name and number of rows that follow.
    """

    file: str
    rows: int
    size_bytes: int
    sha256: str
    places_sha256: str
    splits: tuple[tuple[str, int], ...]

    @property
    def places(self) -> str:
        """Name of the file that says where the values of its rows lie."""
        return places_of(self.file)


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds and how it was made.

    Args:
        source: the source's name.
        settings: everything that decided the content, as JSON values.
        image_size: side of the square images in pixels.
        row_group_rows: rows of a row group; their facts are read at once.
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
            version = content.pop("format")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}); prepare the folder again") from error
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format {version}, and this version of unix_cxr reads "
                f"{FORMAT_VERSION}; remove {folder} and prepare it again"
            )
        try:
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


def places_of(shard: str) -> str:
    """Name of the file beside a shard that says where the values of its rows lie."""
    return f"{Path(shard).stem}.places.npy"


class RowPlace(NamedTuple):
    """Where a study lies: number of its shard, and its row in it."""

    shard: int
    row: int


class PreparedStudies:
    """The studies of one split, or of all, by number; memory does not grow with their number.

    Texts, images and caches are read alone, by their places; the other columns with their row
    group, of which the last ones are kept. Instances can be sent to worker processes: each opens
    its own files.

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
        texts, images = self.texts(indices), self._values(indices, "image")
        return [
            _study(facts, text, image)
            for facts, text, image in zip(self._facts(indices), texts, images, strict=True)
        ]

    def labels(self, indices: Sequence[int]) -> list[Labels]:
        """What is stated of the studies, by number; no image is read."""
        return [
            Labels(row["subset"], **{name: frozenset(row[name]) for name in _LABELS})
            for row in self._facts(indices)
        ]

    def texts(self, indices: Sequence[int]) -> list[str]:
        """Cleaned texts by number; "" where a study has none."""
        return [value.decode("utf-8") for value in self._values(indices, "text")]

    def images(self, indices: Sequence[int]) -> UInt8[NDArray[np.uint8], "b h w"]:
        """Images by number, square, one byte per pixel; 16 bits are rounded to 8."""
        side = self.manifest.image_size
        images = np.empty((len(indices), side, side), dtype=np.uint8)
        for image, value in zip(images, self._values(indices, "image"), strict=True):
            image[...] = _pixels(value)
        return images

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
        return RowPlace(shard, row - self._first_rows[shard])

    def _check_files(self, *, verify: bool) -> None:
        for shard in self.manifest.shards:
            path, places = self.folder / shard.file, self.folder / shard.places
            for file in (path, places):
                if not file.is_file():
                    raise FileNotFoundError(f"{file} is missing; prepare the folder again")
            size = path.stat().st_size
            if size != shard.size_bytes:
                raise ValueError(
                    f"{path} has {size:,} bytes, its manifest says {shard.size_bytes:,}; remove it "
                    "and prepare the folder again"
                )
            sums = {path: shard.sha256, places: shard.places_sha256} if verify else {}
            for file, expected in sums.items():
                if sha256(file) != expected:
                    raise ValueError(
                        f"{file} differs from its checksum; remove it and prepare the folder again"
                    )

    # -- reading -------------------------------------------------------------------------------

    def _values(self, indices: Sequence[int], column: str) -> Iterator[bytes]:
        """What rows hold in one of the columns that are stored as they are."""
        for shard, row in map(self._place, indices):
            start, size = self._places(shard)[column][row].tolist()
            path = self.folder / self.manifest.shards[shard].file
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                value = file.read(size)
            yield value

    def _places(self, shard: int) -> NDArray[np.void]:
        """First byte and length of every value of a shard; the system keeps what is used of it."""
        if shard not in self._known_places:
            about = self.manifest.shards[shard]
            path = self.folder / about.places
            try:
                places: NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (ValueError, OSError) as error:
                raise ValueError(
                    f"{path} is damaged ({error}); remove {self.folder} and prepare it again"
                ) from error
            if places.shape != (about.rows,):
                raise ValueError(
                    f"{path} knows {len(places)} rows, its shard has {about.rows}; remove "
                    f"{self.folder} and prepare it again"
                )
            self._known_places[shard] = places
        return self._known_places[shard]

    def _facts(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The columns that parquet compresses; what a batch shares a row group of is read once."""
        found = []
        for shard, row in map(self._place, indices):
            group, inside = divmod(row, self.manifest.row_group_rows)
            found.append(self._group(shard, group)[inside])
        return found

    def _group(self, shard: int, group: int) -> list[dict[str, Any]]:
        key = (shard, group)
        if key not in self._groups:
            table = self._file(shard).read_row_group(
                group, columns=[*_FACTS, *_LABELS], use_threads=False
            )
            self._groups[key] = table.to_pylist()
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
        values = self._values(indices, name)
        return np.stack([np.frombuffer(value, dtype=kind).reshape(shape) for value in values])

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in _OPENED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._files: OrderedDict[int, Any] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], list[dict[str, Any]]] = OrderedDict()
        self._known_places: dict[int, NDArray[np.void]] = {}


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


def _study(row: dict[str, Any], text: str, image: bytes) -> Study:
    facts: dict[str, Any] = {name: row[name] for name in _FACTS}
    facts |= {name: frozenset(row[name]) for name in _LABELS}
    return Study(image=image, findings=text, source="prepared", **facts)


def _pixels(png: bytes) -> UInt8[NDArray[np.uint8], "h w"]:
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image)
    if pixels.dtype == np.uint8:
        return pixels
    return np.round(pixels / 257).astype(np.uint8)
