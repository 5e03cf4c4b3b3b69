"""Words of a sentence, made once and shared by the rules' prefilter, the labeler and the guard."""

import re
from typing import Final

_TOKEN: Final = re.compile(r"[a-z]+(?:'[a-z]+)?|[0-9]+(?:\.[0-9]+)?|[,;:()/.]|_{2,}")


def tokenize(sentence: str) -> list[str]:
    """Lower-case words, numbers and the punctuation that ends a scope.

    >>> tokenize("No 4.5 cm mass; T12 is intact.")
    ['no', '4.5', 'cm', 'mass', ';', 't', '12', 'is', 'intact', '.']
    """
    return _TOKEN.findall(sentence.lower())


def words(text: str) -> frozenset[str]:
    """The words of a line, as data is written here.

    >>> sorted(words("left right"))
    ['left', 'right']
    """
    return frozenset(text.split())
