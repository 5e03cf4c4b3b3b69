"""`ReportCleaner`: one report in, the cleaned text and the account of every decision out."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from unix_cxr.reports.config import CleanerConfig
from unix_cxr.reports.decide import Decider
from unix_cxr.reports.intake import refusal
from unix_cxr.reports.labeler import merge
from unix_cxr.reports.normalise import join_lines, normalise_characters, quiet_capitals
from unix_cxr.reports.privacy import mask
from unix_cxr.reports.records import CleanReport, Status
from unix_cxr.reports.rules import CATALOGUE, Rule
from unix_cxr.reports.sections import FINDINGS, IMPRESSION, PREAMBLE, split_sections
from unix_cxr.reports.sentences import split_sentences
from unix_cxr.reports.steps import Draft, Step, default_steps

_PASSES: Final = 5


class ReportCleaner:
    """Cleans radiology reports: deterministic, total, idempotent on its own output.

    Args:
        preset: `unix` or `conservative`; the short form of `config=CleanerConfig(preset=…)`.
        config: every option.
        rules: the catalogue to use in the place of the built-in one.
        extra_rules: rules of one's own, tried after the built-in ones.
        first_steps: steps of one's own, run before the text is taken apart.
        last_steps: steps of one's own, run after the built-in ones.

    >>> report = ReportCleaner().clean("FINDINGS: Unchanged right PICC ending in the mid SVC.")
    >>> report.findings
    'Right PICC ending in the mid SVC.'
    """

    def __init__(
        self,
        preset: str | None = None,
        *,
        config: CleanerConfig | None = None,
        rules: Sequence[Rule] = CATALOGUE,
        extra_rules: Sequence[Rule] = (),
        first_steps: Sequence[Step] = (),
        last_steps: Sequence[Step] = (),
    ) -> None:
        if preset is not None and config is not None:
            raise ValueError("give preset or config, not both; a config names its own preset")
        self.config = config or CleanerConfig.parse({"preset": preset or "unix"})
        chosen = [
            rule
            for rule in (*rules, *extra_rules)
            if self.config.preset in rule.presets and rule.name not in self.config.disabled_rules
        ]
        self.decider = Decider(chosen)
        self.steps: tuple[Step, ...] = (
            *first_steps,
            *default_steps(self.config, self.decider),
            *last_steps,
        )
        self._own_steps = bool(first_steps or last_steps)

    @classmethod
    def from_yaml(cls, path: str | Path) -> "ReportCleaner":
        """A cleaner configured by a YAML file; unknown keys are errors."""
        return cls(config=CleanerConfig.from_yaml(path))

    def clean(self, text: str) -> CleanReport:
        """Clean one report; any string is allowed.

        Raises:
            TypeError: `text` is no string.
        """
        if not isinstance(text, str):
            raise TypeError(f"a report must be a str, not {type(text).__name__}")
        if len(text) > self.config.max_characters:
            reason = f"too long: {len(text)} characters, at most {self.config.max_characters}"
            return CleanReport(Status.QUARANTINED, reason)
        drafts = [self._draft(text)]
        while not drafts[-1].refused and not self._is_fixed(drafts[-1]):
            if len(drafts) > _PASSES:
                return CleanReport(Status.QUARANTINED, "unstable: cleaning does not settle")
            drafts.append(self._draft(self._joined(drafts[-1])))
        return self._report(drafts)

    def map(self, texts: Iterable[str]) -> Iterator[CleanReport]:
        """Clean reports one after the other, as they are asked for."""
        return map(self.clean, texts)

    def _draft(self, text: str) -> Draft:
        draft = Draft(text)
        for step in self.steps:
            step(draft)
            if draft.refused:
                break
        return draft

    def _parts(self, draft: Draft) -> tuple[str, str]:
        findings = " ".join(draft.sentences(FINDINGS))
        impression = " ".join(draft.sentences(IMPRESSION))
        return findings, impression

    def _joined(self, draft: Draft) -> str:
        findings, impression = self._parts(draft)
        if self.config.text_from == "findings":
            return findings
        if self.config.text_from == "impression":
            return impression
        return f"{findings} {impression}".strip()

    def _is_fixed(self, draft: Draft) -> bool:
        """Whether cleaning the cleaned text again would give the same text.

        Sentences are decided to a fixed point each; what is left to check is that the joined text
        is split, sectioned and normalised into the same sentences.
        """
        text = self._joined(draft)
        if self._own_steps:
            return self._joined(self._draft(text)) == text
        parts = {"findings": (FINDINGS,), "impression": (IMPRESSION,)}.get(
            self.config.text_from, (FINDINGS, IMPRESSION)
        )
        sentences = [s for part in parts for s in draft.sentences(part)]
        if (
            refusal(text)
            or normalise_characters(text) != text
            or quiet_capitals(join_lines(text)) != text
        ):
            return False
        if split_sentences(text) != sentences or self._has_header(text):
            return False
        if self.config.mask_private and mask(text)[1]:
            return False
        return all(
            line.decision.text == line.before or not line.kept or self._settled(line.decision.text)
            for line in draft.lines
        )

    @staticmethod
    def _has_header(text: str) -> bool:
        sections = split_sections(text)
        return len(sections) > 1 or sections[0].kind != PREAMBLE

    def _settled(self, sentence: str) -> bool:
        decision = self.decider(sentence)
        return decision.action == "keep" and decision.text == sentence

    def _report(self, drafts: list[Draft]) -> CleanReport:
        first, last = drafts[0], drafts[-1]
        removed = tuple(item for draft in drafts for item in draft.removed)
        rewritten = tuple(item for draft in drafts for item in draft.rewritten)
        if last.refused:
            return CleanReport(
                Status.QUARANTINED, last.refused, removed=removed, masked=first.masked
            )
        if len(drafts) == 1:
            findings, impression = self._parts(first)
        else:
            findings, impression = self._parts_of_many(drafts)
        text = self._joined(last)
        labels = merge(
            (fact for line in last.lines if line.kept for fact in line.facts), has_text=bool(text)
        )
        return CleanReport(
            status=Status.CLEAN if text else Status.EMPTY,
            reason="" if text else self._why_empty(first),
            findings=findings,
            impression=impression,
            text=text,
            labels=labels,
            removed=removed,
            rewritten=rewritten,
            masked=first.masked,
            guarded=tuple(problem for draft in drafts for problem in draft.guarded),
        )

    def _parts_of_many(self, drafts: list[Draft]) -> tuple[str, str]:
        """Findings and impression after a second pass: each part is cleaned on its own."""
        findings, impression = self._parts(drafts[0])
        for _ in drafts[1:]:
            findings = self._joined(self._draft(findings))
            impression = self._joined(self._draft(impression))
        return findings, impression

    def _why_empty(self, draft: Draft) -> str:
        if not draft.lines and not draft.removed:
            return "no text"
        if not draft.lines:
            return "no findings or impression"
        return "nothing but comparison, communication or technique"
