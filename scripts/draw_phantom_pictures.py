"""Draw the phantom guide's pictures, or those of a model that has learned from phantoms.

python scripts/draw_phantom_pictures.py
python scripts/draw_phantom_pictures.py --model runs/phantom/pipeline
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from unix_cxr.data.phantom import (
    EXTENTS,
    KINDS,
    SIDED,
    Phantom,
    phantom_studies,
    prompt,
    render_batch,
    reports_of,
    sample_finding,
    sample_phantom,
)
from unix_cxr.pipelines.pipeline import UniXPipeline

IMAGES = Path(__file__).parent.parent / "docs" / "images"
TILE = 200
TITLE = 18
GAP = 4


def sheet(titles: Sequence[str], tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    rows = -(-len(tiles) // columns)
    step = TILE + GAP, TILE + GAP + TITLE
    picture = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
    for place, (title, tile) in enumerate(zip(titles, tiles, strict=True)):
        left, top = GAP + place % columns * step[0], GAP + place // columns * step[1]
        pen.text((left, top), title, fill="black", font=font)
        picture.paste(tile.resize((TILE, TILE), Image.Resampling.BICUBIC), (left, top + TITLE))
    return picture


def grey(film: torch.Tensor) -> Image.Image:
    return Image.fromarray((film.numpy() * 255).round().astype(np.uint8)).convert("RGB")


def variety() -> Image.Image:
    phantoms = [sample_phantom(seed, []) for seed in range(200, 212)]
    titles = [f"{p.view}, {p.sex}, {p.age} years" for p in phantoms]
    return sheet(titles, [grey(film) for film in render_batch(phantoms, 256)], 6)


def findings() -> Image.Image:
    phantoms: list[Phantom] = []
    for number, kind in enumerate(KINDS):
        severities = list(EXTENTS[kind].ranges)
        for side, severity in (("left", severities[-1]), ("right", severities[0])):
            finding = sample_finding(number, kind, side if kind in SIDED else None, severity)
            phantoms.append(sample_phantom(300 + number, [finding]))
    titles = [prompt(phantom.findings[0]) for phantom in phantoms]
    return sheet(titles, [grey(film) for film in render_batch(phantoms, 256)], 6)


def masks() -> Image.Image:
    phantoms = [sample_phantom(400 + n, [sample_finding(n, kind)]) for n, kind in enumerate(KINDS)]
    tiles = []
    for study in phantom_studies(phantoms, 256):
        colours = np.repeat(study.pixels[..., None], 3, axis=-1)
        mask = next(iter(study.masks.values()))
        colours[mask] = 0.65 * colours[mask] + 0.35 * np.array([1.0, 0.25, 0.2])
        tiles.append(Image.fromarray((colours * 255).round().astype(np.uint8)))
    return sheet([prompt(p.findings[0]) for p in phantoms], tiles, 6)


def drawn(model: str) -> Image.Image:
    """Phantoms of one finding each, above what the model draws from their findings texts."""
    pipeline = UniXPipeline.from_pretrained(model)
    seeds = range(2_500_000, 2_500_000 + len(KINDS))
    phantoms = [
        sample_phantom(seed, [sample_finding(seed, kind)])
        for seed, kind in zip(seeds, KINDS, strict=True)
    ]
    films = pipeline([reports_of(p)[0] for p in phantoms], seed=list(seeds), output_type="pt")
    own = render_batch(phantoms, pipeline.defaults.image_size)
    tiles, titles = [], []
    for half in (slice(0, 6), slice(6, 12)):
        tiles += [grey(film) for film in (*own[half], *films.images[half, 0].clamp(0, 1))]
        titles += [*(prompt(p.findings[0]) for p in phantoms[half]), *["drawn"] * 6]
    return sheet(titles, tiles, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="draw with it, and leave the other pictures as they are")
    options = parser.parse_args()
    if options.model:
        drawn(options.model).convert("L").save(IMAGES / "phantom-drawn.png", optimize=True)
        return
    for name, picture in (("variety", variety()), ("findings", findings()), ("masks", masks())):
        path = IMAGES / f"phantom-{name}.png"
        (picture if name == "masks" else picture.convert("L")).save(path, optimize=True)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
