"""Time and memory of an evaluation, and which metric catches which cheat.

    python benchmarks/bench_evaluation.py speed --images 10000 --reports 10000
    python benchmarks/bench_evaluation.py cheats --data DIR --split dev

`speed` makes images and reports up. It tells how much of the time the extractor takes (the rest is
what the library costs) and the memory of precision, recall, density and coverage on N x 768
features. `cheats` hands real X-rays in as a cheating generator would, and tells for every metric
whether it leaves the interval of honest real X-rays in the bad direction.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unix_cxr.data.phantom.sampling import sample_phantom
from unix_cxr.data.phantom.studies import reports_of
from unix_cxr.evaluation.cheats import CHEATS, make_cheat
from unix_cxr.evaluation.copies import blur
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.extractors import VisionTowerExtractor
from unix_cxr.evaluation.imaging.features import Extraction
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet, open_images
from unix_cxr.evaluation.imaging.suite import ImageOptions, Judges, evaluate_images
from unix_cxr.evaluation.neighbours import prdc
from unix_cxr.evaluation.plugins import ReportPairs
from unix_cxr.evaluation.results import MetricResult
from unix_cxr.evaluation.text.suite import evaluate_report_pairs
from unix_cxr.evaluation.xrays import LabelledXrays, split_groups
from unix_cxr.files import write_text
from unix_cxr.functional.images import resize_and_pad
from unix_cxr.pipelines.pipeline import UniXPipeline

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 768
SUBSET = "kermany224"
AREAS = ("auroc/label_agreement", "auroc/use/drawn")


class Timed(VisionTowerExtractor):
    """The extractor with a watch."""

    seconds = 0.0

    def __call__(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        started = time.perf_counter()
        features = super().__call__(images)
        self.seconds += time.perf_counter() - started
        return features


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "cheats", "prdc"))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=10_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split", choices=("dev", "val"), default="dev")
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--train", type=int, default=900, help="training X-rays for `cheats`")
    parser.add_argument("--cheat", nargs="+", default=list(CHEATS), choices=CHEATS, metavar="NAME")
    parser.add_argument("--extractor", default="nano")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="default benchmarks/results/evaluation_WHAT.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.what == "prdc":
        print(json.dumps(prdc_memory(options.images)))
        return
    out = options.out or ROOT / f"benchmarks/results/evaluation_{options.what}.json"
    tree = {**describe(options), **(speed(options) if options.what == "speed" else cheats(options))}
    write_text(out, json.dumps(tree, indent=1) + "\n")
    print(f"wrote {out}")


def speed(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        real = make_images(Path(folder) / "real", options.images, 0)
        drawn = make_images(Path(folder) / "drawn", options.images, 1)
        extractor = Timed(UniXPipeline.from_pretrained(options.extractor))
        started = time.perf_counter()
        evaluate_images(
            real,
            drawn,
            Judges(extractor, metrics=[]),
            options=ImageOptions(extraction=Extraction(32, cache=Path(folder) / "cache")),
        )
        whole = time.perf_counter() - started
    pairs = make_reports(options.reports)
    started = time.perf_counter()
    evaluate_report_pairs(pairs, metrics=[])
    written = time.perf_counter() - started
    child = subprocess.run(
        [sys.executable, __file__, "prdc", "--images", str(options.images), "--threads", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {
        "images": {
            "real": options.images,
            "drawn": options.images,
            "seconds": round(whole, 1),
            "extractor_seconds": round(extractor.seconds, 1),
            "extractor_share": round(extractor.seconds / whole, 3),
        },
        "reports": {
            "pairs": options.reports,
            "seconds": round(written, 1),
            "per_second": round(options.reports / written, 1),
        },
        "prdc": json.loads(child.stdout.splitlines()[-1]),
    }
    print(json.dumps(found, indent=1))
    return found


def prdc_memory(count: int) -> dict[str, Any]:
    """Peak memory above what was there before, in a process of its own."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(count, WIDTH, generator=generator)
    drawn = torch.randn(count, WIDTH, generator=generator)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    prdc(real, drawn, 5)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "rows": count,
        "width": WIDTH,
        "seconds": round(seconds, 1),
        "features_megabytes": round(2 * count * WIDTH * 4 / 2**20, 1),
        "more_megabytes": round((peak - before) / 2**10, 1),
    }


def make_images(folder: Path, count: int, seed: int) -> ImageSet:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    files = []
    for row in range(count):
        rough = torch.randn(1, 1, 128, 128, generator=generator)
        grey = (0.45 + 1.2 * blur(rough, 6.0) + 0.3 * blur(rough, 1.0)).clamp(0, 1)
        path = folder / f"{row}.png"
        Image.fromarray((grey[0, 0] * 255).byte().numpy()).save(path)
        files.append(ImageFile(path.name, path, str(row)))
    return ImageSet(folder.name, tuple(files), "image")


def make_reports(count: int) -> ReportPairs:
    texts = [reports_of(sample_phantom(seed))[0] for seed in range(count)]
    order = np.random.default_rng(0).permutation(count)
    predictions = [
        texts[row] if row % 2 else texts[other] for row, other in enumerate(order.tolist())
    ]
    ids = tuple(str(row) for row in range(count))
    return ReportPairs(ids, ids, tuple(texts), tuple(predictions), Resampling(unit="report"))


def cheats(options: argparse.Namespace) -> dict[str, Any]:
    if options.data is None:
        raise SystemExit("--data DIR is needed: the folder with metadata.csv")
    generator = torch.Generator().manual_seed(0)
    train = labelled(open_images(options.data, split="train", subsets=[SUBSET]), options.train)
    unseen, rest = split_groups(train, generator)
    real = as_images(
        "real", labelled(open_images(options.data, split=options.split, subsets=[SUBSET]))
    )
    learned = as_images("train", rest)
    judges = Judges(
        VisionTowerExtractor(UniXPipeline.from_pretrained(options.extractor)), metrics=[]
    )
    settings = ImageOptions(extraction=Extraction(progress=False), heavy_replicates=50, pairs=60)
    sets: dict[str, dict[str, MetricResult]] = {}
    for name in dict.fromkeys(("unseen", *options.cheat)):
        drawn = as_images(name, make_cheat(name, rest, unseen, options.per_class))
        found = evaluate_images(
            real, replace(drawn, unit="image"), judges, train=learned, options=settings
        )
        sets[name] = {r.name: r for r in found.results if "/ceiling" not in r.name}
        print(
            f"measured {name}: caught by {', '.join(catching(sets, name)) or 'nothing'}", flush=True
        )
    return {
        "sets": {
            name: {
                "caught_by": catching(sets, name),
                "metrics": {
                    result.name: {
                        "value": result.value,
                        "low": result.interval and result.interval.low,
                        "high": result.interval and result.interval.high,
                    }
                    for result in found.values()
                },
            }
            for name, found in sets.items()
        }
    }


def catching(sets: dict[str, dict[str, MetricResult]], name: str) -> list[str]:
    """Metrics that put a set on the bad side of the interval of unseen real X-rays.

    Where neither end is good (vendi, ms_ssim) both sides are bad. Areas of single labels are left
    to their mean.
    """
    caught = []
    for metric, honest in sets["unseen"].items():
        found = sets[name].get(metric)
        area = metric.startswith(("auroc/", "auprc/")) and metric not in AREAS
        if found is None or honest.interval is None or area or metric.endswith("_real"):
            continue
        low, high = found.value < honest.interval.low, found.value > honest.interval.high
        bad = low or high
        if honest.higher_is_better is not None:
            bad = low if honest.higher_is_better else high
        if bad:
            caught.append(metric)
    return caught


def labelled(images: ImageSet, limit: int | None = None) -> LabelledXrays:
    images = images.first(limit)
    squares = [(resize_and_pad(one.load()[None], 128) * 255).round() / 255 for one in images]
    return LabelledXrays(
        torch.cat(squares).clamp(0, 1),
        torch.tensor(["Pneumonia" in one.labels for one in images]),
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
    names = ("unix-cxr", "torch", "torchmetrics", "numpy", "sacrebleu", "rouge-score")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    kept = ("what", "images", "reports", "split", "per_class", "train", "extractor", "threads")
    return {
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{n: version(n) for n in names}},
        "commit": commit.stdout.strip() or "unknown",
        "config": {name: getattr(options, name) for name in kept},
    }


if __name__ == "__main__":
    main()
