"""Speed of a training step as a share of what this machine can do.

    python benchmarks/bench_training.py --out benchmarks/results/training.json

Sizes are those at which the published code was timed: hidden 512, 8 layers, 8 heads, intermediate
1408, vocabulary 8192, 256 latent tokens, captions of 64 tokens (66 with BOS and EOS), batch 4. The
published work is "joint": 324 tokens per sample, every branch in the graph.

Steps and matrix products (2048³, in the same number type) take turns, and the fastest of each
counts. On one thread the seconds are those of the thread itself, so that a machine that does other
things meanwhile gives the same shares; on several threads and on a GPU they are those of the clock.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench_model import VOCABULARY, build
from machine import environment
from torch import nn
from tqdm.auto import tqdm

from unix_cxr.models.autoencoder import build_autoencoder
from unix_cxr.models.context import Text
from unix_cxr.models.unix import UniXModel
from unix_cxr.training.batches import CaptionedLatentBatch, to_device
from unix_cxr.training.costs import LiveBytes
from unix_cxr.training.generation import CaptionedLatentSource, GenerationObjective
from unix_cxr.training.objective_settings import GenerationObjectiveSettings
from unix_cxr.training.precision import computing, prepare
from unix_cxr.training.settings import StageSettings
from unix_cxr.training.speed import ArithmeticCounter
from unix_cxr.training.stages import select_learning

BATCH, CAPTION, CHANNELS, SIDE = 4, 66, 16, 16
GEMM_SIDE = 2048
JOINT = ("model.generation.*", "model.language_model.model.*")
DRAWING = ("model.generation.*",)


def stage_of(precision: str, trains: tuple[str, ...], *, checkpointing: bool) -> StageSettings:
    return StageSettings.model_validate(
        {
            "name": "bench",
            "objective": {
                "kind": "generation",
                "caption_dropout": 0.1,
                "understanding_gradient": 1.0 if trains == JOINT else 0.0,
                "augmented_copies": 1,
            },
            "trains": trains,
            "steps": 1,
            "batch_size": BATCH,
            "learning_rate": 1e-4,
            "warmup_steps": 0,
            "schedule": "constant",
            "betas": (0.9, 0.95),
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "precision": precision,
            "augmentation": 0.0,
            "activation_checkpointing": checkpointing,
        }
    )


def batch_of(device: torch.device, size: int = BATCH) -> CaptionedLatentBatch:
    generator = torch.Generator().manual_seed(0)
    shape = (size, CHANNELS, SIDE, SIDE)
    batch = CaptionedLatentBatch(
        latents=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
        times=torch.rand(size, generator=generator),
        caption_ids=torch.randint(5, VOCABULARY, (size, CAPTION), generator=generator),
        caption_mask=torch.ones(size, CAPTION, dtype=torch.bool),
    )
    return to_device(batch, device)


class Clock:
    """Seconds of this thread where it does all the work, else of the clock."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.alone = device.type == "cpu" and torch.get_num_threads() == 1
        self.name = "thread" if self.alone else "clock"

    def __call__(self, run: Callable[[], object]) -> float:
        now = time.thread_time if self.alone else time.perf_counter
        self.wait()
        started = now()
        run()
        self.wait()
        return now() - started

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def step_of(
    model: UniXModel, stage: StageSettings, batch: CaptionedLatentBatch
) -> Callable[[], None]:
    """Forward and backward of one batch, as the trainer computes them."""
    device = batch.latents.device
    objective = GenerationObjective(model, stage.objective.understanding_gradient)
    select_learning(objective, stage.trains)
    prepare(objective, stage, device)
    objective.train()

    def step() -> None:
        for parameter in objective.parameters():
            parameter.grad = None
        with computing(stage, device):
            term = objective(batch)["velocity"]
        term.mean.backward()

    return step


def cases(device: torch.device, repeats: int) -> list[dict]:
    clock, model = Clock(device), build().to(device)
    nn.init.normal_(model.generation.velocity_head.weight, std=0.02)  # else nothing flows back
    rows = []
    for precision in ("float32", "bfloat16"):
        dtype = getattr(torch, precision)
        left, right = torch.randn(2, GEMM_SIDE, GEMM_SIDE, device=device).to(dtype)
        wanted = {
            "joint": (JOINT, False),
            "understanding frozen": (DRAWING, False),
            "joint, checkpointed": (JOINT, True),
        }
        steps, counts = {}, {}
        for name, (trains, checkpointing) in wanted.items():
            stage = stage_of(precision, trains, checkpointing=checkpointing)
            step = steps[name] = step_of(model, stage, batch_of(device))
            with ArithmeticCounter() as counter, LiveBytes() as live:
                step()
            counts[name] = (counter.total, live.peak)
        times: dict[str, list[float]] = {name: [] for name in (*wanted, "gemm")}
        for _ in tqdm(range(repeats), precision, disable=None):
            times["gemm"].append(clock(lambda: left @ right))  # noqa: B023 - called at once
            for name, (trains, checkpointing) in wanted.items():
                # which parameters learn, and what is kept, belong to the case
                stage = stage_of(precision, trains, checkpointing=checkpointing)
                times[name].append(clock(step_of(model, stage, batch_of(device))))
        peak = 2 * GEMM_SIDE**3 / min(times["gemm"])
        rows += [
            {
                "precision": precision,
                "case": name,
                "gflop": round(counts[name][0] / 1e9, 1),
                "seconds": round(min(times[name]), 4),
                "median_seconds": round(statistics.median(times[name]), 4),
                "of_joint": round(min(times[name]) / min(times["joint"]), 3),
                "gemm_gflops": round(peak / 1e9, 1),
                "share_of_gemm_peak": round(counts[name][0] / min(times[name]) / peak, 3),
                "megabytes": round(counts[name][1] / 1e6),
                "clock": clock.name,
            }
            for name in wanted
        ]
    return rows


class Films:
    """Images and captions from memory, for the time that a batch takes to make."""

    def __init__(self, count: int, side: int) -> None:
        self.images = torch.rand(count, 1, side, side)
        words = random.Random(0)
        self.captions = [" ".join(words.choices(_WORDS, k=32)) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        return self.images[indices]

    def texts(self, indices: torch.Tensor, words: random.Random) -> list[str]:
        return [self.captions[index] for index in indices.tolist()]


_WORDS = ("small", "left", "pleural", "effusion", "with", "adjacent", "basal", "atelectasis")


class Captions:
    """Ids of captions as long as those of the step."""

    def text_ids(self, text: str) -> list[int]:
        return [1, *range(5, 5 + CAPTION - 2), 2]

    def captions(self, texts: list[str]) -> Text:
        ids = torch.tensor([self.text_ids(text) for text in texts])
        return Text(ids, torch.ones_like(ids, dtype=torch.bool))


def loading(step_seconds: float, repeats: int) -> dict:
    """Making the batches of a drawing stage: moments from memory, sampled with their noise."""
    films = Films(64, 8 * SIDE)
    vae = build_autoencoder(
        channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=CHANNELS,
        image_channels=1,
        norm_groups=4,
        sample_size=8 * SIDE,
    )
    source = CaptionedLatentSource(
        films,
        films,
        vae,
        Captions(),
        GenerationObjectiveSettings(
            kind="generation", caption_dropout=0.1, understanding_gradient=0.0, augmented_copies=1
        ),
        batch_size=BATCH,
        augmentation=0.0,
        seed=0,
    )
    clock = Clock(torch.device("cpu"))
    seconds = statistics.median(clock(lambda: source.batch(1)) for _ in range(10 * repeats))
    return {
        "batch_seconds": round(seconds, 6),
        "share_of_frozen_float32_step": round(seconds / (seconds + step_seconds), 5),
    }


def gpu_memory(device: torch.device) -> list[dict]:
    """What the live bytes of a step are on a GPU, counted and as the allocator saw them."""
    model, rows = build().to(device), []
    for size in (BATCH, 4 * BATCH, 16 * BATCH):
        stage = stage_of("bfloat16", JOINT, checkpointing=False)
        step = step_of(model, stage, batch_of(device, size))
        with LiveBytes() as live:
            step()
        for parameter in model.parameters():
            parameter.grad = None
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        taken = torch.cuda.max_memory_allocated(device) - before
        rows.append({"batch": size, "counted": live.peak, "taken": taken})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    steps = cases(device, options.repeats)
    frozen = next(row for row in steps if row["case"] == "understanding frozen")
    results = {
        "environment": environment("transformers") | {"device": str(device)},
        "sizes": {
            "batch": BATCH,
            "caption_tokens": CAPTION,
            "latent_tokens": SIDE**2,
            "tokens_per_sample": CAPTION + SIDE**2 + 2,
        },
        "steps": steps,
        "loading": loading(frozen["seconds"], options.repeats),
        "gpu_memory": gpu_memory(device) if device.type == "cuda" else "needs a GPU",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


def table(results: dict) -> str:
    lines = [
        "| number type | step | GFLOP | seconds | of joint | share of GEMM peak | MB live |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['precision']} | {row['case']} | {row['gflop']} | {row['seconds']:.3f} | "
        f"{row['of_joint']:.2f} × | {row['share_of_gemm_peak']:.0%} | {row['megabytes']} |"
        for row in results["steps"]
    ]
    loading = results["loading"]
    lines += ["", f"Data: {loading['share_of_frozen_float32_step']:.2%} of a step."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
