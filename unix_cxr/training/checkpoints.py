"""Checkpoints without pickle: safetensors and JSON, whole or absent."""

import errno
import json
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unix_cxr.files import explaining_full_disk, replacing, sha256, write_text
from unix_cxr.training.identity import changed_keys
from unix_cxr.training.settings import StageSettings
from unix_cxr.training.sharding import part_like

_STATE: Final = "state.json"
logger = logging.getLogger(__name__)
_FULL_DISK: Final = ("No space left", "StorageFull", "code: 28", "QuotaExceeded")


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands.

    Args:
        step: steps taken.
        weights: learning parameters by name.
        optimizer: the optimizer's tensors, named "parameter/entry".
        recipe: the resolved recipe as JSON text.
        started_from: fingerprints of the networks that the stage began with, by name; empty where
            nobody said.
        average: moving averages of the learning parameters by name; empty where none are kept.
        loss_mean: running mean of the loss, NaN before the first.
        losses_seen: number of losses in it.
        loss_scale: see `LossScale`.
        scale_steps: taken since it last changed.
        best: the best step so far; see `Best`.
    """

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    recipe: str
    started_from: Mapping[str, str] = field(default_factory=dict)
    average: Mapping[str, Tensor] = field(default_factory=dict)
    loss_mean: float = math.nan
    losses_seen: int = 0
    loss_scale: float = 1.0
    scale_steps: int = 0
    best: Mapping[str, Any] | None = None


def save_checkpoint(folder: Path, state: TrainingState, keep: int = 2) -> Path:
    """Write `folder/step-…`; it appears whole, and older ones beyond `keep` are removed after it.

    Raises:
        OSError: the disk is full or read-only; older checkpoints are untouched.
    """
    target = folder / f"step-{state.step:08d}"
    temporary = folder / f".{target.name}.partial"
    older = [path.name for path in checkpoints(folder)]
    kept = f"the older checkpoint {older[-1]} is untouched" if older else "there is no older one"
    with explaining_full_disk(f"checkpoint {target}", kept):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            _write(temporary, state)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def _write(folder: Path, state: TrainingState) -> None:
    checksums = {}
    parts = {"weights": state.weights, "optimizer": state.optimizer, "average": state.average}
    for name, tensors in parts.items():
        if name == "average" and not tensors:
            continue
        file = folder / f"{name}.safetensors"
        with replacing(file) as partial:
            save_tensors(tensors, partial)
        checksums[file.name] = sha256(file)
    content = {
        "step": state.step,
        "sha256": checksums,
        "recipe": state.recipe,
        "started_from": dict(state.started_from),
        "losses_seen": state.losses_seen,
        "loss_mean": state.loss_mean if state.losses_seen else None,
        "loss_scale": state.loss_scale,
        "scale_steps": state.scale_steps,
        "best": None if state.best is None else dict(state.best),
    }
    write_text(folder / _STATE, json.dumps(content, indent=1))


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write named tensors as safetensors.

    Raises:
        OSError: the disk is full.
    """
    try:
        save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    except SafetensorError as error:
        if any(sign in str(error) for sign in _FULL_DISK):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise


def stored_best(path: Path) -> int | None:
    """Which step a checkpoint calls the best; None where it knows of none, or cannot be read."""
    try:
        best = json.loads((path / _STATE).read_text(encoding="utf-8")).get("best")
    except (OSError, ValueError, AttributeError):
        return None
    return None if best is None else int(best["step"])


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{_STATE}"))


def load_checkpoint(path: Path) -> TrainingState:
    """Read a checkpoint and check its sums.

    Raises:
        ValueError: a file is missing, cannot be read, or its checksum is not the recorded one.
    """
    state = _read_state(path)
    for name, recorded in state["sha256"].items():
        actual = sha256(path / name) if (path / name).is_file() else "absent"
        if actual != recorded:
            raise _damaged(path / name, f"SHA-256 {actual[:12]}, recorded {recorded[:12]}")
    averaged = "average.safetensors" in state["sha256"]
    mean = state.get("loss_mean")
    return TrainingState(
        step=state["step"],
        weights=load_file(path / "weights.safetensors"),
        optimizer=load_file(path / "optimizer.safetensors"),
        recipe=state["recipe"],
        started_from=state.get("started_from", {}),
        average=load_file(path / "average.safetensors") if averaged else {},
        loss_mean=math.nan if mean is None else mean,
        losses_seen=state.get("losses_seen", 0),
        loss_scale=state.get("loss_scale", 1.0),
        scale_steps=state.get("scale_steps", 0),
        best=state.get("best"),
    )


def newest_whole(folder: Path) -> tuple[Path, TrainingState]:
    """The newest checkpoint that can be read; a warning names every newer one that cannot.

    Raises:
        ValueError: there is none; the message says what is wrong with the newest.
    """
    problems: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            state = load_checkpoint(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            logger.warning("%s; going on from %s", problem, path)
        return path, state
    raise ValueError(f"no checkpoint in {folder} is whole: {problems[0] if problems else 'none'}")


def refuse_strangers(
    path: Path,
    state: TrainingState,
    *,
    stage: StageSettings,
    recipe: str,
    started_from: Mapping[str, str],
    learning: Mapping[str, nn.Parameter],
    known: Mapping[str, nn.Parameter],
) -> None:
    """Refuse a checkpoint of another recipe, other starting weights or other parameters.

    Args:
        path: of the checkpoint.
        state: what it holds.
        stage: that is about to go on.
        recipe: the present one as JSON text.
        started_from: fingerprints of the present starting weights.
        learning: parameters that learn now.
        known: all parameters of the objective.

    Raises:
        ValueError: what differs, and the remedy.
    """
    remedy = f"go back to what it began with, give another output folder, or remove {path}"
    changed = changed_keys(state.recipe, recipe, stage)
    if changed:
        raise ValueError(f"the recipe has changed since {path}: {'; '.join(changed)}; {remedy}")
    if state.step > stage.steps:
        raise ValueError(
            f"{path} stands beyond the {stage.steps} steps of stage {stage.name!r}; {remedy}"
        )
    others = [
        name
        for name, fingerprint in state.started_from.items()
        if started_from.get(name, fingerprint) != fingerprint
    ]
    if others:
        raise ValueError(f"{path} began from other weights of {', '.join(others)}; {remedy}")
    missing = sorted(set(learning) - set(state.weights))
    unknown = sorted(set(state.weights) - set(known))
    wrong = [
        f"{name} {list(state.weights[name].shape)} instead of {list(parameter.shape)}"
        for name, parameter in learning.items()
        if name not in missing and state.weights[name].shape != parameter.shape
    ]
    if missing or unknown or wrong:
        raise ValueError(
            f"{path} holds other parameters than this stage trains (missing: {missing[:3]}, "
            f"unknown: {unknown[:3]}, of another shape: {wrong[:3]}); {remedy}"
        )
    frozen = sorted(set(state.weights) - set(learning))
    frozen = [name for name in frozen if not torch.equal(state.weights[name], known[name].cpu())]
    if frozen:
        logger.warning(
            "%s also holds %d parameters that do not learn any more; they keep the values "
            "they have now, which are others: %s",
            path,
            len(frozen),
            ", ".join(frozen),
        )


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path / _STATE, str(error)) from error
    missing = {"step", "sha256", "recipe"} - set(state)
    if missing:
        raise _damaged(path / _STATE, f"it lacks {sorted(missing)}")
    return state


def _damaged(file: Path, reason: str) -> ValueError:
    return ValueError(
        f"{file} is damaged ({reason}); remove the folder {file.parent} to go on from the "
        "checkpoint before it"
    )


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimizer's state as named tensors."""
    return {
        f"{name}/{entry}": torch.as_tensor(value)
        for name, parameter in names.items()
        for entry, value in optimizer.state[parameter].items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put named tensors back as the optimizer's state, laid out in memory as it would have them."""
    for key, value in tensors.items():
        name, entry = key.rsplit("/", 1)
        parameter = names[name]
        # the optimizer counts steps on the CPU; what has a parameter's shape lies where it lies
        like = value if entry == "step" else torch.empty_like(parameter, dtype=value.dtype)
        optimizer.state[parameter][entry] = like.copy_(part_like(value, like))
