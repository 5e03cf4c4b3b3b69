"""Stages that are finished: their records, and whether a run may go on with what they left."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from unix_cxr.files import read_json, write_text
from unix_cxr.training.identity import changed_keys
from unix_cxr.training.kinds import KINDS
from unix_cxr.training.settings import StageSettings

FINISHED: Final = "finished.json"
"""Written last into a stage's folder: the recipe, what the stage began from, its losses."""


def write_finished(
    folder: Path,
    stage: StageSettings,
    recipe: str,
    began: Mapping[str, str],
    results: Mapping[str, Any],
) -> None:
    """Write the record of a stage whose weights are kept.

    Args:
        folder: of the stage.
        stage: its settings.
        recipe: the resolved recipe as JSON text.
        began: fingerprints of what the stage began from.
        results: losses, and which step was exported.
    """
    record = {"steps": stage.steps, "recipe": recipe, "started_from": dict(began)}
    content = record | {"keep_best": stage.keep_best} | dict(results)
    write_text(folder / FINISHED, json.dumps(content, indent=1))


def finished_record(folder: Path, stage: StageSettings, recipe: str) -> dict[str, Any] | None:
    """The record of a stage that was finished under the same recipe; None where there is none.

    Raises:
        ValueError: the record is damaged.
    """
    exported = folder / KINDS[stage.objective.kind].exports
    if not (folder / FINISHED).is_file() or not exported.is_dir():
        return None
    record = read_json(folder / FINISHED, "remove it")
    try:
        same = record["steps"] == stage.steps
        same = same and not changed_keys(record["recipe"], recipe, stage)
        same = same and record.get("keep_best") == stage.keep_best
    except (ValueError, KeyError) as error:
        raise ValueError(f"{folder / FINISHED} is damaged ({error}); remove it") from error
    return record if same else None


def refuse_other_beginning(
    folder: Path, stage: StageSettings, record: Mapping[str, Any], began: Mapping[str, str]
) -> None:
    """Refuse a finished stage that began from other weights than a run has.

    Args:
        folder: of the stage.
        stage: its settings.
        record: what it says of its beginning.
        began: fingerprints of the run's weights, as far as they matter.

    Raises:
        ValueError: the message names the weights and the remedy.
    """
    others = [
        name
        for name, value in record["started_from"].items()
        if name in began and began[name] != value
    ]
    if others:
        raise ValueError(
            f"stage {stage.name!r} in {folder} is finished, but began from other weights of "
            f"{', '.join(others)} than this run has; remove {folder} to train it anew, or "
            "give another output folder"
        )
