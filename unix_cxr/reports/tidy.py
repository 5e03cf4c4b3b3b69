"""Grammar after a cut: spaces, commas, articles, the capital and the full stop."""

import re
from typing import Final

_SPACES: Final = re.compile(r"\s{2,}")
_SPACE_BEFORE: Final = re.compile(r"\s+(?=[,.;:)])")
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
_A_VOWEL: Final = re.compile(r"\b([Aa])n? (?=(\w))")
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
    text = _EMPTY_PARENS.sub(" ", sentence)
    text = _SPACES.sub(" ", text.strip())
    text = _SPACE_BEFORE.sub("", text)
    text = _COMMAS.sub(",", text)
    text = _LEADING.sub("", text)
    text = _TWICE.sub(r"\1", text)
    text = _COMMA_AND_STOP.sub("", text)
    text = _IS_AND.sub(r"\1 ", text)
    text = _DANGLING.sub("", text)
    text = _COMMA_STOP.sub("", text)
    text = _THERE_IS_THE.sub(r"\1 ", text)
    text = re.sub(r"\ban? (?=[a-z])", _article, text, flags=re.IGNORECASE)
    return finish(text.strip(" ,;:-"))


def finish(sentence: str) -> str:
    """The first letter large and a full stop at the end."""
    if not sentence:
        return ""
    first = sentence[0]
    if "a" <= first <= "z":
        sentence = first.upper() + sentence[1:]
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
