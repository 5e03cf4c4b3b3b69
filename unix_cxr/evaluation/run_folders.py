"""What a run leaves behind: metrics.json, values per sample, the page; and reading it again.

Axes: n samples, s statistics per sample, r replicates.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr import __version__
from unix_cxr.evaluation.page.pages import Section, render_page
from unix_cxr.evaluation.protocols import Protocol
from unix_cxr.evaluation.results import MetricResult, MetricUnavailable, Skipped
from unix_cxr.files import read_json, replacing, write_text

METRICS: Final = "metrics.json"
SAMPLES: Final = "samples.parquet"
STATISTICS: Final = "statistics.parquet"
REPLICATES: Final = "replicates.parquet"
PAGE: Final = "index.html"
FORMAT: Final = 1


@dataclass(frozen=True, eq=False)
class Run:
    """One evaluation, ready to be written.

    Args:
        kind: "images", "reports" or "model".
        title: of the page.
        protocol: how it was measured.
        results: the numbers.
        skipped: what was not measured.
        sections: of the page.
        settings: how it was called, as JSON values.
    """

    kind: str
    title: str
    protocol: Protocol
    results: tuple[MetricResult, ...]
    skipped: tuple[Skipped, ...]
    sections: tuple[Section, ...]
    settings: Mapping[str, Any]


def require_parquet() -> None:
    """Say before the work what is missing to write its outcome.

    Raises:
        MetricUnavailable: pyarrow is not installed.
    """
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise MetricUnavailable(SAMPLES, f"{error}; pip install 'unix-cxr[eval]'") from error


def write_run(folder: str | Path, run: Run) -> list[Path]:
    """Write everything; each file appears whole or not at all, metrics.json last.

    Raises:
        MetricUnavailable: pyarrow is not installed.
    """
    require_parquet()
    folder = Path(folder)
    keys: dict[int, int] = {}
    entries = []
    for result in run.results:
        entry = result.as_dict()
        if result.statistics is not None:
            entry["statistics"] = keys.setdefault(id(result.statistics), len(keys))
        entries.append(entry)
    write_text(folder / PAGE, render_page(run.title, run.protocol, run.sections, run.skipped))
    _write_table(folder / SAMPLES, _samples(run.results))
    _write_table(folder / STATISTICS, _statistics(run.results, keys))
    _write_table(folder / REPLICATES, _replicates(run.results))
    tree = {
        "format": FORMAT,
        "unix_cxr": __version__,
        "kind": run.kind,
        "title": run.title,
        "protocol": run.protocol.name,
        "settings": dict(run.settings),
        "metrics": entries,
        "skipped": [{"metric": one.metric, "remedy": one.remedy} for one in run.skipped],
    }
    write_text(folder / METRICS, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    return [folder / name for name in (METRICS, SAMPLES, STATISTICS, REPLICATES, PAGE)]


@dataclass(frozen=True, eq=False)
class StoredMetric:
    """One number of a run that was written.

    Args:
        entry: as in metrics.json.
        ids: of its samples, where statistics were kept.
        groups: of the same.
        statistics: of the same.
        replicates: of the bootstrap.
    """

    entry: Mapping[str, Any]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    statistics: Float[Tensor, "n s"] | None
    replicates: Float[Tensor, " r"] | None


def read_run(folder: str | Path) -> dict[str, StoredMetric]:
    """The metrics of a run by name.

    Raises:
        FileNotFoundError: the folder holds no run, or lacks a file of it.
        ValueError: metrics.json is none of ours.
    """
    folder = Path(folder)
    tree = read_metrics(folder)
    for name in (STATISTICS, REPLICATES):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; `unix-cxr evaluate` writes one")
    statistics = _read_statistics(folder / STATISTICS)
    replicates = {
        row["metric"]: torch.tensor(row["values"], dtype=torch.float64)
        for row in _read_table(folder / REPLICATES)
    }
    found = {}
    for entry in tree["metrics"]:
        ids, groups, rows = statistics.get(entry.get("statistics"), ((), (), None))
        found[entry["name"]] = StoredMetric(entry, ids, groups, rows, replicates.get(entry["name"]))
    return found


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """metrics.json of a run: numbers, how they were measured, what was not.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: metrics.json is none of ours.
    """
    path = Path(folder) / METRICS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {METRICS}; `unix-cxr evaluate` writes one")
    tree = read_json(path, "measure again")
    if tree.get("format") != FORMAT:
        raise ValueError(f"{path} is not a run of format {FORMAT}; measure again")
    return tree


def _samples(results: Sequence[MetricResult]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"metric": [], "id": [], "value": []}
    for result in results:
        if result.per_sample is not None:
            columns["metric"] += [result.name] * len(result.per_sample.ids)
            columns["id"] += result.per_sample.ids
            columns["value"] += result.per_sample.values
    return columns


def _statistics(results: Sequence[MetricResult], keys: Mapping[int, int]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"key": [], "id": [], "group": [], "values": []}
    written: set[int] = set()
    for result in results:
        key = keys.get(id(result.statistics))
        if result.statistics is None or result.per_sample is None or key is None or key in written:
            continue
        written.add(key)
        ids = result.per_sample.ids
        columns["key"] += [key] * len(ids)
        columns["id"] += ids
        columns["group"] += result.per_sample.groups or ids
        columns["values"] += result.statistics.tolist()
    return columns


def _replicates(results: Sequence[MetricResult]) -> dict[str, list[Any]]:
    kept = [result for result in results if result.replicates is not None]
    return {
        "metric": [result.name for result in kept],
        "values": [result.replicates.tolist() for result in kept if result.replicates is not None],
    }


def _read_statistics(
    path: Path,
) -> dict[Any, tuple[tuple[str, ...], tuple[str, ...], Tensor | None]]:
    by_key: dict[int, list[dict[str, Any]]] = {}
    for row in _read_table(path):
        by_key.setdefault(row["key"], []).append(row)
    return {
        key: (
            tuple(row["id"] for row in rows),
            tuple(row["group"] for row in rows),
            torch.tensor([row["values"] for row in rows], dtype=torch.float64),
        )
        for key, rows in by_key.items()
    }


def _write_table(path: Path, columns: Mapping[str, list[Any]]) -> None:
    pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    types = {
        "metric": pyarrow.string(),
        "id": pyarrow.string(),
        "group": pyarrow.string(),
        "value": pyarrow.float64(),
        "key": pyarrow.int64(),
        "values": pyarrow.list_(pyarrow.float64()),
    }
    schema = pyarrow.schema([(name, types[name]) for name in columns])
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.table(dict(columns), schema=schema), temporary)


def _read_table(path: Path) -> list[dict[str, Any]]:
    require_parquet()
    rows: list[dict[str, Any]] = import_module("pyarrow.parquet").read_table(path).to_pylist()
    return rows
