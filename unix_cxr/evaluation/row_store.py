"""Rows of numbers that a run keeps on disk, so that the next one does not compute them again.

Axes: f values per row.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Self

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unix_cxr.files import replacing

_KEY_LENGTH: Final = 16
_KEYS: Final = "images"
_ROWS: Final = 1024
_SECONDS: Final = 10.0


class RowStore:
    """Rows by the hash of what they belong to; one folder for each way in which they are made.

    New rows wait in memory until they are many or ten seconds old, and then become one file, which
    is whole or absent. What is kept at once is written at once: where batches are kept, those that
    a kill leaves out are whole batches, and so their numbers are those of a run that was not
    killed, to the last bit.

    Args:
        folder: of all stores; None keeps nothing.
        facts: how the rows are made: weights, sizes, texts.
    """

    def __init__(self, folder: Path | None, facts: Mapping[str, object]) -> None:
        self.key = json.dumps(dict(facts), sort_keys=True)
        digest = hashlib.sha256(self.key.encode()).hexdigest()[:_KEY_LENGTH]
        self.folder = None if folder is None else folder / digest
        self._places: dict[str, tuple[Path, int]] = {}
        self._waiting: dict[str, Float[Tensor, " f"]] = {}
        self._written = time.monotonic()
        if self.folder is not None and self.folder.is_dir():
            for path in sorted(self.folder.glob("*.safetensors")):
                self._index(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def known(self, keys: Iterable[str]) -> dict[str, Float[Tensor, " f"]]:
        """The rows that are there."""
        wanted = set(keys)
        found = {one: self._waiting[one] for one in wanted & self._waiting.keys()}
        by_file: dict[Path, list[tuple[str, int]]] = {}
        for one in wanted & self._places.keys():
            path, row = self._places[one]
            by_file.setdefault(path, []).append((one, row))
        for path, rows in by_file.items():
            with safe_open(path, framework="pt") as file:
                values = file.get_slice("features")  # of a file's thousand rows those alone
                found.update({one: values[row : row + 1][0] for one, row in rows})
        return found

    def keep(self, rows: Mapping[str, Float[Tensor, " f"]]) -> None:
        """Remember rows; they are on disk ten seconds later, or when the block ends."""
        if self.folder is None:
            return
        self._waiting.update(rows)
        if len(self._waiting) >= _ROWS or time.monotonic() - self._written >= _SECONDS:
            self._write()

    def _write(self) -> None:
        if self.folder is None or not self._waiting:
            return
        keys = list(self._waiting)
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:_KEY_LENGTH]
        path = self.folder / f"{name}.safetensors"
        metadata = {_KEYS: json.dumps(keys), "extractor": self.key}
        values = torch.stack(list(self._waiting.values()))
        with replacing(path) as temporary:
            save_file({"features": values}, temporary, metadata=metadata)
        self._places.update({one: (path, row) for row, one in enumerate(keys)})
        self._waiting.clear()
        self._written = time.monotonic()

    def _index(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                keys = json.loads(file.metadata()[_KEYS])
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} is no file of features ({error}); remove it, and they are taken again"
            ) from error
        self._places.update({one: (path, row) for row, one in enumerate(keys)})
