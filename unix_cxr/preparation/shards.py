"""Writing shards: each whole or absent, and a journal from which a stopped run goes on."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from unix_cxr.data.prepared import Shard, parquet
from unix_cxr.files import append_line, replacing, sha256

JOURNAL: Final = "preparing.jsonl"
PROBLEMS: Final = "problems.jsonl"
_LISTS: Final = ("labels", "negative", "uncertain")
_BINARY: Final = ("image", "moments", "features")


@dataclass(frozen=True)
class FinishedShard:
    """A line of the journal: a shard and what was left out on the way to it."""

    shard: Shard
    left_out: dict[str, int]
    problems: list[dict[str, str]] = field(default_factory=list)

    def to_json(self) -> str:
        """The line, without its newline."""
        return json.dumps(asdict(self), ensure_ascii=False)


class Journal:
    """What a run has finished; another run with the same settings goes on from there.

    Args:
        folder: the prepared folder.
        identity: of source and settings; a journal of another one is refused.

    Raises:
        ValueError: the folder holds a journal of other settings or another source.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.path = folder / JOURNAL
        self.finished: list[FinishedShard] = []
        head = json.dumps(identity, sort_keys=True, ensure_ascii=False)
        if not self.path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            append_line(self.path, head)
            return
        lines = self.path.read_text(encoding="utf-8").split("\n")
        if lines[0] != head:
            raise ValueError(
                f"{self.path} belongs to another source or other settings; give the same ones, "
                f"another --out, or remove {folder}"
            )
        # what follows the last newline was cut off when the run was killed
        whole = lines[1:-1]
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
    """Row groups of one shard; `write` may be called with any number of rows."""

    def __init__(self, path: Path, schema: Any) -> None:  # noqa: ANN401 - pyarrow is untyped
        compression = {name: "NONE" if name in _BINARY else "ZSTD" for name in _paths(schema)}
        self._writer = parquet().ParquetWriter(
            path, schema, compression=compression, use_dictionary=False, write_statistics=False
        )
        self._schema = schema
        self.splits: list[str] = []

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one row group."""
        import pyarrow as pa

        columns = {name: [row[name] for row in rows] for name in self._schema.names}
        self._writer.write_table(pa.table(columns, schema=self._schema), row_group_size=len(rows))
        self.splits += [row["split"] for row in rows]

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


@contextmanager
def writing_shard(folder: Path, name: str, extra: Sequence[str]) -> Iterator[ShardWriter]:
    """A writer of the shard `name`, which appears in the folder when the block ends well."""
    with replacing(folder / name) as path:
        writer = ShardWriter(path, _schema(extra))
        try:
            yield writer
        finally:
            writer.close()


def describe_shard(folder: Path, name: str, splits: Sequence[str]) -> Shard:
    """The manifest's entry of a shard that was written."""
    path = folder / name
    runs = tuple((split, len(list(same))) for split, same in groupby(splits))
    return Shard(name, len(splits), path.stat().st_size, sha256(path), runs)


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
    path = folder / shard.file
    if not path.is_file() or path.stat().st_size != shard.size_bytes:
        raise ValueError(
            f"{path} is missing or was changed since it was written; remove {folder} and prepare "
            "it again"
        )
    return FinishedShard(shard=shard, **content)
