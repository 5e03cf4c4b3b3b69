"""Writing shards: each whole or absent, and a journal from which a stopped run goes on.

A shard holds texts, images and caches uncompressed and plain, one after the other in each row
group, so that their places in the file are known as soon as they are written.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unix_cxr.data.prepared import FORMAT_VERSION, PLACED, Shard, parquet, places_of
from unix_cxr.files import append_line, replacing, sha256

JOURNAL: Final = "preparing.jsonl"
PROBLEMS: Final = "problems.jsonl"
_LISTS: Final = ("labels", "negative", "uncertain")
_PAGE_BYTES: Final = 1 << 30
"""More than a row group has: each column of it is one page."""


@dataclass(frozen=True)
class FinishedShard:
    """A line of the journal: a shard and what was left out on the way to it.

    Args:
        shard: which is whole on the disk.
        left_out: number of studies by reason.
        problems: of each of them.
        studies: digest of the studies that the shard was made of, left out or not.
    """

    shard: Shard
    left_out: dict[str, int]
    problems: list[dict[str, str]] = field(default_factory=list)
    studies: str = ""

    def to_json(self) -> str:
        """The line, without its newline."""
        return json.dumps(asdict(self), ensure_ascii=False)


class Journal:
    """What a run has finished; another run with the same settings goes on from there.

    Args:
        folder: the prepared folder.
        identity: of source and settings; a journal of another one that finished a shard is
            refused.

    Raises:
        ValueError: the folder holds a journal of other settings or another source.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.path = folder / JOURNAL
        self.finished: list[FinishedShard] = []
        head = json.dumps(
            {"format": FORMAT_VERSION, **identity}, sort_keys=True, ensure_ascii=False
        )
        if not self.path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            append_line(self.path, head)
            return
        lines = self.path.read_text(encoding="utf-8").split("\n")
        # what follows the last newline was cut off when the run was killed
        whole = lines[1:-1]
        if lines[0] != head and whole:
            raise ValueError(
                f"{self.path} belongs to another source, other settings or another version; give "
                f"the same ones, another --out, or remove {folder}"
            )
        self.finished = [_finished(folder, line) for line in whole]
        self.path.write_text("\n".join([head, *whole, ""]), encoding="utf-8")

    def add(self, finished: FinishedShard) -> None:
        """Record a shard that is whole on the disk."""
        append_line(self.path, finished.to_json())
        self.finished.append(finished)

    def left_out(self) -> dict[str, int]:
        """Number of studies that were left out, by reason."""
        total: Counter[str] = Counter()
        for finished in self.finished:
            total.update(finished.left_out)
        return dict(sorted(total.items()))

    def write_problems(self) -> None:
        """Write the list of what was left out."""
        problems = [problem for finished in self.finished for problem in finished.problems]
        with replacing(self.path.parent / PROBLEMS) as path:
            lines = [json.dumps(problem, ensure_ascii=False) + "\n" for problem in problems]
            path.write_text("".join(lines), encoding="utf-8")


class ShardWriter:
    """Row groups of one shard; `write` may be called with any number of rows.

    Args:
        path: the file to make.
        schema: of pyarrow.
    """

    def __init__(self, path: Path, schema: Any) -> None:  # noqa: ANN401 - pyarrow is untyped
        compression = {name: "NONE" if name in PLACED else "ZSTD" for name in _paths(schema)}
        self._writer = parquet().ParquetWriter(
            path,
            schema,
            compression=compression,
            use_dictionary=False,
            write_statistics=False,
            data_page_size=_PAGE_BYTES,
        )
        self._path = path
        self._schema = schema
        self._sizes: dict[str, list[NDArray[np.int64]]] = {
            name: [] for name in PLACED if name in schema.names
        }
        self.splits: list[str] = []

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one row group."""
        import pyarrow as pa

        columns = {name: [row[name] for row in rows] for name in self._schema.names}
        self._writer.write_table(pa.table(columns, schema=self._schema), row_group_size=len(rows))
        self.splits += [row["split"] for row in rows]
        for name, sizes in self._sizes.items():
            values = (v.encode() if isinstance(v, str) else v for v in columns[name])
            sizes.append(np.array([len(value) for value in values], dtype=np.int64))

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()

    def save_places(self, path: Path) -> None:
        """Write where the values of the rows lie in the closed shard."""
        places = np.empty(len(self.splits), dtype=[(name, "<i8", 2) for name in self._sizes])
        for name, sizes in self._sizes.items():
            if sizes:
                places[name] = _places(self._path, name, sizes)
        with path.open("wb") as file:
            np.save(file, places, allow_pickle=False)


def _places(path: Path, column: str, sizes: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """First byte and length of each value of a column, from the lengths in each row group.

    A column of a row group is one page at the end of its chunk, in parquet's plain encoding: the
    length of a value in 4 bytes, then the value.
    """
    about = parquet().read_metadata(path)
    number = [about.schema.column(i).path for i in range(about.num_columns)].index(column)
    starts = []
    for group, lengths in enumerate(sizes):
        chunk = about.row_group(group).column(number)
        page = chunk.data_page_offset + chunk.total_compressed_size - (lengths + 4).sum()
        starts.append(page + (lengths + 4).cumsum() - lengths)
    places = np.stack([np.concatenate(starts), np.concatenate(sizes)], axis=1)
    written = np.memmap(path, dtype=np.uint8, mode="r")
    prefixes = written[places[:, :1] + np.arange(-4, 0)].view("<u4")
    if not np.array_equal(prefixes[:, 0], places[:, 1]):
        raise ValueError(
            f"this version of pyarrow wrote the column {column} in another way than plainly; "
            "prepare with the one that this package was tested with"
        )
    return places


@contextmanager
def writing_shard(folder: Path, name: str, extra: Sequence[str]) -> Iterator[ShardWriter]:
    """A writer of the shard `name`, which appears in the folder when the block ends well.

    The file of its places appears just before it.
    """
    with replacing(folder / name) as path:
        writer = ShardWriter(path, _schema(extra))
        try:
            yield writer
        finally:
            writer.close()
        with replacing(folder / places_of(name)) as places:
            writer.save_places(places)


def describe_shard(folder: Path, name: str, splits: Sequence[str]) -> Shard:
    """The manifest's entry of a shard that was written."""
    path = folder / name
    runs = tuple((split, len(list(same))) for split, same in groupby(splits))
    places = sha256(folder / places_of(name))
    return Shard(name, len(splits), path.stat().st_size, sha256(path), places, runs)


def _schema(extra: Sequence[str]) -> Any:  # noqa: ANN401 - pyarrow is untyped
    parquet()
    import pyarrow as pa

    texts = ("study_id", "patient_id", "split", "subset", "view", "sex", "age", "text")
    fields = [pa.field(name, pa.string(), nullable=False) for name in texts]
    fields += [pa.field(name, pa.list_(pa.string()), nullable=False) for name in _LISTS]
    fields += [pa.field(name, pa.binary(), nullable=False) for name in ("image", *extra)]
    return pa.schema(fields)


def _paths(schema: Any) -> list[str]:  # noqa: ANN401 - pyarrow is untyped
    return [f"{name}.list.element" if name in _LISTS else name for name in schema.names]


def _finished(folder: Path, line: str) -> FinishedShard:
    content = json.loads(line)
    values = content.pop("shard")
    shard = Shard(**{**values, "splits": tuple((name, count) for name, count in values["splits"])})
    path, places = folder / shard.file, folder / shard.places
    whole = path.is_file() and path.stat().st_size == shard.size_bytes and places.is_file()
    if not whole or sha256(places) != shard.places_sha256:
        raise ValueError(
            f"{path} is missing or was changed since it was written; remove {folder} and prepare "
            "it again"
        )
    return FinishedShard(shard=shard, **content)
