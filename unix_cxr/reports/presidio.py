"""An adapter for presidio (`pip install unix-cxr[privacy]`): masks what its analyzer finds."""

from collections.abc import Sequence
from typing import Any, Final

from unix_cxr.reports.normalise import BLANK
from unix_cxr.reports.steps import Draft

ENTITIES: Final = ("PERSON", "PHONE_NUMBER", "EMAIL_ADDRESS", "US_SSN", "MEDICAL_LICENSE", "URL")


class PresidioStep:
    """A step for `ReportCleaner(first_steps=…)`, which runs before the text is taken apart.

    Args:
        analyzer: a `presidio_analyzer.AnalyzerEngine`, or anything with its `analyze` method.
            Presidio loads a language model of the user's choice; this class downloads nothing.
        entities: which kinds are masked.
        min_score: least confidence.
    """

    name = "presidio"
    example = ("Seen by John Smith.", "Seen by ___.")
    counter_example = "Mild cardiomegaly."

    def __init__(
        self,
        analyzer: Any,  # noqa: ANN401 - an optional library's class
        *,
        entities: Sequence[str] = ENTITIES,
        min_score: float = 0.5,
    ) -> None:
        self._analyzer = analyzer
        self._entities = list(entities)
        self._min_score = min_score

    def mask(self, text: str) -> tuple[str, dict[str, int]]:
        """The text with what the analyzer found as `___`, and how many of each kind."""
        results = self._analyzer.analyze(text=text, entities=self._entities, language="en")
        counts: dict[str, int] = {}
        for found in sorted(results, key=lambda result: -result.start):
            if found.score < self._min_score:
                continue
            text = text[: found.start] + BLANK + text[found.end :]
            kind = str(found.entity_type).lower()
            counts[kind] = counts.get(kind, 0) + 1
        return text, counts

    def __call__(self, draft: Draft) -> None:
        """Mask the draft's text."""
        draft.text, counts = self.mask(draft.text)
        for kind, count in counts.items():
            draft.masked[kind] = draft.masked.get(kind, 0) + count
