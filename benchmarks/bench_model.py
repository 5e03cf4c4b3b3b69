"""Speed of drawing and of report writing, each as a share of what this machine can do.

    python benchmarks/bench_model.py --out benchmarks/results/model.json

Sizes are those at which the published code was timed: hidden 512, 8 layers, 8 heads, intermediate
1408, vocabulary 8192, 256 latent tokens, 64 prompt tokens. The limits (a 2048³ matrix product, a
memory copy) are measured before and after every case, in the same run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import environment
from transformers import StoppingCriteria, StoppingCriteriaList

from unix_cxr.functional.guidance import Guidance
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.context import Text
from unix_cxr.models.sampling import (
    GuidanceContexts,
    GuidedVelocity,
    euler_scheduler,
    sample,
    set_steps,
)
from unix_cxr.models.unix import UniXModel

HIDDEN, LAYERS, HEADS, INTERMEDIATE, VOCABULARY = 512, 8, 8, 1408, 8192
IMAGE_TOKENS, LATENT_SIDE, PROMPT_TOKENS, STEPS = 576, 16, 64, 10
GEMM_SIDE = 2048


def build() -> UniXModel:
    torch.manual_seed(0)
    config = UniXConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "head_dim": HIDDEN // HEADS,
            "attention_bias": True,
            "rope_theta": 10_000.0,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 384,
            "patch_size": 16,
            "vision_use_head": False,
            "hidden_act": "gelu",
        },
        begin_image_token_id=3,
        end_image_token_id=4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return UniXModel(config).eval()


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return times


def gemm_gflops() -> float:
    a, b = torch.randn(2, GEMM_SIDE, GEMM_SIDE)
    return 2 * GEMM_SIDE**3 / 1e9 / min(seconds(lambda: a @ b, 5))


def copy_gigabytes() -> float:
    source = torch.randn(64 * 2**20)
    target = torch.empty_like(source)
    return 2 * source.nbytes / 1e9 / min(seconds(lambda: target.copy_(source), 5))


def block_gflop(queries: int, keys: int) -> float:
    """Of one pass through one branch: projections, feed-forward, attention."""
    dense = 2 * queries * LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INTERMEDIATE)
    attention = 4 * queries * keys * HIDDEN * LAYERS
    return (dense + attention) / 1e9


def drawing(model: UniXModel, interval: tuple[float, float], scale: float, repeats: int) -> dict:
    ids = torch.randint(5, VOCABULARY, (1, PROMPT_TOKENS + 2))
    noise = torch.randn(1, 16, LATENT_SIDE, LATENT_SIDE)
    scheduler = euler_scheduler(1.0)
    guidance = Guidance(scale=scale, interval=interval)
    passes = 0

    @torch.no_grad()
    def draw() -> None:
        nonlocal passes
        context = model.encode([Text(ids)])
        contexts = GuidanceContexts(context, model.empty_context(1))
        velocity = GuidedVelocity(model, contexts, guidance)
        set_steps(scheduler, STEPS)
        passes = sum(
            2 if guidance.uses_text and guidance.acts_at(float(t)) else 1
            for t in scheduler.sigmas[:-1]
        )
        sample(velocity, noise, scheduler)

    before = gemm_gflops()
    times = seconds(draw, repeats)
    peak = (before + gemm_gflops()) / 2
    tokens = LATENT_SIDE**2 + 2
    guided = passes - STEPS
    gflop = block_gflop(PROMPT_TOKENS + 2, PROMPT_TOKENS + 2)
    gflop += STEPS * block_gflop(tokens, tokens + PROMPT_TOKENS + 2)
    gflop += guided * block_gflop(tokens, tokens)
    median = statistics.median(times)
    return {
        "passes": passes,
        "gflop": round(gflop, 1),
        "median_s": round(median, 3),
        "min_s": round(min(times), 3),
        "gemm_gflops": round(peak, 1),
        "share_of_gemm_peak": round(gflop / median / peak, 3),
    }


class Clock(StoppingCriteria):
    """Notes the time after every token, so that the prompt does not count."""

    def __init__(self) -> None:
        self.between: list[float] = []
        self.last: float | None = None

    def hook(self) -> dict:
        self.last = None
        return {"stopping_criteria": StoppingCriteriaList([self])}

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        now = time.perf_counter()
        if self.last is not None:
            self.between.append(now - self.last)
        self.last = now
        return torch.zeros(len(input_ids), dtype=torch.bool)


def writing(model: UniXModel, batch: int, tokens: int, repeats: int) -> dict:
    ids = torch.tensor([[3, *[0] * IMAGE_TOKENS, 4, 1, *range(10, 20), 2, 1]] * batch)
    pixels = torch.randn(batch, 3, 384, 384)
    bare_ids = torch.randint(5, VOCABULARY, ids.shape)
    common = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def ours(clock: Clock) -> None:
        model.generate(
            input_ids=ids, pixel_values=pixels, max_new_tokens=tokens, **common, **clock.hook()
        )

    def bare(clock: Clock) -> None:
        model.language_model.generate(
            input_ids=bare_ids, max_new_tokens=tokens, **common, **clock.hook()
        )

    def per_token(run: Callable[[Clock], None]) -> float:
        clock = Clock()
        for _ in range(repeats):
            run(clock)
        return statistics.median(clock.between)

    before = copy_gigabytes()
    mine, theirs = per_token(ours), per_token(bare)
    bandwidth = (before + copy_gigabytes()) / 2
    weights = sum(p.numel() for p in model.language_model.parameters()) - VOCABULARY * HIDDEN
    cache = 2 * LAYERS * HIDDEN * (ids.shape[1] + tokens / 2) * batch
    needed = 4 * (weights + cache) / 1e9
    return {
        "batch": batch,
        "ms_per_step": round(1e3 * mine, 2),
        "ms_per_token": round(1e3 * mine / batch, 2),
        "bare_language_model_ms_per_step": round(1e3 * theirs, 2),
        "ratio_to_bare": round(mine / theirs, 3),
        "gigabytes_per_step": round(needed, 3),
        "copy_gigabytes_per_s": round(bandwidth, 1),
        "share_of_bandwidth": round(needed / mine / bandwidth, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    model = build()
    results = {
        "environment": environment("transformers"),
        "sizes": {
            "hidden": HIDDEN,
            "layers": LAYERS,
            "heads": HEADS,
            "intermediate": INTERMEDIATE,
            "vocabulary": VOCABULARY,
            "latent_tokens": LATENT_SIDE**2,
            "prompt_tokens": PROMPT_TOKENS,
            "steps": STEPS,
        },
        "drawing": {
            "guided at every step": drawing(model, (0.0, 1.0), 2.0, options.repeats),
            "guided in (0.4, 1]": drawing(model, (0.4, 1.0), 2.0, options.repeats),
            "no guidance": drawing(model, (0.0, 1.0), 1.0, options.repeats),
        },
        "writing": [writing(model, batch, options.tokens, 3) for batch in (1, 16)],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def table(results: dict) -> str:
    lines = [
        "| drawing | passes | GFLOP | median s | share of GEMM peak |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['passes']} | {row['gflop']} | {row['median_s']} | "
        f"{row['share_of_gemm_peak']:.0%} |"
        for name, row in results["drawing"].items()
    ]
    lines += [
        "",
        "| writing | ms per token | of copy bandwidth | against the bare language model |",
    ]
    lines += ["|---|---|---|---|"]
    lines += [
        f"| batch {row['batch']} | {row['ms_per_token']} | {row['share_of_bandwidth']:.0%} | "
        f"{row['ratio_to_bare']:.2f} × |"
        for row in results["writing"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
