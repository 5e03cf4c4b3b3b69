"""What the checks of pictures find on real X-rays: near duplicates, exchanged polarity.

Run: python benchmarks/measure_pictures.py --data FOLDER [--split dev]
Prints JSON: how far copies of a picture lie from it in bits of the perceptual hash, how near
pictures of different patients come, and how often a negative is suspected, rightly and wrongly.
"""

import argparse
import io
import json
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unix_cxr.data.frontal import picture_problems, polarity
from unix_cxr.data.near_duplicates import MAX_DISTANCE, near_pairs, perceptual_hash
from unix_cxr.data.pixels import load_xray
from unix_cxr.data.sources import open_source
from unix_cxr.data.studies import Study

Pixels = NDArray[np.float32]
QUANTILES = (0.5, 0.95, 0.99)


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    image.save(buffer, "JPEG", quality=quality)
    return load_xray(buffer.getvalue()).pixels


def scaled(pixels: Pixels, factor: float) -> Pixels:
    height, width = (max(16, int(side * factor)) for side in pixels.shape)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def shifted(pixels: Pixels, share: float) -> Pixels:
    width = pixels.shape[1]
    by = max(1, round(share * width))
    return np.pad(pixels, ((0, 0), (by, 0)), mode="edge")[:, :width]


def cropped(pixels: Pixels, share: float) -> Pixels:
    rows, columns = (max(1, round(share * side)) for side in pixels.shape)
    return pixels[rows:-rows, columns:-columns]


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG, quality 50": lambda pixels: jpeg(pixels, 50),
    "half the size": lambda pixels: scaled(pixels, 0.5),
    "half the size, JPEG 30": lambda pixels: jpeg(np.clip(scaled(pixels, 0.5), 0, 1), 30),
    "less contrast": lambda pixels: pixels * 0.85 + 0.05,
    "gamma 0.8": lambda pixels: pixels**0.8,
    "shifted by 1 %": lambda pixels: shifted(pixels, 0.01),
    "shifted by 2 %": lambda pixels: shifted(pixels, 0.02),
    "cropped by 2 % on each side": lambda pixels: cropped(pixels, 0.02),
}


def distances_of_copies(pixels: list[Pixels]) -> dict[str, dict[str, float]]:
    found = {}
    for name, change in COPIES.items():
        changed = [perceptual_hash(change(one).astype(np.float32)) for one in pixels]
        bits = np.array(
            [
                np.bitwise_count(perceptual_hash(one) ^ copy).sum()
                for one, copy in zip(pixels, changed, strict=True)
            ]
        )
        quantiles = np.quantile(bits, QUANTILES).round(1).tolist()
        found[name] = {
            **{f"q{share}": value for share, value in zip(QUANTILES, quantiles, strict=True)},
            "found": round(float((bits <= MAX_DISTANCE).mean()), 4),
        }
    return found


def copies_in_the_corpus(studies: list[Study], hashes: NDArray[np.uint8]) -> dict[str, int]:
    """Distances of images that have one file name in two folders: copies at two sizes."""
    first: dict[str, int] = {}
    found = {}
    for number, study in enumerate(studies):
        name = study.study_id.rsplit("/", 1)[-1]
        if name in first:
            bits = np.bitwise_count(hashes[first[name]] ^ hashes[number]).sum()
            found[name] = int(bits)
        first.setdefault(name, number)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with a table of X-rays")
    parser.add_argument("--split", help="only this split; all of them where it is not given")
    parser.add_argument("--copies", type=int, default=400, help="pictures to make copies of")
    options = parser.parse_args()
    studies = [study for study in open_source(options.data) if options.split in (None, study.split)]
    pixels = [load_xray(study.image).pixels for study in studies]
    hashes = np.stack([perceptual_hash(one) for one in pixels])
    patients = np.array([study.patient_id for study in studies])
    pairs = len(studies) * (len(studies) - 1) // 2
    _, counts = np.unique(patients, return_counts=True)
    same = int((counts * (counts - 1) // 2).sum())
    near: dict[str, dict[str, int]] = {}
    wide = list(near_pairs(hashes, distance=56))
    for distance in (16, 24, 32, 40, 48, 56):
        chosen = [(a, b) for a, b, bits in wide if bits <= distance]
        alike = sum(patients[a] == patients[b] for a, b in chosen)
        near[str(distance)] = {"one patient": int(alike), "two patients": len(chosen) - int(alike)}
    generator = np.random.default_rng(0)
    sample = generator.choice(len(pixels), min(options.copies, len(pixels)), replace=False)
    begin = time.perf_counter()
    made_up = generator.integers(0, 256, (20_000, 32), dtype=np.uint8)
    sum(1 for _ in near_pairs(made_up))
    seconds = time.perf_counter() - begin
    print(
        json.dumps(
            {
                "images": len(studies),
                "pairs of two patients": pairs - same,
                "near pairs by distance": near,
                "copies in the corpus, by file name": copies_in_the_corpus(studies, hashes),
                "copies": distances_of_copies([pixels[index] for index in sample]),
                "seconds for 20,000 hashes, each with each": round(seconds, 2),
                "wrongly suspected of exchanged polarity": sum(polarity(p) < 0 for p in pixels),
                "negatives not suspected": sum(polarity(1 - p) >= 0 for p in pixels),
                "with any problem of the picture": sum(bool(picture_problems(p)) for p in pixels),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
