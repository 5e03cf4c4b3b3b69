"""Weights that come with the package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

_WEIGHTS: Final = Path(__file__).parent.parent / "weights"

BUNDLED: Final[Mapping[str, Path]] = {"nano": _WEIGHTS / "nano"}
"""Folder of every bundled checkpoint by its name."""
