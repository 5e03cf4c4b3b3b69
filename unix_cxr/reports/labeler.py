"""A rule labeler for the 14 CheXpert findings (arXiv:1901.07031): offline, deterministic, fast.

It knows phrases and the reach of negations; it is not CheXbert and does not agree with it
everywhere. What it reaches on the NegBio gold labels stands in docs/guides/cleaning.md.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from unix_cxr.reports import cues
from unix_cxr.reports.devices import device_of
from unix_cxr.reports.lexicon import NOT_A_MENTION, PHRASES, SEVERITIES, SIDES
from unix_cxr.reports.records import Label
from unix_cxr.reports.tokens import tokenize, words
from unix_cxr.vocabulary import FINDINGS, NO_FINDING

POSITIVE: Final = "positive"
NEGATIVE: Final = "negative"
UNCERTAIN: Final = "uncertain"
_STRENGTH: Final = {POSITIVE: 3, UNCERTAIN: 2, NEGATIVE: 1}
BLANK_TOKEN: Final = "___"
_PATHOLOGIES: Final = frozenset(FINDINGS) - {NO_FINDING, "Support Devices"}


class Fact(NamedTuple):
    """One mention of a finding in one sentence."""

    label: str
    state: str
    sides: frozenset[str] = frozenset()
    severity: str | None = None
    device: str | None = None


class _Cues(NamedTuple):
    """Which kinds of cue words a sentence holds at all."""

    denial: bool
    doubt: bool
    memory: bool


class _Mention(NamedTuple):
    start: int
    end: int
    labels: tuple[str, ...]


_EXCLUDED: Final = {
    word: frozenset(before.split()) for before, words in NOT_A_MENTION for word in words.split()
}
_HEART: Final = words(
    "heart cardiac cardiopericardial cardiomediastinal mediastinum mediastinal cardiomediastinum"
)
_HEART_SUBJECT: Final = (
    r"(?P<subject>(?:heart|cardiac|cardiopericardial)(?! and mediast)|"
    r"(?:heart|cardiac)(?: \w+)? and (?:superior |upper )?mediastin\w+|"
    r"cardio ?mediastin\w+|(?<!cardio )(?:superior |upper )?mediastin(?:um|al))"
)
_HEART_LARGE: Final = re.compile(
    rf"\b{_HEART_SUBJECT}\b(?: (?!normal\b|not\b|[;.])\S+){{0,7}}?"
    r" (?:enlarged|widened|prominent|large|increased in size|big|enlargement)\b"
)
_HEART_BORDERLINE: Final = re.compile(
    rf"\b{_HEART_SUBJECT}\b(?: \S+){{0,6}}? borderline\b"
    r"|\bborderline(?: \S+){0,3}? (?P<subject2>heart|cardiac)\b"
)
_HEART_UPPER: Final = re.compile(
    rf"\b{_HEART_SUBJECT}\b(?: \S+){{0,6}}? (?:top normal|upper|top)\b"
    r"|\b(?:top normal|upper normal|upper limits?)(?: \S+){0,4}? (?P<subject2>heart|cardiac)\b"
)
_HEART_NORMAL: Final = re.compile(
    rf"\b{_HEART_SUBJECT}\b(?: (?!but\b|[;.])\S+){{0,20}}?"
    r" (?:normal|unremarkable|not (?:\w+ )?(?:enlarged|widened))\b"
    r"|\b(?:normal|unremarkable)(?: (?!but\b|[;.])(?!lungs?\b)\S+){0,5}?"
    r" (?P<subject2>heart|cardiac|cardio ?mediastin\w+|mediastin\w+)\b"
)
_SIDE_AFTER: Final = words(
    "in at of on within along involving throughout bilaterally projecting over overlying "
    "bilateral seen"
)
_BOTH_SIDES: Final = re.compile(
    r"\b(?:left|right) (?:greater|larger|more|worse|less|smaller)\b.{0,20}?\bthan\b.{0,12}?"
    r"\b(?:left|right)\b"
)
_CHANGE_WORDS: Final = words(
    "interval increase increased decrease decreased increasing decreasing improvement "
    "improved improving worsening worsened worse better change changed progression progressed "
    "larger smaller more less resolution resolving clearing reduction reduced growth "
    "enlarging higher lower"
)
_LIST_BREAK: Final = re.compile(
    r", (?:(?:a|an|and|with|there is) )?(?:trace|tiny|small|large|minimal|mild|"
    r"moderate|severe|stable|unchanged|persistent|with|there|lungs?|heart|right|left|bilateral|multiple|new)\b"
    r"| with (?:a |an )?(?:small|large|moderate|mild|trace|bilateral|right|left|minimal)\b"
)
_LIST_CLOSES: Final = re.compile(r"\b(?:or|nor)\b|/")


class Statement:
    """A sentence with its words and its facts, each worked out once and only when asked for."""

    __slots__ = ("_facts", "_tokens", "text")

    def __init__(self, text: str, tokens: Sequence[str] | None = None) -> None:
        self.text = text
        self._tokens = tokens
        self._facts: list[Fact] | None = None

    @property
    def tokens(self) -> Sequence[str]:
        """The words, as `tokenize` gives them."""
        if self._tokens is None:
            self._tokens = tokenize(self.text)
        return self._tokens

    @property
    def facts(self) -> list[Fact]:
        """The mentions of findings, in order."""
        if self._facts is None:
            self._facts = facts(self.tokens)
        return self._facts


def facts(tokens: Sequence[str]) -> list[Fact]:
    """Every mention of a finding in one tokenized sentence, in order."""
    if BLANK_TOKEN in tokens:
        tokens = _without_blanks(tokens)
    mentions = _mentions(tokens)
    found: list[Fact] = []
    if mentions:
        cue = _Cues(
            not cues.DENIAL_WORDS.isdisjoint(tokens),
            not cues.DOUBT_WORDS.isdisjoint(tokens),
            not cues.MEMORY_WORDS.isdisjoint(tokens),
        )
        ends = [i for i, token in enumerate(tokens) if token in cues.CLAUSE_ENDS]
        for mention in mentions:
            found.extend(_judge(tokens, mention, mentions, (ends, cue)))
    if not _HEART.isdisjoint(tokens):
        found.extend(_heart(tokens, found))
    return found


def _without_blanks(tokens: Sequence[str]) -> list[str]:
    """What a blank stood for is not known: it neither joins nor parts the words around it."""
    kept: list[str] = []
    for token in tokens:
        if token != BLANK_TOKEN and not (token == "," and kept[-1:] == [","]):
            kept.append(token)
    return kept


def merge(all_facts: Iterable[Fact], *, has_text: bool = True) -> dict[str, Label]:
    """One label per finding: positive beats uncertain beats negative; absent ones are left out."""
    best: dict[str, list[Fact]] = {}
    for fact in all_facts:
        known = best.setdefault(fact.label, [])
        if known and _STRENGTH[fact.state] < _STRENGTH[known[0].state]:
            continue
        if known and _STRENGTH[fact.state] > _STRENGTH[known[0].state]:
            known.clear()
        known.append(fact)
    labels = {name: _label(best[name]) for name in FINDINGS if name in best}
    ill = any(label.state != NEGATIVE for name, label in labels.items() if name in _PATHOLOGIES)
    if has_text and not ill:
        labels[NO_FINDING] = Label(POSITIVE)
    return labels


def label_report(text: str) -> dict[str, Label]:
    """The labels of a text that may hold several sentences.

    >>> found = label_report("Small left effusion. No pneumothorax.")
    >>> found["Pleural Effusion"]
    Label(state='positive', sides=('left',), severity='mild', devices=())
    >>> found["Pneumothorax"].state
    'negative'
    """
    from unix_cxr.reports.sentences import split_sentences

    sentences = split_sentences(text)
    return merge((fact for s in sentences for fact in facts(tokenize(s))), has_text=bool(sentences))


def _label(found: list[Fact]) -> Label:
    sides = sorted({side for fact in found for side in fact.sides})
    severities = [fact.severity for fact in found if fact.severity]
    devices = sorted({fact.device for fact in found if fact.device})
    return Label(
        found[0].state, tuple(sides), severities[0] if severities else None, tuple(devices)
    )


def _mentions(tokens: Sequence[str]) -> list[_Mention]:
    found: list[_Mention] = []
    known = PHRASES.keys() & tokens
    if not known:
        return found
    skip_to = 0
    for i, token in enumerate(tokens):
        if token not in known or i < skip_to:
            continue
        candidates = PHRASES[token]
        for phrase, labels in candidates:
            end = i + len(phrase)
            if len(phrase) > 1 and tuple(tokens[i:end]) != phrase:
                continue
            if not _excluded(tokens, i):
                found.append(_Mention(i, end, labels))
                skip_to = end
            break
    return found


def _excluded(tokens: Sequence[str], i: int) -> bool:
    before = _EXCLUDED.get(tokens[i])
    return before is not None and not before.isdisjoint(tokens[max(0, i - 2) : i])


def _judge(
    tokens: Sequence[str],
    mention: _Mention,
    mentions: list[_Mention],
    scope: tuple[list[int], "_Cues"],
) -> list[Fact]:
    ends, cue = scope
    start, stop = 0, len(tokens)
    for end in ends:
        if end < mention.start:
            start = end + 1
        elif end >= mention.end:
            stop = end
            break
    before = " ".join(tokens[start : mention.start])
    after = "".join([" " + token for token in tokens[mention.end : stop]])
    whole = before
    if start and tokens[start - 1] in _CARRIES_DOUBT:
        whole = f"{tokens[start - 1]} {before}"
    state = _state(whole, before, after, cue) if any(cue) else POSITIVE
    found = []
    for label in mention.labels:
        if state is None and label not in cues.LASTING:
            continue
        if state is None and not _lasts(tokens, start, mention.start):
            continue
        found.append(
            _fact(label, state or POSITIVE, *_attributes(tokens, mention, mentions, (start, stop)))
        )
    return found


def _lasts(tokens: Sequence[str], start: int, stop: int) -> bool:
    """Whether what is spoken of as past is still to be seen: old fractures, earlier hardware."""
    gone = "removed" in tokens or "removal" in tokens
    return not gone and not cues.STILL_PRESENT.isdisjoint(tokens[start:stop])


def _fact(
    label: str, state: str, sides: frozenset[str], severity: str | None, device: str | None
) -> Fact:
    if label[0] == "?":
        return Fact(label[1:], UNCERTAIN if state == POSITIVE else state, sides, severity)
    return Fact(label, state, sides, severity, device)


_CARRIES_DOUBT: Final = frozenset(["suggesting", "suggests", "suggestive"])


def _state(whole: str, before: str, after: str, cue: _Cues) -> str | None:
    """Positive, negative, uncertain, or None where the words state nothing of this image."""
    denied = cue.denial and (
        _denied_before(before, after) or bool(after and cues.DENIED_AFTER.match(after))
    )
    if denied and not cues.DOUBTED_AFTER.match(after):
        return NEGATIVE
    if cue.memory and (cues.REMEMBERED_BEFORE.search(before) or cues.REMEMBERED_AFTER.match(after)):
        return None
    if cue.doubt and (cues.DOUBTED_BEFORE.search(whole) or cues.DOUBTED_AFTER.match(after)):
        return UNCERTAIN
    return POSITIVE


def _denied_before(before: str, after: str) -> bool:
    match = None
    for match in cues.DENIED_BEFORE.finditer(before):  # noqa: B007 - the last one counts
        pass
    if match is None:
        return False
    between = before[match.end() :]
    broken = _LIST_BREAK.search(between)
    if broken is None:
        return not re.search(r"\bthere (?:is|are)\b", between)
    return bool(_LIST_CLOSES.search(between[broken.start() :]) or _LIST_CLOSES.search(after))


def _attributes(
    tokens: Sequence[str], mention: _Mention, mentions: list[_Mention], clause: tuple[int, int]
) -> tuple[frozenset[str], str | None, str | None]:
    left, right = clause
    for other in mentions:
        if left < other.end <= mention.start:
            left = other.end
        elif mention.end <= other.start < right:
            right = other.start
    window = list(tokens[left : mention.start])
    if "," in window:
        window = window[len(window) - window[::-1].index(",") :]
    sides = _sides_in(window)
    follow = list(tokens[mention.end : right])
    if follow and not sides and follow[0] in _SIDE_AFTER:
        sides = _sides_in(_until_break(follow))
    if follow and _BOTH_SIDES.search(" ".join(follow)):
        sides = frozenset(("left", "right"))
    phrase = tokens[mention.start : mention.end]
    return sides, _severity([*window, *phrase]), device_of(phrase, window)


def _until_break(words: list[str]) -> list[str]:
    for i, word in enumerate(words):
        if word in {",", "with", "or"}:
            return words[:i]
    return words


def _sides_in(words: Iterable[str]) -> frozenset[str]:
    return frozenset(side for word in words for side in SIDES.get(word, ()))


def _severity(window: list[str]) -> str | None:
    for i in range(len(window) - 1, -1, -1):
        word = window[i]
        if word in SEVERITIES and _CHANGE_WORDS.isdisjoint(window[i + 1 : i + 3]):
            return SEVERITIES[word]
    return None


def _heart(tokens: Sequence[str], known: list[Fact]) -> list[Fact]:
    """What a sentence says of the heart's and the mediastinum's size by subject and predicate."""
    text = " ".join(tokens)
    stated = {fact.label for fact in known}
    found = []
    for pattern, plain, needed in _HEART_PATTERNS:
        match = None if needed.isdisjoint(tokens) else pattern.search(text)
        if match is None:
            continue
        said = text[max(0, match.start() - 30) : match.end()].split()
        state = plain
        severity = _severity(said) if state == POSITIVE else None
        if state == POSITIVE and _denied_before(text[: match.start()], ""):
            state = NEGATIVE
        for label in _heart_labels(match):
            if label not in stated:
                found.append(Fact(label, state, frozenset(), severity))
                stated.add(label)
    return found


_HEART_PATTERNS: Final = (
    (
        _HEART_LARGE,
        POSITIVE,
        words("enlarged widened prominent large increased big enlargement"),
    ),
    (_HEART_BORDERLINE, POSITIVE, frozenset(("borderline",))),
    (_HEART_UPPER, UNCERTAIN, frozenset(("upper", "top"))),
    (_HEART_NORMAL, NEGATIVE, frozenset(["normal", "unremarkable", "not"])),
)


def _heart_labels(match: re.Match[str]) -> tuple[str, ...]:
    groups = match.groupdict()
    subject = groups.get("subject") or groups.get("subject2") or ""
    heart = "heart" in subject or "cardi" in subject
    mediastinum = "mediast" in subject
    if heart and mediastinum:
        return ("Cardiomegaly", "Enlarged Cardiomediastinum")
    return ("Cardiomegaly",) if heart else ("Enlarged Cardiomediastinum",)
