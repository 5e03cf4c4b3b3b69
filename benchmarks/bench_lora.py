"""LoRA on the films of one hospital: what moves, what stays, and what it costs.

    OMP_NUM_THREADS=1 python benchmarks/bench_lora.py --data DIR

`--data` is a folder with `metadata.csv` and the images that it names; its `train` split is used
and nothing else, but for the children's `dev` X-rays. The Hannover films (adults with COVID-19,
most of them in intensive care) are cut by patient: nano's generation branch learns a `gen` adapter
from `learn`, `choose` stops the classifier, and `held` is what is measured against. nano itself
has seen all of them among its 4,159 X-rays.

A classifier that tells Hannover from the other collections, and the distance of Fréchet in the
features of nano's vision tower, say whether the drawn X-rays move to Hannover. The classifier of
pneumonia in children says whether the rest stays. The same seeds and texts before and after.
"""

import argparse
import gc
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from draw_for_measuring import prompts as prompts_of_children
from machine import environment
from measure_drawn import get_classifier, load_real, load_square
from torch import Tensor

from unix_cxr import UniXPipeline
from unix_cxr.data.findings_text import describe
from unix_cxr.data.splits import split_of
from unix_cxr.data.studies import Study, read_table
from unix_cxr.evaluation.bootstrap import Measured, bootstrap_weights, measured
from unix_cxr.evaluation.classifier import ClassifierConfig, XrayClassifier, classify
from unix_cxr.evaluation.classifier_training import ClassifierTraining, train_classifier
from unix_cxr.evaluation.imaging.extractors import VisionTowerExtractor
from unix_cxr.evaluation.imaging.frechet import frechet_distance
from unix_cxr.evaluation.roc import auc
from unix_cxr.evaluation.xrays import LabelledXrays
from unix_cxr.files import write_text
from unix_cxr.models.autoencoder import decode, encode
from unix_cxr.models.sampling import unipc_scheduler
from unix_cxr.training.batches import CaptionedLatentBatch
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.loop import Trainer
from unix_cxr.training.lora import LoraRun
from unix_cxr.training.lora_data import LoraStudies
from unix_cxr.training.lora_settings import LoraSettings

ROOT = Path(__file__).resolve().parents[1]
SALT, PARTS = "bench_lora 1", {"train": 0.6, "dev": 0.15, "test": 0.25}
HANNOVER_CLASSIFIER = ClassifierConfig(input_size=64, widths=(16, 32, 64, 96), norm_groups=8)
REPLICATES = 1000
Parts = dict[str, list[Study]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if not (options.data / "metadata.csv").is_file():
        print(f"skipped: no metadata.csv in {options.data}")
        return
    started, cpu = time.perf_counter(), time.process_time()
    result: dict[str, Any] = describe_run(options)

    def keep(name: str, values: object) -> None:
        # after each part, so that a run that is stopped leaves what it measured
        result[name] = values
        result["seconds"] = round(time.perf_counter() - started)
        result["cpu_seconds"] = round(time.process_time() - cpu)
        write_text(options.out, json.dumps(result, indent=1) + "\n")
        print(f"[{result['seconds']:5} s] {name}: {json.dumps(values)}", flush=True)

    parts = hannover(options.data)
    keep("films", {name: count(studies) for name, studies in parts.items()})
    measure = Measure(options, parts, started)
    keep("classifiers", measure.told_apart())
    keep("cost", cost(options, parts))
    before = measure.drawn()
    keep("before", measure.numbers(before))
    run = lora_run(options, parts, measure.pipeline)
    # the plan of `train lora`, then its loop
    print(run.plan().text(), flush=True)
    trainer = run.trainer()
    losses = {"before": trainer.validate(), "after": trainer.run()}
    measure.pipeline.model.eval()
    keep("training", losses | {"steps": options.steps, "share": run.plan().share})
    after = measure.drawn()
    keep("after", measure.numbers(after))
    keep("moved", measure.moved(before, after))
    measure.pipeline.disable_adapters()
    same = measure.draw(measure.hannover_texts[:4], 0)
    keep("without_adapter_bit_equal", torch.equal(same, before["hannover"][:4]))
    (name,) = measure.pipeline.adapters
    measure.pipeline.set_adapters([name], weights=[0.5])
    keep("after_at_half_weight", measure.numbers(measure.drawn()))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/lora.json")
    parser.add_argument("--classifier", type=Path, default=ROOT / "runs/drawn_classifier")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--images", type=int, default=40, help="of Hannover; as many of children")
    parser.add_argument("--solver-steps", type=int, default=8)
    parser.add_argument("--timed-steps", type=int, default=5)
    parser.add_argument("--size", type=int, default=128)
    return parser.parse_args(arguments)


def hannover(data: Path) -> Parts:
    studies = read_table(data, subsets=["hannover"], splits=("train",))
    parts: Parts = {"learn": [], "choose": [], "held": []}
    names = {"train": "learn", "dev": "choose", "test": "held"}
    for study in studies:
        parts[names[split_of(study.patient_id, salt=SALT, fractions=PARTS)]].append(study)
    return parts


def count(studies: Sequence[Study]) -> dict[str, int]:
    return {"films": len(studies), "patients": len({study.patient_id for study in studies})}


def lora_run(options: argparse.Namespace, parts: Parts, pipeline: UniXPipeline) -> LoraRun:
    settings = LoraSettings(
        rank=options.rank,
        steps=options.steps,
        batch_size=options.batch_size,
        validate_every=options.steps,
        checkpoint_every=options.steps,
    )
    studies = LoraStudies(tuple(parts["learn"]), tuple(parts["choose"]), {})
    folder = ROOT / f"runs/bench_lora-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    return LoraRun(pipeline, studies, settings, folder, torch.device("cpu"))


# -- what moves and what stays -------------------------------------------------------------------


class Measure:
    """Real X-rays, classifiers, texts and seeds: all that is the same before and after."""

    def __init__(self, options: argparse.Namespace, parts: Parts, started: float) -> None:
        self.options = options
        self.pipeline = UniXPipeline.from_pretrained("nano")
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.scheduler = unipc_scheduler(self.pipeline.defaults.shift)
        self.tower = VisionTowerExtractor(self.pipeline)
        self.real = {name: squares(studies, options.size) for name, studies in parts.items()}
        everyone = read_table(
            options.data, subsets=["kermany224", "nih64", "nih512"], splits=("train",)
        )
        random.Random(0).shuffle(everyone)
        patients = sorted({study.patient_id for study in everyone})
        chosen = set(patients[:: max(1, len(patients) // 700)])
        rest = [study for study in everyone if study.patient_id in chosen][:450]
        cut = {"learn": rest[:300], "choose": rest[300:375], "held": rest[375:]}
        taken = {study.patient_id for study in cut["learn"]}
        cut["choose"] = [study for study in cut["choose"] if study.patient_id not in taken]
        taken |= {study.patient_id for study in cut["choose"]}
        cut["held"] = [study for study in cut["held"] if study.patient_id not in taken]
        self.others = {name: squares(studies, options.size) for name, studies in cut.items()}
        self.sets = {
            name: LabelledXrays(
                torch.cat([self.real[name], self.others[name]]),
                torch.arange(len(self.real[name]) + len(self.others[name])) < len(self.real[name]),
                tuple(study.patient_id for study in [*parts[name], *cut[name]]),
            )
            for name in parts
        }
        training = ClassifierTraining(epochs=12, patience=4)
        self.hannover: XrayClassifier = train_classifier(
            self.sets["learn"], self.sets["choose"], HANNOVER_CLASSIFIER, training
        ).classifier
        self.children = load_real(options.data, "dev", options.size)
        self.pneumonia, _ = get_classifier(options, self.children, started)
        words = random.Random(0)
        told = [parts["held"][index % len(parts["held"])] for index in range(options.images)]
        self.hannover_texts = [describe(study, words) for study in told]
        half = options.images // 2
        self.child_texts = [
            text for label in ("normal", "pneumonia") for text in prompts_of_children(label, half)
        ]
        self.child_labels = torch.arange(2 * half) >= half

    def told_apart(self) -> dict[str, Any]:
        """What the classifiers do on real X-rays that they have not learned from."""
        held = self.sets["held"]
        logits = classify(self.hannover, held.images).logits
        autoencoded = reconstruct(self.pipeline, self.real["held"])
        children = classify(self.pneumonia, self.children.images).logits
        return {
            "hannover_auc_held": float(auc(logits, held.pneumonia)),
            "hannover_share_of_real_held": share(logits[held.pneumonia]),
            "hannover_share_of_real_others": share(logits[~held.pneumonia]),
            "hannover_share_of_autoencoded_held": share(
                classify(self.hannover, autoencoded).logits
            ),
            "pneumonia_auc_dev": float(auc(children, self.children.pneumonia)),
            "fd_learn_to_held": frechet_distance(
                self.seen(self.real["held"]), self.seen(self.real["learn"])
            ),
            "fd_autoencoded_held_to_held": frechet_distance(
                self.seen(self.real["held"]), self.seen(autoencoded)
            ),
        }

    def drawn(self) -> dict[str, Tensor]:
        """X-rays of both kinds of texts, from the same seeds each time."""
        return {
            "hannover": self.draw(self.hannover_texts, 0),
            "children": self.draw(self.child_texts, 10_000),
        }

    def draw(self, texts: Sequence[str], seed: int) -> Tensor:
        """One X-ray per text."""
        parts = []
        for start in range(0, len(texts), 16):
            part = texts[start : start + 16]
            seeds = [seed + start + index for index in range(len(part))]
            drawn: Any = self.pipeline(
                part,
                seed=seeds,
                num_inference_steps=self.options.solver_steps,
                output_type="pt",
            ).images
            parts.append((drawn * 255).round() / 255)
        return torch.cat(parts)

    def numbers(self, drawn: dict[str, Tensor]) -> dict[str, Any]:
        """Where the drawn X-rays stand."""
        logits = classify(self.hannover, drawn["hannover"]).logits
        others = classify(self.hannover, self.others["held"]).logits
        children = classify(self.pneumonia, drawn["children"]).logits
        real_children = self.seen(self.children.images)
        return {
            "hannover_share": share(logits),
            "hannover_logit": float(logits.mean()),
            "hannover_auc_against_real_others": float(
                auc(
                    torch.cat([logits, others]),
                    torch.arange(len(logits) + len(others)) < len(logits),
                )
            ),
            "hannover_fd_held": frechet_distance(
                self.seen(self.real["held"]), self.seen(drawn["hannover"])
            ),
            "children_seen_as_hannover": share(classify(self.hannover, drawn["children"]).logits),
            "children_auc": asdict(self.class_auc(children)),
            "children_fd_dev": frechet_distance(real_children, self.seen(drawn["children"])),
        }

    def class_auc(self, logits: Tensor) -> Measured:
        weights = self.weights(len(logits))
        return measured(auc(logits, self.child_labels), auc(logits, self.child_labels, weights))

    def moved(self, before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Any]:
        """After against before, seed by seed."""
        logits = [classify(self.hannover, drawn["hannover"]).logits for drawn in (before, after)]
        classes = [classify(self.pneumonia, drawn["children"]).logits for drawn in (before, after)]
        apart = auc(torch.cat(logits), torch.arange(2 * len(logits[0])) >= len(logits[0]))
        weights = self.weights(len(classes[0]))
        change = [auc(part, self.child_labels) for part in classes]
        by_replicate = [auc(part, self.child_labels, weights) for part in classes]
        steps = logits[1] - logits[0]
        mine = self.weights(len(steps))
        return {
            "hannover_auc_after_against_before": float(apart),
            "hannover_logit_change": asdict(
                measured(steps.mean(), (mine * steps).sum(1) / mine.sum(1))
            ),
            "children_auc_change": asdict(
                measured(change[1] - change[0], by_replicate[1] - by_replicate[0])
            ),
            "pixels_hannover": float((after["hannover"] - before["hannover"]).abs().mean()),
            "pixels_children": float((after["children"] - before["children"]).abs().mean()),
        }

    def weights(self, number: int) -> Tensor:
        seeds = [str(seed) for seed in range(number)]
        return bootstrap_weights(seeds, REPLICATES, torch.Generator().manual_seed(0))

    def seen(self, images: Tensor) -> Tensor:
        """Features of nano's vision tower."""
        return torch.cat([self.tower(list(part)) for part in images.split(64)])


def squares(studies: Sequence[Study], size: int) -> Tensor:
    return torch.stack([load_square(study, size) for study in studies])


def share(logits: Tensor) -> float:
    """Of X-rays that the classifier takes for Hannover's."""
    return float((logits > 0).float().mean())


@torch.no_grad()
def reconstruct(pipeline: UniXPipeline, images: Tensor) -> Tensor:
    parts = [
        decode(encode(part, pipeline.vae), pipeline.vae).mean(1, keepdim=True)
        for part in images.split(16)
    ]
    return (torch.cat(parts).clamp(0, 1) * 255).round() / 255


# -- what it costs -------------------------------------------------------------------------------


def cost(options: argparse.Namespace, parts: Parts) -> dict[str, Any]:
    """Seconds and memory of a step, LoRA beside full training of the same branch.

    Steps alternate, so that a busy machine slows both. Memory is counted: what the forward pass
    keeps for the backward pass, the gradients, and Adam's moments.
    """
    few = {name: studies[: options.batch_size] for name, studies in parts.items()}
    trainers = {kind: trainer_of(kind, options, few) for kind in ("lora", "full")}
    seconds: dict[str, list[float]] = {kind: [] for kind in trainers}
    for step in range(options.timed_steps + 1):
        for kind, trainer in trainers.items():
            batch = trainer.source.batch(step)
            started = time.process_time()
            trainer._step(batch)  # noqa: SLF001 - one step of the loop itself
            seconds[kind].append(time.process_time() - started)
    medians = {kind: statistics.median(times[1:]) for kind, times in seconds.items()}
    learning = {
        kind: sum(p.numel() for p in trainer.learning.values())
        for kind, trainer in trainers.items()
    }
    # a gradient and Adam's two moments in float32 for every scalar that learns
    state = {kind: number * 12 / 1e6 for kind, number in learning.items()}
    kept = {
        kind: kept_for_backward(trainer, trainer.source.batch(0)) / 1e6
        for kind, trainer in trainers.items()
    }
    return {
        "cpu_seconds_per_step": medians,
        "seconds_ratio": medians["lora"] / medians["full"],
        "learning": learning,
        "learning_ratio": learning["lora"] / learning["full"],
        "state_mb": state,
        "kept_for_backward_mb": kept,
        "memory_ratio": (state["lora"] + kept["lora"]) / (state["full"] + kept["full"]),
    }


def trainer_of(kind: str, options: argparse.Namespace, parts: Parts) -> Trainer:
    run = lora_run(options, parts, UniXPipeline.from_pretrained("nano"))
    lora = run.trainer()
    if kind == "lora":
        return lora
    source, stage = lora.source, lora.stage.model_copy(update={"trains": ("model.generation.*",)})
    del run, lora  # their model goes before the other one comes
    gc.collect()
    return Trainer(
        GenerationObjective(UniXPipeline.from_pretrained("nano").model, 0.0),
        source,
        stage,
        Path(tempfile.gettempdir()),
        recipe="{}",
        device=torch.device("cpu"),
    )


def kept_for_backward(trainer: Trainer, batch: CaptionedLatentBatch) -> int:
    """Bytes that one step keeps between its forward and its backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in trainer.objective.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer._step(batch)  # noqa: SLF001 - one step of the loop itself
    return sum(kept.values())


def describe_run(options: argparse.Namespace) -> dict[str, Any]:
    names = ("steps", "batch_size", "rank", "images", "solver_steps", "timed_steps", "size")
    return {
        "environment": environment("peft"),
        "config": {name: getattr(options, name) for name in names} | {"salt": SALT, "parts": PARTS},
    }


if __name__ == "__main__":
    main()
