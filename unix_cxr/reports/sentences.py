"""Splitting a paragraph of a report into sentences, without a model."""

import re
from typing import Final

from unix_cxr.reports.tokens import words

_ABBREVIATIONS: Final = words(
    "dr mr mrs ms prof st vs approx e.g i.e cf fig a.m p.m no r l m.d resp dept ext pt"
)
_END: Final = re.compile(r"""[.!?\n](?:(?<=\n)\n*+|(?<!\n)(?<![.!?][.!?])[.!?]*+["')\]]*+(?=\s))""")
"""Begins with a set of characters, so that `re` skips from one candidate to the next."""
_LAST_WORD: Final = re.compile(r"([A-Za-z][A-Za-z.]*)$")
_LONGEST_ABBREVIATION: Final = max(map(len, _ABBREVIATIONS))
_WORDY: Final = re.compile(r"\w")
_LIST_MARK: Final = re.compile(r"^\s*(?:\(?\d{1,2}[.)](?!\d)|[-*•·])\s*")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text` in order, list numbers cut off, none of them empty.

    >>> split_sentences("1. Mass of 4.5 cm at T12. 2. Dr. Lee was paged.")
    ['Mass of 4.5 cm at T12.', 'Dr. Lee was paged.']
    """
    sentences: list[str] = []
    start = 0
    for match in _END.finditer(text):
        if text[match.start()] == "." and not _ends(text, start, match):
            continue
        _append(sentences, text[start : match.end()])
        start = match.end()
    _append(sentences, text[start:])
    return sentences


def _append(sentences: list[str], piece: str) -> None:
    piece = piece.strip()
    if piece[:1].isalpha():
        sentences.append(piece)
        return
    while piece and (mark := _LIST_MARK.match(piece)):
        piece = piece[mark.end() :]
    if _WORDY.search(piece):
        sentences.append(piece)


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the full stop at `match` ends a sentence."""
    stop = match.start()
    previous = text[stop - 1 : stop]
    if previous.isdigit():
        return not text[start:stop].strip(" (").isdigit()
    if not previous.isalpha():
        return True
    word = _LAST_WORD.search(text, max(start, stop - _LONGEST_ABBREVIATION - 1), stop)
    return word is None or not _abbreviates(word.group(1), text[match.end() : match.end() + 4])


def _abbreviates(word: str, rest: str) -> bool:
    lowered = word.lower()
    if len(word) == 1 and word.isupper():
        return False if word in "LRI" else bool(re.match(r"\s[A-Z]", rest))
    if lowered not in _ABBREVIATIONS:
        return False
    if lowered in {"no", "r", "l"}:
        return bool(re.match(r"\s\d", rest))
    return lowered in {"dr", "mr", "mrs", "ms", "prof", "st"} or not re.match(r"\s[A-Z]", rest)
