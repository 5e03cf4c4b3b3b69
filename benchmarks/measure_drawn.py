"""Measure drawn X-rays, or cheats in their place, against real ones; write JSON, print Markdown.

    python benchmarks/measure_drawn.py --data DIR --split dev --drawn FOLDER
    python benchmarks/measure_drawn.py --data DIR --split dev --cheat all

`--data` is a folder with `metadata.csv` and the images that it names. `--drawn` is a folder with a
`manifest.jsonl` of rows with `file`, `label` (normal or pneumonia) and `seed`. The classifier is
trained on the `train` split and kept in `--classifier`, unless it is there already. Choose on
`dev`; `val` is for the last word, once.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from machine import commit, cpu_name, environment

from unix_cxr.data.pixels import load_xray
from unix_cxr.data.studies import Split, Study, read_table
from unix_cxr.evaluation.cheats import CHEATS, HELD_OUT_CHANGES, WRONG_LABELS, make_cheat
from unix_cxr.evaluation.classifier import DEFAULT_CLASSIFIER, XrayClassifier, classify
from unix_cxr.evaluation.classifier_training import ClassifierTraining, train_classifier
from unix_cxr.evaluation.contact_sheet import Row, contact_sheet
from unix_cxr.evaluation.drawn import DrawnSettings, RealReference
from unix_cxr.evaluation.drawn_files import load_drawn
from unix_cxr.evaluation.roc import auc
from unix_cxr.evaluation.verdict import DrawnNumbers, judge
from unix_cxr.evaluation.xrays import LabelledXrays, one_per_group, split_groups
from unix_cxr.files import write_text
from unix_cxr.functional.images import resize_and_pad

__all__ = ["commit", "cpu_name", "get_classifier", "load_real", "load_square", "main"]
SUBSETS = ("kermany224", "kermany512")
ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    train = load_real(options.data, "train", options.size)
    held_out = load_real(options.data, options.split, options.size)
    say(f"read {len(train)} train and {len(held_out)} {options.split} X-rays", started)
    classifier, history = get_classifier(options, train, started)
    settings = DrawnSettings(replicates=options.replicates)
    # the real half in the place of drawn X-rays is the ceiling, and what `unseen` cheats spoil
    generator = torch.Generator().manual_seed(settings.seed)
    stand_in, rest = split_groups(train, generator)
    half = RealReference(rest, held_out, classifier, settings)
    whole = RealReference(train, held_out, classifier, settings)
    logits = classify(classifier, held_out.images).logits
    seen = {
        "config": asdict(classifier.config),
        "history": history,
        "auc_on_real_split": float(auc(logits, held_out.pneumonia)),
    }
    sets: dict[str, DrawnNumbers] = {}
    rows = []

    def take(name: str, reference: RealReference, xrays: LabelledXrays) -> None:
        sets[name] = reference.measure(xrays)
        rows.append(Row(name, pick(xrays)))
        # after each set, so that a run that is stopped leaves what it measured
        result = {**describe_run(options, settings), "classifier": seen}
        result["seconds"] = round(time.perf_counter() - started, 1)
        result["sets"] = {known: describe_set(numbers) for known, numbers in sets.items()}
        write_text(options.out, json.dumps(result, indent=1) + "\n")
        say(f"measured {name}", started)

    take("real", half, one_per_group(stand_in, settings.per_class, generator))
    if options.drawn:
        take("drawn", whole, load_drawn(options.drawn))
    for name in options.cheat:
        unseen = name in HELD_OUT_CHANGES or name in WRONG_LABELS
        cheat = make_cheat(name, train, stand_in, settings.per_class)
        take(name, half if unseen else whole, cheat)
    say(f"wrote {options.out}", started)
    if options.sheet:
        options.sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(rows, tile=options.size).save(options.sheet)
        say(f"wrote {options.sheet}", started)
    print(table_of_cheats(sets) if options.cheat else table_of_drawn(sets))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=("dev", "val"), default="dev")
    parser.add_argument("--drawn", type=Path, help="folder of drawn X-rays with manifest.jsonl")
    parser.add_argument("--cheat", nargs="+", default=[], choices=("all", *CHEATS), metavar="NAME")
    parser.add_argument("--classifier", type=Path, default=ROOT / "runs/drawn_classifier")
    parser.add_argument("--out", type=Path, help="JSON; default benchmarks/results/drawn_*.json")
    parser.add_argument("--sheet", type=Path, help="contact sheet (PNG); shows real X-rays")
    parser.add_argument("--size", type=int, default=128, help="rows and columns of every X-ray")
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    if "all" in options.cheat:
        options.cheat = list(CHEATS)
    what = "cheats" if options.cheat else (options.drawn.name if options.drawn else "real")
    options.out = options.out or ROOT / f"benchmarks/results/drawn_{what}_{options.split}.json"
    return options


def load_real(root: Path, split: Split, size: int) -> LabelledXrays:
    """The children's X-rays of one split, resized as the generator's are; groups are patients."""
    studies = read_table(root, subsets=SUBSETS, splits=(split,))
    return LabelledXrays(
        torch.stack([load_square(study, size) for study in studies]),
        torch.tensor(["Pneumonia" in study.labels for study in studies]),
        tuple(study.patient_id for study in studies),
    )


def load_square(study: Study, size: int) -> torch.Tensor:
    """Keep the aspect, pad with black, and round to 8 bits: a drawn X-ray comes from a file too."""
    pixels = torch.from_numpy(load_xray(study.image).pixels)
    square = resize_and_pad(pixels[None, None], size)[0]
    return (square.clamp(0, 1) * 255).round() / 255


def get_classifier(
    options: argparse.Namespace, train: LabelledXrays, started: float
) -> tuple[XrayClassifier, list[dict[str, Any]]]:
    """The kept classifier with its history, or a fresh one; `dev` always stops it, never `val`."""
    history_path = options.classifier / "history.json"
    if history_path.is_file():
        return XrayClassifier.from_pretrained(options.classifier), json.loads(
            history_path.read_text(encoding="utf-8")
        )
    dev = load_real(options.data, "dev", options.size)
    trained = train_classifier(
        train,
        dev,
        DEFAULT_CLASSIFIER,
        ClassifierTraining(),
        lambda epoch: say(
            f"epoch {epoch.number}: loss {epoch.train_loss:.3f}, on dev {epoch.dev_loss:.3f}, "
            f"AUC {epoch.dev_auc:.4f}",
            started,
        ),
    )
    history = [asdict(epoch) for epoch in trained.history]
    trained.classifier.save_pretrained(options.classifier)
    write_text(history_path, json.dumps(history, indent=1) + "\n")
    say(f"kept epoch {trained.best.number} in {options.classifier}", started)
    return trained.classifier, history


def describe_run(options: argparse.Namespace, settings: DrawnSettings) -> dict[str, Any]:
    names = ("split", "cheat", "size", "threads")
    return {
        "environment": environment("numpy", "pillow"),
        "config": {
            **{name: getattr(options, name) for name in names},
            "drawn": options.drawn.name if options.drawn else None,
            "subsets": SUBSETS,
            "settings": asdict(settings),
        },
    }


def describe_set(numbers: DrawnNumbers) -> dict[str, Any]:
    verdict = judge(numbers)
    return {
        "passed": verdict.passed,
        "missed": [str(check) for check in verdict.missed],
        **asdict(numbers),
    }


def pick(xrays: LabelledXrays, count: int = 5) -> torch.Tensor:
    """The first normal and the first pneumonia X-rays: no choosing."""
    normal = (~xrays.pneumonia).nonzero().flatten()[:count]
    pneumonia = xrays.pneumonia.nonzero().flatten()[:count]
    return xrays.images[torch.cat([normal, pneumonia])]


def table_of_drawn(sets: dict[str, DrawnNumbers]) -> str:
    """One line per measure: each set's value with its interval, and the aim."""
    aims = {check.name: check for check in judge(sets["real"]).checks}
    lines = [f"| measure | {' | '.join(sets)} | aim |", "|---" * (len(sets) + 2) + "|"]
    for measure in sets["real"].measures():
        values = " | ".join(str(numbers.measures()[measure]) for numbers in sets.values())
        aim = f"{aims[measure].relation} {aims[measure].aim:.2f}" if measure in aims else ""
        lines.append(f"| {measure} | {values} | {aim} |")
    verdicts = ["reached" if judge(numbers).passed else "missed" for numbers in sets.values()]
    return "\n".join([*lines, f"| all aims | {' | '.join(verdicts)} | |"])


def table_of_cheats(sets: dict[str, DrawnNumbers]) -> str:
    """One line per set: its values, those that miss their aim in bold."""
    measures = list(sets["real"].measures())
    heads = [measure.replace("_", " ") for measure in measures]
    lines = [f"| set | {' | '.join(heads)} | verdict |", "|---" * (len(measures) + 2) + "|"]
    for name, numbers in sets.items():
        verdict = judge(numbers)
        missed = {check.name for check in verdict.missed}
        cells = [
            f"**{value.value:.2f}**" if measure in missed else f"{value.value:.2f}"
            for measure, value in numbers.measures().items()
        ]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {'passes' if verdict.passed else 'fails'} |"
        )
    return "\n".join(lines)


def say(what: str, started: float) -> None:
    print(f"[{time.perf_counter() - started:6.1f} s] {what}", flush=True)


if __name__ == "__main__":
    main()
