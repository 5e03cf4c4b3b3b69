r"""Reports per second and peak memory of the report cleaner, and where the time goes.

    python benchmarks/bench_cleaning.py --openi NLMCXR_reports.tgz --rows 10000 --workers 1 2
    python benchmarks/bench_cleaning.py --openi NLMCXR_reports.tgz --rows 1000000 --workers 2 \
        --append

The corpus is the 3,955 Open-i reports again and again, each time with another id and perturbed text
(numbers drawn anew, sides exchanged at random, a sentence made of the row's number added), so that
no two rows are equal and no cache can win. Reading, labels before and after, the guard, the audit's
counts and writing are all in the time; making the corpus is not.
"""

import argparse
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from machine import environment

from unix_cxr.files import write_text
from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.corpus import CorpusOptions, clean_corpus
from unix_cxr.reports.dedup import deduplicate
from unix_cxr.reports.readers import read_rows

_SIDE = re.compile(r"\b(left|right)\b")
_NUMBER = re.compile(r"\b\d+\b")


def perturbed(texts: list[str], rows: int) -> Iterator[tuple[str, str]]:
    """Ids and texts, no two of them equal."""
    draw = random.Random(0)
    for number in range(rows):
        text = texts[number % len(texts)]
        if draw.random() < 0.5:
            text = _SIDE.sub(lambda m: "left" if m.group() == "right" else "right", text)
        text = _NUMBER.sub(lambda _: str(draw.randint(1, 99)), text)
        yield (
            f"row{number}",
            f"{text} Granuloma {number + 1} of the {draw.choice(['left', 'right'])} lung.",
        )


def write_corpus(texts: list[str], rows: int, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for report_id, text in perturbed(texts, rows):
            file.write(json.dumps({"id": report_id, "text": text}) + "\n")


class PeakMemory(threading.Thread):
    """Peak of the resident memory of this process and its children, in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.parent = 0.0
        self.workers = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        """Look ten times a second until `done` is set."""
        process = psutil.Process()
        while not self.done.wait(0.1):
            self.parent = max(self.parent, process.memory_info().rss / 2**20)
            sizes = [0.0]
            for child in process.children(recursive=True):
                try:
                    sizes.append(child.memory_info().rss / 2**20)
                except psutil.NoSuchProcess:
                    continue
            self.workers = max(self.workers, *sizes) if len(sizes) > 1 else self.workers


def timed_run(source: Path, workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        out = Path(folder) / "out.jsonl"
        memory = PeakMemory()
        memory.start()
        before = os.times()
        start = time.perf_counter()
        statistics = clean_corpus(CorpusOptions((source,), out, workers=workers))
        seconds = time.perf_counter() - start
        after = os.times()
        processor = sum(after[:4]) - sum(before[:4])
        memory.done.set()
        memory.join()
        result: dict[str, Any] = {
            "rows": statistics.reports,
            "workers": workers,
            "seconds": round(seconds, 2),
            "reports_per_second": round(statistics.reports / seconds),
            "processor_seconds": round(processor, 2),
            "reports_per_processor_second": round(statistics.reports / processor),
            "load_average": round(os.getloadavg()[0], 2),
            "peak_mib_parent": round(memory.parent),
            "peak_mib_largest_worker": round(memory.workers),
            "status": dict(statistics.status),
        }
        if workers == 1 and statistics.reports <= 10_000:
            result["deduplication"] = timed_dedup(out, Path(folder) / "unique.jsonl")
        return result


def timed_dedup(cleaned: Path, out: Path) -> dict[str, Any]:
    start = time.perf_counter()
    counts = deduplicate(cleaned, out, threshold=1.0)
    exact = time.perf_counter() - start
    rows = min(counts.read, 10_000)
    head = out.with_name("head.jsonl")
    with cleaned.open("rb") as source, head.open("wb") as target:
        for _ in range(rows):
            target.write(source.readline())
    start = time.perf_counter()
    deduplicate(head, out.with_name("near.jsonl"), threshold=0.9)
    near = time.perf_counter() - start
    return {
        "exact_rows": counts.read,
        "exact_reports_per_second": round(counts.read / exact),
        "near_rows": rows,
        "near_reports_per_second": round(rows / near),
    }


def where_the_time_goes(texts: list[str]) -> dict[str, float]:
    """Microseconds of processor time per report and step, in one process."""
    from unix_cxr.reports.steps import Draft

    cleaner = ReportCleaner()
    rows = [text for _, text in perturbed(texts, len(texts))]
    spent = dict.fromkeys((step.name for step in cleaner.steps), 0.0)
    for text in rows:
        draft = Draft(text)
        for step in cleaner.steps:
            start = time.process_time_ns()
            step(draft)
            spent[step.name] += time.process_time_ns() - start
            if draft.refused:
                break
    start = time.process_time_ns()
    reports = [cleaner.clean(text) for text in rows]
    whole = time.process_time_ns() - start
    start = time.process_time_ns()
    for number, report in enumerate(reports):
        report.to_json(str(number))
    spent["to JSON"] = time.process_time_ns() - start
    steps = sum(value for name, value in spent.items() if name != "to JSON")
    spent["labels merged, fixed point checked"] = max(0, whole - steps)
    return {name: round(value / len(rows) / 1000, 1) for name, value in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--openi", type=Path, required=True, help="archive or folder of the reports"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cleaning.json"))
    parser.add_argument("--append", action="store_true", help="add the runs to those in --out")
    parser.add_argument("--scratch", type=Path, help="where the corpora go, about 1 KB per row")
    options = parser.parse_args()
    known = json.loads(options.out.read_text()) if options.append else None
    texts = [row.text for row in read_rows(options.openi) if row.text]
    runs: list[dict[str, Any]] = []
    if options.scratch:
        options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        for rows in options.rows:
            source = Path(folder) / f"corpus{rows}.jsonl"
            write_corpus(texts, rows, source)
            for workers in options.workers:
                runs.append(timed_run(source, workers))
                print(json.dumps(runs[-1]), file=sys.stderr)
            source.unlink()
    result = {
        "environment": environment(),
        "config": {"rows": options.rows, "workers": options.workers, "preset": "unix"},
        "runs": runs,
        "microseconds_per_report": where_the_time_goes(texts),
    }
    if known is not None:
        for run in runs:
            run["environment"] = result["environment"]
        known["runs"] += runs
        result = known
    write_text(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["microseconds_per_report"]))


if __name__ == "__main__":
    main()
