"""From a source of studies to a prepared folder: shards, their manifest, a list of problems."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import torch

from unix_cxr.data.prepared import MANIFEST, Manifest
from unix_cxr.data.sources import StudySource
from unix_cxr.data.splits import LeakCheck, split_of
from unix_cxr.data.studies import Study, shown
from unix_cxr.preparation.cached import Cacher, load_cachers
from unix_cxr.preparation.rows import LeftOut, RowMaker
from unix_cxr.preparation.settings import PreparationSettings
from unix_cxr.preparation.shards import (
    JOURNAL,
    FinishedShard,
    Journal,
    ShardWriter,
    describe_shard,
    writing_shard,
)

_AHEAD: Final = 4
"""Chunks per worker that are under way at once."""

_CACHED_AT_ONCE: Final = 8
"""Images in one call of an autoencoder or a vision tower."""

Row = dict[str, Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What a run did.

    Args:
        folder: the prepared folder.
        manifest: what it holds.
        resumed_shards: shards that an earlier run had finished.
    """

    folder: Path
    manifest: Manifest
    resumed_shards: int


def prepare(
    source: StudySource,
    out: str | Path,
    settings: PreparationSettings,
    *,
    workers: int = 1,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Prepared:
    """Write a source's studies as shards that training reads in any order.

    Shard k holds what remains of the source's studies k n to (k + 1) n - 1, so that a run that was
    killed goes on at the first unfinished shard, and ends with the same bytes.

    Args:
        source: studies, in the same order at every iteration.
        out: the folder to make.
        settings: what decides its content.
        workers: processes that decode images and clean reports.
        device: where latents and features are computed.
        progress: called with the number of studies read, after each shard.

    Raises:
        FileExistsError: the folder is prepared already, from something else.
        NotADirectoryError: the folder, or one above it, is a file.
        ValueError: a study cannot be read or has no split, a patient is in two, the source is
            empty or was changed since an unfinished run, or such a run of other settings left its
            journal.
        OSError: the disk is full; finished shards stay and the same call goes on.
    """
    folder = Path(out)
    in_the_way = [path for path in (folder, *folder.parents) if path.is_file()]
    if in_the_way:
        raise NotADirectoryError(f"{in_the_way[0]} is a file; give the folder to make as --out")
    cachers = load_cachers(settings, torch.device(device))
    identity: dict[str, Any] = {
        "source": source.name,
        "settings": settings.model_dump(mode="json", exclude={"on_bad"}),
        "caches": {cacher.column: cacher.fingerprint for cacher in cachers},
    }
    if (folder / MANIFEST).is_file():
        return _done_before(folder, identity)
    journal = Journal(folder, identity)
    resumed = len(journal.finished)
    if resumed:
        logger.info("goes on after %d finished shards", resumed)
    with _row_maker(settings, workers) as make_rows:
        leaks = LeakCheck()
        studies = _split_studies(source, settings, leaks)
        skipped = sum(
            _skipped(finished, islice(studies, settings.shard_rows), source, folder)
            for finished in journal.finished
        )
        for number, chunk in enumerate(_chunks(studies, settings.shard_rows), start=resumed):
            finished = _write_shard(folder, number, make_rows(chunk), settings, cachers)
            journal.add(replace(finished, studies=_digest(chunk)))
            skipped += len(chunk)
            if progress:
                progress(skipped)
    if leaks.leaks():
        journal.path.unlink()  # the shards hold the source's splits, which must change
        raise ValueError(
            f"{source.name}: {len(leaks.leaks())} patients are in two splits, such as "
            f"{leaks.leaks()[0]}; mend the source's splits"
        )
    return _finish(source, folder, settings, journal, identity, cachers, resumed)


def _finish(
    source: StudySource,
    folder: Path,
    settings: PreparationSettings,
    journal: Journal,
    identity: dict[str, Any],
    cachers: list[Cacher],
    resumed: int,
) -> Prepared:
    shapes = {f"{cacher.column}_shape": tuple(cacher.shape) for cacher in cachers}
    left_out = Counter(journal.left_out())
    if source.problems:
        left_out["bad row of the source"] += len(source.problems)
    shards = tuple(finished.shard for finished in journal.finished)
    if not sum(shard.rows for shard in shards):
        reasons = dict(left_out) or "the source is empty"
        raise ValueError(f"{source.name} has no study to prepare: {reasons}")
    manifest = Manifest(
        source=source.name,
        settings=identity,
        image_size=settings.image_size,
        row_group_rows=settings.row_group_rows,
        shards=tuple(shard for shard in shards if shard.rows),
        left_out=dict(left_out),
        **shapes,
    )
    journal.write_problems()
    manifest.save(folder)  # from here on the folder is prepared
    journal.path.unlink()
    return Prepared(folder, manifest, resumed)


def _split_studies(
    source: StudySource, settings: PreparationSettings, leaks: LeakCheck
) -> Iterator[Study]:
    """Studies with a split, the source's or that of the salted hash."""
    for study in source:
        placed = study
        if not study.split:
            if settings.salt is None:
                raise ValueError(
                    f"{source.name} states no split for study {study.study_id or study.image!r}; "
                    "give a salt (--salt), a text of your own that draws the patients' splits"
                )
            split = split_of(study.patient_id, salt=settings.salt, fractions=settings.fractions)
            placed = replace(study, split=split)
        leaks.add(placed)
        yield placed


def _skipped(
    finished: FinishedShard, studies: Iterable[Study], source: StudySource, folder: Path
) -> int:
    """How many studies an earlier run made a shard of; they must be the source's still."""
    chunk = list(studies)
    if _digest(chunk) != finished.studies:
        raise ValueError(
            f"{source.name} was changed since {folder / finished.shard.file} was made of it; "
            f"remove {folder} and prepare it again"
        )
    return len(chunk)


def _digest(studies: Iterable[Study]) -> str:
    """Of what studies state; of their images the paths alone."""
    digest = sha256()
    for study in studies:
        stated = [
            sorted(value) if isinstance(value, frozenset) else value
            for name, value in vars(study).items()
            if name != "image"
        ]
        digest.update(repr([shown(study.image), *stated]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _done_before(folder: Path, identity: dict[str, Any]) -> Prepared:
    manifest = Manifest.load(folder)
    if manifest.settings != identity:
        changed = sorted(
            key
            for part in ("source", "settings", "caches")
            for key in _differing(part, manifest.settings.get(part), identity[part])
        )
        raise FileExistsError(
            f"{folder} is prepared already, with another {', '.join(changed)}; give another --out "
            "or remove the folder"
        )
    (folder / JOURNAL).unlink(missing_ok=True)  # of a run that was killed at its very end
    return Prepared(folder, manifest, len(manifest.shards))


def _differing(part: str, old: Any, new: Any) -> list[str]:  # noqa: ANN401 - JSON values
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [part] if old != new else []
    return [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]


def _write_shard(
    folder: Path,
    number: int,
    rows: Iterable[Row | LeftOut],
    settings: PreparationSettings,
    cachers: list[Cacher],
) -> FinishedShard:
    name = f"shard-{number:05d}.parquet"
    left_out: list[LeftOut] = []
    with writing_shard(folder, name, [cacher.column for cacher in cachers]) as writer:
        waiting: list[Row] = []
        for row in rows:
            if isinstance(row, LeftOut):
                left_out.append(row)
                continue
            waiting.append(row)
            if len(waiting) == settings.row_group_rows:
                _write_group(writer, waiting, cachers)
                waiting = []
        if waiting:
            _write_group(writer, waiting, cachers)
    return FinishedShard(
        shard=describe_shard(folder, name, writer.splits),
        left_out=dict(Counter(study.reason for study in left_out)),
        problems=[
            {"study_id": study.study_id, "reason": study.reason, "detail": study.detail}
            for study in left_out
        ],
    )


def _write_group(writer: ShardWriter, rows: list[Row], cachers: list[Cacher]) -> None:
    for cacher in cachers:
        for start in range(0, len(rows), _CACHED_AT_ONCE):
            some = rows[start : start + _CACHED_AT_ONCE]
            for row, value in zip(some, cacher([row["image"] for row in some]), strict=True):
                row[cacher.column] = value
    writer.write(rows)


def _chunks(studies: Iterator[Study], size: int) -> Iterator[list[Study]]:
    while chunk := list(islice(studies, size)):
        yield chunk


# -- processes ---------------------------------------------------------------------------------

RowMakerOfChunk = Callable[[list[Study]], Iterator[Row | LeftOut]]
_maker: RowMaker | None = None
"""Of this worker process, made once by `_start_worker`."""


def _row_maker(
    settings: PreparationSettings, workers: int
) -> AbstractContextManager[RowMakerOfChunk]:
    if workers < 1:
        raise ValueError(f"workers ({workers}) must be at least 1")
    if workers == 1:
        maker = RowMaker(settings)
        return nullcontext(lambda studies: map(maker, studies))
    return _Pool(settings, workers)


class _Pool(AbstractContextManager[RowMakerOfChunk]):
    """Worker processes that make rows, handed out in the studies' order."""

    def __init__(self, settings: PreparationSettings, workers: int) -> None:
        self._stack = ExitStack()
        self._workers = workers
        self._pool = ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_start_worker, initargs=(settings,)
        )

    def __enter__(self) -> RowMakerOfChunk:
        self._stack.enter_context(self._pool)
        return self._rows

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _rows(self, studies: list[Study]) -> Iterator[Row | LeftOut]:
        waiting: deque[Future[list[Row | LeftOut]]] = deque()
        parts = iter([studies[first : first + 16] for first in range(0, len(studies), 16)])
        for part in islice(parts, self._workers * _AHEAD):
            waiting.append(self._pool.submit(_make_rows, part))
        while waiting:
            yield from waiting.popleft().result()
            for part in islice(parts, 1):
                waiting.append(self._pool.submit(_make_rows, part))


def _start_worker(settings: PreparationSettings) -> None:
    global _maker  # noqa: PLW0603 - one per process, as multiprocessing wants it
    torch.set_num_threads(1)
    _maker = RowMaker(settings)


def _make_rows(studies: list[Study]) -> list[Row | LeftOut]:
    if _maker is None:
        raise RuntimeError("a worker of `prepare` was not started by its initializer")
    return [_maker(study) for study in studies]
