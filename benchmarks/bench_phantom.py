"""Phantoms per second, oracle films per second, and how exact the oracle is on fresh phantoms.

    python benchmarks/bench_phantom.py --out benchmarks/results/phantom.json

Speed is given per second of wall clock and per second of CPU time of this process: others may use
the machine at the same time. `--speed-only` measures it again and keeps the accuracy in the file.
Accuracy is on phantoms whose seeds the oracle has never seen, as rendered and after each
perturbation.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import environment

from unix_cxr.data.phantom import (
    KINDS,
    SIDED,
    ZONED,
    Phantom,
    PhantomSource,
    measure_batch,
    render_batch,
    sample_phantom,
)
from unix_cxr.data.phantom.oracle_scoring import PERTURBATIONS, score_measured
from unix_cxr.files import sha256, write_text

FRESH_SEED = 3_500_000
TRIES = 3
AS_RENDERED = "as rendered"


def speed(work: Callable[[], Any], films: int) -> dict[str, float]:
    """Films per second by wall clock (best and median of several tries) and by CPU time."""
    walls, cpus = [], []
    work()
    for _ in range(TRIES):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "per_second_best": round(films / min(walls), 1),
        "per_second_median": round(films / sorted(walls)[TRIES // 2], 1),
        "per_cpu_second": round(films / sorted(cpus)[TRIES // 2], 1),
    }


def speeds(films: int = 128) -> dict[str, dict[str, float]]:
    phantoms = [sample_phantom(seed) for seed in range(films)]
    results = {"describe": speed(lambda: [sample_phantom(s) for s in range(films)], films)}
    for size in (64, 128, 256):
        count = films if size <= 128 else films // 4
        some = phantoms[:count]
        results[f"render {size}"] = speed(
            lambda some=some, size=size: render_batch(some, size), count
        )
    for size in (64, 128):
        rendered = render_batch(phantoms, size)
        results[f"measure {size}"] = speed(partial(measure_batch, rendered), films)
    return results


def studies_per_second(workers: int, size: int = 128, count: int = 512) -> dict[str, float]:
    """Whole studies (film, masks, reports) from `PhantomSource`, without the processes' start."""
    skipped = 128
    studies = iter(PhantomSource(count + skipped, size, workers=workers))
    for _ in range(skipped):
        next(studies)
    wall = time.perf_counter()
    made = sum(1 for _ in studies)
    return {"workers": workers, "per_second": round(made / (time.perf_counter() - wall), 1)}


def accuracy(phantoms: list[Phantom], size: int, perturbed: int) -> dict[str, Any]:
    films = torch.cat(
        [render_batch(phantoms[at : at + 256], size) for at in range(0, len(phantoms), 256)]
    )
    results: dict[str, Any] = {}
    for name, change in PERTURBATIONS.items():
        some = len(phantoms) if name == AS_RENDERED else perturbed
        scores = score_measured(phantoms[:some], measure_batch(change(films[:some])))
        results[name] = {
            kind: {
                "balanced_accuracy": round(scores[kind].balanced_accuracy, 4),
                "side_accuracy": round(scores[kind].side_accuracy, 4) if kind in SIDED else None,
                "severity_accuracy": round(scores[kind].severity_accuracy, 4),
                "zone_accuracy": round(scores[kind].zone_accuracy, 4) if kind in ZONED else None,
                **asdict(scores[kind]),
            }
            for kind in KINDS
        }
        lowest = min(results[name][kind]["balanced_accuracy"] for kind in KINDS)
        print(f"{size} px, {name}: lowest balanced accuracy {lowest}", flush=True)
    return results


def table(results: dict[str, Any]) -> str:
    """The results as the guide shows them."""
    lines = [
        "| kind | 128 px: balanced | side | 64 px: balanced | side | worst of 128 px, perturbed |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        large, small = (results["accuracy"][str(s)][AS_RENDERED][kind] for s in (128, 64))
        name, worst = min(
            (
                (name, row[kind]["balanced_accuracy"])
                for name, row in results["accuracy"]["128"].items()
            ),
            key=lambda pair: pair[1] if not math.isnan(pair[1]) else 1.0,
        )
        sides = [row["side_accuracy"] for row in (large, small)]
        shown = ["-" if side is None else f"{side:.3f}" for side in sides]
        lines.append(
            f"| {kind} | {large['balanced_accuracy']:.3f} | {shown[0]} | "
            f"{small['balanced_accuracy']:.3f} | {shown[1]} | {worst:.3f} ({name}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--phantoms", type=int, default=800)
    parser.add_argument("--perturbed", type=int, default=200, help="phantoms of each perturbation")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--speed-only", action="store_true", help="keep what else is in the file")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    phantoms = [sample_phantom(FRESH_SEED + number) for number in range(chosen.phantoms)]
    weights = Path(__file__).parent.parent / "unix_cxr/data/phantom/oracle.safetensors"
    known = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.speed_only else {}
    results: dict[str, Any] = {
        "environment": environment(),
        "config": {
            "phantoms": chosen.phantoms,
            "perturbed": chosen.perturbed,
            "first_seed": FRESH_SEED,
            "tries": TRIES,
        },
        "oracle": {"bytes": weights.stat().st_size, "sha256": sha256(weights)},
        **known,
        "speed": {
            "environment": environment(),
            "films": speeds(),
            "studies": [studies_per_second(workers) for workers in (1, 2)],
        },
    }
    if not chosen.speed_only:
        results["accuracy"] = {
            str(size): accuracy(phantoms, size, chosen.perturbed) for size in (128, 64)
        }
    write_text(chosen.out, json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["speed"], indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
