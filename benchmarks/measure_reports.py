"""Label accuracy of written reports within each subset, against the majority baseline.

    python benchmarks/measure_reports.py --model nano --data DIR --split dev --out FILE.json

Choose on `dev`; `val` is for the last word, once.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from machine import environment
from tqdm.auto import tqdm

from unix_cxr.data.findings_text import labels_of, stated_labels, unknown_sentences
from unix_cxr.data.studies import read_table
from unix_cxr.evaluation.written import KnownLabels, SubsetAccuracy, evaluate_reports
from unix_cxr.pipelines.pipeline import UniXPipeline

SUBSETS = ("kermany224", "kermany512", "nih64", "nih512", "hannover")
MERGED = {"kermany512": "kermany", "kermany224": "kermany", "nih64": "nih", "nih512": "nih"}


def as_json(result: SubsetAccuracy) -> dict:
    numbers = {
        name: asdict(getattr(result, name)) for name in ("accuracy", "baseline", "gain", "balanced")
    }
    return {
        "subset": result.subset,
        "field": result.field,
        "reports": result.reports,
        "answers": dict(result.answers),
        "beats_baseline": result.beats_baseline,
    } | numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=["dev", "val"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipeline = UniXPipeline.from_pretrained(options.model)
    studies = read_table(options.data, subsets=SUBSETS, splits=[options.split])
    reports: list[str] = []
    for start in tqdm(range(0, len(studies), options.batch_size), unit="batch"):
        part = studies[start : start + options.batch_size]
        reports += pipeline.describe([study.image for study in part], max_new_tokens=64).reports
    known = [
        KnownLabels(
            subset=MERGED.get(study.subset, study.subset),
            patient=study.patient_id,
            labels=frozenset(stated_labels(study)),
        )
        for study in studies
    ]
    results = evaluate_reports(reports, known, labels_of)
    outside = sum(bool(unknown_sentences(text)) for text in reports)
    tree = {
        "model": pipeline.model_id,
        "split": options.split,
        "reports": len(reports),
        "reports_with_a_sentence_outside_the_known_wordings": outside,
        "environment": environment(),
        "accuracy": [as_json(result) for result in results],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    for result in results:
        print(result)
    print(f"{outside} of {len(reports)} reports hold a sentence outside the known wordings")


if __name__ == "__main__":
    main()
