"""Written reports measured: do they state the labels that are true of their X-rays?

A constant report reaches the majority baseline, so that stands beside every number, and labels are
never compared across subsets: the subset alone predicts most of them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch

from unix_cxr.evaluation.bootstrap import (
    Measured,
    bootstrap_weights,
    mean_with_interval,
    measured,
    weighted_mean,
)

Labels = frozenset[str]
LabelsOf = Callable[[str], Labels]
"""Reads the labels that a report states."""


@dataclass(frozen=True)
class KnownLabels:
    """What is true of one X-ray.

    Args:
        subset: the collection it comes from.
        patient: whom it shows.
        labels: all labels that its collection knows of it.
    """

    subset: str
    patient: str
    labels: Labels


@dataclass(frozen=True)
class SubsetAccuracy:
    """How often reports state exactly the true labels of one field, within one subset.

    Args:
        subset: the collection.
        field: the group of labels that were compared.
        reports: number of reports.
        accuracy: share whose labels of this field are exactly the true ones; a report that
            states none, or two that exclude each other, is wrong where one is true.
        baseline: share of the most common answer among the true ones: what a constant report gets.
        gain: accuracy - baseline, from the same replicates.
        balanced: mean over true answers of the share that was found; a constant report gets
            1 / number of answers.
        answers: how often each answer is true.
    """

    subset: str
    field: str
    reports: int
    accuracy: Measured
    baseline: Measured
    gain: Measured
    balanced: Measured
    answers: Mapping[str, int]

    @property
    def beats_baseline(self) -> bool:
        """Whether the gain's interval lies above 0."""
        return self.gain.low > 0


Field = Mapping[str, str]
"""The answer that each label of a field means; labels of other fields are absent."""

FIELDS: Final[Mapping[str, Field]] = MappingProxyType(
    {
        "pneumonia": {
            "Normal": "normal",
            "Pneumonia": "pneumonia",
            "Bacterial Pneumonia": "pneumonia",
            "Viral Pneumonia": "pneumonia",
        },
        "cause": {
            "Normal": "normal",
            "Bacterial Pneumonia": "bacterial",
            "Viral Pneumonia": "viral",
        },
        "intensive care": {"in_icu": "in", "not_in_icu": "not in"},
    }
)
"""What the collections of the documented models know more than one answer to."""


def evaluate_reports(
    reports: Sequence[str],
    known: Sequence[KnownLabels],
    labels_of: LabelsOf,
    fields: Mapping[str, Field] = FIELDS,
    replicates: int = 1000,
    seed: int = 0,
) -> tuple[SubsetAccuracy, ...]:
    """Label accuracy of written reports, within each subset, against its majority baseline.

    Args:
        reports: the written texts; an empty one counts as stating nothing.
        known: what is true, in the same order.
        labels_of: reads the stated labels, such as `unix_cxr.data.findings_text.labels_of`.
        fields: what is compared, by name. An X-ray of which a field knows nothing is left out of
            it; so is a subset in which fewer than two answers are true: there is nothing to tell.
        replicates: of the bootstrap by patient.
        seed: of the bootstrap.

    Raises:
        ValueError: counts that differ, no reports, or no field that has two answers anywhere.
    """
    if len(reports) != len(known) or not reports:
        raise ValueError(
            f"reports ({len(reports)}) and known labels ({len(known)}) must be equally many, "
            "and at least one"
        )
    stated = [labels_of(report) for report in reports]
    results = []
    for subset in sorted({truth.subset for truth in known}):
        for name, field in fields.items():
            rows = [
                row
                for row, truth in enumerate(known)
                if truth.subset == subset and not truth.labels.isdisjoint(field)
            ]
            truths = [_answer(known[row].labels, field) for row in rows]
            if len(set(truths)) > 1:
                generator = torch.Generator().manual_seed(seed)
                patients = [known[row].patient for row in rows]
                weights = bootstrap_weights(patients, replicates, generator)
                answers = [_answer(stated[row], field) for row in rows]
                results.append(_accuracy((subset, name), truths, answers, weights))
    if not results:
        raise ValueError(
            f"in no subset do the fields {sorted(fields)} have two different true answers; "
            "there is nothing to tell apart"
        )
    return tuple(results)


def _answer(labels: Labels, field: Field) -> Labels:
    return frozenset(field[label] for label in labels if label in field)


def _accuracy(
    name: tuple[str, str],
    truths: Sequence[Labels],
    answers: Sequence[Labels],
    weights: torch.Tensor,
) -> SubsetAccuracy:
    right = torch.tensor([a == t for a, t in zip(answers, truths, strict=True)]).float()
    counts = Counter(truths)
    common = max(counts, key=lambda answer: (counts[answer], sorted(answer)))
    constant = torch.tensor([truth == common for truth in truths]).float()
    found, found_by_replicate = [], []
    for answer in counts:
        mine = torch.tensor([truth == answer for truth in truths])
        found.append(right[mine].mean())
        found_by_replicate.append(weighted_mean(right[mine], weights[:, mine]))
    return SubsetAccuracy(
        subset=name[0],
        field=name[1],
        reports=len(truths),
        accuracy=mean_with_interval(right, weights),
        baseline=mean_with_interval(constant, weights),
        gain=mean_with_interval(right - constant, weights),
        balanced=measured(
            torch.stack(found).mean(), torch.stack(found_by_replicate).nanmean(dim=0)
        ),
        answers=MappingProxyType({" + ".join(sorted(a)) or "none": n for a, n in counts.items()}),
    )
