"""The log of a stage: one JSON row per line, cut back when steps are taken again; and its events.

The guide "Watching a run" says what every key means.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from unix_cxr.files import append_line, write_text

LOG: Final = "log.jsonl"
EVENTS: Final = "events.jsonl"
CLOCKED: Final = frozenset(
    {"samples_per_second", "tokens_per_second", "waiting_share", "gemm_share", "seconds_left"}
)
"""Keys of the log that depend on the clock; all others are the same whenever a run is repeated."""


class RunLog:
    """Appends rows to `folder/log.jsonl`, and what befalls the run to `folder/events.jsonl`.

    Args:
        folder: of the stage.
        writes: False in processes that must not write.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.file = folder / LOG
        self.events = folder / EVENTS
        self.writes = writes

    def add(self, values: Mapping[str, float]) -> None:
        """Write one row."""
        if self.writes:
            append_line(self.file, json.dumps(dict(values)))

    def event(self, step: int, event: str, about: str = "", **facts: str) -> None:
        """Note what happened; events are never cut back.

        Args:
            step: steps taken before it.
            event: such as "resumes" or "spike".
            about: one sentence for a person.
            facts: more of it, by name.
        """
        if self.writes:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            row = {"time": now, "step": step, "event": event, "about": about} | facts
            append_line(self.events, json.dumps(row, ensure_ascii=False))

    def cut(self, step: int) -> None:
        """Drop what the log says of steps after this one: they are about to be taken again."""
        if not self.writes or not self.file.is_file():
            return
        rows = self.file.read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if _step_of(row) <= step]
        if len(kept) < len(rows):
            write_text(self.file, "".join(f"{row}\n" for row in kept))


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a log or of events; one that a crash cut off is left out."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [json.loads(line) for line in lines if _step_of(line) < math.inf]


def _step_of(row: str) -> float:
    try:
        return float(json.loads(row)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf  # a line that a crash cut off
