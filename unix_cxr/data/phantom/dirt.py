"""What soils real reports: comparisons with earlier films, phone calls, blanks for removed names.

Each phantom's dirty report has the same findings as its clean text, which is its counterpart.
"""

import random
from typing import Final

from unix_cxr.data.phantom.wording import sentences_of

_PRIORS: Final = (
    "Comparison is made to the prior study of ___.",
    "In comparison with the study of ___, there is little change.",
    "As compared to the previous radiograph, there is no relevant change.",
)
_CALLS: Final = (
    "These findings were discussed with Dr. ___ by telephone at ___ on ___.",
    "Findings were communicated to ___ by phone at the time of review.",
)
_HISTORY: Final = (
    "___ year old with shortness of breath.",
    "___F with cough, assess for pneumonia.",
    "___M status post fall, please evaluate.",
)
_COMPARED: Final = ("Chest radiograph from ___.", "___.", "None.")
_TAILS: Final = (
    ", unchanged from the prior study",
    ", similar to the prior exam of ___",
)
_TAILED: Final = 0.3
_CALLED: Final = 0.6


def dirty_report(findings: str, impression: str, draw: random.Random) -> str:
    """A report with headers, priors, calls and blanks around the clean findings.

    Args:
        findings: clean text; the findings that it states stay.
        impression: clean text.
        draw: picks the dirt.
    """
    sentences = [
        f"{sentence[:-1]}{draw.choice(_TAILS)}." if draw.random() < _TAILED else sentence
        for sentence in sentences_of(findings)
    ]
    sentences.insert(0, draw.choice(_PRIORS))
    if draw.random() < _CALLED:
        sentences.append(draw.choice(_CALLS))
    return (
        f"INDICATION: {draw.choice(_HISTORY)}\n\n"
        f"COMPARISON: {draw.choice(_COMPARED)}\n\n"
        f"FINDINGS: {' '.join(sentences)}\n\n"
        f"IMPRESSION: {impression}\n"
    )
