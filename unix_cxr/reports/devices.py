"""Which support device a phrase names: a tube, a line and a pacemaker are not one thing."""

from collections.abc import Sequence
from typing import Final

from unix_cxr.reports.tokens import words

_NAMES: Final[dict[str, str]] = {
    "endotracheal tube": "endotracheal ett",
    "tracheostomy": "tracheostomy",
    "enteric tube": "nasogastric dobbhoff",
    "chest tube": "pigtail",
    "central line": "picc port ports portacath mediport",
    "pulmonary artery catheter": "swan",
    "pacemaker": (
        "pacemaker pacemakers pacer pacers icd aicd defibrillator generator lead leads stimulator"
    ),
    "balloon pump": "balloon iabp",
    "sternal wires": "sternotomy sternal cerclage",
    "clips": "clip clips",
}
_BESIDE: Final[dict[str, str]] = {
    "endotracheal tube": "et",
    "tracheostomy": "tracheal trach",
    "enteric tube": "enteric feeding gastric orogastric gastrostomy nasoenteric ng og",
    "chest tube": "chest thoracostomy pleural thoracic",
    "central line": "central venous subclavian jugular ij dialysis hickman",
}
_GENERIC: Final = words("tube tubes catheter catheters line lines drain drains sheath")
_BY_NAME: Final = {word: kind for kind, names in _NAMES.items() for word in names.split()}
_BY_WORD: Final = {word: kind for kind, beside in _BESIDE.items() for word in beside.split()}

DEVICES: Final = (*_NAMES,)
"""The kinds of devices that are told apart."""


def device_of(phrase: Sequence[str], before: Sequence[str]) -> str | None:
    """The kind of device, or None where the words leave it open.

    Args:
        phrase: the words that were taken for a device, such as `["line"]`.
        before: the words before them, as far as they belong to them.

    >>> device_of(["line"], ["left", "subclavian"])
    'central line'
    >>> device_of(["pacemaker"], ["left", "chest"])
    'pacemaker'
    """
    for word in phrase:
        if word in _BY_NAME:
            return _BY_NAME[word]
    if not _GENERIC.isdisjoint(phrase):
        for word in reversed(before):
            if word in _BY_WORD:
                return _BY_WORD[word]
    return None
