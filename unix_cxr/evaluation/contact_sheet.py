"""Contact sheets: rows of X-rays with a title each, drawn ones beside real ones.

Axes: b X-rays, h rows, w columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unix_cxr.evaluation.xrays import check_images

_WHITE = 255


@dataclass(frozen=True)
class Row:
    """One row of a sheet.

    Args:
        title: written above the row; says what is drawn and what is real.
        images: X-rays in [0, 1]; those of one sheet may have different sizes.
    """

    title: str
    images: Float[Tensor, "b 1 h w"]


def contact_sheet(rows: Sequence[Row], tile: int = 128, gap: int = 4) -> Image.Image:
    """A grey picture with one row of tiles per `Row`; grey values are kept, never stretched.

    Args:
        rows: from top to bottom.
        tile: width and height of each X-ray on the sheet.
        gap: white pixels between tiles.

    Raises:
        ValueError: no rows, or images that are not [b, 1, h, w] in [0, 1].
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    for row in rows:
        check_images(row.images)
    font = ImageFont.load_default(size=14)
    title_height = 20
    columns = max(len(row.images) for row in rows)
    step = title_height + tile + gap
    widest = max(int(font.getlength(row.title)) for row in rows)
    width = max(columns * (tile + gap) + gap, widest + 2 * gap)
    sheet = Image.new("L", (width, len(rows) * step + gap), color=_WHITE)
    pen = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        pen.text((gap, line * step + gap // 2), row.title, fill=0, font=font)
        for place, image in enumerate(row.images):
            at = (gap + place * (tile + gap), line * step + title_height)
            sheet.paste(to_pil(image).resize((tile, tile), Image.Resampling.BICUBIC), at)
    return sheet


def to_pil(image: Float[Tensor, "1 h w"]) -> Image.Image:
    """One X-ray in [0, 1] as an 8-bit grey picture."""
    pixels = (image[0].detach().float().cpu().numpy() * _WHITE).round()
    return Image.fromarray(pixels.astype(np.uint8))
