"""Reports of phantoms in varied wording, and back again.

Every sentence is one of a known set, so that `parse` reads back exactly what a text states: which
findings with side, severity and zone, and which absences.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Final

from unix_cxr.data.phantom.description import (
    EXTENTS,
    KINDS,
    SIDED,
    SIDES,
    ZONED,
    ZONES,
    Kind,
    Phantom,
    PhantomFinding,
    Side,
    View,
    Zone,
)

PRESENT: Final[Mapping[Kind, Sequence[str]]] = {
    "effusion": (
        "{Severity} {side} pleural effusion.",
        "There is a {severity} {side} pleural effusion.",
        "A {severity} pleural effusion is seen on the {side}.",
        "{Severity} {side}-sided pleural effusion is present.",
    ),
    "pneumothorax": (
        "{Severity} {side} pneumothorax.",
        "There is a {severity} {side} pneumothorax.",
        "A {severity} pneumothorax is seen on the {side}.",
        "{Severity} {side}-sided pneumothorax is present.",
    ),
    "consolidation": (
        "{Severity} {side} {zone} zone consolidation.",
        "There is a {severity} consolidation in the {side} {zone} zone.",
        "A {severity} area of consolidation is present in the {zone} zone of the {side} lung.",
    ),
    "atelectasis": (
        "{Severity} {side} basilar atelectasis.",
        "There is {severity} atelectasis at the {side} lung base.",
        "{Severity} {side} basilar atelectasis is present with a raised diaphragm.",
    ),
    "edema": (
        "{Severity} pulmonary edema.",
        "There is {severity} pulmonary edema.",
        "{Severity} pulmonary edema is present around both hila.",
    ),
    "cardiomegaly": (
        "{Severity} cardiomegaly.",
        "There is {severity} cardiomegaly.",
        "The heart is {severity}ly enlarged.",
    ),
    "nodule": (
        "{Side} {zone} zone nodule.",
        "There is a nodule in the {side} {zone} zone.",
        "A round nodule is seen in the {zone} zone of the {side} lung.",
    ),
    "hernia": (
        "{Severity} hiatal hernia.",
        "There is a {severity} hiatal hernia.",
        "A {severity} hiatal hernia is seen behind the heart.",
    ),
    "fracture": (
        "{Side} rib fractures.",
        "There are displaced {side} rib fractures.",
        "Displaced rib fractures are seen on the {side}.",
    ),
    "tube": (
        "Endotracheal tube in {severity} position.",
        "There is an endotracheal tube in {severity} position.",
        "The tip of the endotracheal tube is in {severity} position.",
    ),
    "line": (
        "{Side} central venous line.",
        "There is a {side} central venous line.",
        "A {side} subclavian central venous line ends in the superior vena cava.",
    ),
    "pacemaker": (
        "{Side} pacemaker.",
        "There is a {side} chest pacemaker.",
        "A {side} pacemaker has its lead in the right ventricle.",
    ),
}
"""Wordings of each finding; the first is the canonical one, which `prompt` gives."""

ABSENT: Final[Mapping[tuple[Kind, ...], Sequence[str]]] = {
    ("effusion",): ("No pleural effusion.", "There is no pleural effusion."),
    ("pneumothorax",): ("No pneumothorax.", "There is no pneumothorax."),
    ("consolidation",): ("No consolidation.", "No focal consolidation is seen."),
    ("atelectasis",): ("No atelectasis.",),
    ("edema",): ("No pulmonary edema.", "There is no pulmonary edema."),
    ("cardiomegaly",): ("No cardiomegaly.", "The heart is normal in size."),
    ("nodule",): ("No nodule.", "No lung nodule is seen."),
    ("hernia",): ("No hiatal hernia.",),
    ("fracture",): ("No rib fracture.", "No displaced rib fracture is seen."),
    ("tube",): ("No endotracheal tube.",),
    ("line",): ("No central venous line.",),
    ("pacemaker",): ("No pacemaker.",),
    ("effusion", "pneumothorax"): (
        "No pleural effusion or pneumothorax.",
        "There is no pleural effusion or pneumothorax.",
    ),
    ("consolidation", "effusion", "pneumothorax"): (
        "No focal consolidation, pleural effusion or pneumothorax.",
    ),
    ("consolidation", "edema"): ("No consolidation or pulmonary edema.",),
}
"""Wordings of absences; one sentence may deny several findings."""

NORMAL: Final = (
    "No acute cardiopulmonary abnormality.",
    "Normal chest radiograph.",
)
"""Sentences of a chest without findings; they state nothing about a single kind."""

_PEOPLE: Final[Mapping[tuple[str, bool], Sequence[str]]] = {
    ("M", False): ("an adult man", "a male adult"),
    ("F", False): ("an adult woman", "a female adult"),
    ("M", True): ("an older man", "an elderly man"),
    ("F", True): ("an older woman", "an elderly woman"),
}
_VIEWS: Final[Mapping[View, Sequence[str]]] = {
    "AP": ("AP", "Anteroposterior"),
    "PA": ("PA", "Posteroanterior"),
}
_FILMS: Final = ("chest radiograph", "view of the chest")
_OLDER_FROM_YEARS: Final = 65
_OPENED: Final = 0.6
_NAMED: Final = 0.5
_DENIALS: Final = 3


@dataclass(frozen=True)
class Stated:
    """One finding as a text states it; "" where the kind has no such thing."""

    kind: Kind
    side: Side
    severity: str
    zone: Zone


@dataclass(frozen=True)
class Statements:
    """What a text says.

    Args:
        present: findings that it states.
        absent: kinds that it denies.
        view: "AP", "PA" or "" where it doesn't say.
        unknown: sentences that are none of ours.
    """

    present: frozenset[Stated]
    absent: frozenset[Kind]
    view: str = ""
    unknown: tuple[str, ...] = ()


def stated(finding: PhantomFinding) -> Stated:
    """What a text can say of a finding."""
    return Stated(finding.kind, finding.side, finding.severity, finding.zone)


def prompt(finding: PhantomFinding | Stated) -> str:
    """The canonical short sentence of a finding, such as "Large left pleural effusion."."""
    return _worded(PRESENT[finding.kind][0], finding)


def findings_text(phantom: Phantom, draw: random.Random) -> str:
    """Findings of a report: every present finding, and some of the absent ones.

    Args:
        phantom: what to describe.
        draw: picks the wording, the order, the denials, and whether view and person are named.
    """
    sentences = [_worded(draw.choice(PRESENT[f.kind]), f) for f in phantom.findings]
    sentences += _denials(phantom, draw)
    draw.shuffle(sentences)
    if not sentences:
        sentences = [draw.choice(NORMAL)]
    if draw.random() < _OPENED:
        film = f"{draw.choice(_VIEWS[phantom.view])} {draw.choice(_FILMS)}"
        people = _PEOPLE[phantom.sex, phantom.age >= _OLDER_FROM_YEARS]
        person = f" of {draw.choice(people)}" if draw.random() < _NAMED else ""
        sentences.insert(0, f"{film}{person}.")
    return " ".join(sentences)


def impression_text(phantom: Phantom) -> str:
    """Impression of a report: the canonical sentences, or that there is nothing."""
    return " ".join(prompt(finding) for finding in phantom.findings) or NORMAL[0]


def parse(text: str) -> Statements:
    """Read back what a text states: the inverse of `findings_text` for every wording.

    >>> parse("Large left pleural effusion. No pneumothorax.").absent
    frozenset({'pneumothorax'})
    """
    present: set[Stated] = set()
    absent: set[Kind] = set()
    view, unknown = "", []
    for sentence in sentences_of(text):
        if sentence in _known_present():
            present.add(_known_present()[sentence])
        elif sentence in _known_absent():
            absent.update(_known_absent()[sentence])
        elif sentence in _known_openings():
            view = _known_openings()[sentence]
        elif sentence not in NORMAL:
            unknown.append(sentence)
    return Statements(frozenset(present), frozenset(absent), view, tuple(unknown))


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each with its full stop and single spaces."""
    return [f"{' '.join(part.split())}." for part in text.split(".") if part.strip()]


def all_sentences() -> list[str]:
    """Every sentence there is, for training a tokenizer."""
    return [*_known_openings(), *_known_present(), *_known_absent(), *NORMAL]


def every_finding() -> list[Stated]:
    """Every finding that a text can state: each kind with its sides, severities and zones."""
    return [
        Stated(kind, side, severity, zone)
        for kind in KINDS
        for side, severity, zone in product(
            SIDES if kind in SIDED else ("",),
            EXTENTS[kind].ranges,
            ZONES if kind in ZONED else ("",),
        )
    ]


def _worded(template: str, finding: PhantomFinding | Stated) -> str:
    return template.format(
        side=finding.side,
        Side=finding.side.capitalize(),
        severity=finding.severity,
        Severity=finding.severity.capitalize(),
        zone=finding.zone,
    )


def _denials(phantom: Phantom, draw: random.Random) -> list[str]:
    here = {finding.kind for finding in phantom.findings}
    possible = [kinds for kinds in ABSENT if not here & set(kinds)]
    chosen: list[str] = []
    denied: set[Kind] = set()
    for kinds in draw.sample(possible, draw.randint(0, _DENIALS)):
        if not denied & set(kinds):
            denied.update(kinds)
            chosen.append(draw.choice(ABSENT[kinds]))
    return chosen


@cache
def _known_present() -> dict[str, Stated]:
    return {
        _worded(template, finding): finding
        for finding in every_finding()
        for template in PRESENT[finding.kind]
    }


@cache
def _known_absent() -> dict[str, tuple[Kind, ...]]:
    return {sentence: kinds for kinds, wordings in ABSENT.items() for sentence in wordings}


@cache
def _known_openings() -> dict[str, View]:
    people = ["", *(f" of {person}" for group in _PEOPLE.values() for person in group)]
    return {
        f"{word} {film}{person}.": view
        for view, words in _VIEWS.items()
        for word in words
        for film in _FILMS
        for person in people
    }
