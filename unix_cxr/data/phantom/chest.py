"""The healthy chest as line integrals: lungs, heart, mediastinum, soft tissue and bones.

Lengths are cm, x to the patient's left (the viewer's right), y downwards. Both halves are computed
at once: `out` is the distance from the midline, and `left` says which half a pixel is in.

Axes: b phantoms, h rows, w columns; numbers of one phantom are [b, 1, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unix_cxr.data.phantom.bodies import (
    Ellipsoid,
    bell,
    chain,
    distance_to_curve,
    magnification,
    root,
    step,
    tube_path,
)
from unix_cxr.data.phantom.description import Anatomy, Phantom

Columns = Mapping[str, Tensor]
"""Numbers of a batch by name, [b, 1, 1] each."""

SOFT: Final = 0.19
LUNG: Final = 0.045
"""Attenuation per cm of soft tissue and of lung at about 70 keV (water 0.19, a quarter dense)."""

_CARINA_BELOW_APEX: Final = 9.0
WAIST: Final = 4.0
_BELOW: Final = 14.0
_RIBS: Final = 10
HALF: Final = 0.5
_NUMBERS: Final = tuple(field.name for field in fields(Anatomy) if field.name != "margin")
_SOURCE: Final = {"AP": 110.0, "PA": 180.0}
_DEPTHS: Final = {
    "AP": {"lungs": 12.0, "heart": 16.5, "front": 19.0, "back": 4.5},
    "PA": {"lungs": 11.0, "heart": 6.5, "front": 3.5, "back": 19.0},
}
"""Distance of the X-ray tube and of each body from the detector."""


def columns_of(phantoms: Sequence[Phantom]) -> dict[str, Tensor]:
    """The numbers of each phantom, with what its findings change in the anatomy."""
    rows = [_numbers(phantom) for phantom in phantoms]
    table = torch.tensor([list(row.values()) for row in rows])[:, :, None, None]
    return dict(zip(rows[0], table.unbind(1), strict=True))


def _numbers(phantom: Phantom) -> dict[str, float]:
    numbers = {name: float(getattr(phantom.anatomy, name)) for name in _NUMBERS}
    source = _SOURCE[phantom.view]
    for body, depth in _DEPTHS[phantom.view].items():
        numbers[f"zoom_{body}"] = magnification(source, depth)
    numbers["shift"] = 0.0
    numbers["heart_low"] = min(numbers["dome_left"], numbers["dome_right"] + 1.5)
    collapse = phantom.finding("atelectasis")
    if collapse:
        numbers[f"dome_{collapse.side}"] -= collapse.size
        numbers["shift"] += (0.45 if collapse.side == "left" else -0.45) * collapse.size
    air = phantom.finding("pneumothorax")
    if air:
        numbers["shift"] += (-0.12 if air.side == "left" else 0.12) * air.size
    enlarged = phantom.finding("cardiomegaly")
    if enlarged:
        numbers["heart_ratio"] = enlarged.size
    numbers["carina"] = numbers["apex"] + _CARINA_BELOW_APEX
    return numbers


@dataclass(frozen=True)
class Grid:
    """Where each pixel's ray crosses the body, for a body at a depth of its own.

    Args:
        x, y: cm.
        pixel: width of a pixel, cm.
    """

    x: Float[Tensor, "b h w"]
    y: Float[Tensor, "b h w"]
    pixel: Float[Tensor, "b 1 1"]

    def at(self, zoom: Tensor) -> "Grid":
        """The same pixels for a body that is shown `zoom` times larger."""
        return Grid(self.x / zoom, self.y / zoom, self.pixel / zoom)

    def of(self, rows: Tensor) -> "Grid":
        """The grid of some of the phantoms."""
        return Grid(*(value.index_select(0, rows) for value in (self.x, self.y, self.pixel)))


def detector(columns: Columns, size: int) -> Grid:
    """The detector's pixels, turned and shifted as the film was taken."""
    line = (torch.arange(size) + 0.5) * (2 / size) - 1
    across, down = line[None, None, :] * columns["zoom"], line[None, :, None] * columns["zoom"]
    cosine, sine = columns["turn"].cos(), columns["turn"].sin()
    x = across * cosine - down * sine + columns["center_x"]
    y = across * sine + down * cosine + columns["center_y"]
    return Grid(x, y, 2 * columns["zoom"] / size)


@dataclass(frozen=True)
class Lungs:
    """The lungs' fields, before any finding.

    Args:
        x, y: the grid at their depth.
        left: the patient's left half.
        out: distance from the midline.
        level: 1 on the outline of the rib cage, less within.
        wall: distance from the midline to the side of the rib cage at this height.
        dome: y of the diaphragm in this half at this distance from the midline.
        deep: half of the rib cage's depth along the ray.
        air: path through lung.
    """

    x: Float[Tensor, "b h w"]
    y: Float[Tensor, "b h w"]
    left: Bool[Tensor, "b h w"]
    out: Float[Tensor, "b h w"]
    level: Float[Tensor, "b h w"]
    wall: Float[Tensor, "b h w"]
    dome: Float[Tensor, "b h w"]
    deep: Float[Tensor, "b h w"]
    air: Float[Tensor, "b h w"]

    def of(self, rows: Tensor) -> "Lungs":
        """The lungs of some of the phantoms."""
        return Lungs(*(getattr(self, field.name).index_select(0, rows) for field in fields(self)))


def lungs_of(columns: Columns, grid: Grid) -> Lungs:
    """Two half superellipsoids above the two domes of the diaphragm."""
    own = grid.at(columns["zoom_lungs"])
    x, y, left, out = own.x, own.y, own.x > 0, own.x.abs()
    center, across, height = lung_shape(columns, y)
    cut = height.abs().pow(3)
    level = ((out - center) / across).square() + cut
    wall = center + across * root(1 - cut)
    deep = columns["chest_depth"] * 0.95 * root(1 - level)
    top = torch.where(left, columns["dome_left"], columns["dome_right"])
    fall = (columns["recess"] - top) / (0.47 * columns["chest_width"]).square()
    aside = out - 0.5 * columns["chest_width"]
    dome = top + fall * aside.square() * (0.3 + 0.7 * (aside > 0))
    # lung remains in front of and behind the dome, which falls by 4.5 cm towards both walls
    covered = root((y - dome) * (columns["chest_depth"].square() / 4.5))
    return Lungs(x, y, left, out, level, wall, dome, deep, 2 * (deep - covered).clamp_min(0))


def lung_shape(columns: Columns, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Center and half width of one lung at a height, and the height on a scale from -1 to 1."""
    center = 0.53 * columns["chest_width"] + 0.1 * (y - WAIST)
    down = torch.where(y < WAIST, WAIST - columns["apex"], _BELOW)
    return center, 0.47 * columns["chest_width"], (y - WAIST) / down


def heart_of(columns: Columns) -> Ellipsoid:
    """The heart; its width over the rib cage's is the heart ratio before magnification."""
    half = columns["heart_ratio"] * columns["chest_width"]
    # a large heart lies flatter
    tilt = columns["heart_tilt"] * (1.3 - 0.7 * columns["heart_ratio"])
    flat = 0.8 - 0.28 * columns["heart_ratio"]
    long = half / (tilt.cos().square() + (flat * tilt.sin()).square()).sqrt()
    sunk = 0.48 * long
    return Ellipsoid(
        0.36 * half + columns["shift"],
        columns["heart_low"] - sunk,
        long,
        flat * long,
        0.62 * long + 1.5,
        tilt,
    )


def mediastinum_path(columns: Columns, grid: Grid) -> Float[Tensor, "b h w"]:
    """Great vessels, aortic arch and pulmonary trunk between the lungs."""
    x, y, shift = grid.x, grid.y, columns["shift"]
    apex, knob = columns["apex"], columns["knob"]
    column = Ellipsoid(0.1 + 0.8 * shift, apex + 10, 2.3, 14.0, 4.0).path(x, y)
    arch = Ellipsoid(1.75 + shift, apex + 6.4, knob, knob * 1.15, 3.5).path(x, y)
    trunk = Ellipsoid(2.2 + shift, apex + 11.0, 1.9, 3.6, 3.0).path(x, y)
    root = Ellipsoid(0.2 + shift, apex + 12.0, 3.3, 5.5, 3.0).path(x, y)
    hila = Ellipsoid(3.0, apex + 11.6, 1.3, 2.6, 1.6, -0.3).path((x - 0.6 * shift).abs(), y)
    return column + arch + trunk + root + hila


def airway_path(columns: Columns, grid: Grid) -> Float[Tensor, "b h w"]:
    """Trachea and main bronchi."""
    x, y = grid.x - 0.7 * columns["shift"], grid.y
    carina = columns["carina"]
    trachea = tube_path(x, 0.85) * step(carina - y, 0.15)
    zero = torch.zeros_like(carina)
    branch = chain([(zero, carina), (zero + 3.2, carina + 2.6)])
    bronchi = tube_path(distance_to_curve(x.abs(), y, branch), 0.55)
    return torch.maximum(trachea, bronchi)


def body_path(columns: Columns, grid: Grid) -> Float[Tensor, "b h w"]:
    """Trunk, shoulders, neck and arms as if they were soft tissue throughout."""
    out, y = grid.x.abs(), grid.y
    width = columns["chest_width"] + columns["wall"] + 1.0
    depth = columns["chest_depth"] + columns["wall"]
    trunk = 2 * depth * root(1 - (out / width).square().square())
    trunk = trunk * step(y - columns["apex"], 1.6) * (1 + 0.012 * y.clamp_min(0))
    below = y - columns["apex"] + 5.2 - 0.2 * (out - 5)
    shoulder = 19 * root((below / 7).clamp_max(1)) * step(3.0 - y, 2.5)
    neck = tube_path(out, 5.8) * step(columns["apex"] + 2 - y, 1.0)
    arm = 1.3 * tube_path(out - columns["arms"] - 5.0, 5.0) * step(y + 11, 1.5)
    return torch.maximum(torch.maximum(trunk, shoulder), torch.maximum(neck, arm))


def soft_extras(columns: Columns, grid: Grid) -> Float[Tensor, "b h w"]:
    """Breasts, and the gas in the stomach as missing tissue."""
    mirrored = grid.x.abs()
    breast = Ellipsoid(
        0.58 * columns["chest_width"],
        columns["dome_right"] + 0.5,
        6.4,
        5.6,
        0.8 * columns["breast"],
    )
    gas = columns["gas"]
    bubble = Ellipsoid(
        5.4, columns["dome_left"] + 0.7 + gas, 1.5 * gas + 0.01, gas + 0.01, gas * 1.2
    )
    return breast.path(mirrored, grid.y) - bubble.path(grid.x, grid.y)


@dataclass(frozen=True)
class Break:
    """Three broken ribs of each phantom: side, number of the middle one, and where along them."""

    sign: Tensor
    rib: Tensor
    along: Tensor

    def near(self, grid: Grid, wall: Tensor) -> Tensor:
        """Distance along the ribs to the break, in cm; far away on the other side."""
        far = 100.0 * (grid.x.sign() != self.sign)
        return grid.x.abs() - self.along * wall + far


def ribs(columns: Columns, grid: Grid, lungs: Lungs, broken: Break | None) -> Tensor:
    """Optical depth of the ribs; every rib of a half comes from one phase that counts them."""
    wall = lungs.wall * (columns["zoom_lungs"] / columns["zoom_back"]) + 0.4
    back = grid.at(columns["zoom_back"])
    ratio = back.x.abs() / wall
    # below the diaphragm, scatter in the abdomen drowns most of a rib
    inside = step(1.03 - ratio, 0.02) * (0.45 + 0.55 * step(lungs.dome + 1 - lungs.y, 1.0))
    steep = 1 + 0.9 * ratio.square().square().square()
    shown = inside * steep * 0.36
    fall = columns["rib_drop"] * ratio.pow(3)
    front = _front(columns, grid, lungs)
    if broken is None:
        return (_rib_row(columns, back.y - fall, None) * shown + front) * columns["bone"]
    near = broken.near(back, wall)
    moved = 0.95 * step(near, 0.06) * step(20 - near.abs(), 1.0)
    y = back.y + moved * _band(columns, back.y - fall, broken) - fall
    gap = 1 - bell(near / 0.35) * _band(columns, y, broken)
    rows = _rib_row(columns, y, None) * shown * gap
    callus = 0.95 * bell((near / 0.9).square()) * _rib_row(columns, y, broken)
    return (rows + front) * columns["bone"] + callus


def break_mask(columns: Columns, grid: Grid, lungs: Lungs, broken: Break) -> Tensor:
    """Where the ends of the broken ribs are."""
    wall = lungs.wall * (columns["zoom_lungs"] / columns["zoom_back"]) + 0.4
    back = grid.at(columns["zoom_back"])
    fall = columns["rib_drop"] * (back.x.abs() / wall).pow(3)
    band = _band(columns, back.y - fall, broken)
    return (broken.near(back, wall).abs() < 1.0) & (band > HALF)


def _front(columns: Columns, grid: Grid, lungs: Lungs) -> Tensor:
    own = grid.at(columns["zoom_front"])
    wall = lungs.wall * (columns["zoom_lungs"] / columns["zoom_front"]) + 0.4
    ratio = own.x.abs() / wall
    fall = columns["rib_drop"] + 7.0 * (1 - ratio)
    visible = step(ratio - 0.45, 0.04) * step(1.03 - ratio, 0.02)
    return _rib_row(columns, own.y - fall, None) * visible * 0.24


def _phase(columns: Columns, y: Tensor) -> Tensor:
    return (y - columns["apex"] + 1.0) / columns["rib_spacing"] - 0.6 * columns["rib_offset"]


def _band(columns: Columns, y: Tensor, broken: Break) -> Tensor:
    return step(1.5 - (_phase(columns, y) - broken.rib).abs(), 0.02)


def _rib_row(columns: Columns, y: Tensor, broken: Break | None) -> Tensor:
    """Ribs as hollow tubes: bright at both edges."""
    phase = _phase(columns, y)
    number = phase.round()
    squared = (phase - number).square() * (columns["rib_spacing"] / 0.56).square()
    tube = root(1 - squared) - 0.45 * root(0.62 - squared)
    chosen = (number >= 0) & (number <= _RIBS)
    if broken is not None:
        chosen = (number - broken.rib).abs() <= 1
        return (1 - squared * 0.5).clamp_min(0) * chosen
    return tube * chosen


def other_bones(columns: Columns, grid: Grid) -> Float[Tensor, "b h w"]:
    """Optical depth of spine, clavicles, shoulder blades and the heads of the arms."""
    back = grid.at(columns["zoom_back"])
    x = back.x - columns["spine_bend"] * (back.y * 0.17).sin()
    disc = (back.y * (2 * torch.pi / 2.35)).cos()
    body = root(1 - (x / 1.75).square().square()) * (0.42 + 0.06 * disc)
    pedicle = 0.10 * bell((x.abs() - 1.05) / 0.3) * disc.clamp_min(0)
    spine = body + pedicle + 0.12 * bell(x / 0.25)
    front = grid.at(columns["zoom_front"])
    out, y, apex = front.x.abs(), front.y, columns["apex"]
    bend = apex + 3.6 - 0.20 * out - 0.55 * ((out - 2) * 0.42).sin()
    radius = 0.55 + 0.03 * (out - 7).abs()
    clavicle = tube_path(y - bend, radius) * step(out - 1.6, 0.15) * step(16.5 - out, 0.2)
    edge = back.x.abs() - columns["scapula"] - 0.16 * (back.y - apex - 9)
    span = step(back.y - apex - 1.5, 0.5) * step(apex + 14.5 - back.y - 0.4 * edge, 0.4)
    blade = (step(edge, 0.12) * 0.16 + 0.2 * bell((edge - 0.3) / 0.3)) * span
    joint = Ellipsoid(columns["scapula"] + 5.5, apex + 3.0, 2.4, 2.6, 2.2)
    humerus = 0.16 * joint.path(back.x.abs(), back.y)
    return (spine + 0.5 * clavicle + blade + humerus) * columns["bone"]
