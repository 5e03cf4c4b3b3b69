"""One study of a source as one row of a shard, or the reason why it is left out."""

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from unix_cxr.data.frontal import picture_problems
from unix_cxr.data.pixels import load_xray
from unix_cxr.data.studies import Study
from unix_cxr.functional.images import resize_and_pad
from unix_cxr.preparation.settings import PreparationSettings
from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.records import CleanReport, Status

_STATES: Final = {"positive": "labels", "negative": "negative", "uncertain": "uncertain"}


@dataclass(frozen=True)
class LeftOut:
    """A study that is not in the shards.

    Args:
        study_id: the study.
        reason: one of a few kinds, for counting.
        detail: what exactly was wrong; "" where the reason says it all.
    """

    study_id: str
    reason: str
    detail: str = ""


class RowMaker:
    """Turns studies into rows; one instance serves one process.

    Args:
        settings: what decides the rows.
    """

    def __init__(self, settings: PreparationSettings) -> None:
        self.settings = settings
        self.cleaner = None if settings.text == "as-is" else ReportCleaner(settings.text)

    def __call__(self, study: Study) -> dict[str, Any] | LeftOut:
        """The row of a study.

        Raises:
            ValueError: the image cannot be read and bad images are not to be counted; the
                message names the study.
            FileNotFoundError: likewise, the image's file is missing.
        """
        if study.view not in self.settings.views:
            return LeftOut(study.study_id, f"view {study.view or 'unknown'}")
        text, labels, reason = self._text(study)
        if self.settings.require_text and not text:
            return LeftOut(study.study_id, f"no text: {reason}")
        try:
            pixels = load_xray(study.image).pixels
        except (ValueError, OSError) as error:
            if self.settings.on_bad == "raise":
                raise type(error)(
                    f"study {study.study_id}: {error} (--on-bad count lists such images and leaves "
                    "them out)"
                ) from error
            return LeftOut(study.study_id, "unreadable image", str(error))
        refused = set(picture_problems(pixels)) & set(self.settings.refuse_pictures)
        if refused:
            return LeftOut(study.study_id, f"picture: {min(refused)}")
        return {
            "study_id": study.study_id,
            "patient_id": study.patient_id,
            "split": study.split,
            "subset": study.subset,
            "view": study.view,
            "sex": study.sex,
            "age": study.age,
            **labels,
            "text": text,
            "image": self._png(pixels),
        }

    def _png(self, pixels: Float[NDArray[np.float32], "h w"]) -> bytes:
        whole = torch.from_numpy(pixels)[None, None]
        square = resize_and_pad(whole, self.settings.image_size)[0, 0].numpy()
        kind = np.uint8 if self.settings.image_bits == np.iinfo(np.uint8).bits else np.uint16
        values = np.round(square * np.iinfo(kind).max).astype(kind)
        with io.BytesIO() as file:
            Image.fromarray(values).save(file, format="PNG", compress_level=1)
            return file.getvalue()

    def _text(self, study: Study) -> tuple[str, dict[str, list[str]], str]:
        """Text, labels, and why there is no text."""
        own = {
            "labels": sorted(study.labels),
            "negative": sorted(study.negative),
            "uncertain": sorted(study.uncertain),
        }
        raw = raw_report(study)
        if not raw:
            return "", own, "the source has none"
        if self.cleaner is None:
            part = raw if self.settings.section == "text" else getattr(study, self.settings.section)
            return part, own, "" if part else "the section is empty"
        report = self.cleaner.clean(raw)
        text = getattr(report, self.settings.section)
        reason = ""
        if not text:
            kept = report.status is Status.CLEAN
            reason = "the section is empty" if kept else report.status.value
        labels = own if any(own.values()) else labels_of_report(report)
        return text, labels, reason


def raw_report(study: Study) -> str:
    """A study's report as one text with headings where it has both sections."""
    if study.findings and study.impression:
        return f"FINDINGS: {study.findings}\nIMPRESSION: {study.impression}"
    if study.impression:
        return f"IMPRESSION: {study.impression}"
    return study.findings


def labels_of_report(report: CleanReport) -> dict[str, list[str]]:
    """The labeler's findings of a report by state."""
    found: dict[str, list[str]] = {name: [] for name in _STATES.values()}
    for finding, label in sorted(report.labels.items()):
        if label.state in _STATES:
            found[_STATES[label.state]].append(finding)
    return found
