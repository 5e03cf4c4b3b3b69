"""Pictures of vessels and of mottle that phantoms share; made once, the same everywhere.

Axes: n pictures, h rows, w columns.
"""

import math
import random
from functools import cache
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

VESSEL_COUNT: Final = 40
CLOUD_COUNT: Final = 24
_WIDTH: Final = 96
_HEIGHT: Final = 176
_FINER: Final = 3
_HILUM: Final = (0.16, 0.53)
_THINNEST: Final = 0.35
_CLOUD: Final = 160
_GREY: Final = 255


@cache
def vessels() -> Float[Tensor, "n h w"]:
    """Trees of vessels of one lung in [0, 1]: the midline at the left edge, the apex on top."""
    return torch.stack([_tree(random.Random(number)) for number in range(VESSEL_COUNT)])


@cache
def clouds() -> Float[Tensor, "n h w"]:
    """Smooth noise of mean 0 and spread 1 with power at every scale."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(CLOUD_COUNT, 1, _CLOUD, _CLOUD)
    for cells in (5, 10, 20, 40, 80):
        coarse = torch.randn(CLOUD_COUNT, 1, cells, cells, generator=generator)
        fine = functional.interpolate(coarse, (_CLOUD, _CLOUD), mode="bicubic", align_corners=False)
        total += fine * cells**-0.6
    total -= total.mean((-2, -1), keepdim=True)
    return (total / total.std((-2, -1), keepdim=True))[:, 0]


def _tree(draw: random.Random) -> Tensor:
    picture = Image.new("L", (_WIDTH * _FINER, _HEIGHT * _FINER))
    pen = ImageDraw.Draw(picture)
    for trunk in range(13):
        # trunks fan out from the hilum: up, outwards and down
        angle = math.radians(-80 + 160 * (trunk + draw.uniform(-0.3, 0.3)) / 12)
        x, y = (share * side for share, side in zip(_HILUM, picture.size, strict=True))
        start = (x + draw.uniform(-4, 4), y + 60 * math.sin(angle) * draw.random())
        _branch(pen, draw, start, angle, draw.uniform(1.3, 2.2))
    small = picture.resize((_WIDTH, _HEIGHT), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / _GREY)


def _branch(
    pen: ImageDraw.ImageDraw,
    draw: random.Random,
    start: tuple[float, float],
    angle: float,
    width: float,
) -> None:
    x, y = start
    for _ in range(draw.randint(3, 5)):
        angle += draw.gauss(0, 0.13)
        end = (x + 13 * math.cos(angle), y + 15 * math.sin(angle))
        grey = int(_GREY * min(1.0, 0.3 + 0.25 * width))
        pen.line((x, y, *end), fill=grey, width=max(1, round(width * _FINER * 0.8)))
        x, y = end
        width *= 0.94
    if width > _THINNEST:
        for turn in (draw.uniform(0.15, 0.6), draw.uniform(-0.6, -0.15)):
            _branch(pen, draw, (x, y), angle + turn, width * draw.uniform(0.6, 0.8))
