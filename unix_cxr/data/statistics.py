"""What a corpus holds: views, splits, patients, labels and their balance, texts; in one stream.

Memory grows with the patients, the distinct words and the distinct texts (eight bytes and a set's
entry for each), not with the images.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from unix_cxr.data.readers.stated import key_of
from unix_cxr.data.studies import Study

_WORD: Final = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_WORDS_PER_BIN: Final = 10
_COMMON_WORDS: Final = 30


@dataclass(frozen=True)
class LabelBalance:
    """How often one label is stated.

    Args:
        label: the collection's own name.
        present: studies that state it as present.
        absent: studies that state it as absent.
        uncertain: studies that state it as uncertain.
        prevalence: present, out of all studies.
        by_split: present, out of the split's studies.
        imbalance: the rarer of present and not present, out of the other: 1 is balanced.
    """

    label: str
    present: int
    absent: int
    uncertain: int
    prevalence: float
    by_split: dict[str, float]
    imbalance: float


class TextStatistics:
    """Length, words and repetition of the texts of one section."""

    def __init__(self) -> None:
        self.texts = 0
        self.characters = 0
        self.words = 0
        self.longest = 0
        self.repeated = 0
        self.lengths: Counter[int] = Counter()
        self.vocabulary: Counter[str] = Counter()
        self._seen: set[int] = set()

    def add(self, text: str) -> None:
        """Count one text; an empty one does not count."""
        stripped = text.strip()
        if not stripped:
            return
        words = [word.lower() for word in _WORD.findall(stripped)]
        self.texts += 1
        self.characters += len(stripped)
        self.words += len(words)
        self.longest = max(self.longest, len(words))
        self.lengths[len(words) // _WORDS_PER_BIN * _WORDS_PER_BIN] += 1
        self.vocabulary.update(words)
        key = key_of(stripped)
        self.repeated += key in self._seen
        self._seen.add(key)

    def summary(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            "texts": self.texts,
            "mean_words": self.words / self.texts if self.texts else 0.0,
            "longest_words": self.longest,
            "characters": self.characters,
            "vocabulary": len(self.vocabulary),
            "repeated_texts": self.repeated,
            "texts_by_words": dict(sorted(self.lengths.items())),
            "common_words": dict(self.vocabulary.most_common(_COMMON_WORDS)),
        }


@dataclass
class StudyStatistics:
    """Counts of a stream of studies.

    >>> statistics = StudyStatistics()
    >>> statistics.add(Study(image="a.png", patient_id="1", labels=frozenset({"Edema"})))
    >>> statistics.studies, statistics.balance()[0].prevalence
    (1, 1.0)
    """

    studies: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    subsets: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    views: Counter[str] = field(default_factory=Counter)
    sexes: Counter[str] = field(default_factory=Counter)
    present: Counter[str] = field(default_factory=Counter)
    absent: Counter[str] = field(default_factory=Counter)
    uncertain: Counter[str] = field(default_factory=Counter)
    findings: TextStatistics = field(default_factory=TextStatistics)
    impressions: TextStatistics = field(default_factory=TextStatistics)
    without_labels: int = 0
    _present_by_split: Counter[tuple[str, str]] = field(default_factory=Counter)
    _images_of_patient: Counter[tuple[str, str]] = field(default_factory=Counter)
    _examinations: set[int] = field(default_factory=set)

    def add(self, study: Study) -> None:
        """Count one study."""
        self.studies += 1
        self.splits[study.split] += 1
        self.subsets[study.subset] += 1
        self.sources[study.source] += 1
        self.views[study.view] += 1
        self.sexes[study.sex] += 1
        self.present.update(study.labels)
        self.absent.update(study.negative)
        self.uncertain.update(study.uncertain)
        self.without_labels += not (study.labels or study.negative or study.uncertain)
        self._present_by_split.update((label, study.split) for label in study.labels)
        self._images_of_patient[study.source, study.patient_id] += 1
        self._examinations.add(key_of(f"{study.source}\0{study.study_id}"))
        self.findings.add(study.findings)
        self.impressions.add(study.impression)

    @property
    def patients(self) -> int:
        """Number of patients; of different sources they are different people."""
        return len(self._images_of_patient)

    @property
    def examinations(self) -> int:
        """Number of different studies by id: several images may share one."""
        return len(self._examinations)

    def most_images(self) -> list[tuple[str, int]]:
        """The five patients with the most images."""
        return [(patient, n) for (_, patient), n in self._images_of_patient.most_common(5)]

    def balance(self) -> list[LabelBalance]:
        """Every label that is stated, the most frequent first."""
        labels = set(self.present) | set(self.absent) | set(self.uncertain)
        return [
            self._balance(label) for label in sorted(labels, key=lambda x: (-self.present[x], x))
        ]

    def summary(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            "studies": self.studies,
            "patients": self.patients,
            "examinations": self.examinations,
            "most_images_of_a_patient": dict(self.most_images()),
            "splits": dict(self.splits),
            "subsets": dict(self.subsets),
            "sources": dict(self.sources),
            "views": dict(self.views),
            "sexes": dict(self.sexes),
            "without_labels": self.without_labels,
            "labels": [vars(balance) for balance in self.balance()],
            "findings": self.findings.summary(),
            "impressions": self.impressions.summary(),
        }

    def _balance(self, label: str) -> LabelBalance:
        present = self.present[label]
        rarer, commoner = sorted((present, self.studies - present))
        return LabelBalance(
            label=label,
            present=present,
            absent=self.absent[label],
            uncertain=self.uncertain[label],
            prevalence=present / self.studies,
            by_split={
                split: self._present_by_split[label, split] / count
                for split, count in sorted(self.splits.items())
            },
            imbalance=rarer / commoner,
        )


def statistics_of(studies: Iterable[Study]) -> StudyStatistics:
    """Count every study."""
    statistics = StudyStatistics()
    for study in studies:
        statistics.add(study)
    return statistics
