"""What the rules of comparison and of change share."""

import re
from typing import Final

from unix_cxr.reports.tokens import words

UNIX: Final = frozenset(("unix",))
LIGHT: Final = (
    r"(?:(?:interval|significant|significantly|appreciable|relevant|substantial|definite|large|"
    r"major|other|overall|"
    r"radiographic|short|marked|obvious|further|gross|material|notable|real|short-interval|"
    r"convincing|visible|certain|meaningful|essential|great|evident|important|detectable|"
    r"noticeable|clear|apparent|acute|discernible|demonstrable|particular) )*"
)
CHANGE_NOUN_WORDS: Final = words(
    "increase decrease improvement worsening progression reduction growth enlargement decline "
    "regression deterioration exacerbation reaccumulation accumulation re reexpansion expansion"
)
CHANGED_WORDS: Final = words(
    "increased decreased improved worsened progressed enlarged grown diminished cleared "
    "deteriorated regressed evolved changed recurred lessened reaccumulated expanded re reexpanded "
    "shrunk reduced risen fallen dropped advanced"
)
STEADY_WORDS: Final = words("unchanged stable constant same similar unaltered static")


def present(match: re.Match[str]) -> str:
    """`is present` or `are present`, after the number of the verb that goes."""
    verb = match.group("verb").lower()
    return " are present" if verb in {"are", "have", "remain", "were", "appear"} else " is present"


def be_form(match: re.Match[str]) -> str:
    """`is` or `are`, after the number of the verb that goes."""
    verb = match.group("verb").lower()
    return "are" if verb in {"have", "are", "remain", "continue", "persist", "appear"} else "is"
