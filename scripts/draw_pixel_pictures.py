"""Draw docs/images/pixels-*.png: what goes wrong with pixels, beside how `load_xray` reads them.

python scripts/draw_pixel_pictures.py

The X-ray is RG1_UNCR.dcm, a computed radiograph (MONOCHROME1, 15 bits) from the package
pydicom-data, whose files come under its MIT licence.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from unix_cxr.data.pixels import load_xray
from unix_cxr.data.png import write_png
from unix_cxr.functional.images import resize_and_pad

FOLDER = Path(__file__).parent.parent / "docs/images"
SIDE = 300
GAP = 12
CAPTION = 34


def main() -> None:
    import pydicom
    from pydicom.data import get_testdata_file

    path = get_testdata_file("RG1_UNCR.dcm", download=False)
    if path is None:
        raise SystemExit("pip install pydicom-data")
    dataset = pydicom.dcmread(path)
    right = load_xray(path).square(SIDE).pixels

    stored = dataset.pixel_array
    naive = square(stored / stored.max())
    save("pixels-inverted", {"wrong: stored values": naive, "right: load_xray": right})

    buffer = io.BytesIO()
    write_png_bytes(buffer, load_xray(path).pixels)
    clipped = np.asarray(Image.open(buffer).convert("RGB").convert("L")) / 255
    save(
        "pixels-clipped",
        {"wrong: 16 bits by convert('RGB')": square(clipped), "right: load_xray": right},
    )

    tall = load_xray(path).pixels[:, 300:1500]
    squashed = np.asarray(
        Image.fromarray(tall).resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32
    )
    save(
        "pixels-squashed",
        {"wrong: resize((300, 300))": squashed, "right: XRay.square(300)": square(tall)},
    )

    whole = load_xray(path).pixels
    lines = whole[:: whole.shape[0] // 100, :: whole.shape[1] // 100][:100, :100]
    small = square(whole, 100)
    save(
        "pixels-antialiased",
        {"wrong: every 18th pixel": enlarged(lines), "right: antialiased": enlarged(small)},
    )


def square(pixels: np.ndarray, side: int = SIDE) -> np.ndarray:
    image = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
    return resize_and_pad(image[None, None], side)[0, 0].numpy()


def enlarged(pixels: np.ndarray) -> np.ndarray:
    return np.kron(pixels, np.ones((3, 3)))


def write_png_bytes(buffer: io.BytesIO, pixels: np.ndarray) -> None:
    Image.fromarray(np.rint(pixels * 65535).astype(np.uint16)).save(buffer, "PNG")


def save(name: str, pictures: dict[str, np.ndarray]) -> None:
    """Pictures side by side, each under its caption."""
    width = GAP + len(pictures) * (SIDE + GAP)
    sheet = Image.new("L", (width, SIDE + CAPTION + GAP), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for number, (caption, pixels) in enumerate(pictures.items()):
        left = GAP + number * (SIDE + GAP)
        draw.text((left, 8), caption, fill=0, font=font)
        picture = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
        sheet.paste(picture, (left, CAPTION))
    write_png(FOLDER / f"{name}.png", np.asarray(sheet) / 255)
    print(FOLDER / f"{name}.png", sheet.size)


if __name__ == "__main__":
    main()
