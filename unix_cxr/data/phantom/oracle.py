"""The oracle: reads findings, sides and sizes back from the pixels of a phantom, and nothing else.

A small convolutional network, trained on phantoms (see `oracle_training`), that looks at one side
at a time: its outputs speak of the patient's left, and the right is read from the mirrored film. A
mirrored film therefore has its sides exchanged exactly.

Axes: b films, h rows, w columns, k kinds of findings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from unix_cxr.data.phantom.description import (
    EXTENTS,
    KINDS,
    SIDED,
    SIDES,
    ZONED,
    ZONES,
    Kind,
    Side,
    Zone,
)
from unix_cxr.data.phantom.wording import Stated

WEIGHTS: Final = Path(__file__).parent / "oracle.safetensors"
INPUT_SIZE: Final = 128
MIN_SIDE: Final = 32
_WIDTHS: Final = (24, 48, 96, 96)
_LAST: Final = 48
_GROUPS: Final = 8
_CELLS: Final = 8
_BATCH: Final = 32
_FILM_AXES: Final = 2


@dataclass(frozen=True)
class MeasuredFinding:
    """One finding that the oracle sees.

    Args:
        kind: which of the twelve.
        side: the patient's side, "" for kinds without one.
        size: in the kind's unit, see `EXTENTS`.
        severity: the severity that is nearest to the size.
        zone: for kinds that have one, else "".
        score: how far above its threshold the finding is; positive.
    """

    kind: Kind
    side: Side
    size: float
    severity: str
    zone: Zone
    score: float

    @property
    def stated(self) -> Stated:
        """The finding as a report states it."""
        return Stated(self.kind, self.side, self.severity, self.zone)


class Readings(NamedTuple):
    """What the network says of the patient's left, or of the middle for kinds without a side."""

    present: Float[Tensor, "b k"]
    extent: Float[Tensor, "b k"]
    zone: Float[Tensor, "b k z"]


class _Block(nn.Module):
    """Halve the resolution, then one residual convolution."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
        self.down_norm = nn.GroupNorm(_GROUPS, wide)
        self.inner = nn.Conv2d(wide, wide, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        maps = functional.relu(self.down_norm(self.down(maps)))
        return functional.relu(maps + self.inner(maps))


class OracleNetwork(nn.Module):
    """Films of 128 pixels to readings of one side."""

    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, _WIDTHS[0], 3, padding=1)
        self.blocks = nn.Sequential(*(_Block(narrow, wide) for narrow, wide in pairwise(_WIDTHS)))
        self.squeeze = nn.Conv2d(_WIDTHS[-1], _LAST, 1)
        self.outputs = 2 * len(KINDS) + len(ZONED) * len(ZONES)
        self.head = nn.Linear(_LAST * _CELLS**2, self.outputs)
        self.register_buffer("threshold", torch.zeros(len(KINDS)))

    def forward(self, films: Float[Tensor, "b h w"]) -> Readings:
        """Readings of the patient's left; mirror the films for those of the right."""
        mean = reduce(films, "b h w -> b 1 1", "mean")
        spread = reduce((films - mean).square(), "b h w -> b 1 1", "mean").sqrt() + 0.02
        films = (films - mean) / spread
        maps = rearrange(films, "b (h i) (w j) -> b (i j) h w", i=2, j=2)
        maps = maps.contiguous(memory_format=torch.channels_last)
        maps = self.blocks(functional.relu(self.stem(maps)))
        maps = functional.relu(self.squeeze(maps))
        numbers = self.head(functional.adaptive_avg_pool2d(maps, _CELLS).flatten(1))
        kinds = len(KINDS)
        zones = rearrange(numbers[:, 2 * kinds :], "b (k z) -> b k z", z=len(ZONES))
        return Readings(numbers[:, :kinds], numbers[:, kinds : 2 * kinds], zones)


def measure(image: Float[Tensor, "h w"] | NDArray[np.generic]) -> list[MeasuredFinding]:
    """Findings that one film shows, read from its pixels.

    Args:
        image: a square film of floats in [0, 1], bright = dense, the patient's left on the right.
            It is made for films of 64 to 128 pixels; larger ones are shrunk.

    Raises:
        ValueError: not a square film of at least 32 pixels with values in [0, 1].
    """
    film = torch.as_tensor(image, dtype=torch.float32)
    if film.ndim != _FILM_AXES:
        raise ValueError(f"a film must be [h, w], got {tuple(film.shape)}; use measure_batch")
    return measure_batch(film[None])[0]


def measure_batch(
    images: Float[Tensor, "b h w"] | NDArray[np.generic],
) -> list[list[MeasuredFinding]]:
    """Findings that each film shows, as `measure` gives them.

    Raises:
        ValueError: not square films of at least 32 pixels with values in [0, 1].
    """
    films = prepared(torch.as_tensor(images, dtype=torch.float32))
    with torch.no_grad():
        return [
            found
            for start in range(0, len(films), _BATCH)
            for found in _read(load_oracle(), films[start : start + _BATCH])
        ]


def prepared(films: Float[Tensor, "b h w"]) -> Float[Tensor, "b s s"]:
    """Films at the size that the network reads.

    Raises:
        ValueError: not square films of at least 32 pixels with values in [0, 1].
    """
    if films.ndim != _FILM_AXES + 1 or films.shape[-1] != films.shape[-2]:
        raise ValueError(f"films must be [b, h, w] and square, got {tuple(films.shape)}")
    if films.shape[-1] < MIN_SIDE:
        raise ValueError(f"films have {films.shape[-1]} pixels a side; at least {MIN_SIDE} needed")
    if not (torch.isfinite(films).all() and films.min() >= 0 and films.max() <= 1):
        raise ValueError("films must hold finite values in [0, 1]; scale or clamp them first")
    if films.shape[-1] == INPUT_SIZE:
        return films
    size = (INPUT_SIZE, INPUT_SIZE)
    return functional.interpolate(
        films[:, None], size, mode="bilinear", antialias=True, align_corners=False
    )[:, 0]


@cache
def load_oracle() -> OracleNetwork:
    """The network with its shipped weights."""
    network = OracleNetwork()
    weights = {name: tensor.float() for name, tensor in load_file(WEIGHTS).items()}
    network.load_state_dict(weights)
    return network.eval().requires_grad_(requires_grad=False)


def both_sides(network: OracleNetwork, films: Float[Tensor, "b s s"]) -> tuple[Readings, Readings]:
    """Readings of the patient's left and right."""
    return network(films), network(films.flip(-1))


def presence(left: Readings, right: Readings) -> Float[Tensor, "b k"]:
    """How surely each kind is there, on whichever side, before the thresholds."""
    sided = torch.tensor([kind in SIDED for kind in KINDS])
    larger = torch.maximum(left.present, right.present)
    return torch.where(sided, larger, (left.present + right.present) / 2)


def _read(network: OracleNetwork, films: Float[Tensor, "b s s"]) -> list[list[MeasuredFinding]]:
    left, right = both_sides(network, films)
    score = presence(left, right) - network.threshold
    return [
        [
            _finding(column, row, (left, right), float(score[row, column]))
            for column in range(len(KINDS))
            if score[row, column] > 0
        ]
        for row in range(len(films))
    ]


def _finding(column: int, row: int, readings: Sequence[Readings], score: float) -> MeasuredFinding:
    kind = KINDS[column]
    on_right = bool(readings[1].present[row, column] > readings[0].present[row, column])
    side: Side = SIDES[on_right] if kind in SIDED else ""
    if kind in SIDED:
        share = float(readings[on_right].extent[row, column])
    else:
        share = float(sum(reading.extent[row, column] for reading in readings)) / 2
    extent = EXTENTS[kind]
    size = extent.lowest + (extent.highest - extent.lowest) * min(max(share, 0.0), 1.0)
    zone: Zone = ""
    if kind in ZONED:
        zone = ZONES[int(readings[on_right].zone[row, ZONED.index(kind)].argmax())]
    return MeasuredFinding(kind, side, size, extent.severity(size), zone, score)
