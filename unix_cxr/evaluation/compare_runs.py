"""Two runs held against each other, metric by metric, where their signatures allow it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from unix_cxr.evaluation.comparison import Difference, compare_replicates, compare_systems
from unix_cxr.evaluation.corpus_metric import OfSums, Resampling, mean_metric
from unix_cxr.evaluation.page.charts import short
from unix_cxr.evaluation.page.pages import Section, Table, render_page
from unix_cxr.evaluation.protocols import PROTOCOLS, STRICT, Protocol
from unix_cxr.evaluation.results import number
from unix_cxr.evaluation.run_folders import METRICS, PAGE, StoredMetric, read_run
from unix_cxr.evaluation.text.label_scores import f1_metrics
from unix_cxr.evaluation.text.overlap import BLEU_ORDERS, bleu_metric_of, chrf_of_sums
from unix_cxr.files import write_text

_OF_THE_SYSTEM: Final = frozenset(
    {"n", "drawn", "trained_on", "real", "train", "pairs", "positive", "unix_cxr"}
)
"""Facts of a signature that may differ between two systems measured in one way."""

COMPARISON: Final = "comparison.json"


@dataclass(frozen=True)
class Compared:
    """One metric in two runs.

    Args:
        name: of the metric.
        a: its value in the first run.
        b: its value in the second.
        difference: a - b with its test; None where it cannot be tested.
        reason: why it cannot.
    """

    name: str
    a: float
    b: float
    difference: Difference | None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        tree: dict[str, Any] = {"name": self.name, "a": number(self.a), "b": number(self.b)}
        if self.difference is None:
            return tree | {"reason": self.reason}
        return tree | {
            "difference": self.difference.value,
            "low": self.difference.interval.low,
            "high": self.difference.interval.high,
            "method": self.difference.interval.method,
            "p_value": self.difference.p_value,
            "test": self.difference.test,
            "significant": self.difference.significant,
        }


def compare_runs(
    a: str | Path, b: str | Path, resampling: Resampling | None = None
) -> tuple[Compared, ...]:
    """Every metric that both runs hold: A minus B, with interval and p value.

    Metrics that are functions of sums are tested by paired bootstrap and randomisation on the rows
    that both runs kept; the others by their replicates. A p value stands for one metric: with
    twenty metrics one of them is below .05 by chance.

    Args:
        a: folder of the first run.
        b: folder of the second run.
        resampling: replicates and seed of the paired tests.

    Raises:
        FileNotFoundError: a folder holds no run.
        ValueError: the runs have no metric in common.
    """
    first, second = read_run(a), read_run(b)
    common = [name for name in first if name in second]
    if not common:
        raise ValueError(f"{a} and {b} have no metric in common; compare runs of one kind")
    return tuple(_compared(name, first[name], second[name], resampling) for name in common)


def _compared(
    name: str, a: StoredMetric, b: StoredMetric, resampling: Resampling | None
) -> Compared:
    values = tuple(float("nan" if m.entry["value"] is None else m.entry["value"]) for m in (a, b))
    differing = _differing(facts_of(a), facts_of(b))
    if differing:
        return Compared(name, values[0], values[1], None, f"measured differently: {differing}")
    if a.statistics is not None and b.statistics is not None and set(a.ids) == set(b.ids):
        place = {identity: row for row, identity in enumerate(b.ids)}
        rows = torch.tensor([place[identity] for identity in a.ids])
        found = compare_systems(
            of_sums_named(name, facts_of(a)), a.statistics, b.statistics[rows], a.groups, resampling
        )
        return Compared(name, values[0], values[1], found)
    if a.replicates is None or b.replicates is None:
        return Compared(name, values[0], values[1], None, "no replicates were kept")
    if len(a.replicates) != len(b.replicates):
        reason = f"{len(a.replicates)} and {len(b.replicates)} replicates"
        return Compared(name, values[0], values[1], None, reason)
    paired = a.entry["n"] == b.entry["n"] and a.ids == b.ids
    found = compare_replicates((values[0], values[1]), (a.replicates, b.replicates), paired=paired)
    return Compared(name, values[0], values[1], found)


def facts_of(metric: StoredMetric) -> dict[str, str]:
    """The facts of a stored signature."""
    parts = (part.partition(":") for part in str(metric.entry["signature"]).split("|"))
    return {name: value for name, _, value in parts}


def of_sums_named(name: str, facts: Mapping[str, str]) -> OfSums:
    """The function of sums of a metric that was stored; a mean where the name is no other's."""
    for order in range(1, BLEU_ORDERS + 1):
        if name == f"bleu_{order}":
            return bleu_metric_of(order)
    if name == "chrf":
        return chrf_of_sums
    if "labeler" in facts:
        uncertain, absent = facts["uncertain"], facts["absent"]
        known = f1_metrics(facts["labeler"], uncertain, absent)  # type: ignore[arg-type]  # strings of our own signatures
        return next(metric.of_sums for metric in known if metric.name == name)
    return mean_metric(name).of_sums


def _differing(a: Mapping[str, str], b: Mapping[str, str]) -> str:
    names = sorted((a.keys() | b.keys()) - _OF_THE_SYSTEM)
    wrong = [name for name in names if a.get(name) != b.get(name)]
    return ", ".join(
        f"{name} {a.get(name, 'absent')} and {b.get(name, 'absent')}" for name in wrong
    )


def write_comparison(
    folder: str | Path, names: tuple[str, str], compared: Sequence[Compared]
) -> list[Path]:
    """Write comparison.json and the page."""
    folder = Path(folder)
    tree = {"a": names[0], "b": names[1], "metrics": [one.as_dict() for one in compared]}
    write_text(folder / COMPARISON, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    rows = tuple(_row(one) for one in compared)
    heads = ("metric", "A", "B", "A - B", "95 % interval", "p", "how")
    about = (
        f"A is {names[0]}, B is {names[1]}. A p value stands for one metric: with twenty of them "
        "one is below .05 by chance."
    )
    section = Section("Differences", about, tables=(Table(heads, rows),))
    protocol = _protocol(names[0])
    write_text(folder / PAGE, render_page("Two runs compared", protocol, [section], []))
    return [folder / COMPARISON, folder / PAGE]


def _row(one: Compared) -> tuple[str, ...]:
    ends = (one.name, short(one.a), short(one.b))
    if one.difference is None:
        return (*ends, "", "", "", one.reason)
    found = one.difference
    interval = f"{short(found.interval.low)} to {short(found.interval.high)}"
    mark = " *" if found.significant else ""
    return (*ends, short(found.value), interval, f"{found.p_value:.3g}{mark}", found.test)


def _protocol(folder: str) -> Protocol:
    tree = json.loads((Path(folder) / METRICS).read_text(encoding="utf-8"))
    return PROTOCOLS.get(tree["protocol"], STRICT)
