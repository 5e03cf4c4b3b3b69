"""Drawn X-rays read from a folder with a manifest.

Axes: b X-rays, h rows, w columns.
"""

import json
from pathlib import Path
from typing import Final

import torch

from unix_cxr.data.pixels import load_xray
from unix_cxr.evaluation.xrays import LabelledXrays

MANIFEST_NAME: Final = "manifest.jsonl"
_LABELS: Final = {"normal": False, "pneumonia": True}


def load_drawn(folder: str | Path) -> LabelledXrays:
    """Read `manifest.jsonl` and the images that it names.

    Each line is an object with `file` (relative to the folder), `label` ("normal" or "pneumonia",
    what was asked for) and `seed`; further keys are ignored.

    Raises:
        FileNotFoundError: the manifest or an image is missing.
        ValueError: a line is not such an object, an image cannot be read, or the images differ in
            size; the message names the line.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no manifest at {path}; one JSON object per drawn X-ray")
    images: list[torch.Tensor] = []
    labels, seeds = [], []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            file, pneumonia, seed = _read_row(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        pixels = load_xray(path.parent / file).pixels
        if images and pixels.shape != images[0].shape[1:]:
            raise ValueError(
                f"{path}, line {number}: {file} is {list(pixels.shape)}, the first image is "
                f"{list(images[0].shape[1:])}"
            )
        images.append(torch.tensor(pixels)[None])
        labels.append(pneumonia)
        seeds.append(seed)
    if not images:
        raise ValueError(f"{path} names no image")
    return LabelledXrays(torch.stack(images), torch.tensor(labels), tuple(seeds))


def _read_row(line: str) -> tuple[str, bool, str]:
    row = json.loads(line)
    missing = {"file", "label", "seed"} - set(row if isinstance(row, dict) else ())
    if missing:
        raise ValueError(f"the row lacks {sorted(missing)}; it needs file, label and seed")
    if row["label"] not in _LABELS:
        raise ValueError(f"label ({row['label']!r}) must be one of {sorted(_LABELS)}")
    return str(row["file"]), _LABELS[row["label"]], str(row["seed"])
