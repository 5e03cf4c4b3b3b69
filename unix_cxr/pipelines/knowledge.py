"""Which findings a prompt asks for that a checkpoint never learned."""

from collections.abc import Collection

from unix_cxr.reports.labeler import label_report
from unix_cxr.vocabulary import NO_FINDING


def unknown_findings(prompt: str, known: Collection[str]) -> list[str]:
    """CheXpert findings that a prompt states as present or possible, less the known ones.

    Args:
        prompt: findings text.
        known: CheXpert names.
    """
    asked = {name for name, label in label_report(prompt).items() if label.state in _PRESENT}
    return sorted(asked - set(known) - {NO_FINDING})


_PRESENT = ("positive", "uncertain")
