"""A phantom with everything that is known about it: film, masks, labels, sides and reports.

Axes: h rows, w columns.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from unix_cxr.data.phantom.description import Kind, Phantom, Side
from unix_cxr.data.phantom.dirt import dirty_report
from unix_cxr.data.phantom.rendering import render_with_masks
from unix_cxr.data.phantom.wording import Statements, findings_text, impression_text, parse


@dataclass(frozen=True, eq=False)
class PhantomStudy:
    """One film and its truth.

    Args:
        phantom: what was drawn.
        pixels: float32 in [0, 1], bright = dense, the patient's left on the right.
        masks: where each present finding is.
        findings: clean text; `parse` reads it back.
        impression: the canonical sentences.
        dirty: the same report with priors, phone calls and blanks.
    """

    phantom: Phantom
    pixels: Float[NDArray[np.float32], "h w"]
    masks: dict[Kind, Bool[NDArray[np.bool_], "h w"]]
    findings: str
    impression: str
    dirty: str

    @property
    def labels(self) -> frozenset[str]:
        """CheXpert's names of what is present."""
        return self.phantom.labels

    @property
    def sides(self) -> dict[Kind, Side]:
        """Side of each present finding, "" for those without."""
        return {finding.kind: finding.side for finding in self.phantom.findings}

    @property
    def severity(self) -> dict[Kind, str]:
        """Severity of each present finding, "" for kinds without."""
        return {finding.kind: finding.severity for finding in self.phantom.findings}

    @property
    def statements(self) -> Statements:
        """What `findings` states."""
        return parse(self.findings)


def render(phantom: Phantom, size: int) -> PhantomStudy:
    """Film, masks and reports of one phantom.

    Raises:
        ValueError: a size out of range.
    """
    return phantom_studies([phantom], size)[0]


def phantom_studies(phantoms: Sequence[Phantom], size: int) -> list[PhantomStudy]:
    """Films, masks and reports of phantoms; the same as one by one.

    Raises:
        ValueError: no phantoms, or a size out of range.
    """
    films, masks = render_with_masks(phantoms, size)
    studies = []
    for row, phantom in enumerate(phantoms):
        texts = reports_of(phantom)
        studies.append(
            PhantomStudy(
                phantom,
                films[row].numpy(),
                {finding.kind: masks[finding.kind][row].numpy() for finding in phantom.findings},
                *texts,
            )
        )
    return studies


def reports_of(phantom: Phantom) -> tuple[str, str, str]:
    """Findings, impression and dirty report of a phantom; its seed decides the wording."""
    draw = random.Random(f"report {phantom.seed}")
    findings, impression = findings_text(phantom, draw), impression_text(phantom)
    return findings, impression, dirty_report(findings, impression, draw)
