"""Findings text that states only what a study's labels know, in varied wording, and back again.

Every statement has several wordings; `describe` picks one of each, `labels_of` reads them back.
"""

import random
import re
from collections.abc import Mapping, Sequence
from typing import Final

from unix_cxr.data.studies import Study, shown

CHILD: Final = "Child"
ADULT: Final = "Adult"
OLDER: Final = "Older adult"
_ADULT_FROM_YEARS: Final = 18
_OLDER_FROM_YEARS: Final = 65
_AGE: Final = re.compile(r"(?P<number>\d{1,3})(?P<unit>[YMWD]?)")

_VIEWS: Final[Mapping[str, Sequence[str]]] = {
    "AP": ("AP", "Anteroposterior"),
    "PA": ("PA", "Posteroanterior"),
}
_FILMS: Final = ("chest radiograph", "chest X-ray", "view of the chest")
_PEOPLE: Final[Mapping[tuple[str, str], Sequence[str]]] = {
    (CHILD, ""): ("a child", "a young child", "a pediatric patient"),
    (ADULT, "M"): ("an adult man", "a male adult"),
    (ADULT, "F"): ("an adult woman", "a female adult"),
    (ADULT, ""): ("an adult", "an adult patient"),
    (OLDER, "M"): ("an older man", "an elderly man"),
    (OLDER, "F"): ("an older woman", "an elderly woman"),
    (OLDER, ""): ("an older adult", "an elderly patient"),
}

STATEMENTS: Final[Mapping[str, Sequence[str]]] = {
    "Normal": (
        "No pneumonia.",
        "Normal chest without pneumonia.",
        "Clear lungs, no pneumonia.",
        "No evidence of pneumonia.",
    ),
    "Bacterial Pneumonia": (
        "Bacterial pneumonia.",
        "Findings of bacterial pneumonia.",
        "Pneumonia, bacterial.",
    ),
    "Viral Pneumonia": (
        "Viral pneumonia.",
        "Findings of viral pneumonia.",
        "Pneumonia, viral.",
    ),
    "COVID-19": ("COVID-19 pneumonia.", "Findings of COVID-19.", "Pneumonia due to COVID-19."),
    "in_icu": ("Intensive care patient.", "The patient is in intensive care."),
    "not_in_icu": ("Not in intensive care.", "The patient is not in intensive care."),
    "No Finding": ("No finding.", "No labelled finding.", "No abnormal finding."),
    "Atelectasis": ("Atelectasis.", "There is atelectasis."),
    "Cardiomegaly": ("Cardiomegaly.", "The heart is enlarged."),
    "Consolidation": ("Consolidation.", "There is consolidation."),
    "Edema": ("Pulmonary edema.", "There is pulmonary edema."),
    "Effusion": ("Pleural effusion.", "There is a pleural effusion."),
    "Emphysema": ("Emphysema.", "There is emphysema."),
    "Fibrosis": ("Fibrosis.", "There is fibrosis."),
    "Hernia": ("Hernia.", "There is a hernia."),
    "Infiltration": ("Infiltration.", "There is infiltration."),
    "Mass": ("Lung mass.", "There is a mass."),
    "Nodule": ("Lung nodule.", "There is a nodule."),
    "Pleural_Thickening": ("Pleural thickening.", "There is pleural thickening."),
    "Pneumonia": ("Pneumonia.", "There is pneumonia."),
    "Pneumothorax": ("Pneumothorax.", "There is a pneumothorax."),
}
"""Every label that can be stated, with its wordings."""


def describe(study: Study, generator: random.Random) -> str:
    """Findings text of a study: view, person, findings; the wording is drawn from `generator`.

    Raises:
        ValueError: the study has a label or a view without wording.
    """
    faults = []
    unknown = [label for label in stated_labels(study) if label not in STATEMENTS]
    if unknown:
        named = ", ".join(map(repr, unknown))
        faults.append(f"label {named} has no wording; known labels: {sorted(STATEMENTS)}")
    if study.view not in _VIEWS:
        name = shown(study.image)
        faults.append(f"view ({study.view!r}) of {name} must be one of {list(_VIEWS)}")
    if faults:
        raise ValueError("; ".join(faults))
    group = age_group(study)
    # children are not told apart by sex: their films rarely show it
    person = generator.choice(_PEOPLE[group, "" if group == CHILD else study.sex])
    view, film = generator.choice(_VIEWS[study.view]), generator.choice(_FILMS)
    statements = [generator.choice(STATEMENTS[label]) for label in stated_labels(study)]
    generator.shuffle(statements)
    return " ".join([f"{view} {film} of {person}.", *statements])


def all_texts() -> list[str]:
    """Every wording there is, for training a tokenizer."""
    openings = [
        f"{view} {film} of {person}."
        for views in _VIEWS.values()
        for view in views
        for film in _FILMS
        for people in _PEOPLE.values()
        for person in people
    ]
    return openings + [text for wordings in STATEMENTS.values() for text in wordings]


def stated_labels(study: Study) -> list[str]:
    """The labels that the text states: the most specific ones, in a fixed order."""
    labels = set(study.labels)
    if labels & {"Bacterial Pneumonia", "Viral Pneumonia"}:
        labels.discard("Pneumonia")
    return sorted(labels)


def labels_of(text: str) -> frozenset[str]:
    """The labels that a findings text states: the inverse of `describe`, for known wordings."""
    sentences = {f"{sentence.strip()}." for sentence in text.split(".") if sentence.strip()}
    return frozenset(label for label, wordings in STATEMENTS.items() if sentences & set(wordings))


def unknown_sentences(text: str) -> list[str]:
    """Sentences of a text that match neither a statement nor an opening."""
    known = set(all_texts())
    sentences = [f"{sentence.strip()}." for sentence in text.split(".") if sentence.strip()]
    return [sentence for sentence in sentences if sentence not in known]


def age_group(study: Study) -> str:
    """Child, adult or older adult (65 years and more); adult where the age is unknown.

    Ages are years ("58", "058Y"), months or days ("011M", "005D"), or a phrase with "pediatric".
    """
    if "pediatric" in study.age:
        return CHILD
    found = _AGE.fullmatch(study.age.strip())
    if found is None:
        return ADULT
    years = int(found["number"]) if found["unit"] in {"", "Y"} else 0
    if years < _ADULT_FROM_YEARS:
        return CHILD
    return OLDER if years >= _OLDER_FROM_YEARS else ADULT
