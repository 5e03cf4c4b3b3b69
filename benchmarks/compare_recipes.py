r"""Our recipe against the published one, at equal arithmetic, from the same random weights.

    OMP_NUM_THREADS=1 python benchmarks/compare_recipes.py --recipe recipes/phantom.yaml \
        --autoencoder runs/phantom/autoencoder --data DIR --flop 2e13 --out FILE.json

`--data` is a folder that `unix-cxr data prepare` made with the latents of that autoencoder; without
it the recipe's own data are read, and encoded before the first step. Both recipes begin with random
weights of the same seed and may spend `--flop` floating point operations, counted:

- published (arXiv:2601.11522): understanding first (a fifth of the arithmetic), then drawing with
  a frozen understanding branch, generation layers copied from the language model, aligned with
  the own vision tower; AdamW, constant rate, no moving average.
- ours: the vision stage (a tenth), then reading and drawing in one stage, 1 : 2, gradient 1, the
  tower frozen (three tenths), then drawing with a frozen understanding branch; Muon, cosine, moving
  average, stratified times.

The batches of what is read and drawn are the same in each. The published learning rate is for
models a thousand times larger; each recipe has the one that was best for it on phantoms with seed
11, which is not among those that are reported (`--rate` sets another). Measured on dev with the
same noise for all: the velocity's error, the reports' cross-entropy, and how much each rises when
every film is given another film's caption or image ("listening", "looking"; 0 for a model that
ignores it).
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from ablate_training import LOOKED_AT, interval, listening
from machine import environment

from unix_cxr.files import write_text
from unix_cxr.training.estimates import with_costs
from unix_cxr.training.objective_settings import UnderstandingObjectiveSettings
from unix_cxr.training.recipe import RecipeRun
from unix_cxr.training.settings import Recipe, StageSettings, parse_recipe
from unix_cxr.training.understanding import UnderstandingObjective

SEES = ["model.vision.*", "model.connector.*"]
READS = [*SEES, "model.language_model.*"]
LISTENS = ["model.connector.*", "model.language_model.*", "model.generation.*"]
RATES = {"published": 2e-3, "ours": 8e-3}
DRAWING = {"kind": "generation", "caption_dropout": 0.1, "augmented_copies": 1}
COMMON = {
    "steps": 1,
    "betas": [0.9, 0.95],
    "clip_norm": 1.0,
    "precision": "bfloat16",
    "augmentation": 0.0,
    "length_window": 8,
}
PUBLISHED = {"schedule": "constant", "weight_decay": 0.0, "adam_eps": 1e-15}
OURS = {"schedule": "cosine", "weight_decay": 0.01, "optimizer": "muon"}
OURS |= {"ema_decay": 0.98}
ALIGNMENT = {"encoder": "vision", "layer": 2, "weight": 0.5, "keep": "step"}


def stages_of(
    name: str, batch: int, rate: float | None, *, prepared: bool
) -> list[tuple[float, dict[str, Any]]]:
    """The stages of a recipe, each with its share of the arithmetic."""
    common = COMMON | {"learning_rate": RATES[name] if rate is None else rate}
    drawn = DRAWING | {"prepared_moments": prepared}
    if name == "published":
        frozen = drawn | {"understanding_gradient": 0.0, "copy_understanding": True}
        reading = {"name": "understanding", "objective": {"kind": "understanding"}}
        drawing = {"name": "generation", "objective": frozen | {"alignment": ALIGNMENT}}
        published = common | PUBLISHED | {"batch_size": batch}
        return [
            (0.2, published | reading | {"trains": READS}),
            (0.8, published | drawing | {"trains": ["model.generation.*"]}),
        ]
    drawn |= {"times": {"stratified": True}}
    together = {"kind": "joint", "understanding_gradient": 1.0, "reading": 1, "drawing": 2}
    seeing = {"name": "vision", "objective": {"kind": "vision", "least": 20}, "trains": SEES}
    both = {"name": "joint", "objective": drawn | together, "trains": LISTENS}
    alone = {"name": "drawing", "objective": drawn | {"understanding_gradient": 0.0}}
    ours = common | OURS | {"batch_size": batch}
    return [
        (0.1, ours | seeing),
        (0.3, ours | both | {"batch_size": batch + batch // 2}),
        (0.6, ours | alone | {"trains": ["model.generation.*"]}),
    ]


def recipe_of(
    tree: dict[str, Any], stages: list[dict[str, Any]], steps: list[int], seed: int
) -> Recipe:
    """The recipe with those stages, each of so many steps."""
    resolved = [
        stage | {"steps": n, "warmup_steps": n // 10, "validate_every": n, "checkpoint_every": n}
        for stage, n in zip(stages, steps, strict=True)
    ]
    return parse_recipe(tree | {"stages": resolved, "seed": seed}, "a recipe to compare")


@torch.no_grad()
def looking(run: RecipeRun, stage: StageSettings) -> dict[str, float]:
    """Cross-entropy of dev reports given their own X-rays, and given others'."""
    reads = UnderstandingObjectiveSettings(kind="understanding")
    stage = stage.model_copy(update={"objective": reads, "length_window": 1})
    source: Any = run.task(stage, run.data_of(stage)).source
    objective = UnderstandingObjective(run.model.eval())
    own, others = [], []
    for batch in islice(source.validation(), LOOKED_AT // source.batch_size):
        values = {field.name: getattr(batch, field.name) for field in fields(batch)}
        turned = values | {"pixel_values": values["pixel_values"].roll(1, 0)}
        with torch.autocast("cpu", torch.bfloat16):
            own.append(objective(batch)["cross_entropy"])
            others.append(objective(type(batch)(**turned))["cross_entropy"])
    right = sum(float(term.total) for term in own) / sum(term.count for term in own)
    wrong = sum(float(term.total) for term in others) / sum(term.count for term in others)
    return {"dev_cross_entropy": right, "looking": wrong - right}


def counted(
    shared: list[tuple[float, dict[str, Any]]], flop: float, run_of: Callable[..., RecipeRun]
) -> list[int]:
    """How many steps of each stage the arithmetic pays for."""
    shares, stages = zip(*shared, strict=True)
    run = run_of(list(stages), [10] * len(stages))
    plan = with_costs(run, run.plan([stage["name"] for stage in stages]))
    costs = [entry.costs.flop for entry in plan if entry.costs is not None]
    return [max(2, round(flop * s / f)) for s, f in zip(shares, costs, strict=True)]


def measured(run: RecipeRun, recipe: Recipe) -> dict[str, float]:
    """Train what is not trained yet, and look at it."""
    done = run.folder / "measured.json"
    if done.is_file():
        values: dict[str, float] = json.loads(done.read_text("utf-8"))
        return values
    names = [stage.name for stage in recipe.stages]
    run.note(run.plan(names))
    started = time.monotonic()
    for name in names:
        run.advance(name, names)
    values = {"seconds_of_the_last_start": round(time.monotonic() - started)}
    values |= listening(run, recipe.stages[-1]) | looking(run, recipe.stages[0])
    write_text(done, json.dumps(values))
    return values


def compared(results: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, Any]:
    """Means of both, and of the paired differences."""
    both = sorted(results["ours"].keys() & results["published"].keys())
    names = ("dev_velocity", "listening", "dev_cross_entropy", "looking")
    table: dict[str, Any] = {}
    for name in names if both else ():
        values = {k: [by_seed[seed][name] for seed in both] for k, by_seed in results.items()}
        pairs = zip(values["ours"], values["published"], strict=True)
        differences = [ours - theirs for ours, theirs in pairs]
        table[name] = {k: interval(v) for k, v in values.items()}
        table[name]["ours minus published"] = interval(differences)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, required=True, help="its sizes are taken")
    parser.add_argument("--autoencoder", type=Path, required=True, help="folder with vae/")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--flop", type=float, default=2e13)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, help="learning rate of both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tree = yaml.safe_load(options.recipe.read_text("utf-8"))
    prepared = options.data is not None
    if prepared:
        side = tree["data"]["image_size"]
        tree["data"] = {"kind": "prepared", "root": str(options.data), "image_size": side}
    results: dict[str, dict[int, dict[str, Any]]] = {"published": {}, "ours": {}}
    steps: dict[str, list[int]] = {}
    for seed in options.seeds:
        for name, by_seed in results.items():
            folder = options.runs / f"{name}-{seed}"

            def run_of(
                stages: list[dict[str, Any]],
                steps: list[int],
                folder: Path = folder,
                seed: int = seed,
            ) -> RecipeRun:
                run = RecipeRun(recipe_of(tree, stages, steps, seed), folder, torch.device("cpu"))
                run.check()
                run.begin_from(options.autoencoder)
                return run

            shared = stages_of(name, options.batch, options.rate, prepared=prepared)
            if name not in steps:
                steps[name] = counted(shared, options.flop, run_of)
            run = run_of([stage for _, stage in shared], steps[name])
            by_seed[seed] = measured(run, run.recipe)
            print(f"{name}, seed {seed}: {steps[name]} steps, {by_seed[seed]}", flush=True)
            outcome = {
                "recipe": tree["name"],
                "flop": options.flop,
                "steps": steps,
                "compared": compared(results),
                "runs": results,
                "environment": environment(),
            }
            write_text(options.out, json.dumps(outcome, indent=1) + "\n")


if __name__ == "__main__":
    main()
