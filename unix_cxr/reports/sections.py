"""The sections of a report: aliases of headers, missing colons, several reports in one text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from unix_cxr.reports.tokens import words

FINDINGS: Final = "findings"
IMPRESSION: Final = "impression"
PREAMBLE: Final = "preamble"

ALIASES: Final[dict[str, tuple[str, ...]]] = {
    FINDINGS: (
        "findings", "finding", "report", "description", "observations", "chest findings",
        "radiographic findings", "interpretation", "body", "result", "results", "report text",
        "findings and impression", "findings/impression", "findings & impression",
        "impression and findings", "impression/findings", "findings / impression",
    ),
    IMPRESSION: (
        "impression", "impressions", "conclusion", "conclusions", "summary", "opinion",
        "final impression", "assessment", "diagnosis", "imp", "radiographic impression",
    ),
    "history": (
        "history", "indication", "indications", "clinical history", "clinical indication",
        "clinical information", "reason for exam", "reason for examination", "reason",
        "reason for the exam", "reason for this examination", "reason for study", "clinical data",
        "medical condition", "patient history", "clinical details", "clinical statement",
        "clinical question", "questions to be answered", "underlying medical condition", "hx",
        "for this examination", "signs and symptoms", "symptoms", "admitting diagnosis",
    ),
    "technique": (
        "technique", "procedure", "examination", "exam", "study", "type of examination", "views",
        "view", "exam type", "modality", "radiation dose", "contrast", "iv contrast", "procedures",
        "exam description", "projection", "two views", "number of views",
    ),
    "comparison": (
        "comparison", "comparisons", "comparison study", "comparison exam", "comparison film",
        "compared with", "prior study", "prior studies", "reference exam", "priors", "prior exams",
        "reference examination", "comparison studies", "correlation", "prior examination",
    ),
    "recommendation": (
        "recommendation", "recommendations", "recommendation(s)", "suggestion", "advice", "plan",
        "follow-up", "follow up", "followup",
    ),
    "addendum": ("addendum", "addenda", "addendum report", "addendum #1", "correction"),
    "wet read": ("wet read", "wet reading", "preliminary report", "preliminary read",
                 "provisional findings impression", "preliminary impression", "wet read version"),
    "attestation": (
        "attestation", "attending attestation", "electronically signed by", "dictated by", "signed",
        "approved by", "attending", "resident", "teaching physician", "radiologist", "signed by",
        "transcribed by", "interpreted by", "reported by", "read by",
        "report electronically signed",
        "reviewed by", "transcriptionist", "dictated", "interpreting physician",
    ),
    "notification": (
        "notification", "notifications", "communication", "critical results", "discussion",
        "findings were discussed", "critical findings", "results communication",
    ),
    "administrative": (
        "accession", "accession number", "mrn", "dob", "date", "exam date", "patient name", "name",
        "date of birth", "sex", "age", "gender", "clip", "cc", "ordering physician", "date of exam",
        "referring physician", "location", "final report", "order number", "patient id", "time",
        "attending md", "account number", "date/time", "unit",
    ),
}  # fmt: skip
"""Kind of section -> the headers that open it, in lower case."""

_KIND: Final = {alias: kind for kind, aliases in ALIASES.items() for alias in aliases}
_WORDS_OF_TEXT: Final = words("report study signed summary contrast")
_SHOUTED: Final = re.compile(
    r"(?:^|(?<=\n))[ \t]*((?:FINDINGS AND IMPRESSION|"
    + "|".join(
        re.escape(alias.upper())
        for alias in sorted(_KIND, key=len, reverse=True)
        if len(alias) > len("plan") and alias not in _WORDS_OF_TEXT
    )
    + r"))(?:[ \t]*\n|[ \t]+(?=[A-Z][a-z]))"
)
_LINE_HEADER: Final = re.compile(
    r"(?:^|(?<=\n))[ \t]*((?i:findings|impressions?|history|technique|comparison|indication|"
    r"conclusion|recommendations?|addendum|report|clinical history))[ \t]*\n"
)
_COLON: Final = re.compile(r":")
_OPENING: Final = 3
_OPENINGS: Final = frozenset(alias[:_OPENING] for alias in _KIND) | {" ", "\t"}
"""How a line begins that may be a header: with a header's first letters, or indented."""
_NAME_START: Final = re.compile(
    r"(?:^|\n|[.!?;:]\s|__\s|//|[a-z]\.(?=[A-Z]))\s*([^\n.!?;:]{2,64})$"
)
_VIEW_WORDS: Final = words(
    "pa ap and lateral lat chest portable frontal upright supine erect radiograph radiographs "
    "view views single two one of the x ray xray xr dx semi film films x-ray cxr 2 1 3 three "
    "in"
)
_FINAL_REPORT: Final = re.compile(r"(?:^|(?<=\n))[ \t]*FINAL REPORT[ \t]*:?[ \t]*(?=\n|$)")
_OTHER_BODY: Final = re.compile(
    r"\b(?:abdomen|abdominal|knee|hip|pelvis|skull|wrist|ankle|foot|hand|lumbar|cervical|femur|"
    r"shoulder|elbow|mammo\w*|head|brain|neck)\b",
    re.IGNORECASE,
)
_CHEST: Final = re.compile(r"\bchest|thora|cxr|lung|heart\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Section:
    """A header's kind and the text below it; `study` counts the reports within one text."""

    kind: str
    header: str
    body: str
    study: int = 0


def split_sections(text: str) -> list[Section]:
    """The sections of `text` in order; text before the first header is the preamble.

    >>> [(s.kind, s.body) for s in split_sections("FINDINGS: Clear. IMPRESSION: Normal.")]
    [('findings', 'Clear.'), ('impression', 'Normal.')]
    """
    text = _FINAL_REPORT.sub("", text) if "FINAL REPORT" in text else text
    marks = _headers(text)
    if not marks:
        return [Section(PREAMBLE, "", text)]
    sections = []
    if text[: marks[0][0]].strip():
        sections.append(Section(PREAMBLE, "", text[: marks[0][0]]))
    ends = [mark[0] for mark in marks[1:]] + [len(text)]
    for (_, body_start, name, kind), end in zip(marks, ends, strict=True):
        sections.append(Section(kind, name, text[body_start:end].strip(" \t")))
    return _numbered(sections)


def concerns_other_body_part(section: Section) -> bool:
    """Whether an examination header names a part of the body and not the chest."""
    said = f"{section.header} {section.body}"
    return (
        section.kind == "technique" and bool(_OTHER_BODY.search(said)) and not _CHEST.search(said)
    )


def _headers(text: str) -> list[tuple[int, int, str, str]]:
    """(start of the header, start of the body, header, kind), in order, not overlapping."""
    found: dict[int, tuple[int, int, str, str]] = {}
    if ":" in text:
        for colon in _COLON.finditer(text):
            mark = _header_at(text, colon.start())
            if mark:
                found[mark[0]] = mark
    for start in _line_starts(text):
        opening = text[start : start + _OPENING].lower()
        if opening in _OPENINGS or opening[:1] in _OPENINGS:
            for mark in _header_line(text, start):
                found.setdefault(mark[0], mark)
    marks = []
    reached = 0
    for start in sorted(found):
        if start >= reached:
            marks.append(found[start])
            reached = found[start][1]
    return marks


def _line_starts(text: str) -> Iterator[int]:
    start = 0
    while True:
        yield start
        start = text.find("\n", start) + 1
        if start == 0:
            return


def _header_line(text: str, start: int) -> Iterator[tuple[int, int, str, str]]:
    """Headers without a colon: in capitals, or alone in their line."""
    for pattern in (_SHOUTED, _LINE_HEADER):
        match = pattern.match(text, start)
        if match is None:
            continue
        kind = _KIND.get(match.group(1).lower())
        if kind is not None:  # none: a letter that only `re` takes for another one's capital
            yield match.start(1), match.end(), match.group(1), kind


def _header_at(text: str, colon: int) -> tuple[int, int, str, str] | None:
    match = _NAME_START.search(text, max(0, colon - 70), colon)
    if match is None:
        return None
    name = match.group(1).strip(" \t*_-#").lower()
    kind = _KIND.get(name)
    if kind is None:
        words = name.replace("(", " ").replace(")", " ").replace(",", " ").split()
        if not (len(words) > 1 and _VIEW_WORDS.issuperset(words)):
            return None
        kind = FINDINGS
    return match.start(1), colon + 1, match.group(1).strip(), kind


def _numbered(sections: list[Section]) -> list[Section]:
    """Count a new study when a header of findings or of the examination follows an impression."""
    study = 0
    seen_impression = False
    numbered = []
    for section in sections:
        if seen_impression and section.kind in {FINDINGS, "technique", "history", "wet read"}:
            study += 1
            seen_impression = False
        seen_impression = seen_impression or section.kind == IMPRESSION
        numbered.append(Section(section.kind, section.header, section.body, study))
    return numbered
