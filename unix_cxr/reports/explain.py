"""Why one report came out as it did, step by step, for a person to read."""

from collections.abc import Iterator

from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.steps import Draft


def explain(cleaner: ReportCleaner, text: str) -> Iterator[str]:
    """Lines that tell the sections, each sentence's decision with its rules, and the labels."""
    draft = Draft(text)
    for step in cleaner.steps:
        step(draft)
        if draft.refused:
            yield f"quarantined in step {step.name!r}: {draft.refused}"
            return
    for section in draft.sections:
        yield f"section kept: {section.kind} {section.header!r}"
    for removed in draft.removed:
        if removed.rule.startswith("section."):
            yield f"section removed by {removed.rule}: {removed.sentence}"
    for line in draft.lines:
        decision = line.decision
        rules = f" [{', '.join(decision.rules)}]" if decision.rules else ""
        yield f"{decision.action:8}{decision.category.value}{rules}"
        yield f"    - {line.before}"
        if decision.action == "rewrite":
            yield f"    + {decision.text}"
        for problem in decision.problems:
            yield f"    ! guard: {problem}"
    yield from _result(cleaner, text)


def _result(cleaner: ReportCleaner, text: str) -> Iterator[str]:
    report = cleaner.clean(text)
    yield f"status: {report.status.value} {report.reason}".rstrip()
    for kind, count in report.masked.items():
        yield f"masked: {kind} {count}"
    for name, label in report.labels.items():
        extra = " ".join([*label.sides, label.severity or "", *label.devices]).strip()
        yield f"label: {name} {label.state} {extra}".rstrip()
    yield f"text: {report.text}"
