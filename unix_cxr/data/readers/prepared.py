"""A prepared folder as a kind of source."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unix_cxr.data.prepared import MANIFEST, PreparedStudies
from unix_cxr.data.readers.base import OnBadRow, RowProblem, SourceKind, StudySource
from unix_cxr.data.studies import Study


@dataclass(frozen=True)
class PreparedSource:
    """The studies of a prepared folder, in its order.

    Args:
        folder: made by `unix-cxr data prepare`.
        split: keep only this split; all where None.
    """

    folder: Path
    split: str | None = None

    @property
    def name(self) -> str:
        """The kind of source and its folder."""
        return f"prepared:{self.folder}"

    @property
    def problems(self) -> Sequence[RowProblem]:
        """None: what had problems was left out when the folder was prepared."""
        return ()

    def __iter__(self) -> Iterator[Study]:
        return iter(PreparedStudies(self.folder, self.split))


def open_prepared(
    path: str | Path,
    *,
    on_bad_row: OnBadRow = "raise",
    split: str | None = None,
) -> StudySource:
    """Studies of a prepared folder.

    Args:
        path: the folder.
        on_bad_row: has no effect: a prepared folder is whole or refused.
        split: keep only this split.
    """
    return PreparedSource(Path(path), split)


KIND = SourceKind(
    name="prepared",
    looks_like=f"{MANIFEST} and shard-*.parquet of `unix-cxr data prepare`",
    recognises=lambda path: (path / MANIFEST).is_file() and any(path.glob("shard-*.parquet")),
    open=open_prepared,
)
