"""Splitting by patient with a salted hash, and finding patients who are in two splits."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from unix_cxr.data.studies import SPLITS, Study

FRACTIONS: Final[Mapping[str, float]] = MappingProxyType({"train": 0.8, "dev": 0.1, "val": 0.1})

_RESOLUTION: Final = 2**64


@dataclass(frozen=True)
class Leak:
    """A patient of one source who is in several splits.

    Args:
        source: of the patient.
        patient_id: the pseudonym.
        splits: every split with an image of the patient.
    """

    source: str
    patient_id: str
    splits: tuple[str, ...]

    def __str__(self) -> str:
        return f"patient {self.patient_id} of {self.source or 'the source'} is in {self.splits}"


def split_of(patient_id: str, *, salt: str, fractions: Mapping[str, float] = FRACTIONS) -> str:
    """The split of a patient: it depends on the pseudonym, the salt and the fractions alone.

    So it does not move when patients are added, and two people with the same salt agree without
    exchanging a list. Splits are cut in the order of `fractions`.

    Args:
        patient_id: the pseudonym.
        salt: any text that names your project and version. It must not be empty: without one,
            every project would draw the same test patients from a corpus.
        fractions: share of the patients by split; they sum to 1.

    Raises:
        ValueError: the id or the salt is empty, a split is unknown, or the fractions are not
            shares that sum to 1.

    >>> split_of("p10000032", salt="my study 1")
    'train'
    """
    if not patient_id:
        raise ValueError("patient_id is empty; splits need one")
    if not salt.strip():
        raise ValueError('salt is empty; give a text of your own, such as "my study, version 1"')
    _check_fractions(fractions)
    digest = hashlib.sha256(f"{salt}\0{patient_id}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / _RESOLUTION
    edge, chosen = 0.0, ""
    for split, fraction in fractions.items():
        if fraction > 0 and share >= edge:
            chosen = split
        edge += fraction
    return chosen


def with_splits(
    studies: Iterable[Study], *, salt: str, fractions: Mapping[str, float] = FRACTIONS
) -> Iterator[Study]:
    """The studies, each in the split of its patient, whatever the source said.

    Raises:
        ValueError: as `split_of` does.
    """
    for study in studies:
        split = split_of(study.patient_id, salt=salt, fractions=fractions)
        yield replace(study, split=split)


class LeakCheck:
    """Finds patients who are in several splits; holds one entry per patient.

    Patients of different sources are different people, whatever their pseudonyms.
    """

    def __init__(self) -> None:
        self._splits: dict[tuple[str, str], str] = {}
        self._leaking: dict[tuple[str, str], set[str]] = {}

    def add(self, study: Study) -> None:
        """Look at one more study; one without a split leaks nowhere."""
        if not study.split:
            return
        patient = (study.source, study.patient_id)
        first = self._splits.setdefault(patient, study.split)
        if first != study.split:
            self._leaking.setdefault(patient, {first}).add(study.split)

    def leaks(self) -> list[Leak]:
        """Every patient in two splits or more, in the order they were found."""
        return [
            Leak(source, patient, tuple(sorted(splits)))
            for (source, patient), splits in self._leaking.items()
        ]


def find_leaks(studies: Iterable[Study]) -> list[Leak]:
    """Every patient of the studies who is in two splits or more."""
    check = LeakCheck()
    for study in studies:
        check.add(study)
    return check.leaks()


def _check_fractions(fractions: Mapping[str, float]) -> None:
    unknown = sorted(set(fractions) - set(SPLITS) | set(fractions) & {""})
    if unknown:
        known = [name for name in SPLITS if name]
        raise ValueError(f"splits {unknown} are unknown; known splits: {known}")
    shares = list(fractions.values())
    if any(share < 0 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-9):
        raise ValueError(f"fractions {dict(fractions)} must be shares from 0 to 1 that sum to 1")
