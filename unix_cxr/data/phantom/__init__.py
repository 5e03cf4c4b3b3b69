"""Phantoms: simulated frontal chest X-rays whose findings are known exactly.

A test bed, not a clinical simulator: never mix phantoms into real data as if they were true.
Left and right are the patient's; the patient's left is on the viewer's right.
"""

from unix_cxr.data.phantom.description import (
    EXTENTS,
    KINDS,
    LABELS,
    SIDED,
    SIDES,
    ZONED,
    ZONES,
    Anatomy,
    Kind,
    Phantom,
    PhantomFinding,
    Side,
    View,
    Zone,
)
from unix_cxr.data.phantom.oracle import (
    MeasuredFinding,
    measure,
    measure_batch,
)
from unix_cxr.data.phantom.rendering import render_batch, render_with_masks
from unix_cxr.data.phantom.sampling import (
    BUSY,
    COUNTS,
    compatible,
    sample_finding,
    sample_phantom,
)
from unix_cxr.data.phantom.source import PhantomSource
from unix_cxr.data.phantom.studies import PhantomStudy, phantom_studies, render, reports_of
from unix_cxr.data.phantom.wording import (
    Stated,
    Statements,
    all_sentences,
    every_finding,
    findings_text,
    impression_text,
    parse,
    prompt,
    stated,
)

__all__ = [
    "BUSY",
    "COUNTS",
    "EXTENTS",
    "KINDS",
    "LABELS",
    "SIDED",
    "SIDES",
    "ZONED",
    "ZONES",
    "Anatomy",
    "Kind",
    "MeasuredFinding",
    "Phantom",
    "PhantomFinding",
    "PhantomSource",
    "PhantomStudy",
    "Side",
    "Stated",
    "Statements",
    "View",
    "Zone",
    "all_sentences",
    "compatible",
    "every_finding",
    "findings_text",
    "impression_text",
    "measure",
    "measure_batch",
    "parse",
    "phantom_studies",
    "prompt",
    "render",
    "render_batch",
    "render_with_masks",
    "reports_of",
    "sample_finding",
    "sample_phantom",
    "stated",
]
