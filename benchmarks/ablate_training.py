r"""What each choice of the drawing stage does, at equal steps, on phantoms of 64 pixels.

    unix-cxr data prepare phantom:16000 --out DIR --size 64 --text as-is --section findings \
        --latents runs/phantom/pipeline
    OMP_NUM_THREADS=1 python benchmarks/ablate_training.py --run runs/phantom --data DIR --out FILE

`--run` is a run of recipes/phantom.yaml, whose autoencoder and taught vision tower all share. One
short understanding stage gives every variant the same language model; then each variant and seed
trains the generation stage alone, with the seed deciding the branch's random weights, the order,
the noise and the dropout. The base: gradient 1, EMA, stratified logit-normal times, no alignment,
Muon.

Measured on dev phantoms with the same fixed noise and times for every variant: the velocity's
error, and how much larger it is with another film's caption ("listening"; a model that ignores the
caption has 0). Of each variant, the mean over seeds with a t-interval, and the same of its paired
difference from the base. A killed run goes on.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from machine import environment
from scipy import stats

from unix_cxr.files import write_text
from unix_cxr.models.unix import UniXModel
from unix_cxr.training.batches import CaptionedLatentBatch
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.objective_settings import GenerationObjectiveSettings
from unix_cxr.training.recipe import RecipeRun
from unix_cxr.training.settings import Recipe, StageSettings, parse_recipe

ROOT = Path(__file__).resolve().parents[1]
LOOKED_AT: Final = 512
"""Dev phantoms that are measured."""
OBJECTIVE = {
    "kind": "generation",
    "caption_dropout": 0.1,
    "understanding_gradient": 1.0,
    "augmented_copies": 1,
    "prepared_moments": True,
    "times": {"stratified": True},
}
JOINT = ["model.generation.*", "model.language_model.model.*"]
FROZEN = ["model.generation.*"]
ALIGNED = {"encoder": "vision", "layer": 3, "weight": 0.5, "keep": "step"}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "gradient 0": {"objective": {"understanding_gradient": 0.0}, "trains": FROZEN},
    "gradient 0.1": {"objective": {"understanding_gradient": 0.1}},
    "no EMA": {"ema_decay": None},
    "uniform times": {"objective": {"times": {"kind": "uniform", "stratified": True}}},
    "shift 3": {"objective": {"times": {"shift": 3.0, "stratified": True}}},
    "times not stratified": {"objective": {"times": {"stratified": False}}},
    "REPA": {"objective": {"alignment": ALIGNED}},
    "AdamW": {"optimizer": "adamw"},
}


def recipe_of(tree: dict[str, Any], variant: str, seed: int, steps: int, batch: int) -> Recipe:
    """The recipe with a short understanding stage and one variant of the generation stage."""
    joint = next(stage for stage in tree["stages"] if stage["name"] == "joint")
    shared = joint | {"batch_size": batch, "steps": steps, "warmup_steps": steps // 10}
    shared |= {"validate_every": steps, "checkpoint_every": steps, "ema_decay": 0.98}
    changes = VARIANTS[variant]
    understanding = shared | {
        "name": "understanding",
        "objective": {"kind": "understanding"},
        "trains": ["model.vision.*", "model.connector.*", "model.language_model.*"],
    }
    generation = shared | changes
    generation |= {"name": "generation", "trains": changes.get("trains", JOINT)}
    generation["objective"] = OBJECTIVE | changes.get("objective", {})
    stages = [understanding, generation]
    return parse_recipe(tree | {"stages": stages, "seed": seed}, f"variant {variant}")


@torch.no_grad()
def listening(run: RecipeRun, stage: StageSettings) -> dict[str, float]:
    """Error of the dev velocities with their own captions, and with those of other films."""
    draws = GenerationObjectiveSettings(
        kind="generation",
        caption_dropout=0.0,
        understanding_gradient=0.0,
        augmented_copies=1,
        prepared_moments=getattr(stage.objective, "prepared_moments", False),
    )
    stage = stage.model_copy(update={"objective": draws, "length_window": 1})
    source: Any = run.task(stage, run.data_of(stage)).source
    objective = GenerationObjective(run.model.eval(), understanding_gradient=0.0)
    own, others = [], []
    for batch in islice(source.validation(), LOOKED_AT // source.batch_size):
        values = {field.name: getattr(batch, field.name) for field in fields(batch)}
        turned = {name: values[name].roll(1, 0) for name in ("caption_ids", "caption_mask")}
        with torch.autocast("cpu", torch.bfloat16):
            own.append(objective(batch)["velocity"])
            others.append(objective(CaptionedLatentBatch(**(values | turned)))["velocity"])
    right = sum(float(term.total) for term in own) / sum(term.count for term in own)
    wrong = sum(float(term.total) for term in others) / sum(term.count for term in others)
    return {"dev_velocity": right, "listening": wrong - right}


def trained(run: RecipeRun, recipe: Recipe, shared: Path) -> dict[str, Any]:
    """Train one variant, or take it up where it stopped, and look at it."""
    done = run.folder / "measured.json"
    if done.is_file():
        measured: dict[str, Any] = json.loads(done.read_text("utf-8"))
        return measured
    run.check()
    run.begin_from(shared)
    # every seed has random weights of its own where the variants learn to draw
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        fresh = UniXModel(run.model.config)
    run.model.generation.load_state_dict(fresh.generation.state_dict())
    run.note(run.plan(["generation"]))
    started = time.monotonic()
    run.advance("generation", ["generation"])
    measured = {"seconds": round(time.monotonic() - started)} | listening(
        run, recipe.stage("generation")
    )
    write_text(done, json.dumps(measured))
    return measured


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean with its 95 % t-interval."""
    mean, count = statistics.mean(values), len(values)
    if count == 1:
        return {"mean": mean, "values": list(values)}
    reach = stats.t.ppf(0.975, count - 1) * statistics.stdev(values) / math.sqrt(count)
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "values": list(values)}


def table(results: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, Any]:
    """Every variant's means, and its paired differences from the base."""
    rows = {}
    for variant, by_seed in results.items():
        seeds = sorted(by_seed.keys() & results["base"].keys())
        rows[variant] = {"seeds": seeds}
        for name in ("dev_velocity", "listening"):
            values = [by_seed[seed][name] for seed in seeds]
            base = [results["base"][seed][name] for seed in seeds]
            rows[variant][name] = interval(values)
            rows[variant][f"{name} minus base"] = interval(
                [value - other for value, other in zip(values, base, strict=True)]
            )
        rows[variant]["seconds"] = statistics.mean(by_seed[seed]["seconds"] for seed in seeds)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    if "base" not in options.variants:
        parser.error("--variants must have base, which the others are compared with")
    tree = yaml.safe_load((ROOT / "recipes/phantom.yaml").read_text("utf-8"))
    tree["data"] |= {"kind": "prepared", "root": str(options.data)}
    device = torch.device("cpu")
    sizes = (options.steps, options.batch)
    first = recipe_of(tree, "base", 0, *sizes)
    shared = RecipeRun(first, options.runs / "shared", device)
    if not (shared.folder / "understanding" / "finished.json").is_file():
        shared.begin_from(options.run / "vision")
        shared.note(shared.plan(["understanding"]))
        shared.advance("understanding", ["understanding"])
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in range(1, options.seeds + 1):
        for variant in options.variants:
            recipe = recipe_of(tree, variant, seed, *sizes)
            folder = options.runs / f"{variant.replace(' ', '-')}-{seed}"
            run = RecipeRun(recipe, folder, device)
            run.begin_from(options.run / "autoencoder")
            measured = trained(run, recipe, shared.folder / "understanding")
            results.setdefault(variant, {})[seed] = measured
            print(f"{variant}, seed {seed}: {measured}", flush=True)
            outcome = {
                "steps": options.steps,
                "batch_size": options.batch,
                "variants": table(results),
                "environment": environment(),
            }
            write_text(options.out, json.dumps(outcome, indent=1) + "\n")


if __name__ == "__main__":
    main()
