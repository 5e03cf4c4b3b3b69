"""Proof of a conversion: recorded inputs in, recorded outputs compared one by one.

A golden folder holds `config.json`, `model.safetensors`, `golden.safetensors` and a `manifest.json`
that says of every tensor whether it is an input or an output, and how an output is compared.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from unix_cxr.convert.replay_autoencoder import replay_autoencoder
from unix_cxr.convert.replay_model import replay_model
from unix_cxr.convert.weight_files import read_safetensors
from unix_cxr.files import read_json

_FILES: Final = ("config.json", "model.safetensors", "golden.safetensors", "manifest.json")


@dataclass(frozen=True)
class Check:
    """One recorded output against ours.

    Args:
        name: of the output.
        compare: "absolute", "relative" or "exact".
        tolerance: largest error allowed, in the units of `compare`; 0 for exact.
        error: largest error found; NaN where nothing was computed.
        passed: whether it is within tolerance.
    """

    name: str
    compare: str
    tolerance: float
    error: float
    passed: bool

    @property
    def checked(self) -> bool:
        """Whether anything was computed for it."""
        return not math.isnan(self.error)


@dataclass(frozen=True)
class Verification:
    """All checks of a folder."""

    folder: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether there are outputs, and every one was checked and is within tolerance."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def summary(self) -> str:
        """The line that ends the table."""
        checked = [check for check in self.checks if check.checked]
        within = sum(check.passed for check in self.checks)
        worst = max(checked, key=_strain, default=None)
        shown = "none" if worst is None else f"{worst.name} {worst.error:.1e}"
        return (
            f"{len(checked)} of {len(self.checks)} outputs checked, {within} within tolerance, "
            f"worst {shown}"
        )

    def to_json(self) -> str:
        """Every check, for machines."""
        checks = [
            {**asdict(check), "error": check.error if check.checked else None}
            for check in self.checks
        ]
        return json.dumps(
            {
                "folder": self.folder,
                "passed": self.passed,
                "summary": self.summary(),
                "checks": checks,
            },
            indent=1,
        )


def verify(folder: str | Path) -> Verification:
    """Convert a golden folder's weights, run its inputs and compare every output.

    Raises:
        FileNotFoundError: a file of the folder is missing.
        ValueError: a file is damaged, or the weights do not fit the config.
    """
    folder = Path(folder)
    for name in _FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}; a golden folder holds {list(_FILES)}")
    config = read_json(folder / "config.json")
    manifest = read_json(folder / "manifest.json")
    recorded = read_safetensors(folder / "golden.safetensors")
    weights = read_safetensors(folder / "model.safetensors")
    if "ddconfig" in config:
        ours = replay_autoencoder(weights, config, recorded)
    else:
        names_file = folder / "grad_names.json"
        names = read_json(names_file) if names_file.is_file() else {}
        ours = replay_model(weights, config, recorded, names)
    checks = tuple(
        compare(name, entry, recorded.get(name), ours.get(name))
        for name, entry in manifest.items()
        if entry["kind"] == "output"
    )
    return Verification(str(folder), checks)


def compare(
    name: str, entry: Mapping[str, Any], recorded: Tensor | None, ours: Tensor | None
) -> Check:
    """Hold one tensor against its record, as the manifest entry says."""
    how = entry["compare"]
    tolerance = {"absolute": "atol", "relative": "rtol", "exact": ""}[how]
    allowed = float(entry[tolerance]) if tolerance else 0.0
    if recorded is None or ours is None or ours.shape != recorded.shape:
        return Check(name, how, allowed, float("nan"), passed=False)
    difference = (ours.detach().double() - recorded.double()).abs()
    if how == "relative":
        zero = recorded == 0
        if bool((ours.detach()[zero] != 0).any()):
            return Check(name, how, allowed, float("inf"), passed=False)
        difference = difference / recorded.double().abs().where(~zero, torch.ones(()).double())
    error = float(difference.max()) if difference.numel() else 0.0
    return Check(name, how, allowed, error, passed=error <= allowed)


def _strain(check: Check) -> float:
    """Share of the tolerance that an error uses."""
    if check.tolerance == 0:
        return float("inf") if check.error else 0.0
    return check.error / check.tolerance
