"""What a run counts and which examples it keeps; the same whatever the order of its chunks."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from unix_cxr.reports.records import CleanReport, Status

_EXAMPLES: Final = 5
_SAMPLE: Final = 40
_LONGEST: Final = 400
_LONGEST_REPORT: Final = 4000


def stable_hash(text: str) -> int:
    """63 bits that are the same on every machine and in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass
class Statistics:
    """Counts per status, reason, rule, category, label, mask and guard, and examples."""

    status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    guarded: Counter[str] = field(default_factory=Counter)
    sentences: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[list[Any]]] = field(default_factory=dict)
    sample: list[list[Any]] = field(default_factory=list)

    def add(self, report_id: str, before: str, report: CleanReport) -> None:
        """Count one report."""
        self.status[report.status.value] += 1
        if report.reason:
            self.reasons[report.reason.split(":")[0]] += 1
        self.masked.update(report.masked)
        self.guarded.update(report.guarded)
        self.sentences["removed"] += len(report.removed)
        self.sentences["rewritten"] += len(report.rewritten)
        for name, label in report.labels.items():
            self.labels[f"{name}: {label.state}"] += 1
        key = stable_hash(report_id)
        for item in report.removed:
            self.categories[item.category.value] += 1
            self._count(item.rule, key, report_id, (item.sentence, ""))
        for change in report.rewritten:
            self._count(change.rule, key, report_id, (change.before, change.after))
        self._sample(key, report_id, before, report)

    def merge(self, other: "Statistics") -> None:
        """Add another chunk's counts."""
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for rule, found in other.examples.items():
            self.examples[rule] = sorted(self.examples.get(rule, []) + found)[:_EXAMPLES]
        self.sample = sorted(self.sample + other.sample)[:_SAMPLE]

    def as_dict(self) -> dict[str, Any]:
        """JSON values with sorted keys."""
        values: dict[str, Any] = {
            name: dict(sorted(getattr(self, name).items())) for name in _COUNTERS
        }
        values["examples"] = dict(sorted(self.examples.items()))
        values["sample"] = self.sample
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Statistics":
        """The inverse of `as_dict`."""
        counters = {name: Counter(values[name]) for name in _COUNTERS}
        return cls(**counters, examples=values["examples"], sample=values["sample"])

    @property
    def reports(self) -> int:
        """How many reports were counted."""
        return self.status.total()

    def _count(self, rules: str, key: int, report_id: str, pair: tuple[str, str]) -> None:
        for rule in rules.split("+"):
            self.rules[rule] += 1
            known = self.examples.setdefault(rule, [])
            if len(known) < _EXAMPLES or key < known[-1][0]:
                known.append([key, report_id, pair[0][:_LONGEST], pair[1][:_LONGEST]])
                known.sort()
                del known[_EXAMPLES:]

    def _sample(self, key: int, report_id: str, before: str, report: CleanReport) -> None:
        if report.status is not Status.CLEAN:
            return
        if len(self.sample) < _SAMPLE or key < self.sample[-1][0]:
            self.sample.append([key, report_id, before[:_LONGEST_REPORT], report.text])
            self.sample.sort()
            del self.sample[_SAMPLE:]


_COUNTERS: Final = (
    "status", "reasons", "rules", "categories", "labels", "masked", "guarded", "sentences",
)  # fmt: skip
