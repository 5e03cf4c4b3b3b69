"""Draw docs/images/nano.png: one column per demonstration text, one row per seed.

python scripts/draw_nano_picture.py [--model nano] [--out docs/images/nano.png]
"""

import argparse
from pathlib import Path

from PIL import Image

from unix_cxr.pipelines.marking import save_synthetic_png
from unix_cxr.pipelines.pipeline import UniXPipeline
from unix_cxr.pipelines.showcase import DEMO_TEXTS

SEEDS = (1, 2, 3, 4)
GAP = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--out", type=Path, default=Path("docs/images/nano.png"))
    options = parser.parse_args()
    pipeline = UniXPipeline.from_pretrained(options.model)
    texts = [text for _ in SEEDS for text in DEMO_TEXTS]
    seeds = [seed for seed in SEEDS for _ in DEMO_TEXTS]
    drawn = pipeline(texts, seed=seeds).images
    side = drawn[0].width
    columns = len(DEMO_TEXTS)
    width, height = (count * (side + GAP) - GAP for count in (columns, len(SEEDS)))
    sheet = Image.new("L", (width, height), 255)
    for index, image in enumerate(drawn):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * (side + GAP), row * (side + GAP)))
    save_synthetic_png(sheet, options.out, {"model": "nano", "what": "contact sheet"})
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
