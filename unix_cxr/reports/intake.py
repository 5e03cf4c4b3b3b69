"""What is no chest report in English is told apart before anything is decided."""

import re
from typing import Final

from unix_cxr.reports.tokens import letter_runs, words

MAX_CHARACTERS: Final = 20_000
"""Longer texts are quarantined: no report is that long, and memory stays flat."""

_RTF: Final = re.compile(r"^\s*\{\\rtf", re.IGNORECASE)
_HTML: Final = re.compile(
    r"</?(?:html|body|div|p|span|table|td|tr|b|i|font|head|style|script|h[1-6]|ul|li|"
    r"pre)\b[^<>]{0,200}>",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[^\W\d_]+")
_ENGLISH: Final = words(
    "the of is no are and in with there or to a on at for not has right left lung lungs clear "
    "heart normal chest pleural effusion pneumothorax size within limits acute seen which "
    "from by this that be was were without bilateral small mild disease line tip tube stable "
    "unchanged"
)
_FOREIGN: Final = words(
    "le la les des du une un et est sont dans pas sur avec sans pour der das und ist sind "
    "ein eine nicht mit keine kein im den von el los las del una se observa sin derrame en "
    "al por il gli di che non della nel lo sono con os da dos das não sem há ao "
    "na com het een van geen niet zijn på og ikke är inte och nie jest bez oraz ve "
    "yok akciğer izlenmedi"
)
"""Without "as", "do", "die" and "med", which are English words too."""
_FEWEST_WORDS: Final = 5
_READ_CHARACTERS: Final = 2000
_FOREIGN_SHARE: Final = 0.3
_FOREIGN_WORDS: Final = 0.12
_LAST_LATIN: Final = 0x24F  # the end of Latin Extended-B


def refusal(text: str) -> str:
    r"""Why a text is quarantined unread, or an empty string.

    >>> refusal("{\\rtf1 The lungs are clear.}")
    'rtf'
    """
    if len(text) > MAX_CHARACTERS:
        return f"too long: {len(text)} characters, at most {MAX_CHARACTERS}"
    if "{" in text and _RTF.match(text):
        return "rtf"
    if "<" in text and _HTML.search(text):
        return "html"
    return "" if _reads_english(text) else "language: not English"


def _reads_english(text: str) -> bool:
    if not text.isascii():
        letters = [c for c in text if c.isalpha()]
        foreign = sum(ord(c) > _LAST_LATIN for c in letters)
        if letters and foreign > _FOREIGN_SHARE * len(letters):
            return False
    head = text[:_READ_CHARACTERS]
    if text.isascii() and _FOREIGN.isdisjoint(letter_runs(head)):
        return True
    words = frozenset(_WORD.findall(head.lower()))
    if len(words) < _FEWEST_WORDS:
        return True
    english = len(_ENGLISH & words)
    foreign = len(_FOREIGN & words)
    return not (foreign > english and foreign >= _FOREIGN_WORDS * len(words))
