"""What a generation step costs when the understanding branch learns, is frozen, or is remembered.

    OMP_NUM_THREADS=1 python benchmarks/bench_contexts.py
    python benchmarks/bench_contexts.py --device cuda --hidden-size 2048 --layers 24 --batch 16

Forward and backward of the velocity loss at 256 latent tokens and captions of 64 tokens. The kinds
take turns, so that a machine whose speed wavers slows all of them; medians and ratios are told. On
a CPU it is processor time, which other programs do not add to.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import environment

from unix_cxr.files import write_text
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.unix import UniXModel
from unix_cxr.training.batches import CaptionedLatentBatch
from unix_cxr.training.contexts import CaptionContexts
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.stages import select_learning

VOCABULARY = 4096
BOTH = ["model.generation.*", "model.language_model.model.*"]


def build(hidden_size: int, layers: int) -> UniXModel:
    heads = hidden_size // 64
    config = UniXConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": hidden_size,
            "intermediate_size": hidden_size * 11 // 4,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": 64,
            "attention_bias": True,
            "rope_theta": 10_000.0,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "patch_size": 16,
            "image_size": 64,
            "vision_use_head": False,
        },
        max_latent_size=16,
        **{f"{name}_token_id": number for number, name in enumerate(("bos", "eos", "pad"))},
        begin_image_token_id=3,
        end_image_token_id=4,
    )
    torch.manual_seed(0)
    return UniXModel(config)


def steps(model: UniXModel, batch: CaptionedLatentBatch) -> dict[str, Callable[[], None]]:
    """One forward and backward pass of each kind."""

    def step(objective: GenerationObjective, patterns: list[str]) -> Callable[[], None]:
        def run() -> None:
            select_learning(objective, patterns)
            for parameter in model.parameters():
                parameter.grad = None
            objective(batch)["velocity"].mean.backward()

        return run

    generation = ["model.generation.*"]
    kept = CaptionContexts(memory=10**11)
    return {
        "learning": step(GenerationObjective(model, 1.0), BOTH),
        "frozen": step(GenerationObjective(model, 0.0), generation),
        "remembered": step(GenerationObjective(model, 0.0, contexts=kept), generation),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="JSON file.")
    options = parser.parse_args()
    device = torch.device(options.device)
    model = build(options.hidden_size, options.layers).to(device)
    batch = CaptionedLatentBatch(
        latents=torch.randn(options.batch, 16, 16, 16, device=device),
        noise=torch.randn(options.batch, 16, 16, 16, device=device),
        times=torch.rand(options.batch, device=device),
        caption_ids=torch.randint(5, VOCABULARY, (options.batch, 64), device=device),
        caption_mask=torch.ones(options.batch, 64, dtype=torch.bool, device=device),
    )
    seconds: dict[str, list[float]] = {}
    kinds = steps(model, batch)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    for number in range(options.rounds + 1):
        for name, run in kinds.items():
            started = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first round warms up
                seconds.setdefault(name, []).append(clock() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result: dict[str, Any] = {
        "config": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
        "environment": environment(),
        "seconds": medians,
        "of_learning": {name: value / medians["learning"] for name, value in medians.items()},
    }
    print(json.dumps(result, indent=1))
    if options.out:
        write_text(options.out, json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
