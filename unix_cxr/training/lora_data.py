"""The studies that an adapter learns from: one source, texts or labels, split by patient."""

import hashlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unix_cxr.data.findings_text import describe
from unix_cxr.data.sources import open_source
from unix_cxr.data.splits import LeakCheck, split_of
from unix_cxr.data.studies import Study, shown
from unix_cxr.training.lora_settings import LoraSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoraStudies:
    """Studies to learn from and to validate on; every one has a text or labels with wording.

    Args:
        train: to learn from.
        dev: to validate on, of other patients.
        left_out: studies of the source that are used for neither, by reason.
    """

    train: tuple[Study, ...]
    dev: tuple[Study, ...]
    left_out: dict[str, int]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the studies say; the images are known by their names."""
        digest = hashlib.sha256()
        for part in (self.train, self.dev):
            rows = [
                (s.study_id, s.patient_id, s.view, s.findings, sorted(s.labels), s.sex, s.age)
                for s in part
            ]
            digest.update(json.dumps(rows).encode())
        return digest.hexdigest()


def read_lora_studies(spec: str | Path, settings: LoraSettings) -> LoraStudies:
    """The studies of a source, with their texts, in `train` and `dev`.

    The text is the study's findings, else its impression, else a sentence that states its labels.
    The source's own splits hold; where it has none, or no dev split, patients are set aside by a
    salted hash. Lateral views are left out, and so are held-out splits.

    Args:
        spec: what `open_source` takes.
        settings: share and salt of the dev split, and the limit.

    Raises:
        FileNotFoundError: there is nothing at `spec`, or an image is missing.
        ValueError: the source is empty or of an unknown layout, a study has neither text nor
            labels, only some have a split, a patient is in two, or a split is empty.
    """
    studies = list(open_source(spec))
    if not studies:
        raise ValueError(f"{spec} holds no studies; its table has no rows")
    frontal = [study for study in studies if study.view != "LATERAL"]
    placed = _placed(frontal, settings, spec)
    train, dev = (
        tuple(_with_text(placed, split, spec)[: settings.limit]) for split in ("train", "dev")
    )
    for split, part in (("train", train), ("dev", dev)):
        if not part:
            patients = len({study.patient_id for study in placed})
            raise ValueError(
                f"{spec} has no studies in split {split!r}: {len(placed)} frontal ones of "
                f"{patients} patients, dev_share {settings.dev_share}; set another dev_share or "
                "split_salt, or fill the split column"
            )
    held_out = sum(study.split not in {"train", "dev"} for study in placed)
    left_out = {"lateral": len(studies) - len(frontal), "held out": held_out}
    left_out["beyond the limit"] = len(placed) - held_out - len(train) - len(dev)
    left_out = {reason: count for reason, count in left_out.items() if count}
    logger.info("%s: %d to learn from, %d to validate on", spec, len(train), len(dev))
    if left_out:
        logger.info("left out: %s", ", ".join(f"{n} {why}" for why, n in left_out.items()))
    return LoraStudies(train, dev, left_out)


def _placed(studies: Sequence[Study], settings: LoraSettings, spec: str | Path) -> list[Study]:
    without = sum(not study.split for study in studies)
    if 0 < without < len(studies):
        raise ValueError(
            f"{spec}: {without} of {len(studies)} studies have no split; fill the column, or leave "
            "all of it empty to split by patient"
        )
    has_dev = any(study.split == "dev" for study in studies)
    placed = list(studies)
    if not has_dev:
        fractions = {"dev": settings.dev_share, "train": 1 - settings.dev_share}
        placed = [
            replace(
                study,
                split=split_of(study.patient_id, salt=settings.split_salt, fractions=fractions),
            )
            if study.split in {"", "train"}
            else study
            for study in studies
        ]
    check = LeakCheck()
    for study in placed:
        check.add(study)
    leaks = check.leaks()
    if leaks:
        raise ValueError(f"{spec}: {leaks[0]} (and {len(leaks) - 1} more); split by patient")
    return placed


def _with_text(studies: Sequence[Study], split: str, spec: str | Path) -> list[Study]:
    chosen = [study for study in studies if study.split == split]
    silent = [s for s in chosen if not (s.findings or s.impression or s.labels)]
    if silent:
        raise ValueError(
            f"{spec}: {len(silent)} of {len(chosen)} studies in {split} have neither findings, nor "
            f"an impression, nor labels, such as {shown(silent[0].image)}; fill one of these "
            "columns"
        )
    told = [replace(study, findings=study.findings or study.impression) for study in chosen]
    for study in told:
        if not study.findings:
            _check_wording(study, spec)
    return told


def _check_wording(study: Study, spec: str | Path) -> None:
    try:
        describe(study, random.Random(0))
    except ValueError as error:
        raise ValueError(
            f"{spec}: {shown(study.image)} has no text, and its labels cannot be put into words: "
            f"{error}"
        ) from error
