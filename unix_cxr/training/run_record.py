"""What the folder of a run tells of it: under way, stopped or finished."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from unix_cxr.files import read_json, write_text
from unix_cxr.training.checkpoints import checkpoints, stored_best
from unix_cxr.training.finished import FINISHED
from unix_cxr.training.runlog import EVENTS, LOG, read_rows

RUN: Final = "run.json"
_SHEETS: Final = "drawn"
_TEXTS: Final = "texts.json"
_START: Final = ("begins", "resumes")
_COMMON: Final = frozenset({"time", "step", "event", "about"})


@dataclass(frozen=True)
class StageRecord:
    """What one stage has left in its folder.

    Args:
        name: of the stage.
        kind: of its objective; "" where unknown.
        steps: that it shall take; None where unknown.
        rows: of its log.
        events: what befell it.
        sheets: contact sheets of drawn X-rays, oldest first.
        texts: that the X-rays of the sheets were drawn from.
        finished: the record of its end; None before.
        best: which step the newest checkpoint calls the best; None where it knows of none.
        written: when the log was last written; None without one.
    """

    name: str
    kind: str
    steps: int | None
    rows: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    sheets: Sequence[Path]
    texts: Sequence[str]
    finished: Mapping[str, Any] | None
    best: int | None
    written: datetime | None

    @property
    def step(self) -> int:
        """The last step that the log speaks of."""
        return int(max((row["step"] for row in self.rows), default=0))

    @property
    def versions(self) -> dict[str, str]:
        """Of the library, Python and torch, and the device, at the last start."""
        starts = [event for event in self.events if event.get("event") in _START]
        last = starts[-1] if starts else {}
        return {key: str(value) for key, value in last.items() if key not in _COMMON}


@dataclass(frozen=True)
class RunRecord:
    """What a run has left in its folder.

    Args:
        name: of the recipe, or of the folder.
        folder: of the run.
        recipe: as plain values; empty where unknown.
        plan: lines of the plan at the last start.
        stages: in the recipe's order, those that have begun and those that have not.
    """

    name: str
    folder: Path
    recipe: Mapping[str, Any]
    plan: Sequence[str]
    stages: tuple[StageRecord, ...]


def write_run(folder: Path, recipe: Mapping[str, Any], plan: Sequence[str]) -> None:
    """Note what a run is about to do, in `run.json`.

    Args:
        folder: of the run.
        recipe: the resolved recipe as plain values.
        plan: lines of the plan.
    """
    content = {"recipe": dict(recipe), "plan": list(plan)}
    write_text(folder / RUN, json.dumps(content, indent=1, ensure_ascii=False))


def read_run(folder: str | Path) -> RunRecord:
    """Read a run's folder; the folder of an adapter's training, or of an old run, will do.

    Raises:
        FileNotFoundError: there is no such folder, or no stage has left a log in it.
        ValueError: run.json is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder at {folder}")
    known = _read_json(folder / RUN) or {}
    recipe = known.get("recipe") or {}
    settings = {stage["name"]: stage for stage in recipe.get("stages", ())}
    found = sorted({path.parent.name for log in (LOG, EVENTS) for path in folder.glob(f"*/{log}")})
    names = [*settings, *(name for name in found if name not in settings)]
    if not names:
        raise FileNotFoundError(
            f"{folder} holds no run: neither {RUN} nor a stage's folder with {LOG}; give the "
            "folder that `unix-cxr train run --out` got"
        )
    return RunRecord(
        name=recipe.get("name", folder.resolve().name),
        folder=folder,
        recipe=recipe,
        plan=known.get("plan", ()),
        stages=tuple(_read_stage(folder / name, settings.get(name, {})) for name in names),
    )


def _read_stage(folder: Path, settings: Mapping[str, Any]) -> StageRecord:
    log = folder / LOG
    finished = _read_json(folder / FINISHED)
    newest = checkpoints(folder)
    written = datetime.fromtimestamp(log.stat().st_mtime, UTC) if log.is_file() else None
    texts = _read_texts(folder / _SHEETS / _TEXTS)
    steps = settings.get("steps", (finished or {}).get("steps"))
    return StageRecord(
        name=folder.name,
        kind=settings.get("objective", {}).get("kind", ""),
        steps=steps,
        rows=read_rows(log),
        events=read_rows(folder / EVENTS),
        sheets=sorted((folder / _SHEETS).glob("step-*.png")),
        texts=texts,
        finished=finished,
        best=stored_best(newest[-1]) if newest else None,
        written=written,
    )


def _read_json(file: Path) -> dict[str, Any] | None:
    return read_json(file, "remove it") if file.is_file() else None


def _read_texts(file: Path) -> list[Any]:
    try:
        texts: Any = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); remove it") from error
    return texts if isinstance(texts, list) else []
