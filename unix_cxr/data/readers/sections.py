"""Findings and impression of a report that is one text, by its own headings."""

import re
from typing import Final

_HEADING: Final = re.compile(r"^[ \t]*(?P<name>[A-Z][A-Z /&()]{2,60}):", re.MULTILINE)
_FINDINGS: Final = frozenset({"FINDINGS", "FINDING", "FINDINGS AND IMPRESSION"})
_IMPRESSION: Final = frozenset({"IMPRESSION", "IMPRESSIONS", "CONCLUSION"})


def findings_and_impression(report: str) -> tuple[str, str]:
    r"""The two sections of a report; without either heading, the whole text counts as findings.

    This cuts, it does not clean: what stands in a section is left as it is.

    >>> findings_and_impression("FINAL REPORT\n FINDINGS:  Clear lungs.\n\n IMPRESSION: Normal.")
    ('Clear lungs.', 'Normal.')
    """
    headings = list(_HEADING.finditer(report))
    found: dict[str, list[str]] = {"findings": [], "impression": []}
    for number, heading in enumerate(headings):
        name = heading["name"].strip()
        kind = "findings" if name in _FINDINGS else "impression" if name in _IMPRESSION else ""
        if kind:
            end = headings[number + 1].start() if number + 1 < len(headings) else len(report)
            found[kind].append(report[heading.end() : end].strip())
    findings, impression = ("\n".join(filter(None, found[kind])) for kind in found)
    return (findings, impression) if findings or impression else (report.strip(), "")
