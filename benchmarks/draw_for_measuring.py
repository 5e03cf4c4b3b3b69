"""Draw normal and pneumonia X-rays of children, for `measure_drawn.py`.

    python benchmarks/draw_for_measuring.py --model nano --out runs/drawn --per-class 300

Prompts are findings text in the wordings of the Kermany subset, drawn from a seeded generator; each
image has a seed of its own.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from unix_cxr.data.findings_text import describe
from unix_cxr.data.studies import Study
from unix_cxr.models.sampling import unipc_scheduler
from unix_cxr.pipelines.pipeline import UniXPipeline

LABELS = {
    "normal": (("Normal",),),
    "pneumonia": (("Pneumonia", "Bacterial Pneumonia"), ("Pneumonia", "Viral Pneumonia")),
}


def prompts(label: str, count: int) -> list[str]:
    words = random.Random(label)
    variants = LABELS[label]
    studies = [
        Study(
            image=Path("none"),
            split="dev",
            subset="kermany224",
            view="AP",
            labels=frozenset(variants[index % len(variants)]),
            patient_id="none",
            age="pediatric",
        )
        for index in range(count)
    ]
    return [describe(study, words) for study in studies]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-class", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--solver", choices=["euler", "unipc"], default="euler")
    parser.add_argument("--first-seed", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipeline = UniXPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    if options.solver == "unipc":
        pipeline.scheduler = unipc_scheduler(pipeline.defaults.shift)
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (label, text, options.first_seed + number * options.per_class + index)
        for number, label in enumerate(LABELS)
        for index, text in enumerate(prompts(label, options.per_class))
    ]
    started = time.monotonic()
    with (options.out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for start in tqdm(range(0, len(jobs), options.batch_size), unit="batch"):
            part = jobs[start : start + options.batch_size]
            drawn = pipeline(
                [text for _, text, _ in part],
                seed=[seed for *_, seed in part],
                num_inference_steps=options.steps,
                guidance_scale=options.guidance_scale,
            )
            for image, (label, text, seed) in zip(drawn.images, part, strict=True):
                name = f"{label}-{seed}.png"
                image.save(options.out / name)
                row = {"file": name, "label": label, "seed": seed, "prompt": text}
                manifest.write(json.dumps(row) + "\n")
    print(f"{len(jobs)} X-rays in {options.out}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
