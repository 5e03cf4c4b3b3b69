"""How well measured findings agree with the truth, kind by kind.

Axes: b films, h rows, w columns.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from unix_cxr.data.phantom.description import KINDS, Kind, Phantom
from unix_cxr.data.phantom.oracle import MeasuredFinding


@dataclass(frozen=True)
class KindScore:
    """Counts of one kind over many films, and the shares that follow.

    Args:
        present: films that have it.
        found: of these, films where it was measured.
        absent: films that lack it.
        imagined: of these, films where it was measured.
        side_right: of the found, those with the true side (all of them for kinds without one).
        severity_right: of the found, those with the true severity.
        zone_right: of the found, those in the true zone.
    """

    present: int
    found: int
    absent: int
    imagined: int
    side_right: int
    severity_right: int
    zone_right: int

    @property
    def balanced_accuracy(self) -> float:
        """Mean of sensitivity and specificity; always-no scores one half."""
        return (_share(self.found, self.present) + 1 - _share(self.imagined, self.absent)) / 2

    @property
    def side_accuracy(self) -> float:
        """Share of the found whose side is true."""
        return _share(self.side_right, self.found)

    @property
    def severity_accuracy(self) -> float:
        """Share of the found whose severity is true."""
        return _share(self.severity_right, self.found)

    @property
    def zone_accuracy(self) -> float:
        """Share of the found whose zone is true."""
        return _share(self.zone_right, self.found)


def score_measured(
    phantoms: Sequence[Phantom], measured: Sequence[Sequence[MeasuredFinding]]
) -> dict[Kind, KindScore]:
    """Hold what was measured against what is there.

    Raises:
        ValueError: not as many measurements as phantoms.
    """
    if len(phantoms) != len(measured):
        raise ValueError(f"{len(phantoms)} phantoms need as many measurements, got {len(measured)}")
    return {kind: _score(kind, phantoms, measured) for kind in KINDS}


def _score(
    kind: Kind, phantoms: Sequence[Phantom], measured: Sequence[Sequence[MeasuredFinding]]
) -> KindScore:
    truths = [phantom.finding(kind) for phantom in phantoms]
    seen = [next((m for m in found if m.kind == kind), None) for found in measured]
    both = [(t, m) for t, m in zip(truths, seen, strict=True) if t and m]
    return KindScore(
        present=sum(truth is not None for truth in truths),
        found=len(both),
        absent=sum(truth is None for truth in truths),
        imagined=sum(t is None and m is not None for t, m in zip(truths, seen, strict=True)),
        side_right=sum(t.side == m.side for t, m in both),
        severity_right=sum(t.severity == m.severity for t, m in both),
        zone_right=sum(t.zone == m.zone for t, m in both),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def blurred(films: Float[Tensor, "b h w"], sigma: float) -> Float[Tensor, "b h w"]:
    """Films behind a Gaussian of `sigma` pixels."""
    reach = max(1, math.ceil(3 * sigma))
    line = torch.arange(-reach, reach + 1, dtype=films.dtype)
    kernel = (-0.5 * (line / sigma).square()).exp()
    kernel = kernel / kernel.sum()
    padded = functional.pad(films[:, None], (reach, reach, reach, reach), mode="replicate")
    smooth = functional.conv2d(padded, kernel[None, None, :, None])
    return functional.conv2d(smooth, kernel[None, None, None, :])[:, 0]


def noisy(films: Float[Tensor, "b h w"], strength: float) -> Float[Tensor, "b h w"]:
    """Films with white noise of a spread of `strength`; the same noise at each call."""
    generator = torch.Generator().manual_seed(0)
    return (films + strength * torch.randn(films.shape, generator=generator)).clamp(0, 1)


def shifted(films: Float[Tensor, "b h w"], down: int, across: int) -> Float[Tensor, "b h w"]:
    """Films moved by whole pixels; the border is repeated."""
    reach = max(abs(down), abs(across))
    padded = functional.pad(films[:, None], (reach, reach, reach, reach), mode="replicate")[:, 0]
    height, width = films.shape[-2:]
    top, start = reach - down, reach - across
    return padded[:, top : top + height, start : start + width]


PERTURBATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "as rendered": lambda films: films,
    "blur 0.5 px": lambda films: blurred(films, 0.5),
    "blur 1 px": lambda films: blurred(films, 1.0),
    "noise 0.03": lambda films: noisy(films, 0.03),
    "gamma 0.8": lambda films: films.pow(0.8),
    "gamma 1.25": lambda films: films.pow(1.25),
    "shift +2 px": lambda films: shifted(films, 2, 2),
    "shift -2 px": lambda films: shifted(films, -2, -2),
    "contrast 0.85": lambda films: 0.5 + 0.85 * (films - 0.5),
}
"""What a generator may do to a film without changing its findings."""
