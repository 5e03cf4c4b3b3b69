"""Grammar after a cut: spaces, commas, articles, the capital and the full stop."""

import re
from typing import Final

from unix_cxr.reports.tokens import words

_SPACES: Final = re.compile(r"\s\s+")
_SPACE_BEFORE: Final = re.compile(r"\s\s*(?=[,.;:)])")
_EMPTY_PARENS: Final = re.compile(r"\(\s*[,;.]?\s*\)")
_COMMAS: Final = re.compile(r",(?:\s*,)+")
_COMMA_STOP: Final = re.compile(r"[,;:]\s*(?=[.;]|$)")
_LEADING: Final = re.compile(
    r"^(?:[\s,;:.)-]+|(?:and|but|or|with|also|otherwise|however|which|that|while|yet|then|"
    r"in addition|additionally|although|otherwise),?\s+(?=\S))+",
    re.IGNORECASE,
)
_DANGLING: Final = re.compile(
    r"(?:,?\s+(?:and|but|or|with|which|that|in|of|at|on|from|since|than|to|as|the|a|an|by|for|"
    r"due to|is|are|has|have|also|not|significantly|substantially))+(?=\s*[.,;]?$)",
    re.IGNORECASE,
)
_LAST_WORDS: Final = words(
    "and but or with which that in of at on from since than to as the a an by for is are has have "
    "also not significantly substantially"
)
"""The last words of what `_DANGLING` cuts."""
_ARTICLE: Final = re.compile(r"\ban? (?=[a-z])", re.IGNORECASE)
_REPEATED: Final = re.compile(
    r"\b(?:(is|are|the|a|an|in place|in|of|with|present) \1\b|(?:and|or|but),? |"
    r"(?:is|are|was|were),? (?:and|but|or)\b)"
)
"""In lower case: what `_TWICE`, `_AND_STOP` or `_IS_AND` may act on."""
_CLOSED: Final = re.compile(r"[.!?][\"')\]]*$")
_AND_COMMA: Final = re.compile(r"\b(and|or|but),\s+", re.IGNORECASE)
_COMMA_AND_STOP: Final = re.compile(r"\b(and|but|or) (?=and\b|but\b|or\b)", re.IGNORECASE)
_IS_AND: Final = re.compile(r"\b(is|are|was|were),? (?:and|but|or),? ", re.IGNORECASE)
_THERE_IS_THE: Final = re.compile(r"^(There (?:is|are)) (?:the )?(?=\w)")
_TWICE: Final = re.compile(
    r"\b(is|are|the|a|an|in place|in|of|with|present)( \1)+\b", re.IGNORECASE
)


def tidy(sentence: str) -> str:
    """A sentence that reads as one again after something was cut out of it.

    >>> tidy(" , there is a opacity , and .")
    'There is an opacity.'
    """
    text = _EMPTY_PARENS.sub(" ", sentence) if "(" in sentence else sentence
    text = _SPACES.sub(" ", text.strip())
    text = _SPACE_BEFORE.sub("", text)
    text = _COMMAS.sub(",", text)
    if leading := _LEADING.match(text):
        text = text[leading.end() :]
    if not text.isascii() or _REPEATED.search(text.lower()):
        text = _TWICE.sub(r"\1", text)
        text = _COMMA_AND_STOP.sub("", text)
        text = _IS_AND.sub(r"\1 ", text)
    ending = text.rstrip(" \t\n.,;").rsplit(None, 1)[-1:]
    if not text.isascii() or not _LAST_WORDS.isdisjoint(word.lower() for word in ending):
        text = _DANGLING.sub("", text)
    text = _COMMA_STOP.sub("", text)
    if text.startswith("There "):
        text = _THERE_IS_THE.sub(r"\1 ", text)
    text = _ARTICLE.sub(_article, text)
    return finish(text.strip(" ,;:-"))


def finish(sentence: str) -> str:
    """The first letter large and a full stop at the end."""
    if not sentence:
        return ""
    first = sentence[0]
    if "a" <= first <= "z":
        sentence = first.upper() + sentence[1:]
    if sentence[-1] in ".!?":
        return sentence
    return sentence if _CLOSED.search(sentence) else sentence + "."


def _article(match: re.Match[str]) -> str:
    following = match.string[match.end() : match.end() + 4].lower()
    written = match.group()
    vowel = following[:1] in "aeio" or following in {"unde", "uppe", "ulce", "unus", "unch"}
    if following.startswith(("one", "eu")) or (
        written.lower() == "an " and following[:1] in "hnxumlrsf"
    ):
        return written
    return written[0] + ("n " if vowel else " ")
