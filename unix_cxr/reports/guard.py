"""The validator: what a rewritten sentence states must be what the sentence stated before.

It looks at facts and not at rules: labels with their polarity, sides and severities, numbers and
the count of negations. A rule, a language model or a user's own step passes through the same gate.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from unix_cxr.reports.labeler import NEGATIVE, Fact, Statement, facts
from unix_cxr.reports.lexicon import SIDES
from unix_cxr.reports.sentences import split_sentences
from unix_cxr.reports.tokens import tokenize, words

_DIGIT: Final = re.compile(r"\d")
_NUMBER: Final = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")
_PAST_NUMBER: Final = re.compile(
    r"(?:previous\w*|prior|formerly|earlier|before|compared|versus|vs|series|image|from|since|"
    r"clip|dated|measured|after|months?|weeks?|days?|years?|hours?|by|recommend\w*|on|at)\b[^.;]*$"
    r"|^\W*(?:/|:|years?|yo|y/o|views?|hours?|months?|weeks?|days?|-? ?(?:year|day|month|week))",
    re.IGNORECASE,
)
_NEGATION: Final = re.compile(
    r"\b(?:no|not|without|nor|never|neither|cannot|absent|absence)\b"
    r"(?! (?:\w+ ){0,5}?(?:changed?|changes|differen\w+|longer|worsening|improvement|increase|"
    r"decrease)\b)"
    r"(?! contrast\b)(?! (?:\w+ ){0,2}?(?:comparisons?|priors)\b)",
    re.IGNORECASE,
)
_DENYING: Final = words("no not without nor never neither cannot absent absence")
_RESOLVED: Final = re.compile(
    r"\b(?:resolved|resolution|clearing|cleared|disappeared|no longer)\b", re.IGNORECASE
)
_CLAUSE_OF_PAST: Final = re.compile(
    r"\b(?:none on|not (?:seen|present|visuali[sz]ed) (?:on|in) (?:the )?(?:prior|previous))\b",
    re.IGNORECASE,
)


def violations(before: str, after: str) -> tuple[str, ...]:
    """What `after` states that `before` does not, or the reverse; empty when they agree.

    >>> violations("Small left effusion is unchanged.", "Small left effusion.")
    ()
    >>> violations("No pneumothorax.", "Pneumothorax.")
    ('negation: Pneumothorax',)
    """
    return differences(Statement(before), Statement(after))


def differences(before: Statement, after: Statement) -> tuple[str, ...]:
    """The same as `violations`, for sentences whose words or facts are known already."""
    problems = _label_problems(before.facts, after.facts)
    problems += _number_problems(before.text, after.text)
    problems += _word_problems(before.tokens, after.tokens)
    if not problems and _negations_differ(before, after):
        problems.append("negation: count")
    return tuple(problems)


def lost_facts(removed: Sequence[Fact], kept: Sequence[Fact]) -> tuple[str, ...]:
    """Findings that only the removed sentences state."""
    known = {(fact.label, fact.state == NEGATIVE) for fact in kept}
    return tuple(sorted({f.label for f in removed if (f.label, f.state == NEGATIVE) not in known}))


def _label_problems(old: list[Fact], new: list[Fact]) -> list[str]:
    if not old and not new:
        return []
    problems = []
    before = {(f.label, f.state) for f in old}
    after = {(f.label, f.state) for f in new}
    for label in sorted({f.label for f in (*old, *new)}):
        was = {state for name, state in before if name == label}
        now = {state for name, state in after if name == label}
        if not was:
            problems.append(f"gained: {label}")
        elif not now:
            problems.append(f"lost: {label}")
        elif was != now:
            problems.append(f"negation: {label}")
        else:
            problems += _attribute_problems(label, old, new)
    return problems


def _attribute_problems(label: str, old: list[Fact], new: list[Fact]) -> list[str]:
    problems = []
    was_sides = {side for f in old if f.label == label for side in f.sides}
    now_sides = {side for f in new if f.label == label for side in f.sides}
    if was_sides != now_sides:
        problems.append(f"side: {label}")
    was = {f.severity for f in old if f.label == label and f.severity}
    now = {f.severity for f in new if f.label == label and f.severity}
    if was != now:
        problems.append(f"severity: {label}")
    return problems


def _number_problems(before: str, after: str) -> list[str]:
    if not _DIGIT.search(before) and not _DIGIT.search(after):
        return []
    old = Counter(m.group() for m in _NUMBER.finditer(before))
    new = Counter(m.group() for m in _NUMBER.finditer(after))
    problems = [f"number gained: {n}" for n in sorted(new - old)]
    lost = old - new
    for match in _NUMBER.finditer(before):
        if lost[match.group()] and not _excused(before, match):
            problems.append(f"number lost: {match.group()}")
    return problems


def _excused(text: str, match: re.Match[str]) -> bool:
    ahead = text[: match.start()]
    return bool(
        re.search(_PAST_NUMBER.pattern.split("|^")[0], ahead, re.IGNORECASE)
        or re.match(
            r"\W*(?:years?|yo|y/o|views?|hours?|months?|weeks?|days?)\b", text[match.end() :]
        )
        or re.match(r"[^.;]{0,20}\b(?:previously|before|on the prior)", text[match.end() :])
    )


def _word_problems(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Sides that `after` names and `before` does not."""
    was = {side for word in old for side in SIDES.get(word, ())}
    now = {side for word in new for side in SIDES.get(word, ())}
    return [f"side gained: {side}" for side in sorted(now - was)]


def _negations_differ(before: Statement, after: Statement) -> bool:
    if _DENYING.isdisjoint(before.tokens) and _DENYING.isdisjoint(after.tokens):
        return False
    if _CLAUSE_OF_PAST.search(before.text):
        return False
    old = len(_NEGATION.findall(before.text))
    new = len(_NEGATION.findall(after.text))
    if _RESOLVED.search(before.text) and not _RESOLVED.search(after.text):
        return new not in {old, old + 1}
    return new != old


def report_violations(reference: str, candidate: str) -> tuple[str, ...]:
    """What a whole text states beyond or beneath another, sentence borders aside.

    >>> report_violations("Small left effusion. No pneumothorax.", "Left effusion, small.")
    ('severity: Pleural Effusion', 'lost: Pneumothorax')
    """
    old = [f for s in split_sentences(reference) for f in facts(tokenize(s))]
    new = [f for s in split_sentences(candidate) for f in facts(tokenize(s))]
    problems = _label_problems(old, new)
    known = Counter(m.group() for m in _NUMBER.finditer(reference))
    said = Counter(m.group() for m in _NUMBER.finditer(candidate))
    problems += [f"number gained: {n}" for n in sorted(said - known)]
    problems += [f"number lost: {n}" for n in sorted(known - said)]
    problems += _word_problems(tokenize(reference), tokenize(candidate))
    if not problems and len(_NEGATION.findall(reference)) != len(_NEGATION.findall(candidate)):
        problems.append("negation: count")
    return tuple(problems)
