"""Characters, blanks and lines of a report, brought to one form before anything is decided."""

import html
import re
import unicodedata
from typing import Final

from unix_cxr.reports.tokens import words

BLANK: Final = "___"
"""The one mark that stands for whatever a de-identifier took out."""

_TRANSLATION: Final = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201a": "'",
        "\u201b": "'",
        "\u2032": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u201e": '"',
        "\u2033": '"',
        "\u2013": "-",
        "\u2014": " - ",
        "\u2010": "-",
        "\u2011": "-",
        "\u2012": "-",
        "\u2015": " - ",
        "\u2212": "-",
        "\u2026": "...",
        "\u00a0": " ",
        "\u2002": " ",
        "\u2003": " ",
        "\u2009": " ",
        "\u202f": " ",
        "\u3000": " ",
        "\u2007": " ",
        "\u2028": "\n",
        "\u2029": "\n\n",
        "\x85": "\n",
        "\x0b": "\n",
        "\x0c": "\n",
        "\ufb01": "fi",
        "\ufb02": "fl",
        "\ufb00": "ff",
        "\ufb03": "ffi",
        "\ufb04": "ffl",
        "\u00d7": "x",
        "\ufeff": "",
        "\u00ad": "",
        "\u200b": "",
        "\u2060": "",
    }
)
"""Quotes, dashes, spaces, ligatures -> their plain forms."""
_MOJIBAKE: Final = {
    "\u00e2\u20ac\u2122": "'",
    "\u00e2\u20ac\u02dc": "'",
    "\u00e2\u20ac\u0153": '"',
    "\u00e2\u20ac\x9d": '"',
    "\u00e2\u20ac\u201c": "-",
    "\u00e2\u20ac\u201d": " - ",
    "\u00e2\u20ac\u00a2": "-",
    "\u00c2\u00b0": "\u00b0",
    "\u00c2\u00b1": "\u00b1",
    "\u00c2 ": " ",
    "\u00c3\u2014": "x",
    "\u00c2\u00bd": "\u00bd",
}
"""UTF-8 that was once read as Windows-1252 -> what it meant."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_ODD_CATEGORIES: Final = frozenset(("Cc", "Cf", "Co", "Cn", "Cs"))

_BLANKS: Final = re.compile(
    r"""\[\*\*.{0,80}?\*\*\]            # MIMIC-III: [**2110-3-4**]
      | <(?:date|name|time|person|location|hospital|doctor|physician|patient|id|number|phone|mrn
          |age|institution|organization|unk|redacted|removed)[ _\d]{0,4}>
      | \[(?:date|name|time|person|location|hospital|doctor|physician|patient|id|number|phone|mrn
          |redacted|removed|deidentified|de-identified|blank)[ _\d]{0,4}\]
      | \*{3,} | @{3,} | \bx{4,}\b(?:[/'-](?:\d{1,4}|s|x{4,})\b)* | (?<!\w)_{2,}(?!\w)
      | (?<=\w)_{3,} | _{3,}(?=\w)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BLANK_RUN: Final = re.compile(r"___(?:[ \t]*[/\\]?[ \t]*___)+")
_XXXX: Final = re.compile(r"\bXXXX+\b(?:[/'-](?:\d{1,4}|s|XXXX+)\b)*")
_MAY_BE_BLANK: Final = ("__", "*", "[", "<", "@", "xxxx", "Xxxx")
_SPACES: Final = re.compile(r"[ \t]{2,}|\t")
_SPACE_BEFORE: Final = re.compile(r"(?<=\S) +(?=[,;.](?:\s|$))")
_GLUED: Final = re.compile(r"(?<=[a-z)])([.;])(?=[A-Z][a-z])")
_STOPS: Final = re.compile(r"(?<![. ])\.(?:[ ]?\.)++(?=\s|$)")
_GLUED_OR_STOPS: Final = re.compile(r"[.;][A-Z.]")
_UNTIDY: Final = ("  ", "\t", " ,", " ;", " .")
_LOWER: Final = bytes(range(ord("a"), ord("z") + 1))
_LINE_BREAK: Final = re.compile(r"<br ?/?>", re.IGNORECASE)
_RTF_BREAK: Final = re.compile(r"\\(?:par|line|pard|tab)\b ?")
_LIST_ITEM: Final = re.compile(r"(?:\(?\d{1,2}[.)](?!\d)|[-*•·]\s)")
_WRAPPED_AT: Final = 45

ACRONYMS: Final = words(
    "PICC SVC IVC ET ETT NG OG IJ AP PA CT MRI PET COPD CHF CABG AICD ICD ARDS ICU ECG EKG "
    "CVC CVP LAD RCA RUL RML RLL LUL LLL RV RA LV LA IABP TIPS TAVR TAVI VP PEG GI GE AC T L "
    "C US CXR DVT PE TB HIV II III IV NGT OGT LVAD ECMO UIP ILD"
)
_CAPS_WORD: Final = re.compile(r"[A-Za-z]+")
_SENTENCE_START: Final = re.compile(r"(^|[.!?:]\s+|\n\s*)([a-z])")


def normalise_characters(text: str) -> str:
    r"""Unicode to one form, controls dropped, entities read, every blank written as `___`.

    >>> normalise_characters("No effusion\x00 on XXXX [**2110-3-4**].")
    'No effusion on ___.'
    """
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _LINE_BREAK.sub("\n", text)
    if "\\" in text:
        text = _RTF_BREAK.sub("\n", text)
    if not text.isascii():
        text = _plain_unicode(text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not (text.isascii() and text.replace("\n", " ").isprintable()):
        text = text.translate(_TRANSLATION)
        text = _CONTROL.sub("", text)
    if any(mark in text for mark in _MAY_BE_BLANK):
        text = _BLANK_RUN.sub(BLANK, _BLANKS.sub(BLANK, text))
    elif "XXXX" in text:
        text = _BLANK_RUN.sub(BLANK, _XXXX.sub(BLANK, text))
    return text


def _plain_unicode(text: str) -> str:
    for wrong, right in _MOJIBAKE.items():
        text = text.replace(wrong, right)
    text = unicodedata.normalize("NFC", text.translate(_TRANSLATION))
    if text.isascii():
        return text
    return "".join(
        c for c in text if c in "\n\t\r" or unicodedata.category(c) not in _ODD_CATEGORIES
    )


def join_lines(text: str) -> str:
    r"""Undo line wraps; a newline that stays is a sentence boundary.

    >>> join_lines("There is a large left pleural\neffusion.")
    'There is a large left pleural effusion.'
    """
    if "\n" in text:
        text = _joined(text.split("\n"))
    if any(mark in text for mark in _UNTIDY) or _GLUED_OR_STOPS.search(text):
        text = _GLUED.sub(r"\1 ", text)
        text = _SPACES.sub(" ", text)
        text = _SPACE_BEFORE.sub("", text)
        text = _STOPS.sub(".", text)
    return text.strip()


def _joined(lines: list[str]) -> str:
    pieces: list[str] = []
    previous = ""
    for raw in lines:
        line = raw.strip()
        if pieces:
            pieces.append("\n" if _breaks(previous, line) else " ")
        pieces.append(line)
        previous = line
    return "".join(pieces)


def _breaks(previous: str, line: str) -> bool:
    """Whether the newline between two stripped lines is more than a wrap."""
    if not previous or not line:
        return True
    if line[0].islower() or previous[-1] in ",-":
        return False
    if _LIST_ITEM.match(line) or previous[-1] == ":":
        return True
    return len(previous) < _WRAPPED_AT and previous[-1] not in ".;" and not line[0].isdigit()


def quiet_capitals(text: str) -> str:
    """Sentence case for a text that is written in capitals; acronyms stay.

    >>> quiet_capitals("THERE IS A RIGHT PICC. NO EFFUSION.")
    'There is a right PICC. No effusion.'
    """
    if not _shouts(text):
        return text
    lowered = _CAPS_WORD.sub(_quiet_word, text)
    return _SENTENCE_START.sub(lambda m: m.group(1) + m.group(2).upper(), lowered)


def _shouts(text: str) -> bool:
    head = text[:200]
    plain = head.encode("ascii", "ignore")
    lower = len(plain) - len(plain.translate(None, _LOWER))
    if lower * 2 > len(head):
        return False
    upper = sum(map(str.isupper, head))
    return upper > 12 and upper > 4 * lower  # noqa: PLR2004 - a sentence, nearly all capitals


def _quiet_word(match: re.Match[str]) -> str:
    word = match.group()
    if word in ACRONYMS or not word.isupper():
        return word
    return word.lower()
