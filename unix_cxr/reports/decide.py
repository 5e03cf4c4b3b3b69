"""One sentence through the catalogue: keep, rewrite or remove, with the rule's name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from unix_cxr.reports.content import states_something
from unix_cxr.reports.guard import violations
from unix_cxr.reports.labeler import facts
from unix_cxr.reports.records import Category
from unix_cxr.reports.rules.base import Action, Rule
from unix_cxr.reports.rules.protect import PROTECTED_WORDS, shield, unshield
from unix_cxr.reports.tidy import finish, tidy
from unix_cxr.reports.tokens import tokenize

_ROUNDS: Final = 6
KEEP: Final = "keep"
REWRITE: Final = "rewrite"
REMOVE: Final = "remove"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one sentence; `rules` are the names of the rules that acted, in order."""

    action: str
    text: str
    rules: tuple[str, ...] = ()
    category: Category = Category.FINDING
    problems: tuple[str, ...] = ()


class Decider:
    """The catalogue with an index from trigger words to rules.

    Args:
        rules: the rules in their order.
        prefilter: search a rule only in sentences that hold one of its triggers. Off, every rule
            is searched in every sentence: slow, the same answer (a test holds the two together).
    """

    def __init__(self, rules: Sequence[Rule], *, prefilter: bool = True) -> None:
        self.rules = tuple(rules)
        self.prefilter = prefilter
        index: dict[str, list[int]] = {}
        for number, rule in enumerate(self.rules):
            for word in rule.triggers:
                index.setdefault(word, []).append(number)
        self._index = {word: frozenset(numbers) for word, numbers in index.items()}
        self.triggers = frozenset(index)

    def __call__(self, sentence: str, tokens: Sequence[str] | None = None) -> Decision:
        """Decide one sentence."""
        tokens = tokenize(sentence) if tokens is None else tokens
        if self.prefilter and self.triggers.isdisjoint(tokens):
            return Decision(KEEP, finish(sentence))
        return self._guarded(sentence, self._apply(sentence, tokens))

    def _candidates(self, text: str) -> list[int]:
        if not self.prefilter:
            return list(range(len(self.rules)))
        hit = self.triggers.intersection(tokenize(text))
        if not hit:
            return []
        return sorted(frozenset().union(*(self._index[word] for word in hit)))

    def _apply(self, sentence: str, tokens: Sequence[str]) -> Decision:
        text = sentence
        if not self.prefilter or not PROTECTED_WORDS.isdisjoint(tokens):
            text = shield(text)
        used: list[Rule] = []
        text, removed = self._settle(text, used)
        if removed or (used and not text):
            return _removed(sentence, used)
        text = unshield(text)
        if not used:
            return Decision(KEEP, finish(text))
        if not states_something(tokenize(text)):
            return _removed(sentence, used)
        return Decision(REWRITE, text, _names(used), used[0].category)

    def _settle(self, text: str, used: list[Rule]) -> tuple[str, bool]:
        """The text after rounds of rewriting until nothing changes, or that a rule removes it."""
        for _ in range(_ROUNDS):
            before = text
            for number in self._candidates(text):
                rule = self.rules[number]
                if rule.action is Action.REMOVE:
                    if rule.regex.search(text):
                        used.append(rule)
                        return text, True
                    continue
                changed = rule.regex.sub(rule.replacement, text)
                if changed != text:
                    used.append(rule)
                    text = tidy(changed)
                    if not text:
                        return text, False
            if text == before:
                break
        return text, False

    def _guarded(self, sentence: str, decision: Decision) -> Decision:
        """The decision, or the sentence as it stood where the decision would change a fact."""
        if decision.action == KEEP:
            return decision
        if decision.action == REMOVE:
            return decision
        problems = violations(sentence, decision.text)
        if not problems:
            return decision
        if decision.category is Category.PRIOR and not facts(tokenize(sentence)):
            # what it states without the words of the past, it states of an earlier image only
            return Decision(REMOVE, sentence, decision.rules, decision.category)
        return self.rescue(sentence, decision, problems)

    def rescue(self, sentence: str, refused: Decision, problems: tuple[str, ...]) -> Decision:
        """The safer form of a sentence whose decision the guard refused.

        No rule removes it, and a rewrite counts only where it passes the guard by itself; in the
        worst case the sentence stays as it was.
        """
        text = shield(sentence)
        used: list[Rule] = []
        for number in self._candidates(text):
            rule = self.rules[number]
            if rule.action is Action.REMOVE:
                continue
            changed = rule.regex.sub(rule.replacement, text)
            if changed != text:
                changed = tidy(changed)
                if changed and not violations(unshield(text), unshield(changed)):
                    used.append(rule)
                    text = changed
        text = finish(unshield(text))
        if used and not violations(sentence, text):
            rules = (*_names(used), "guard.rescued")
            return Decision(REWRITE, text, rules, used[0].category, problems)
        return Decision(KEEP, finish(sentence), refused.rules, refused.category, problems)


def _removed(sentence: str, used: list[Rule]) -> Decision:
    return Decision(
        REMOVE, sentence, _names(used), used[-1].category if len(used) == 1 else used[0].category
    )


def _names(used: Sequence[Rule]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(rule.name for rule in used))
