"""Time and memory of an evaluation, and which metric catches which cheat.

    python benchmarks/bench_evaluation.py speed --images 10000 --reports 10000 --phantoms FOLDER
    python benchmarks/bench_evaluation.py use_network --data DIR --split dev --drawn FOLDER
    python benchmarks/bench_evaluation.py cheats --data DIR --split dev

`speed` measures phantoms (rendered into FOLDER once: some 12 ms of a core each) and texts about
them. It tells how much of the time the extractor takes (the rest is what the library costs), the
memory for a tenth of the images and for all of them, and that of precision, recall, density and
coverage on N x 768 features, each in a process of its own. Beside the extractor that needs nothing,
nano's tower, it takes a network of RAD-DINO's size with random weights on 8 + 8 images: what it
sees is worth nothing, what it costs is the same. `use_network` measures what drawn X-rays are good
for with whole networks, and for how long. `cheats` hands real X-rays in as a cheating generator
would, and tells for every metric whether it leaves the interval of honest real X-rays in the bad
direction.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import environment
from PIL import Image
from tqdm.auto import tqdm

from unix_cxr.data.phantom import render_batch, sample_phantom
from unix_cxr.data.phantom.studies import reports_of
from unix_cxr.evaluation.cheats import CHEATS, make_cheat
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.extractors import (
    Dinov2Extractor,
    FeatureExtractor,
    VisionTowerExtractor,
)
from unix_cxr.evaluation.imaging.features import Extraction
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet, open_images
from unix_cxr.evaluation.imaging.suite import ImageOptions, Judges, evaluate_images
from unix_cxr.evaluation.neighbours import prdc
from unix_cxr.evaluation.plugins import ReportPairs
from unix_cxr.evaluation.reading.use_network import NetworkTraining, measure_use_network
from unix_cxr.evaluation.results import Interval, MetricResult
from unix_cxr.evaluation.text.label_scores import RuleLabeler, States
from unix_cxr.evaluation.text.suite import evaluate_report_pairs
from unix_cxr.evaluation.xrays import LabelledXrays, split_groups
from unix_cxr.files import write_text
from unix_cxr.functional.images import resize_and_pad
from unix_cxr.pipelines.pipeline import UniXPipeline

ROOT = Path(__file__).resolve().parents[1]
SIDE = 128
LARGE_IMAGES = 8
WIDTH = 768
SUBSET = "kermany224"
TELLING = (
    *("fixed", "ten_jittered", "copies", "copies_shifted", "copies_mirrored", "copies_halves"),
    *("copies_blended", "class_mean", "noise", "unseen_blurred_1", "unseen_blurred_2"),
    *("unseen_noised", "unseen_faded", "unseen_swapped", "unseen_shuffled"),
)
"""Cheats of which no two are caught alike; minutes on one thread. `CHEATS` has all."""

HONEST, CONTROL, DRAWN = "unseen", "unseen (others)", "drawn"
"""Real X-rays that nobody learned from, as many others of other patients, and a model's."""

COLUMNS = {
    "fd": "FD",
    "kd": "KD",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "vendi": "Vendi",
    "ms_ssim": "MS-SSIM",
    "sharpness/middle": "sharpness middle",
    "sharpness/fine": "sharpness fine",
    "tone": "tone",
    "repeated": "repeated",
    "near_train/features": "near train features",
    "near_train/pixels": "near train pixels",
    "near_train/halves": "near train halves",
    "nearest_ratio": "nearest ratio",
    "auroc/label_agreement": "label agreement",
    "auroc/use/drawn": "use",
}


class TimedLabeler(RuleLabeler):
    """The labeler with a watch of the processor: others on the machine do not move it."""

    seconds = 0.0

    def __call__(self, texts: Sequence[str]) -> list[States]:
        started = time.process_time()
        found = super().__call__(texts)
        self.seconds += time.process_time() - started
        return list(found)


class Timed:
    """An extractor with a watch of the processor: others on the machine do not move it."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor, self.seconds = extractor, 0.0
        self.name, self.width = extractor.name, extractor.width
        self.comparable = extractor.comparable

    def facts(self) -> Mapping[str, object]:
        return self.extractor.facts()

    def __call__(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        started = time.process_time()
        features = self.extractor(images)
        self.seconds += time.process_time() - started
        return features


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=(*WHOLE, *CHILDREN))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=10_000)
    parser.add_argument("--phantoms", type=Path, help="keep the phantoms of `speed` here")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split", choices=("dev", "val"), default="dev")
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--train", type=int, default=1100, help="training X-rays for `cheats`")
    parser.add_argument("--real", type=int, default=200, help="X-rays of --split for `cheats`")
    parser.add_argument("--cheat", nargs="+", default=TELLING, choices=CHEATS, metavar="NAME")
    parser.add_argument("--drawn", type=Path, help="X-rays of a model, for one more row")
    parser.add_argument("--extractor", default="nano")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="default benchmarks/results/evaluation_WHAT.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.what in CHILDREN:
        print(json.dumps(CHILDREN[options.what](options)))
        return
    out = options.out or ROOT / f"benchmarks/results/evaluation_{options.what}.json"
    tree = {**describe(options), **WHOLE[options.what](options)}
    write_text(out, json.dumps(tree, indent=1) + "\n")
    print(f"wrote {out}")


def speed(options: argparse.Namespace) -> dict[str, Any]:
    folder = options.phantoms or Path(tempfile.mkdtemp())
    counts = (max(100, options.images // 10), options.images)
    for name, first in (("real", 0), ("drawn", 1_000_000)):
        make_phantoms(folder / name, options.images, first)
    found = {
        "images": {str(count): child(options, "images", count, str(folder)) for count in counts},
        "images_network_of_rad_dino_size_with_random_weights": child(
            options, "large", LARGE_IMAGES, str(folder)
        ),
        "reports": child(options, "reports", options.reports),
        "prdc": child(options, "prdc", options.images),
    }
    if options.phantoms is None:
        shutil.rmtree(folder)
    return found


def child(options: argparse.Namespace, what: str, count: int, folder: str = "") -> dict[str, Any]:
    """Measure in a process of its own, so that its peak of memory is that of the measurement."""
    command = [sys.executable, __file__, what, "--threads", str(options.threads)]
    command += ["--extractor", options.extractor, "--images", str(count), "--reports", str(count)]
    command += ["--phantoms", folder] if folder else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    tree: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{what}: {json.dumps(tree)}", flush=True)
    return tree


def image_speed(options: argparse.Namespace) -> dict[str, Any]:
    pipeline = UniXPipeline.from_pretrained(options.extractor)
    return measured_images(options, VisionTowerExtractor(pipeline), batch_size=32)


def large_image_speed(options: argparse.Namespace) -> dict[str, Any]:
    """A network as large as RAD-DINO: the same shapes, random weights."""
    from transformers import Dinov2Config, Dinov2Model

    side = 518
    preprocessor = {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": [0.5307] * 3,
        "image_std": [0.2583] * 3,
        "resample": 3,
    }
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        config = Dinov2Config(image_size=side, patch_size=14)  # its defaults are ViT-B
        Dinov2Model(config).save_pretrained(folder)
        write_text(Path(folder) / "preprocessor_config.json", json.dumps(preprocessor))
        extractor = Dinov2Extractor(folder, "random-vit-b-14")
    found = measured_images(options, extractor, batch_size=4)
    parameters = sum(one.numel() for one in extractor.model.parameters())
    return {"network": "Dinov2Model, ViT-B/14 at 518 pixels, random weights"} | {
        "parameters": parameters,
        **found,
    }


def measured_images(
    options: argparse.Namespace, watched: FeatureExtractor, batch_size: int
) -> dict[str, Any]:
    real, drawn = (
        open_images(options.phantoms / name).first(options.images) for name in ("real", "drawn")
    )
    extractor = Timed(watched)
    first = real.images[:batch_size]
    extractor([image.load() for image in first])  # what the first batch allocates
    extractor.seconds = 0.0
    judges = Judges(extractor, metrics=[])
    with tempfile.TemporaryDirectory() as cache:
        settings = ImageOptions(extraction=Extraction(batch_size, cache=Path(cache)))
        before, started, worked = peak(), time.perf_counter(), time.process_time()
        evaluate_images(real, drawn, judges, options=settings)
        seconds, whole = time.perf_counter() - started, time.process_time() - worked
    return {
        "real": len(real),
        "drawn": len(drawn),
        "seconds": round(seconds, 1),
        "processor_seconds": round(whole, 1),
        "extractor_seconds": round(extractor.seconds, 1),
        "extractor_milliseconds_per_image": round(
            1000 * extractor.seconds / (len(real) + len(drawn)), 2
        ),
        "extractor_share": round(extractor.seconds / whole, 3),
        "ours_milliseconds_per_image": round(
            1000 * (whole - extractor.seconds) / (len(real) + len(drawn)), 2
        ),
        "features_megabytes": round((len(real) + len(drawn)) * extractor.width * 4 / 2**20, 1),
        "before_megabytes": round(before, 1),
        "more_megabytes": round(peak() - before, 1),
    }


def report_speed(options: argparse.Namespace) -> dict[str, Any]:
    pairs, labeler = make_reports(options.reports), TimedLabeler()
    before, started, worked = peak(), time.perf_counter(), time.process_time()
    evaluate_report_pairs(pairs, labeler=labeler, metrics=[])
    seconds, whole = time.perf_counter() - started, time.process_time() - worked
    return {
        "pairs": options.reports,
        "seconds": round(seconds, 1),
        "processor_seconds": round(whole, 1),
        "per_second": round(options.reports / whole, 1),
        "labeler_share": round(labeler.seconds / whole, 3),
        "more_megabytes": round(peak() - before, 1),
    }


def peak() -> float:
    """The most memory that this process has had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def prdc_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory above what was there before, in a process of its own."""
    generator = torch.Generator().manual_seed(0)
    count = options.images
    real = torch.randn(count, WIDTH, generator=generator)
    drawn = torch.randn(count, WIDTH, generator=generator)
    before, started = peak(), time.perf_counter()
    prdc(real, drawn, 5)
    return {
        "rows": count,
        "width": WIDTH,
        "seconds": round(time.perf_counter() - started, 1),
        "features_megabytes": round(2 * count * WIDTH * 4 / 2**20, 1),
        "more_megabytes": round(peak() - before, 1),
    }


def make_phantoms(folder: Path, count: int, first: int) -> None:
    """PNGs of phantoms of `SIDE` pixels, those that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in range(count) if not (folder / f"{row:06d}.png").is_file()]
    for start in tqdm(range(0, len(rows), 64), desc=f"phantoms: {folder.name}", unit="batch"):
        some = rows[start : start + 64]
        films = render_batch([sample_phantom(first + row) for row in some], SIDE)
        for row, film in zip(some, films, strict=True):
            path = folder / f"{row:06d}.png"
            Image.fromarray((torch.as_tensor(film) * 255).round().byte().numpy()).save(path)


def make_reports(count: int) -> ReportPairs:
    texts = [reports_of(sample_phantom(seed))[0] for seed in range(count)]
    order = np.random.default_rng(0).permutation(count)
    predictions = [
        texts[row] if row % 2 else texts[other] for row, other in enumerate(order.tolist())
    ]
    ids = tuple(str(row) for row in range(count))
    return ReportPairs(ids, ids, tuple(texts), tuple(predictions), Resampling(unit="report"))


def use_network(options: argparse.Namespace) -> dict[str, Any]:
    """Whole networks that learn from real X-rays, from drawn ones and from both."""
    if options.data is None or options.drawn is None:
        raise SystemExit("--data DIR and --drawn FOLDER are needed")
    train = open_images(options.data, split="train", subsets=[SUBSET]).first(options.train)
    test = open_images(options.data, split=options.split, subsets=[SUBSET])
    drawn = open_images(options.drawn)
    sets = [in_two_classes(one) for one in (train, drawn, test)]
    training = NetworkTraining()
    started, worked = time.perf_counter(), time.process_time()
    results = measure_use_network(sets[0], sets[1], sets[2], Resampling(), training)
    tree = {
        "counts": {
            name: len(one) for name, one in zip(("real", "drawn", "test"), sets, strict=True)
        },
        "steps": training.steps,
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - worked, 1),
        "metrics": stored({one.name: one for one in results}, [])["metrics"],
    }
    for result in results:
        if result.name.startswith("auroc/") and result.name.count("/") == 2:
            print(result)
    print(f"{tree['processor_seconds']} s of the processor for three times {training.steps} steps")
    return tree


def in_two_classes(images: ImageSet) -> ImageSet:
    """The same X-rays with the label Pneumonia or Normal alone."""
    files = [
        replace(one, labels=frozenset({"Pneumonia" if is_pneumonia(one) else "Normal"}))
        for one in images
    ]
    return replace(images, images=tuple(files))


def is_pneumonia(one: ImageFile) -> bool:
    return bool({"Pneumonia", "pneumonia"} & one.labels)


def cheats(options: argparse.Namespace) -> dict[str, Any]:
    if options.data is None:
        raise SystemExit("--data DIR is needed: the folder with metadata.csv")
    generator = torch.Generator().manual_seed(0)
    train = labelled(open_images(options.data, split="train", subsets=[SUBSET]), options.train)
    unseen, rest = split_groups(train, generator)
    unseen, again = split_groups(unseen, generator)
    held_out = open_images(options.data, split=options.split, subsets=[SUBSET])
    real = as_images("real", labelled(held_out, options.real))
    learned = as_images("train", rest)
    sets = {HONEST: make_cheat("unseen", rest, unseen, options.per_class)}
    sets[CONTROL] = make_cheat("unseen", rest, again, options.per_class)
    for name in options.cheat:
        sets.setdefault(name, make_cheat(name, rest, unseen, options.per_class))
    if options.drawn is not None:
        sets[DRAWN] = labelled(open_images(options.drawn))
    judges = Judges(
        VisionTowerExtractor(UniXPipeline.from_pretrained(options.extractor)), metrics=[]
    )
    found: dict[str, dict[str, MetricResult]] = {}
    caught: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as cache:
        settings = ImageOptions(
            resampling=Resampling(300),
            extraction=Extraction(cache=Path(cache)),
            heavy_replicates=40,
            pairs=60,
        )
        for name, xrays in sets.items():
            drawn = replace(as_images(name, xrays), unit="image")
            results = evaluate_images(real, drawn, judges, train=learned, options=settings).results
            found[name] = {r.name: r for r in results if not r.name.endswith("/ceiling")}
            caught[name] = catching(found[HONEST], found[name])
            print(f"{name}: caught by {', '.join(caught[name]) or 'nothing'}", flush=True)
    everything = {"real": real, "train": rest, **sets}
    tree = {
        "counts": {name: len(xrays) for name, xrays in everything.items()},
        "seconds_of_processor": round(time.process_time()),
        "let_through": let_through(caught),
        "sets": {name: stored(found[name], caught[name]) for name in found},
    }
    print(table(tree))
    print(f"let through: {', '.join(tree['let_through']) or 'none'}")
    return tree


def let_through(caught: dict[str, list[str]]) -> list[str]:
    """Cheats that no metric catches but such as take honest X-rays for cheats too."""
    unsure = set(caught[CONTROL])
    names = [name for name in caught if name not in {HONEST, CONTROL, DRAWN, "unseen"}]
    return [name for name in names if not set(caught[name]) - unsure]


def stored(found: dict[str, MetricResult], caught: list[str]) -> dict[str, Any]:
    values = {
        result.name: {
            "value": result.value,
            "low": result.interval and result.interval.low,
            "high": result.interval and result.interval.high,
        }
        for result in found.values()
    }
    return {"caught_by": caught, "metrics": values}


def table(tree: dict[str, Any]) -> str:
    """The composite view: bold is what catches the set."""
    heads = [name for name in COLUMNS if name in tree["sets"][HONEST]["metrics"]]
    short = [COLUMNS[name] for name in heads]
    lines = ["| set | " + " | ".join(short) + " | caught by |", "|---" * (len(heads) + 2) + "|"]
    for name, one in tree["sets"].items():
        cells = []
        for metric in heads:
            if metric not in one["metrics"]:
                cells.append("–")
                continue
            value = f"{one['metrics'][metric]['value']:.2f}"
            cells.append(f"**{value}**" if metric in one["caught_by"] else value)
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(one['caught_by'])} |")
    return "\n".join(lines)


def catching(honest: dict[str, MetricResult], found: dict[str, MetricResult]) -> list[str]:
    """Metrics that put a set on the bad side of honest real X-rays, and surely so.

    The value must lie outside the honest interval, and the honest value outside that of the set.
    Where neither end is good (vendi, ms_ssim) both sides are bad. Areas of single labels are left
    to their mean.
    """
    caught = []
    for name in COLUMNS:
        mine, theirs = found.get(name), honest.get(name)
        if mine is None or theirs is None or theirs.interval is None:
            continue
        own = mine.interval or Interval(mine.value, mine.value, "none")
        low = mine.value < theirs.interval.low and own.high < theirs.value
        high = mine.value > theirs.interval.high and own.low > theirs.value
        bad = low or high
        if theirs.higher_is_better is not None:
            bad = low if theirs.higher_is_better else high
        if bad:
            caught.append(name)
    return caught


def labelled(images: ImageSet, limit: int | None = None) -> LabelledXrays:
    images = images.first(limit)
    squares = [(resize_and_pad(one.load()[None], 128) * 255).round() / 255 for one in images]
    return LabelledXrays(
        torch.cat(squares).clamp(0, 1),
        torch.tensor([is_pneumonia(one) for one in images]),
        images.groups,
    )


def as_images(name: str, xrays: LabelledXrays) -> ImageSet:
    return ImageSet(
        name,
        tuple(
            ImageFile(
                f"{name}-{row}",
                xrays.images[row, 0].numpy(),
                xrays.groups[row],
                frozenset({"Pneumonia" if xrays.pneumonia[row] else "Normal"}),
            )
            for row in range(len(xrays))
        ),
    )


def describe(options: argparse.Namespace) -> dict[str, Any]:
    kept = ("what", "images", "reports", "split", "real", "per_class", "train", "extractor")
    kept += ("threads",)
    return {
        "environment": environment("torchmetrics", "numpy", "sacrebleu", "rouge-score"),
        "config": {name: getattr(options, name) for name in kept},
    }


CHILDREN = {
    "images": image_speed,
    "large": large_image_speed,
    "reports": report_speed,
    "prdc": prdc_memory,
}
WHOLE = {"speed": speed, "use_network": use_network, "cheats": cheats}

if __name__ == "__main__":
    main()
