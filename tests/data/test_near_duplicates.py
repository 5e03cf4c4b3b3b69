"""Copies of a picture are found, other chests are not; held on real X-rays too."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unix_cxr.data.near_duplicates import (
    MAX_DISTANCE,
    near_groups,
    near_pairs,
    perceptual_hash,
)
from unix_cxr.data.pixels import load_xray
from unix_cxr.data.sources import open_source

REAL = Path(__file__).parents[3] / "shared" / "data" / "cxr_real"
Pixels = NDArray[np.float32]


def jpeg(pixels: Pixels, quality: int = 50) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray((pixels * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return load_xray(buffer.getvalue()).pixels


def halved(pixels: Pixels) -> Pixels:
    height, width = pixels.shape
    small = Image.fromarray(pixels).resize((width // 2, height // 2), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(small), 0, 1)


def shifted(pixels: Pixels) -> Pixels:
    """To the right by a hundredth of the width, at least a pixel."""
    by = max(1, pixels.shape[1] // 100)
    return np.pad(pixels, ((0, 0), (by, 0)), mode="edge")[:, : pixels.shape[1]]


COPIES = {
    "jpeg": jpeg,
    "halved": halved,
    "shifted": shifted,
    "brighter": lambda pixels: np.clip(pixels * 0.85 + 0.05, 0, 1),
    "gamma": lambda pixels: pixels**0.8,
}


def distance(first: Pixels, second: Pixels) -> int:
    hashes = np.stack([perceptual_hash(first), perceptual_hash(second.astype(np.float32))])
    return next((bits for _, _, bits in near_pairs(hashes, distance=127)), 128)


def made_up(seed: int) -> Pixels:
    """Structure at every scale, less of it the finer, as in pictures of the world."""
    generator = np.random.default_rng(seed)
    waves = np.fft.rfft2(generator.standard_normal((256, 224)))
    rows, columns = np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(224)
    waves /= np.maximum(np.hypot(rows, columns), 1 / 256)
    field = np.fft.irfft2(waves, (256, 224))
    return ((field - field.min()) / np.ptp(field)).astype(np.float32)


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_near_and_others_far(name: str) -> None:
    for seed in range(5):
        original = made_up(seed)
        assert distance(original, COPIES[name](original)) <= MAX_DISTANCE
        assert distance(original, made_up(seed + 100)) > 2 * MAX_DISTANCE


def test_pairs_equal_a_loop_over_all_of_them() -> None:
    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (40, 32), dtype=np.uint8)
    # every hash again with some bits changed, over more than one block of the search
    noise = np.packbits(generator.random((60, 40, 256)) < 0.08, axis=2)
    hashes = np.concatenate([base, (base ^ noise).reshape(-1, 32)])
    expected = set()
    for first in range(len(hashes)):
        differing = np.bitwise_count(hashes[first] ^ hashes[first + 1 :]).sum(axis=1)
        for after in np.flatnonzero(differing <= MAX_DISTANCE):
            expected.add((first, first + 1 + int(after), int(differing[after])))
    assert len(hashes) > 2048
    assert len(expected) > 1000
    assert set(near_pairs(hashes)) == expected


def test_groups_are_linked_pairs() -> None:
    bits = np.zeros((5, 256), dtype=np.uint8)
    bits[1, :20] = 1
    bits[3, :40] = 1  # near 1, not near 0
    bits[2, 100:200] = 1
    bits[4, 100:199] = 1
    hashes = np.packbits(bits, axis=1)
    assert near_groups(hashes) == [[0, 1, 3], [2, 4]]
    assert near_groups(hashes, distance=10) == [[2, 4]]
    assert near_groups(hashes[:1]) == []
    assert near_groups(hashes[:0]) == []


def test_a_flat_picture_has_a_hash() -> None:
    flat = np.full((30, 40), 0.5, dtype=np.float32)
    assert distance(flat, np.full((64, 64), 0.25, dtype=np.float32)) == 0


def test_wrong_hashes_and_distances_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hashes must be \[n, 32\], not \[2, 8\]"):
        next(near_pairs(np.zeros((2, 8), dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"distance \(128\) must be between 0 and 127 bits"):
        next(near_pairs(np.zeros((2, 32), dtype=np.uint8), distance=128))


@pytest.mark.slow
def test_on_real_xrays() -> None:
    """Different patients stay apart; the only pair of two pseudonyms is one and the same file."""
    if not REAL.is_dir():
        pytest.skip("the real X-rays are not beside this checkout; docs/nano-data.md gets them")
    studies = list(open_source(REAL))
    hashes = np.stack([perceptual_hash(load_xray(study.image).pixels) for study in studies])
    found = [
        (studies[first].study_id, studies[second].study_id)
        for first, second, _ in near_pairs(hashes)
        if studies[first].patient_id != studies[second].patient_id
    ]
    assert found == [("kermany224/NORMAL2-IM-0095-0001", "kermany224/NORMAL2-IM-0096-0001")]
    begin = time.perf_counter()
    assert len(near_groups(hashes)) >= 20
    assert time.perf_counter() - begin < 60
