"""The log of a stage: one JSON row per line, cut back when steps are taken again."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from unix_cxr.files import append_line, write_text

LOG: Final = "log.jsonl"


class RunLog:
    """Appends rows to `folder/log.jsonl`.

    Args:
        folder: of the stage.
        writes: False in processes that must not write.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.file = folder / LOG
        self.writes = writes

    def add(self, values: Mapping[str, float]) -> None:
        """Write one row."""
        if self.writes:
            append_line(self.file, json.dumps(dict(values)))

    def cut(self, step: int) -> None:
        """Drop what the log says of steps after this one: they are about to be taken again."""
        if not self.writes or not self.file.is_file():
            return
        rows = self.file.read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if _step_of(row) <= step]
        if len(kept) < len(rows):
            write_text(self.file, "".join(f"{row}\n" for row in kept))


def _step_of(row: str) -> float:
    try:
        return float(json.loads(row)["step"])
    except ValueError:
        return math.inf  # a line that a crash cut off
