"""How fast X-rays come in: images per second and core, each beside the bare decoder.

    python benchmarks/bench_data.py --out benchmarks/results/data.json

Decoding: one radiograph (RG1_UNCR.dcm of the package pydicom-data, 1955 x 1841) in every encoding,
read from memory by `load_xray` and by the decoder alone, turn by turn in one process with one
thread. The bare decoder (Pillow's `open` and an array of it; pydicom's `dcmread` and `pixel_array`,
with its own choice of decoder) yields whole numbers;
"scaled" is what anybody has to do after it to get float32 grey values (a division for pictures;
pydicom's modality LUT and window for DICOM). Times are of the processor.

Films: made-up uncompressed ones of 2500 x 2048 pixels, 12 bits in 16, beside pydicom's decoder in
the same way; one for each way to grey values (windows, photometric interpretations, padding).

Prepared: batches of shuffled rows from prepared shards, beside Pillow decoding the same pictures
from memory, turn by turn in one process; the peak of memory of a process that reads 1,000 and one
that reads 100,000 studies; seconds until a `DataLoader` gives its first batch.

Parts: what the time of files without compression consists of, milliseconds of the fastest round.

A run replaces the sections that it measures in the JSON file and leaves the others.
"""

import argparse
import copy
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from data_films import films
from machine import environment
from numpy.typing import NDArray
from PIL import Image

from unix_cxr.data.pixels import load_xray
from unix_cxr.files import write_text

DECODERS = ("numpy", "pillow", "pydicom", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pyjpegls")
JPEG_QUALITY = 95
"""As in MIMIC-CXR-JPG."""


@dataclass(frozen=True)
class Case:
    """One encoding of the radiograph.

    Args:
        name: of the encoding.
        data: the bytes of a file.
        bare: the decoder alone.
        scaled: the decoder and what anybody has to do after it.
    """

    name: str
    data: bytes
    bare: Callable[[bytes], Any]
    scaled: Callable[[bytes], Any]


def pillow(data: bytes) -> NDArray[Any]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def pillow_scaled(data: bytes) -> NDArray[Any]:
    values = pillow(data)
    return np.divide(values, np.float32(np.iinfo(values.dtype).max), dtype=np.float32)


def pydicom_bare(data: bytes) -> NDArray[Any]:
    import pydicom

    return pydicom.dcmread(io.BytesIO(data)).pixel_array


def pydicom_scaled(data: bytes) -> NDArray[Any]:
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    dataset = pydicom.dcmread(io.BytesIO(data))
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    full = 2**dataset.BitsStored - 1
    return np.subtract(1, values / full, dtype=np.float32)


def pictures() -> list[Case]:
    pixels = load_xray(radiograph()).pixels
    eight = np.rint(pixels * 255).astype(np.uint8)
    sixteen = np.rint(pixels * 65535).astype(np.uint16)
    kinds = [
        ("PNG, 8 bits", eight, "PNG", {}),
        ("PNG, 16 bits", sixteen, "PNG", {}),
        (f"JPEG, quality {JPEG_QUALITY}", eight, "JPEG", {"quality": JPEG_QUALITY}),
        ("TIFF, 16 bits, uncompressed", sixteen, "TIFF", {}),
    ]
    cases = []
    for name, values, kind, options in kinds:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, kind, **options)
        cases.append(Case(name, buffer.getvalue(), pillow, pillow_scaled))
    return cases


def radiographs() -> list[Case]:
    import pydicom
    from pydicom import uid
    from pydicom.encaps import encapsulate

    plain = pydicom.dcmread(radiograph())
    datasets = {"DICOM, uncompressed": plain}
    for name, syntax in (
        ("DICOM, RLE", uid.RLELossless),
        ("DICOM, JPEG-LS", uid.JPEGLSLossless),
        ("DICOM, JPEG 2000", uid.JPEG2000Lossless),
    ):
        datasets[name] = copy.deepcopy(plain)
        datasets[name].compress(syntax)
    baseline = copy.deepcopy(plain)
    buffer = io.BytesIO()
    Image.fromarray((plain.pixel_array >> 7).astype(np.uint8)).save(
        buffer, "JPEG", quality=JPEG_QUALITY
    )
    baseline.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    baseline.PixelData = encapsulate([buffer.getvalue()])
    baseline["PixelData"].VR = "OB"
    baseline.BitsAllocated = baseline.BitsStored = 8
    baseline.HighBit = 7
    baseline.WindowCenter, baseline.WindowWidth = 117, 234
    datasets["DICOM, JPEG baseline"] = baseline
    return [
        Case(name, written(dataset), pydicom_bare, pydicom_scaled)
        for name, dataset in datasets.items()
    ]


def written(dataset: Any) -> bytes:  # noqa: ANN401 - pydicom.Dataset
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def radiograph() -> Path:
    from pydicom.data import get_testdata_file

    path = get_testdata_file("RG1_UNCR.dcm", download=False)
    if path is None:
        raise SystemExit("the radiograph is in the package pydicom-data: pip install pydicom-data")
    return Path(path)


def compared(case: Case, seconds: float) -> dict[str, Any]:
    """Times of rounds in which each reader reads once, so that all meet the same load."""
    readers: dict[str, Callable[[bytes], Any]] = {
        "ours": load_xray,
        "bare": case.bare,
        "scaled": case.scaled,
    }
    for read in readers.values():
        read(case.data)
    times: dict[str, list[float]] = {name: [] for name in readers}
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times["ours"]) < 5:
        for name, read in readers.items():
            before = time.process_time()
            read(case.data)
            times[name].append(time.process_time() - before)
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "case": case.name,
        "bytes": len(case.data),
        "rounds": len(times["ours"]),
        "milliseconds": {name: round(1000 * value, 2) for name, value in median.items()},
        "images_per_second": {name: round(1 / value, 1) for name, value in median.items()},
        "on_top_of_bare": round(median["ours"] / median["bare"] - 1, 3),
        "on_top_of_scaled": round(median["ours"] / median["scaled"] - 1, 3),
        "fastest_on_top_of_bare": round(min(times["ours"]) / min(times["bare"]) - 1, 3),
    }


def measure_decoding(options: argparse.Namespace) -> dict[str, Any]:
    cases = [*pictures(), *radiographs()]
    return {
        "shape": list(load_xray(radiograph()).pixels.shape),
        "rows": [compared(case, options.seconds) for case in cases],
    }


def measure_films(options: argparse.Namespace) -> dict[str, Any]:
    cases = [Case(name, data, pydicom_bare, pydicom_scaled) for name, data in films().items()]
    return {"rows": [compared(case, options.seconds) for case in cases]}


def least(work: Callable[[], Any], rounds: int = 60) -> float:
    """Milliseconds of the fastest round."""
    times = []
    for _ in range(rounds):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return round(1000 * min(times), 2)


def measure_parts(_: argparse.Namespace) -> dict[str, Any]:
    """What the time of reading files without compression consists of."""
    import pydicom

    from unix_cxr.data.dicom import _tags
    from unix_cxr.data.dicom_film import read_film, stored_values
    from unix_cxr.data.dicom_header import Header
    from unix_cxr.data.dicom_values import grey_table
    from unix_cxr.data.facts import scaled
    from unix_cxr.data.pictures import _uncompressed

    dicom = radiographs()[0].data
    tiff = pictures()[3].data
    dataset = pydicom.dcmread(io.BytesIO(dicom))
    header = Header(dataset, "radiograph")
    stored = stored_values(header)
    patterns = dataset.pixel_array.astype(np.uint16)
    film = read_film(header, stored, patterns)
    table = grey_table(header, film, 0)
    if table.compute(film) is None:
        raise SystemExit("arithmetic does not give what the table holds; nothing to measure")
    only = {"specific_tags": _tags(), "stop_before_pixels": True}
    return {
        "DICOM, uncompressed": {
            "ours": least(lambda: load_xray(dicom)),
            "bare": least(lambda: pydicom_bare(dicom)),
            "bare: all elements, one copy of the pixels": least(
                lambda: pydicom.dcmread(io.BytesIO(dicom))
            ),
            "reading the elements up to the pixels": least(
                lambda: pydicom.dcmread(io.BytesIO(dicom), **only)
            ),
            "smallest and largest pixel": least(lambda: read_film(header, stored, patterns)),
            "making the table of grey values": least(lambda: grey_table(header, film, 0)),
            "arithmetic on every pixel, checked against the table": least(
                lambda: table.compute(film)
            ),
            "(looking every pixel up instead)": least(lambda: table.look_up(film)),
            "(a bare conversion to float32)": least(lambda: patterns.astype(np.float32)),
        },
        "TIFF, 16 bits, uncompressed": {
            "ours": least(lambda: load_xray(tiff)),
            "bare": least(lambda: pillow(tiff)),
            "reading the strips": least(lambda: _uncompressed(Image.open(io.BytesIO(tiff)))),
            "converting and dividing": least(lambda: scaled(patterns, 65535)),
        },
    }


SIDE = 224
"""Pixels of the prepared images: those of small foundation models' towers."""

READER = """
import io, resource, statistics, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from unix_cxr.data.prepared import PreparedStudies
from unix_cxr.training.batches import BatchOrder

read = PreparedStudies(sys.argv[1])
pictures = [path.read_bytes() for path in sorted(Path(sys.argv[2]).glob("*.png"))]
order = BatchOrder(len(read), 32, seed=0)
ours, bare = [], []
for step in range(int(sys.argv[3])):
    rows = order.batch(step).tolist()
    before = time.process_time()
    read.images(rows)
    between = time.process_time()
    for row in rows:
        with Image.open(io.BytesIO(pictures[row % 8])) as image:
            np.asarray(image)
    ours.append(between - before)
    bare.append(time.process_time() - between)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(statistics.median(ours), statistics.median(bare), peak)
"""
"""Reads batches, and decodes the same pictures from memory, turn by turn."""


def write_pictures(folder: Path) -> list[bytes]:
    """The radiograph, turned in eight ways, as PNG files."""
    folder.mkdir()
    with Image.open(io.BytesIO(pictures()[0].data)) as film:
        for angle in range(8):
            small = film.rotate(angle).resize((SIDE, SIDE))
            small.save(folder / f"{angle}.png", compress_level=1)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def write_prepared(folder: Path, images: list[bytes], rows: int) -> None:
    """A prepared folder of many rows that share few pictures."""
    from unix_cxr.data.prepared import Manifest
    from unix_cxr.preparation.shards import describe_shard, writing_shard

    folder.mkdir(parents=True)
    shards = []
    for number, first in enumerate(range(0, rows, 1024)):
        name = f"shard-{number:05d}.parquet"
        with writing_shard(folder, name, []) as writer:
            for start in range(first, min(first + 1024, rows), 64):
                writer.write([row(n, images[n % 8]) for n in range(start, min(start + 64, rows))])
        shards.append(describe_shard(folder, name, writer.splits))
    Manifest("made-up", {}, SIDE, 64, tuple(shards)).save(folder)


def row(number: int, image: bytes) -> dict[str, Any]:
    facts = dict.fromkeys(("subset", "view", "sex", "age"), "")
    labels: dict[str, list[str]] = {"labels": [], "negative": [], "uncertain": []}
    return {
        "study_id": str(number),
        "patient_id": str(number),
        "split": "train",
        "text": "No pneumothorax.",
        "image": image,
        **facts,
        **labels,
    }


def measure_prepared(options: argparse.Namespace) -> dict[str, Any]:
    batches = max(10, round(options.seconds * 20))
    with tempfile.TemporaryDirectory() as temporary:
        folders = {rows: Path(temporary) / str(rows) for rows in (1_000, options.studies)}
        images = write_pictures(Path(temporary) / "pictures")
        for rows, folder in folders.items():
            write_prepared(folder, images, rows)
        rows = [
            {"studies": count, **read_in_process(folder, batches)}
            for count, folder in folders.items()
        ]
        startup = {workers: first_batch(folders[options.studies], workers) for workers in (0, 1)}
    return {
        "side": SIDE,
        "batch_size": 32,
        "rows": rows,
        "memory_growth_bytes": rows[1]["peak_bytes"] - rows[0]["peak_bytes"],
        "seconds_to_first_batch": startup,
    }


def read_in_process(folder: Path, batches: int) -> dict[str, Any]:
    pictures = folder.parent / "pictures"
    command = [sys.executable, "-c", READER, str(folder), str(pictures), str(batches)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ours, bare, peak = (float(number) for number in answer)
    return {
        "images_per_second": round(32 / ours, 1),
        "bare_images_per_second": round(32 / bare, 1),
        "on_top_of_bare": round(ours / bare - 1, 3),
        "peak_bytes": int(peak),
    }


def first_batch(folder: Path, workers: int) -> float:
    from torch.utils.data import DataLoader

    from unix_cxr.data.prepared import PreparedStudies

    before = time.perf_counter()
    loader = DataLoader(
        Images(PreparedStudies(folder)),
        batch_size=32,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    next(iter(loader))
    return round(time.perf_counter() - before, 3)


class Images:
    """Images of a prepared folder by number."""

    def __init__(self, read: Any) -> None:  # noqa: ANN401 - PreparedStudies
        self.read = read

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.read.images([index])[0]


SECTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "decoding": measure_decoding,
    "films": measure_films,
    "parts": measure_parts,
    "prepared": measure_prepared,
}
"""What can be measured, by its key in the JSON file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=4, help="for each encoding")
    parser.add_argument("--studies", type=int, default=100_000, help="of the larger folder")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/data.json"))
    options = parser.parse_args()
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for name in options.sections:
        known[name] = {"environment": environment(*DECODERS), **SECTIONS[name](options)}
    write_text(options.out, json.dumps(known, indent=1) + "\n")
    rows = [row for name in ("decoding", "films") for row in known.get(name, {}).get("rows", [])]
    for row in rows:
        print(
            f"{row['case']:30} {row['images_per_second']['ours']:8} images/s, "
            f"{row['on_top_of_bare']:+.0%} on bare (fastest {row['fastest_on_top_of_bare']:+.0%}), "
            f"{row['on_top_of_scaled']:+.0%} on scaled"
        )
    for case, parts in known.get("parts", {}).items():
        if case != "environment":
            print(case, parts)
    if "prepared" in known:
        found = known["prepared"]
        print(
            f"prepared: {found['rows'][-1]['images_per_second']} images/s, "
            f"{found['rows'][-1]['on_top_of_bare']:+.0%} on bare; memory grows by "
            f"{found['memory_growth_bytes'] / 2**20:.1f} MiB from 1,000 to "
            f"{found['rows'][-1]['studies']:,} studies; first "
            f"batch after {found['seconds_to_first_batch']} s"
        )


if __name__ == "__main__":
    main()
