"""What cleaning returns: plain values that turn into one JSON line."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """What became of a report; every report gets exactly one."""

    CLEAN = "clean"
    EMPTY = "empty"
    QUARANTINED = "quarantined"


class Category(StrEnum):
    """What a sentence, or the part of it that was cut, is about."""

    FINDING = "finding"
    PRIOR = "prior"
    COMMUNICATION = "communication"
    TECHNIQUE = "technique"
    RECOMMENDATION = "recommendation"
    HISTORY = "history"
    ADMINISTRATIVE = "administrative"
    RESIDUE = "residue"


@dataclass(frozen=True, slots=True)
class Removed:
    """A sentence or a section that is not in the cleaned text."""

    sentence: str
    rule: str
    category: Category


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A sentence of which a part was cut or replaced; `rule` joins names with `+`."""

    before: str
    after: str
    rule: str


@dataclass(frozen=True, slots=True)
class Label:
    """One of the 14 findings as a text states it; of support devices, which of them."""

    state: str
    sides: tuple[str, ...] = ()
    severity: str | None = None
    devices: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The label as JSON values; what was not said is left out."""
        values: dict[str, Any] = {"state": self.state}
        if self.sides:
            values["sides"] = list(self.sides)
        if self.severity:
            values["severity"] = self.severity
        if self.devices:
            values["devices"] = list(self.devices)
        return values


@dataclass(frozen=True, slots=True)
class CleanReport:
    """A cleaned report and the account of everything that was done to it."""

    status: Status
    reason: str = ""
    findings: str = ""
    impression: str = ""
    text: str = ""
    labels: dict[str, Label] = field(default_factory=dict)
    removed: tuple[Removed, ...] = ()
    rewritten: tuple[Rewritten, ...] = ()
    masked: dict[str, int] = field(default_factory=dict)
    guarded: tuple[str, ...] = ()

    def as_dict(self, report_id: str) -> dict[str, Any]:
        """The output line's fields, in their fixed order."""
        return {
            "id": report_id,
            "status": self.status.value,
            "reason": self.reason,
            "findings": self.findings,
            "impression": self.impression,
            "text": self.text,
            "labels": {name: label.as_dict() for name, label in self.labels.items()},
            "removed": [
                {"sentence": r.sentence, "rule": r.rule, "category": r.category.value}
                for r in self.removed
            ],
            "rewritten": [
                {"before": r.before, "after": r.after, "rule": r.rule} for r in self.rewritten
            ],
        }

    def to_json(self, report_id: str) -> str:
        """One line of JSON, without the newline."""
        return json.dumps(self.as_dict(report_id), ensure_ascii=False, separators=(", ", ": "))
