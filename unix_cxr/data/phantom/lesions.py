"""The findings as changes of the lungs' air and of the optical depth, with their exact masks.

Each function gets the fields of those phantoms only that have the finding.

Axes: b phantoms with the finding, h rows, w columns; their numbers are [b, 1, 1].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unix_cxr.data.phantom.bodies import (
    Ellipsoid,
    bell,
    bezier,
    chain,
    decay,
    distance_to_curve,
    root,
    step,
)
from unix_cxr.data.phantom.chest import (
    HALF,
    LUNG,
    SOFT,
    WAIST,
    Columns,
    Grid,
    Lungs,
    heart_of,
    lung_shape,
)
from unix_cxr.data.phantom.description import ZONES, Kind, PhantomFinding

_FLUID_RISE: Final = 2.6
_METAL: Final = 2.2
_FILLED: Final = 0.75
_DULL: Final = 0.25
_AERATED: Final = 3.0
_TUBE: Final = 0.42
_NEAR: Final = 0.32


@dataclass(frozen=True)
class Lesion:
    """A finding in numbers, [b, 1, 1] each: sign is 1 on the patient's left, -1 on the right."""

    sign: Tensor
    size: Tensor
    zone: Tensor
    u: Tensor
    v: Tensor

    @classmethod
    def stack(cls, findings: Sequence[PhantomFinding]) -> "Lesion":
        """The findings of a batch."""

        def column(numbers: Sequence[float]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.float32)[:, None, None]

        return cls(
            sign=column([-1 if finding.side == "right" else 1 for finding in findings]),
            size=column([finding.size for finding in findings]),
            zone=column([ZONES.index(f.zone) if f.zone in ZONES else 1 for f in findings]),
            u=column([finding.place[0] for finding in findings]),
            v=column([finding.place[1] for finding in findings]),
        )


@dataclass(frozen=True)
class Scene:
    """What the findings may look at and change.

    Args:
        columns: numbers of the phantoms.
        grid: the detector.
        lungs: the lungs' fields, before any finding.
        cloud: smooth noise of spread 1.
        air: path through lung that is left.
        markings: how strongly vessels show, 1 in a healthy lung.
        extra: optical depth that findings add.
    """

    columns: Columns
    grid: Grid
    lungs: Lungs
    cloud: Float[Tensor, "b h w"]
    air: Float[Tensor, "b h w"]
    markings: Float[Tensor, "b h w"]
    extra: Float[Tensor, "b h w"]

    def of(self, rows: Tensor) -> "Scene":
        """The scene of some of the phantoms."""
        some = torch.stack(list(self.columns.values())).index_select(1, rows)
        return Scene(
            dict(zip(self.columns, some, strict=True)),
            self.grid.of(rows),
            self.lungs.of(rows),
            self.cloud.index_select(0, rows),
            self.air.index_select(0, rows),
            self.markings.index_select(0, rows),
            self.extra.index_select(0, rows),
        )

    def put(self, rows: Tensor, part: "Scene") -> None:
        """Write what a finding changed back."""
        self.air[rows], self.markings[rows], self.extra[rows] = part.air, part.markings, part.extra


Mask = Bool[Tensor, "b h w"]
Draw = Callable[[Scene, Lesion], tuple[Scene, Mask]]


def _own(scene: Scene, lesion: Lesion) -> Mask:
    """The half of the chest that a finding lies in."""
    return scene.lungs.left == (lesion.sign > 0)


def effusion(scene: Scene, lesion: Lesion) -> tuple[Scene, Mask]:
    """Fluid that fills the pleural space from below and climbs the wall: the meniscus."""
    lungs = scene.lungs
    surface = scene.columns["recess"] - lesion.size
    rise = _FLUID_RISE * decay((lungs.wall - lungs.out).clamp_min(0) / 1.3)
    rise = rise + 0.7 * decay((lungs.out - 1.5).clamp_min(0) / 1.5)
    share = step(lungs.y - surface + rise, 0.35) * _own(scene, lesion)
    mask = (share > HALF) & (lungs.level < 1) & (lungs.y < scene.columns["recess"] + 0.5)
    return replace(
        scene,
        air=scene.air * (1 - 0.97 * share),
        markings=scene.markings * (1 - share),
        extra=scene.extra + 0.25 * share * step(1 - lungs.level, 0.05),
    ), mask


def pneumothorax(scene: Scene, lesion: Lesion) -> tuple[Scene, Mask]:
    """Air outside a lung that has shrunk towards its hilum, behind a thin line."""
    lungs, columns, gap = scene.lungs, scene.columns, lesion.size
    center, across, _ = lung_shape(columns, lungs.y)
    top = columns["apex"] + 1.2 * gap
    down = torch.where(lungs.y < WAIST, WAIST - top, 14.0 - 0.3 * gap)
    aside = (lungs.out - center + gap / 2) / (across - gap / 2)
    level = aside.square() + ((lungs.y - WAIST) / down).abs().pow(3)
    own = _own(scene, lesion)
    outside = step(level - 1, 0.015) * own
    slope = (2 * aside / (across - gap / 2)).abs().clamp_min(0.15)
    line = bell((level - 1) / slope / scene.grid.pixel.clamp_min(0.22))
    line = line * own * (lungs.level < 1) * (lungs.y < lungs.dome)
    # the free air is deeper than lung was, since nothing hangs in it
    free = outside * scene.air
    mask = own & (level > 1) & (lungs.level < 1) & (lungs.y < lungs.dome)
    return replace(
        scene,
        markings=scene.markings * (1 - outside),
        extra=scene.extra - LUNG * 1.3 * free + 0.2 * line + 0.03 * gap * (scene.air - free) * LUNG,
    ), mask


def _place(scene: Scene, lesion: Lesion, across: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Center of a finding in its zone: x with the side's sign, y."""
    columns = scene.columns
    top = columns["apex"] + 3.4
    bottom = torch.where(lesion.sign > 0, columns["dome_left"], columns["dome_right"]) - 2.0
    y = top + (bottom - top) * (lesion.zone + 0.2 + 0.6 * lesion.v) / 3
    center, half, height = lung_shape(columns, y)
    half = half * (1 - height.abs().pow(3)).sqrt()
    low, high = across
    # the heart takes more of the left lung's lower zones
    low_left = low + 0.28 * (lesion.sign > 0) * (lesion.zone / 2)
    share = low_left + (high - low_left) * lesion.u
    return lesion.sign * (center + half * (2 * share - 1)), y


def consolidation(scene: Scene, lesion: Lesion) -> tuple[Scene, Mask]:
    """A patch of lung whose air is replaced, with a fluffy border."""
    lungs, size = scene.lungs, lesion.size
    x, y = _place(scene, lesion, (0.42, 0.72))
    far = ((lungs.x - x).square() + (lungs.y - y).square()).sqrt() / size
    share = step(1 - far + 0.22 * scene.cloud, 0.14) * _own(scene, lesion) * _FILLED
    mask = (share > 0.5 * _FILLED) & (scene.air > 1)
    return replace(
        scene, air=scene.air * (1 - share), markings=scene.markings * (1 - 0.7 * share)
    ), mask


def atelectasis(scene: Scene, lesion: Lesion) -> tuple[Scene, Mask]:
    """Bands of collapsed lung above a diaphragm that `columns` already holds raised."""
    lungs = scene.lungs
    above = lungs.dome - lungs.y
    slant = 0.25 * (lungs.out - 7) * (lesion.u - 0.5)
    bands = bell((above - 1.5 - lesion.v + slant) / 0.55)
    bands = bands + 0.8 * bell((above - 3.4 - lesion.v - slant) / 0.45)
    inner = step(lungs.wall - 1.2 - lungs.out, 0.5) * step(lungs.out - 2.5, 0.5)
    share = (0.55 * bands * inner + 0.3 * step(2.5 - above, 0.9)).clamp_max(0.85)
    share = share * _own(scene, lesion)
    mask = (share > _DULL) & (scene.air > 1)
    return replace(scene, air=scene.air * (1 - share)), mask


def edema(scene: Scene, lesion: Lesion) -> tuple[Scene, Mask]:
    """Haze around both hila like wings, thick vessels, short lines at the walls."""
    lungs, columns = scene.lungs, scene.columns
    across = (lungs.out - 4.0) / 6.5
    down = (lungs.y - columns["carina"] - 4.0) / 8.0
    wings = decay(across.square() + down.square())
    share = (lesion.size * (0.25 + 0.95 * wings) * (1 + 0.28 * scene.cloud)).clamp(0, 0.9)
    lines = ((lungs.y * 5.2).sin().clamp_min(0.6) - 0.6) * 2.5
    aside = lungs.wall - lungs.out
    at_wall = step(2.2 - aside, 0.2) * step(lungs.y - columns["carina"] - 5, 0.6)
    mask = (share > 0.6 * lesion.size) & (scene.air > _AERATED)
    return replace(
        scene,
        air=scene.air * (1 - share),
        markings=scene.markings * (1 + 1.2 * lesion.size),
        extra=scene.extra + 0.12 * lines * at_wall * (scene.air > 1) * lesion.size,
    ), mask


def cardiomegaly(scene: Scene, lesion: Lesion) -> tuple[Scene, Mask]:
    """Nothing to draw: `columns` already holds the wide heart; its outline is the mask."""
    own = scene.grid.at(scene.columns["zoom_heart"])
    return scene, (heart_of(scene.columns).level(own.x, own.y) < 1) & (lesion.size > 0)


def nodule(scene: Scene, lesion: Lesion) -> tuple[Scene, Mask]:
    """A dense ball in the lung."""
    lungs, radius = scene.lungs, lesion.size / 2
    x, y = _place(scene, lesion, (0.35, 0.85))
    ball = Ellipsoid(x, y, radius, radius, radius)
    path = ball.path(lungs.x, lungs.y)
    return replace(
        scene, air=scene.air - torch.minimum(path, scene.air), extra=scene.extra + 0.26 * path
    ), ball.level(lungs.x, lungs.y) < 1


def hernia(scene: Scene, lesion: Lesion) -> tuple[Scene, Mask]:
    """A part of the stomach behind the heart: a round wall, gas above, a level of fluid below."""
    grid, radius = scene.grid.at(scene.columns["zoom_back"]), lesion.size / 2
    columns = scene.columns
    x = columns["shift"] + 0.5 + 2.0 * lesion.u
    y = columns["heart_low"] - 0.7 - 0.55 * radius - 0.6
    sac = Ellipsoid(x, y, radius, 0.85 * radius, radius)
    gas = Ellipsoid(x, y, radius - 0.45, 0.85 * radius - 0.45, radius - 0.4)
    level = y + 0.3 * radius * (2 * lesion.v - 1)
    above = step(level - grid.y, 0.08)
    path = sac.path(grid.x, grid.y)
    extra = 0.10 * path - SOFT * 1.35 * gas.path(grid.x, grid.y) * above
    return replace(scene, extra=scene.extra + extra), sac.level(grid.x, grid.y) < 1


def _wire(scene: Scene, distance: Tensor, radius: float, depth: float) -> Tensor:
    """Optical depth of something thin, spread over no less than a pixel."""
    spread = (scene.grid.pixel.square() * 0.25 + radius**2).sqrt()
    return depth * (radius / spread) * bell(distance / spread)


def tube(scene: Scene, lesion: Lesion) -> tuple[Scene, Mask]:
    """A breathing tube in the trachea; its tip lies `size` cm above the carina."""
    columns, grid = scene.columns, scene.grid.at(scene.columns["zoom_heart"])
    tip = columns["carina"] - lesion.size
    middle = 0.7 * columns["shift"] + 0.3 * (lesion.u - 0.5)
    aside = (grid.x - middle - 0.02 * (lesion.v - 0.5) * (grid.y - tip)).abs()
    inside = step(tip - grid.y, 0.1)
    walls = _wire(scene, aside - _TUBE, 0.16, 1.0) + 0.3 * (aside < _TUBE)
    mask = (aside < _TUBE + 0.2) & (grid.y < tip)
    return replace(scene, extra=scene.extra + walls * inside), mask


def line(scene: Scene, lesion: Lesion) -> tuple[Scene, Mask]:
    """A catheter from below one clavicle into the superior vena cava, right of the midline."""
    columns, grid = scene.columns, scene.grid.at(scene.columns["zoom_heart"])
    s, apex, shift = lesion.sign, columns["apex"], columns["shift"]
    entry = (s * (9.5 + 2 * lesion.u), apex + 5.5 + 2 * lesion.v)
    bend = (s * 4.5 + shift * 0.5, apex + 2.2 + lesion.v)
    cava = (shift - 2.0, apex + 5.5)
    tip = (shift - 2.1, apex + 10.5 + lesion.size)
    before = (torch.where(s > 0, shift - 1.0, shift - 2.6), apex + 2.6 + 0.8 * (s > 0))
    points = torch.cat([bezier([entry, bend, before, cava]), chain([tip])], dim=1)
    distance = distance_to_curve(grid.x, grid.y, points)
    depth = _wire(scene, distance, 0.17, 1.5)
    outer = entry[0] + s * 1.0, entry[1] + 1.2
    hub = distance_to_curve(grid.x, grid.y, chain([entry, outer]))
    depth = depth + _wire(scene, hub, 0.3, 1.2)
    return replace(scene, extra=scene.extra + depth), torch.minimum(distance, hub) < _NEAR


def pacemaker(scene: Scene, lesion: Lesion) -> tuple[Scene, Mask]:
    """A metal box below one clavicle with a lead into the right ventricle."""
    columns, grid = scene.columns, scene.grid.at(scene.columns["zoom_front"])
    s, apex, shift, half = lesion.sign, columns["apex"], columns["shift"], lesion.size / 2
    x, y = s * (8.6 + 1.6 * lesion.u), apex + 6.0 + 1.8 * lesion.v
    across = ((grid.x - x).abs() - half + 0.9).clamp_min(0)
    down = ((grid.y - y).abs() - half * 0.85 + 0.9).clamp_min(0)
    edge = 0.9 - root(across.square() + down.square())
    box = step(edge, 0.06) * _METAL
    start, cava = (x - s * 0.5 * half, y - half * 0.8), (shift - 1.9, apex + 5.5)
    first = bezier([start, (s * 4.5, apex + 1.8), (shift - 1.5, apex + 2.4), cava], 6)
    heart = heart_of(columns)
    middle, low = torch.as_tensor(heart.x), torch.as_tensor(heart.y)
    end = (middle + 2.2, low + 2.6)
    second = bezier([cava, (shift - 2.6, apex + 11.5), (shift - 2.6, low + 3.4), end], 6)
    distance = distance_to_curve(grid.x, grid.y, torch.cat([first, second[:, 1:]], dim=1))
    depth = box + _wire(scene, distance, 0.14, 1.3)
    return replace(scene, extra=scene.extra + depth), (edge > 0) | (distance < _NEAR)


DRAWN: Final[Mapping[Kind, Draw]] = {
    "edema": edema,
    "consolidation": consolidation,
    "atelectasis": atelectasis,
    "nodule": nodule,
    "pneumothorax": pneumothorax,
    "effusion": effusion,
    "cardiomegaly": cardiomegaly,
    "hernia": hernia,
    "tube": tube,
    "line": line,
    "pacemaker": pacemaker,
}
"""How each finding is drawn, in this order; fractures are drawn with the ribs."""
