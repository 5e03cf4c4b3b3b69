"""The whole catalogue, in the order in which the rules are tried."""

from typing import Final

from unix_cxr.reports.rules.base import Rule
from unix_cxr.reports.rules.change import CHANGE
from unix_cxr.reports.rules.change_words import CHANGE_WORDS
from unix_cxr.reports.rules.other import (
    ADMINISTRATIVE,
    COMMUNICATION,
    HISTORY,
    RECOMMENDATION,
)
from unix_cxr.reports.rules.prior import PRIOR
from unix_cxr.reports.rules.residue import RESIDUE
from unix_cxr.reports.rules.technique import TECHNIQUE

CATALOGUE: Final[tuple[Rule, ...]] = (
    *ADMINISTRATIVE,
    *COMMUNICATION,
    *RECOMMENDATION,
    *HISTORY,
    *TECHNIQUE,
    *PRIOR[:-1],
    *CHANGE,
    *CHANGE_WORDS,
    PRIOR[-1],
    *RESIDUE,
)


def rule_named(name: str) -> Rule:
    """The rule with this name.

    Raises:
        KeyError: there is none.
    """
    for rule in CATALOGUE:
        if rule.name == name:
            return rule
    raise KeyError(f"no rule is named {name!r}; known: {sorted(r.name for r in CATALOGUE)}")
