"""How good the report cleaner is: the gold set, the leftovers in Open-i, and NegBio's labels.

    python benchmarks/measure_cleaning.py --openi NLMCXR_reports.tgz \
        --negbio openi_gold_labels_negbio.csv

Scores are those that `tests/reports` holds to floors, so the package pytest must be there. What was
measured once before the errors of the held-out half were read stays in the file as it is.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from machine import ROOT, environment

from unix_cxr.files import write_text
from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.leftovers import leftovers
from unix_cxr.reports.readers import read_rows

sys.path.insert(0, str(ROOT / "tests" / "reports"))

from scoring import read_reports, read_sentences, score, score_reports
from test_labeler import gold_scores, is_dev

ONCE = "held_out_before_its_errors_were_read"


def gold_set(half: str) -> dict[str, Any]:
    scores = score(half)
    shares = {
        "category_macro_f1": scores.category_f1,
        "rewrite_exact": scores.rewrite_exact,
        "rewrite_content": scores.rewrite_content,
        "findings_survive": scores.kept_survive,
        "kept_untouched": scores.kept_untouched,
        "whole_reports": score_reports(half)[0],
    }
    return {
        "sentences": len(read_sentences(half)),
        "reports": len(read_reports(half)),
        **{name: round(share, 3) for name, share in shares.items()},
    }


def written_of_it(text: str) -> str:
    """Findings and impression, as they were written."""
    parts = [part.split(": ", 1) for part in text.split("\n") if ": " in part]
    return " ".join(body for header, body in parts if header in {"FINDINGS", "IMPRESSION"})


def leftover_shares(openi: Path) -> dict[str, dict[str, float]]:
    cleaner = ReportCleaner()
    left: dict[str, dict[bool, list[bool]]] = {
        when: {True: [], False: []} for when in ("before_cleaning", "after_cleaning")
    }
    for row in read_rows(openi):
        half, text = is_dev(row.report_id), row.text or ""
        left["before_cleaning"][half].append(bool(leftovers(written_of_it(text))))
        left["after_cleaning"][half].append(bool(leftovers(cleaner.clean(text).text)))
    return {
        when: {
            name: round(100 * sum(found[half]) / len(found[half]), 2)
            for name, half in (("development", True), ("held_out", False))
        }
        for when, found in left.items()
    }


def labels(negbio: Path, openi: Path) -> dict[str, Any]:
    # the scorer looks for data/reports/NAME below a folder of shared data
    shared = negbio.resolve().parents[2]
    return {
        name: {
            finding: {key: round(value, 3) for key, value in counts.items()}
            for finding, counts in gold_scores(shared, openi, dev=dev).items()
        }
        for name, dev in (("development", True), ("held_out", False))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--openi", type=Path, required=True, help="archive of the 3,955 reports")
    parser.add_argument("--negbio", type=Path, required=True, help="SHARED/data/reports/….csv")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/cleaning_quality.json")
    )
    options = parser.parse_args()
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    once = known.get("openi_leftovers_percent_of_reports", {})
    result = {
        "environment": environment(),
        "split": "sha256('unix_cxr:' + id) even = development half, odd = held-out half",
        "gold_set": {
            name: gold_set(half) for name, half in (("frozen", "frozen"), ("development", "dev"))
        },
        "openi_leftovers_percent_of_reports": {
            **leftover_shares(options.openi),
            ONCE: once.get(ONCE, once.get("after_cleaning", {}).get(ONCE)),
            "target": 0.5,
        },
        "negbio": labels(options.negbio, options.openi),
    }
    write_text(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
