"""One sentence through the catalogue: keep, rewrite or remove, with the rule's name."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from unix_cxr.reports.content import states_something
from unix_cxr.reports.guard import differences, violations
from unix_cxr.reports.labeler import Statement
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


class RuleIndex:
    """From the words of a sentence to the rules that may match it.

    A set of rules is the bits of one integer. A rule may match where the sentence holds one of its
    triggers and one word of each of its further sets.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        needs = [(rule.triggers, *rule.also) for rule in rules]
        self._levels: list[dict[str, int]] = []
        self._without: list[int] = []
        for level in range(max(map(len, needs), default=0)):
            bits: dict[str, int] = {}
            without = 0
            for number, sets in enumerate(needs):
                if level >= len(sets):
                    without |= 1 << number
                    continue
                for word in sets[level]:
                    bits[word] = bits.get(word, 0) | 1 << number
            self._levels.append(bits)
            self._without.append(without)

    def candidates(self, tokens: Iterable[str]) -> Iterator[int]:
        """Numbers of the rules that may match, in order."""
        left = -1
        for bits, without in zip(self._levels, self._without, strict=True):
            found = without
            for word in bits.keys() & tokens:
                found |= bits[word]
            left &= found
            if not left:
                return
        while left:
            lowest = left & -left
            yield lowest.bit_length() - 1
            left ^= lowest


class Decider:
    """The catalogue with an index from trigger words to rules.

    Args:
        rules: the rules in their order.
        prefilter: search a rule only in sentences that hold one of its triggers, and in lower
            case. Off, every rule is searched in every sentence as it is written: slow, the same
            answer (a test holds the two together).
    """

    def __init__(self, rules: Sequence[Rule], *, prefilter: bool = True) -> None:
        self.rules = tuple(rules)
        self.prefilter = prefilter
        self.triggers = frozenset(word for rule in self.rules for word in rule.triggers)
        self._index = RuleIndex(self.rules)

    def __call__(self, sentence: str) -> Decision:
        """Decide one sentence."""
        return self.decide(Statement(sentence))[0]

    def decide(self, said: Statement) -> tuple[Decision, Statement]:
        """The decision about a sentence, and the statement whose facts go with it."""
        if self.prefilter and self.triggers.isdisjoint(said.tokens):
            return Decision(KEEP, finish(said.text)), said
        decision = self._apply(said)
        if decision.action != REWRITE:
            return decision, said
        after = Statement(decision.text)
        problems = differences(said, after)
        if not problems:
            return decision, after
        if decision.category is Category.PRIOR and not said.facts:
            # what it states without the words of the past, it states of an earlier image only
            return Decision(REMOVE, said.text, decision.rules, decision.category), said
        decision = self.rescue(said.text, decision, problems)
        return decision, Statement(decision.text) if decision.action == REWRITE else said

    def _candidates(self, text: str) -> Iterable[int]:
        if not self.prefilter:
            return range(len(self.rules))
        return self._index.candidates(tokenize(text))

    def _apply(self, said: Statement) -> Decision:
        sentence = text = said.text
        if not self.prefilter or not PROTECTED_WORDS.isdisjoint(said.tokens):
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
            lowered = self._lowered(text)
            for number in self._candidates(text):
                rule = self.rules[number]
                if not rule.found_in(text, lowered):
                    continue
                if rule.action is Action.REMOVE:
                    used.append(rule)
                    return text, True
                changed = rule.regex.sub(rule.replacement, text)
                if changed != text:
                    used.append(rule)
                    text = tidy(changed)
                    if not text:
                        return text, False
                    lowered = self._lowered(text)
            if text == before:
                break
        return text, False

    def _lowered(self, text: str) -> str | None:
        return text.lower() if self.prefilter and text.isascii() else None

    def rescue(self, sentence: str, refused: Decision, problems: tuple[str, ...]) -> Decision:
        """The safer form of a sentence whose decision the guard refused.

        No rule removes it, and a rewrite counts only where it passes the guard by itself; in the
        worst case the sentence stays as it was.
        """
        text = shield(sentence)
        used: list[Rule] = []
        for number in self._candidates(text):
            rule = self.rules[number]
            if rule.action is Action.REMOVE or not rule.found_in(text, self._lowered(text)):
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
