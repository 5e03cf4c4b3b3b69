"""From phantoms to films: optical depth, photons, scatter, noise and tone.

Axes: b phantoms, h rows, w columns; numbers of one phantom are [b, 1, 1].
"""

from collections.abc import Sequence
from typing import Final

import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from unix_cxr.data.phantom import chest, textures
from unix_cxr.data.phantom.bodies import attenuated, step
from unix_cxr.data.phantom.chest import LUNG, SOFT, Break, Columns, Grid, Lungs
from unix_cxr.data.phantom.description import Kind, Phantom
from unix_cxr.data.phantom.lesions import DRAWN, Lesion, Scene

MIN_SIZE: Final = 32
MAX_SIZE: Final = 1024
_FINEST: Final = 128
_RAYS: Final = 4 * _FINEST**2
"""In one go: more would leave the processor's cache, and memory the process, at every step."""

_SCATTER_CELLS: Final = 8
_RIB_OF_PHASE_0: Final = 2
_DARKEST: Final = 1e-5
_SPREAD: Final = 0.75
_EVENED: Final = 0.42

Masks = dict[Kind, Bool[Tensor, "b h w"]]


def render_batch(phantoms: Sequence[Phantom], size: int) -> Float[Tensor, "b h w"]:
    """Films of phantoms: float32 in [0, 1], bright = dense, `size` pixels on each side.

    Each film depends on its own phantom alone, whatever is rendered beside it.

    Raises:
        ValueError: no phantoms, or a size out of range.
    """
    return torch.cat([films for films, _ in _in_chunks(phantoms, size, with_masks=False)])


def render_with_masks(
    phantoms: Sequence[Phantom], size: int
) -> tuple[Float[Tensor, "b h w"], Masks]:
    """Films as from `render_batch`, with the mask of every finding that a phantom has.

    Masks of absent findings are False throughout.

    Raises:
        ValueError: no phantoms, or a size out of range.
    """
    parts = list(_in_chunks(phantoms, size, with_masks=True))
    masks = {kind: torch.cat([part[kind] for _, part in parts]) for kind in parts[0][1]}
    return torch.cat([films for films, _ in parts]), masks


def _in_chunks(
    phantoms: Sequence[Phantom], size: int, *, with_masks: bool
) -> list[tuple[Float[Tensor, "b h w"], Masks]]:
    if not phantoms:
        raise ValueError("there are no phantoms to render; pass at least one")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size ({size}) must be {MIN_SIZE} to {MAX_SIZE} pixels")
    rays = (size * _finer(size)) ** 2
    chunk = max(1, _RAYS // rays)
    with torch.no_grad():
        return [
            _render(phantoms[start : start + chunk], size, with_masks=with_masks)
            for start in range(0, len(phantoms), chunk)
        ]


def _render(
    phantoms: Sequence[Phantom], size: int, *, with_masks: bool
) -> tuple[Float[Tensor, "b h w"], Masks]:
    finer = _finer(size)
    columns = chest.columns_of(phantoms)
    grid = chest.detector(columns, size * finer)
    depth, masks = _optical_depth(phantoms, columns, grid)
    light = _pooled(attenuated(depth), finer)
    noise = torch.stack(
        [
            torch.randn(size, size, generator=torch.Generator().manual_seed(phantom.seed))
            for phantom in phantoms
        ]
    )
    films = _film(_detected(light, noise, columns), columns)
    films = _collimated(films, phantoms)
    if not with_masks:
        return films, {}
    return films, {kind: _pooled(mask.float(), finer) >= 0.5 for kind, mask in masks.items()}  # noqa: PLR2004


def _finer(size: int) -> int:
    """How many rays there are in each row of a pixel."""
    return -(-_FINEST // size)


def _pooled(values: Tensor, finer: int) -> Tensor:
    if finer == 1:
        return values
    return reduce(values, "b (h i) (w j) -> b h w", "mean", i=finer, j=finer)


def _optical_depth(
    phantoms: Sequence[Phantom], columns: Columns, grid: Grid
) -> tuple[Float[Tensor, "b h w"], Masks]:
    """∫ μ dz along every ray, and where each finding is."""
    lungs = chest.lungs_of(columns, grid)
    front = grid.at(columns["zoom_heart"])
    organs = 1.35 * chest.heart_of(columns).path(front.x, front.y)
    organs = organs + chest.mediastinum_path(columns, front)
    cloud = _clouds(columns, grid)
    scene = Scene(
        columns,
        grid,
        lungs,
        cloud,
        (lungs.air - organs).clamp_min(0),
        torch.ones_like(cloud),
        torch.zeros_like(cloud),
    )
    masks: Masks = {}
    for kind, draw in DRAWN.items():
        having = [(row, f) for row, p in enumerate(phantoms) if (f := p.finding(kind))]
        masks[kind] = torch.zeros_like(lungs.left)
        if having:
            rows = torch.tensor([row for row, _ in having])
            part, masks[kind][rows] = draw(scene.of(rows), Lesion.stack([f for _, f in having]))
            scene.put(rows, part)
    ribs, masks["fracture"] = _ribs(phantoms, scene)
    vessels = _vessels(columns, lungs) * scene.markings
    depth = SOFT * (chest.body_path(columns, grid) + chest.soft_extras(columns, grid))
    depth = depth - (SOFT - LUNG) * scene.air - 0.5 * SOFT * chest.airway_path(columns, front)
    depth = depth + 0.065 * vessels * scene.air * (1 + 0.1 * cloud) + 0.016 * cloud * scene.air
    depth = depth + ribs + chest.other_bones(columns, grid)
    return (depth + scene.extra + 0.03 * cloud).clamp_min(0), masks


def _ribs(
    phantoms: Sequence[Phantom], scene: Scene
) -> tuple[Float[Tensor, "b h w"], Bool[Tensor, "b h w"]]:
    """Optical depth of the ribs, and where broken ends are."""
    depth = chest.ribs(scene.columns, scene.grid, scene.lungs, None)
    mask = torch.zeros_like(scene.lungs.left)
    having = [(row, f) for row, p in enumerate(phantoms) if (f := p.finding("fracture"))]
    if having:
        rows = torch.tensor([row for row, _ in having])
        part, lesion = scene.of(rows), Lesion.stack([f for _, f in having])
        broken = Break(lesion.sign, lesion.size.round() - _RIB_OF_PHASE_0, 0.55 + 0.25 * lesion.u)
        depth[rows] = chest.ribs(part.columns, part.grid, part.lungs, broken)
        mask[rows] = chest.break_mask(part.columns, part.grid, part.lungs, broken)
    return depth, mask


def _picked(pictures: Tensor, texture: Tensor, salt: float) -> Tensor:
    """One of the pictures for each phantom, [b, h, w]."""
    share = (texture.flatten() * salt) % 1
    return pictures[(share * len(pictures)).long().clamp_max(len(pictures) - 1)]


def _clouds(columns: Columns, grid: Grid) -> Float[Tensor, "b h w"]:
    picture = _picked(textures.clouds(), columns["texture"], 17.0)
    turn = columns["texture"] * 1000
    x = grid.x * turn.cos() - grid.y * turn.sin()
    y = grid.x * turn.sin() + grid.y * turn.cos()
    places = torch.stack([x, y], dim=-1) / 30
    return _sampled(picture, places)


def _vessels(columns: Columns, lungs: Lungs) -> Float[Tensor, "b h w"]:
    left = _picked(textures.vessels(), columns["texture"], 101.0)
    right = _picked(textures.vessels(), columns["texture"], 211.0)
    picture = torch.cat([right.flip(-1), left], dim=-1)
    top, bottom = columns["apex"], columns["recess"]
    places = torch.stack(
        [lungs.x / (lungs.wall + 0.3), 2 * (lungs.y - top) / (bottom - top) - 1], dim=-1
    )
    return _sampled(picture, places) * columns["markings"]


def _sampled(picture: Float[Tensor, "b i j"], places: Float[Tensor, "b h w 2"]) -> Tensor:
    return functional.grid_sample(
        picture[:, None], places, padding_mode="reflection", align_corners=False
    )[:, 0]


def _detected(light: Tensor, noise: Tensor, columns: Columns) -> Tensor:
    """Optical depth as the detector sees it: scattered light added, photons counted."""
    share = columns["scatter"]
    light = light * (1 - share) + share * _smooth(light)
    pixel = (2 * columns["zoom"] / light.shape[-1]).square()
    counted = light + noise * (light / (columns["photons"] * pixel)).sqrt()
    return -counted.clamp_min(_DARKEST).log()


def _film(depth: Tensor, columns: Columns) -> Float[Tensor, "b h w"]:
    """What a radiography system shows: large-scale contrast evened out, an S-curve, gamma."""
    depth = depth.clamp_max(7)
    edge = depth.shape[-1] // 5
    middle = depth[:, edge:-edge, edge:-edge].mean((-2, -1), keepdim=True)
    depth = depth - _EVENED * (_smooth(depth) - middle)
    shifted = depth - middle + 0.1 - columns["exposure"]
    return step(shifted * columns["contrast"], _SPREAD).pow(columns["gamma"])


def _smooth(values: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """The coarse structure: an eighth of the width at each point, straight lines between."""
    cells = values.shape[-1] // _SCATTER_CELLS
    coarse = functional.avg_pool2d(
        values[:, None], 2 * cells, cells, cells // 2, count_include_pad=False
    )
    return functional.interpolate(coarse, values.shape[-2:], mode="bilinear", align_corners=False)[
        :, 0
    ]


def _collimated(films: Tensor, phantoms: Sequence[Phantom]) -> Float[Tensor, "b h w"]:
    size = films.shape[-1]
    for film, phantom in zip(films, phantoms, strict=True):
        right, left, top, bottom = (round(m * size) for m in phantom.anatomy.margin)
        film[:top], film[size - bottom :] = 0.03, 0.03
        film[:, :right], film[:, size - left :] = 0.03, 0.03
    return films.clamp(0, 1)
