"""The cleaner under `datasets.map`, for a cluster (`python examples/clean_with_datasets.py`).

`datasets` runs the function in as many processes as `num_proc` says, shards and caches.
"""

from functools import cache
from typing import Any

from unix_cxr import ReportCleaner

cleaner = cache(ReportCleaner)  # one per process, made when it is first needed


def clean_batch(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Columns of the cleaned reports, in the order of the batch."""
    reports = list(cleaner().map(batch["text"]))
    return {
        "text": [report.text for report in reports],
        "status": [report.status.value for report in reports],
        "reason": [report.reason for report in reports],
    }


def main() -> None:
    from datasets import Dataset

    texts = ["FINDINGS: Stable cardiomegaly.", "IMPRESSION: No new effusion.", ""]
    rows = Dataset.from_dict({"id": ["a", "b", "c"], "text": texts})
    for row in rows.map(clean_batch, batched=True):
        print(row)


if __name__ == "__main__":
    main()
