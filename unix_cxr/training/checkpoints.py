"""Checkpoints without pickle: safetensors and JSON, whole or absent."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unix_cxr.files import replacing, sha256, write_text

_KEPT: Final = 2
_STATE: Final = "state.json"


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands.

    Args:
        step: steps taken.
        weights: learning parameters by name.
        optimizer: the optimizer's tensors, named "parameter/entry".
        recipe: the resolved recipe as JSON text.
    """

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    recipe: str


def save_checkpoint(folder: Path, state: TrainingState) -> Path:
    """Write `folder/step-…`; it appears whole, and older ones beyond two are removed after it.

    Raises:
        OSError: the disk is full or read-only; older checkpoints are untouched.
    """
    target = folder / f"step-{state.step:08d}"
    temporary = folder / f".{target.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        checksums = {}
        for name, tensors in (("weights", state.weights), ("optimizer", state.optimizer)):
            file = temporary / f"{name}.safetensors"
            with replacing(file) as partial:
                save_file({key: value.contiguous() for key, value in tensors.items()}, partial)
            checksums[file.name] = sha256(file)
        write_text(
            temporary / _STATE,
            json.dumps({"step": state.step, "sha256": checksums, "recipe": state.recipe}, indent=1),
        )
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(folder)[:-_KEPT]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{_STATE}"))


def load_checkpoint(path: Path) -> TrainingState:
    """Read a checkpoint and check its sums.

    Raises:
        ValueError: a file's checksum is not the recorded one.
    """
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    for name, recorded in state["sha256"].items():
        actual = sha256(path / name)
        if actual != recorded:
            raise ValueError(
                f"{path / name} is damaged (SHA-256 {actual[:12]}…, recorded {recorded[:12]}…); "
                f"remove {path} to go on from the checkpoint before it"
            )
    return TrainingState(
        step=state["step"],
        weights=load_file(path / "weights.safetensors"),
        optimizer=load_file(path / "optimizer.safetensors"),
        recipe=state["recipe"],
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
    """Put named tensors back as the optimizer's state."""
    for key, value in tensors.items():
        name, entry = key.rsplit("/", 1)
        parameter = names[name]
        device = parameter.device if value.ndim else value.device
        optimizer.state[parameter][entry] = value.to(device)
