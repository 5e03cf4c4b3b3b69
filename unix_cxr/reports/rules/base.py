"""What a rule is."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from unix_cxr.reports.records import Category
from unix_cxr.reports.tokens import tokenize, words

__all__ = ["Action", "Replacement", "Rule", "words"]

Replacement = str | Callable[[re.Match[str]], str]


class Action(StrEnum):
    """What a matching rule does with a sentence."""

    REMOVE = "remove"
    REWRITE = "rewrite"


@dataclass(frozen=True, slots=True)
class Rule:
    """One decision about one sentence.

    Args:
        name: `category.what`, unique; it stands beside everything the rule does.
        category: what the matched words are about.
        pattern: searched in the sentence without regard to case. A removal drops the sentence, a
            rewrite replaces every match and the rest of the catalogue goes on with the result.
        triggers: lower-case words of which every match holds at least one (blanks are `___`). A
            sentence without them is never searched, so this is where the speed comes from.
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
    regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.triggers:
            raise ValueError(f"rule {self.name!r} needs at least one trigger word")
        odd = [word for word in self.triggers if tokenize(word) != [word]]
        if odd:
            raise ValueError(f"triggers of rule {self.name!r} are not single words: {sorted(odd)}")
        object.__setattr__(self, "regex", re.compile(self.pattern, re.IGNORECASE))
