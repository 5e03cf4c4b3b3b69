"""What a model trained on phantoms draws and writes, held against their truth by the oracle.

    python benchmarks/measure_phantom.py --model runs/phantom/pipeline --out FILE.json

Prompts are the findings texts of phantoms that no recipe has trained on. Beside the model stand
the phantoms' own films (the ceiling), the same through the autoencoder, and films of exchanged
prompts (a model that does not listen). "listening" is how much larger the velocity's error is with
another film's prompt, at five times from 0 (film) to 1 (noise).
"""

import argparse
import json
from pathlib import Path

import torch
from machine import environment
from torch import Tensor
from tqdm.auto import tqdm

from unix_cxr.data.phantom import Phantom, render_batch, reports_of
from unix_cxr.evaluation.phantom_controls import (
    FRESH_SEED,
    DrawnControl,
    WrittenControl,
    fresh_phantoms,
    score_drawn,
    score_written,
)
from unix_cxr.functional.flow import interpolate, velocity
from unix_cxr.models.autoencoder import decode, encode
from unix_cxr.models.context import Text
from unix_cxr.pipelines.pipeline import UniXPipeline

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


def drawn_json(control: DrawnControl) -> dict:
    kinds = {
        kind: {
            "requested": score.present,
            "found": score.found,
            "side_right": score.side_right,
            "severity_right": score.severity_right,
            "not_requested": score.absent,
            "imagined": score.imagined,
        }
        for kind, score in control.kinds.items()
    }
    return {
        "side_accuracy": control.side_accuracy,
        "found": control.found,
        "imagined": control.imagined,
        "kinds": kinds,
    }


def written_json(control: WrittenControl) -> dict:
    return {
        "reports": control.reports,
        "outside_the_known_wordings": control.unknown,
        "micro_f1": control.micro_f1,
        "macro_f1": control.macro_f1,
        "sided_micro_f1": control.sided_micro_f1,
        "f1": {kind: score.f1 for kind, score in control.kinds.items()},
    }


def text_of(phantom: Phantom, sections: str) -> str:
    findings, impression, _ = reports_of(phantom)
    if sections == "findings":
        return findings
    return f"FINDINGS: {findings}\nIMPRESSION: {impression}"


def findings_of(report: str) -> str:
    return report.split("IMPRESSION:", maxsplit=1)[0].removeprefix("FINDINGS:").strip()


def listening(pipeline: UniXPipeline, films: Tensor, prompts: list[str]) -> dict[str, dict]:
    """The velocity's error by time, and how much another film's prompt adds to it."""
    latents = encode(films[:, None], pipeline.vae)
    caption = pipeline.processor.captions(prompts)
    texts = [Text(caption.ids.roll(by, 0), caption.real.roll(by, 0)) for by in (0, 1)]
    contexts = [pipeline.model.encode([text]) for text in texts]
    rows = {}
    for time in TIMES:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(int(10 * time)))
        times = torch.full((len(latents),), time)
        noisy, target = interpolate(latents, noise, times), velocity(latents, noise)
        own, others = (
            float((pipeline.model.denoise(noisy, times, context) - target).square().mean())
            for context in contexts
        )
        rows[str(time)] = {"velocity": own, "listening": others - own}
    return rows


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first-seed", type=int, default=FRESH_SEED)
    parser.add_argument("--guidance-scale", type=float, default=None)
    parser.add_argument(
        "--sections", choices=["findings", "both"], default="findings", help="that it learned"
    )
    parser.add_argument("--batch-size", type=int, default=50)
    options = parser.parse_args()
    pipeline = UniXPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    phantoms = fresh_phantoms(options.count, options.first_seed)
    size = pipeline.defaults.image_size
    films = torch.as_tensor(render_batch(phantoms, size))
    drawn, passed, reports = [], [], []
    for first in tqdm(range(0, options.count, options.batch_size), unit="batch"):
        part = phantoms[first : first + options.batch_size]
        texts = [text_of(phantom, options.sections) for phantom in part]
        seeds = [phantom.seed for phantom in part]
        output = pipeline(
            texts, seed=seeds, output_type="pt", guidance_scale=options.guidance_scale
        )
        drawn.append(output.images[:, 0].clamp(0, 1))
        own = films[first : first + len(part)]
        passed.append(decode(encode(own[:, None], pipeline.vae), pipeline.vae)[:, 0])
        written = pipeline.describe([film.numpy() for film in own], max_new_tokens=120).reports
        reports += [findings_of(report) for report in written]
    pictures = torch.cat(drawn)
    tree = {
        "model": pipeline.model_id,
        "phantoms": options.count,
        "first_seed": options.first_seed,
        "size": size,
        "sections": options.sections,
        "guidance_scale": options.guidance_scale or pipeline.defaults.guidance_scale,
        "listening": listening(
            pipeline, films, [text_of(phantom, options.sections) for phantom in phantoms]
        ),
        "drawn": drawn_json(score_drawn(phantoms, pictures)),
        "ceiling": drawn_json(score_drawn(phantoms, films)),
        "autoencoder": drawn_json(score_drawn(phantoms, torch.cat(passed))),
        "exchanged_prompts": drawn_json(score_drawn(phantoms, pictures.roll(1, 0))),
        "written": written_json(score_written(phantoms, reports)),
        "exchanged_films": written_json(score_written(phantoms, reports[1:] + reports[:1])),
        "environment": environment(),
    }
    options.out.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    for name in ("ceiling", "autoencoder", "drawn", "exchanged_prompts"):
        print(f"{name}: side {tree[name]['side_accuracy']:.3f}, found {tree[name]['found']:.3f}, ")
    for name in ("written", "exchanged_films"):
        print(f"{name}: micro F1 {tree[name]['micro_f1']:.3f}, macro {tree[name]['macro_f1']:.3f}")


if __name__ == "__main__":
    main()
