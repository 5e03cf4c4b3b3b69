"""Masking of dates, times, telephone and record numbers and names after titles.

This is no certified de-identifier: it catches what it has a pattern for and nothing else. A
hospital that must rely on de-identification runs its own tool first; `presidio.py` is an adapter.
"""

import re
from collections import Counter
from typing import Final

from unix_cxr.reports.normalise import BLANK
from unix_cxr.reports.tokens import letter_runs, words

_MONTH: Final = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
    r"Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_NOT_A_NAME: Final = (
    r"(?!(?:No|The|There|This|These|Right|Left|Heart|Lungs?|Findings?|Impression|At|On|Who|Was|Is|In|"
    r"Please|Bilateral|Mild|Small|Moderate|Large|Stable|Unchanged|And|For|With)\b)"
)
_PATTERNS: Final[dict[str, re.Pattern[str]]] = {
    "phone": re.compile(
        r"(?<![\d.])(?:\+?1[-. ])?\(?\d{3}\)?[-. ]\d{3}[-. ]\d{4}(?!\d)(?: ?(?:x|ext\.?) ?\d+)?"
    ),
    "date": re.compile(
        rf"\b\d{{1,2}}[/.-]\d{{1,2}}[/.-](?:\d{{4}}|\d{{2}})\b(?!\.?\d)|\b(?:19|20|"
        rf"21)\d\d-\d{{1,2}}-\d{{1,2}}\b"
        rf"|\b{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:,? (?:19|20|21)\d\d)?\b(?! ?(?:cm|mm))"
        rf"|\b\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH},? (?:19|20|21)\d\d\b"
        rf"|\b{_MONTH},? (?:of )?(?:19|20|21)\d\d\b"
        r"|(?<=\bon )\d{1,2}/\d{1,2}\b|(?<=\bfrom )\d{1,2}/\d{1,2}\b|(?<=\bof "
        r")\d{1,2}/\d{2,4}\b"
        r"|(?<=\bdated )\d{1,2}/\d{1,4}\b|(?<=\bsince )\d{1,2}/\d{1,4}\b|(?<=\bin "
        r")\d{1,2}/\d{4}\b"
        r"|(?<=\b[Ii]n )(?:19|20)\d\d\b|(?<=\b[Ss]ince )(?:19|20)\d\d\b|(?<=\bfrom )(?:19|"
        r"20)\d\d\b"
    ),
    "time": re.compile(
        r"\b\d{1,2}:\d{2}(?::\d{2})?(?: ?[AaPp]\.?[Mm]\b(?:\.(?=\s+[a-z]))?)?|\b\d{1,2} "
        r"?[AaPp]\.?[Mm]\b(?:\.(?=\s+[a-z]))?"
        r"|\b\d{3,4} ?(?:hrs?|hours)\b|(?<=\b[Aa]t )[0-2]\d[0-5]\d\b(?!\.?\d)(?! ?(?:mm|cm))|"
        r"\b\d{3,4} ?[AaPp][Mm]\b"
    ),
    "number": re.compile(
        r"\b(?:mrn|medical record(?: number)?|accession(?: number)?|acc|account|ssn|clip|"
        r"unit no|"
        r"job id|case id|patient id|pager|beeper)\b(?: ?(?:number|no\.?|#|"
        r":))*\s*(?P<keep>(?-i:[A-Z]{0,4})-?\d{3,}[\d-]*)",
        re.IGNORECASE,
    ),
    "name": re.compile(
        r"\b(?:(?:[Dd]r|DR|Mr|MR|Mrs|MRS|Ms|Miss|Prof|Professor|DOCTOR)s?\b\.?\s+"
        rf"(?P<keep>(?:[A-Z]\.? ){{0,2}}{_NOT_A_NAME}[A-Z][A-Za-z'-]+"
        rf"(?: {_NOT_A_NAME}[A-Z][a-z'-]+)?)"
        rf"|[Dd]octors?\s+(?P<keep4>{_NOT_A_NAME}[A-Z][a-z'-]+"
        rf"(?: {_NOT_A_NAME}[A-Z][a-z'-]+)?))"
        r"|\b(?P<keep2>[A-Z][a-z]+(?: [A-Z]\.)? [A-Z][a-z]+)(?=,? (?:MD|M\.D|DO|RN|PA-C|NP)\b)"
        r"|\b(?:[Bb]y|BY):? (?P<keep3>(?!Dr)[A-Z][a-z]+(?: [A-Z]\.)? [A-Z][a-z]+)(?=[.,]|$| "
        r"on| at)"
    ),
}
_TITLES: Final = (
    "Dr", "dr", "DR", "Mr", "MR", "Ms", "Miss", "Prof", "octor", "DOCTOR", " MD", "M.D", " DO",
    " RN", " PA-C", " NP", "By", "by", "BY",
)  # fmt: skip
_NUMBERED: Final = (
    "mrn", "medical rec", "acc", "ssn", "clip", "unit no", "job id", "case id", "patient id",
    "pager",
    "beeper",
)  # fmt: skip
_DETAIL: Final = re.compile(
    r"[0-9](?:[/:-][0-9]|\.[0-9]+\.| ?[AaPp]\.?[Mm]|[0-9]{2}(?:\)?[-. ][0-9]{3}|[0-9]* ?h)"
    r"|(?:(?<=1)9|(?<=2)[01])[0-9]{2}|(?<=[Aa]t [0-9])[0-9]{3})"
)
"""In every ASCII text that holds a telephone number, a time, or a date without a month's name."""
_MONTHS: Final = words(
    "jan january feb february mar march apr april may jun june jul july aug august sep sept "
    "september oct october nov november dec december"
)
_TITLED: Final = words(
    "dr drs mr mrs ms miss prof profs professor professors doctor doctors md m do rn np by"
)
_RECORDED: Final = words(
    "mrn medical accession acc account ssn clip unit job case patient pager beeper"
)
_HINTS: Final[dict[str, re.Pattern[str]]] = {
    "phone": re.compile(r"\d\d\d\)?[-. ]\d\d\d"),
    "date": re.compile(
        r"\d(?:[/-]\d|\.\d+\.)|(?:19|20|21)\d\d|"
        r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}\.?,? \d"
    ),
    "time": re.compile(r"\d(?:[:]\d| ?[AaPp]\.?[Mm]|\d\d+ ?h)|[Aa]t \d\d\d\d"),
}
"""A text without these has no detail of the kind; far cheaper to look for than the detail."""
_RUN: Final = re.compile(r"___(?:[ \t]*[,/-]?[ \t]*___)+")


def mask(text: str) -> tuple[str, dict[str, int]]:
    """The text with private details as `___`, and how many of each kind were masked.

    >>> mask("Seen by Dr. Miller on 3/4/2011 at 9:30 pm. Mass of 4.5 cm at T11/12.")
    ('Seen by Dr. ___ on ___ at ___. Mass of 4.5 cm at T11/12.', {'date': 1, 'time': 1, 'name': 1})
    """
    counts: Counter[str] = Counter()
    runs = letter_runs(text) if text.isascii() else None
    if runs is None or _DETAIL.search(text) or not _MONTHS.isdisjoint(runs):
        for kind, hint in _HINTS.items():
            if hint.search(text):
                text = _mask_one(_PATTERNS[kind], kind, text, counts)
    if runs is None or not _RECORDED.isdisjoint(runs):
        lowered = text.lower()
        if any(word in lowered for word in _NUMBERED):
            text = _mask_one(_PATTERNS["number"], "number", text, counts)
    titled = runs is None or not _TITLED.isdisjoint(runs) or " PA-C" in text
    if titled and any(word in text for word in _TITLES):
        text = _mask_one(_PATTERNS["name"], "name", text, counts)
    if counts:
        text = _RUN.sub(BLANK, text)
    return text, dict(counts)


def _mask_one(pattern: re.Pattern[str], kind: str, text: str, counts: Counter[str]) -> str:
    def blank(match: re.Match[str]) -> str:
        counts[kind] += 1
        for name in ("keep", "keep2", "keep3", "keep4"):
            if name in pattern.groupindex and match.group(name):
                start = match.start(name) - match.start()
                end = match.end(name) - match.start()
                return match.group()[:start] + BLANK + match.group()[end:]
        return BLANK

    return pattern.sub(blank, text)
