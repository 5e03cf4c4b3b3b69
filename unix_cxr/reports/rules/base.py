"""What a rule is."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from unix_cxr.reports.records import Category
from unix_cxr.reports.tokens import tokenize, words

__all__ = ["Action", "Replacement", "Rule", "words"]

Replacement = str | Callable[[re.Match[str]], str]


class Action(StrEnum):
    """What a matching rule does with a sentence."""

    REMOVE = "remove"
    REWRITE = "rewrite"


_TELLS_CASES_APART: Final = re.compile(r"\(\?[a-zA-OQ-Z-]|(?<!\\)(?<!\(\?)[A-Z]")
"""In an expression: a flag, or a capital that is no class such as `\\S` and no `(?P<name>`."""


@dataclass(frozen=True)
class Rule:
    """One decision about one sentence.

    Args:
        name: `category.what`, unique; it stands beside everything the rule does.
        category: what the matched words are about.
        pattern: searched in the sentence without regard to case. A removal drops the sentence, a
            rewrite replaces every match and the rest of the catalogue goes on with the result.
        triggers: lower-case words of which every match holds at least one (blanks are `___`). A
            sentence without them is never searched, so this is where the speed comes from.
        also: further sets of words, of each of which every match holds at least one.
        example: a sentence the rule changes, and what becomes of it ("" where it is removed).
        counter_example: a sentence that looks alike and must stay as it is.
        replacement: what a rewrite puts in the place of the match.
        presets: the presets that use the rule.
    """

    name: str
    category: Category
    pattern: str
    triggers: frozenset[str]
    example: tuple[str, str]
    counter_example: str
    action: Action = Action.REWRITE
    replacement: Replacement = " "
    presets: frozenset[str] = frozenset(("unix", "conservative"))
    also: tuple[frozenset[str], ...] = ()

    def __post_init__(self) -> None:
        if not self.triggers:
            raise ValueError(f"rule {self.name!r} needs at least one trigger word")
        odd = [w for w in self.triggers.union(*self.also) if tokenize(w) != [w]]
        if odd:
            raise ValueError(f"triggers of rule {self.name!r} are not single words: {sorted(odd)}")
        if self.lowered is None:
            re.compile(self.pattern)

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The expression, without regard to case."""
        return re.compile(self.pattern, re.IGNORECASE)

    @cached_property
    def lowered(self) -> re.Pattern[str] | None:
        """The expression for ASCII text in lower case, which `re` searches three times as fast.

        None where the expression tells capitals from small letters.
        """
        return None if _TELLS_CASES_APART.search(self.pattern) else re.compile(self.pattern)

    def found_in(self, text: str, lowered: str | None) -> bool:
        """Whether the rule matches; `lowered` is the text in lower case if that is ASCII."""
        if lowered is None or self.lowered is None:
            return self.regex.search(text) is not None
        return self.lowered.search(lowered) is not None
