"""The steps of cleaning one report; each has a name, an example, and leaves a draft behind."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from unix_cxr.reports.config import CleanerConfig
from unix_cxr.reports.decide import REMOVE, REWRITE, Decider, Decision
from unix_cxr.reports.guard import lost_facts
from unix_cxr.reports.intake import refusal
from unix_cxr.reports.labeler import NEGATIVE, POSITIVE, Fact, Statement, facts, merge
from unix_cxr.reports.normalise import join_lines, normalise_characters, quiet_capitals
from unix_cxr.reports.privacy import mask
from unix_cxr.reports.records import Category, Removed, Rewritten
from unix_cxr.reports.sections import (
    FINDINGS,
    IMPRESSION,
    PREAMBLE,
    Section,
    concerns_other_body_part,
    split_sections,
)
from unix_cxr.reports.sentences import split_sentences
from unix_cxr.reports.tokens import tokenize

_LONGEST_SENTENCE: Final = 2000
SECTION_CATEGORIES: Final = {
    "history": Category.HISTORY,
    "technique": Category.TECHNIQUE,
    "comparison": Category.PRIOR,
    "recommendation": Category.RECOMMENDATION,
    "notification": Category.COMMUNICATION,
    "wet read": Category.ADMINISTRATIVE,
    "attestation": Category.ADMINISTRATIVE,
    "administrative": Category.ADMINISTRATIVE,
    "addendum": Category.ADMINISTRATIVE,
    PREAMBLE: Category.FINDING,
    FINDINGS: Category.FINDING,
    IMPRESSION: Category.FINDING,
}


@dataclass(slots=True)
class Line:
    """One sentence on its way."""

    part: str
    before: str
    decision: Decision
    facts: list[Fact] = field(default_factory=list)
    addendum: bool = False

    @property
    def kept(self) -> bool:
        """Whether the sentence, perhaps rewritten, is in the cleaned text."""
        return self.decision.action != REMOVE


@dataclass(slots=True)
class Draft:
    """A report while it is being cleaned; a step changes it in place."""

    text: str
    sections: list[Section] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)
    rewritten: list[Rewritten] = field(default_factory=list)
    masked: dict[str, int] = field(default_factory=dict)
    guarded: list[str] = field(default_factory=list)
    refused: str = ""

    def sentences(self, part: str) -> list[str]:
        """The cleaned sentences of one part, in order."""
        return [line.decision.text for line in self.lines if line.part == part and line.kept]


class Step(Protocol):
    """A step of one's own: anything with a name, an example and a counter-example."""

    @property
    def name(self) -> str:
        """What the step is called in errors and explanations."""

    @property
    def example(self) -> tuple[str, str]:
        """A text that the step acts on, and what is left of it."""

    @property
    def counter_example(self) -> str:
        """A text that looks alike and must stay."""

    def __call__(self, draft: Draft) -> None:
        """Change the draft in place; never raise, whatever text it holds."""


@dataclass(frozen=True, slots=True)
class FunctionStep:
    """A step made of a function of the draft."""

    name: str
    example: tuple[str, str]
    counter_example: str
    function: Callable[[Draft], None]

    def __call__(self, draft: Draft) -> None:
        """Run the function."""
        self.function(draft)


def default_steps(config: CleanerConfig, decider: Decider) -> tuple[Step, ...]:
    """The steps in their order."""
    steps: list[Step] = [
        FunctionStep(
            "intake",
            ("<html><p>Clear.</p></html>", ""),
            "Heart <50 % of the thoracic width.",
            _intake,
        ),
        FunctionStep(
            "characters", ("No effusion\x00.", "No effusion."), "No effusion.", _characters
        ),
        FunctionStep("mask", ("Seen on 3/4/2011.", ""), "Mass of 4.5 cm at T11/12.", _mask),
        FunctionStep(
            "sections",
            ("TECHNIQUE: AP. FINDINGS: Clear lungs.", "Clear lungs."),
            "Lungs: clear.",
            lambda draft: _sections(draft, config),
        ),
        FunctionStep(
            "decide",
            ("Stable cardiomegaly.", "Cardiomegaly."),
            "Status post prior CABG.",
            lambda draft: _decide(draft, decider),
        ),
        FunctionStep(
            "agree",
            ("Right basilar opacity. No new opacity.", "Right basilar opacity."),
            "Right basilar opacity. No effusion.",
            lambda draft: _agree(draft, decider),
        ),
    ]
    if not config.mask_private:
        steps = [step for step in steps if step.name != "mask"]
    return tuple(steps)


def _intake(draft: Draft) -> None:
    draft.refused = refusal(draft.text)


def _characters(draft: Draft) -> None:
    draft.text = normalise_characters(draft.text)


def _mask(draft: Draft) -> None:
    draft.text, counts = mask(draft.text)
    for kind, count in counts.items():
        draft.masked[kind] = draft.masked.get(kind, 0) + count


def _sections(draft: Draft, config: CleanerConfig) -> None:
    sections = split_sections(draft.text)
    kinds = {section.kind for section in sections}
    only_wet_read = "wet read" in kinds and not {FINDINGS, IMPRESSION} & kinds
    elsewhere = {section.study for section in sections if concerns_other_body_part(section)}
    for section in sections:
        wanted = section.kind in config.keep_sections or section.kind == PREAMBLE
        wanted = wanted or (only_wet_read and section.kind == "wet read")
        if wanted and section.study not in elsewhere:
            draft.sections.append(section)
        elif body := join_lines(section.body):
            category = SECTION_CATEGORIES[section.kind]
            rule = f"section.{section.kind.replace(' ', '-')}"
            if section.study in elsewhere:
                rule = "section.other-body-part"
            draft.removed.append(Removed(body, rule, category))


def _decide(draft: Draft, decider: Decider) -> None:
    """Every sentence through the catalogue; what has no sentences is refused."""
    for section in draft.sections:
        part = IMPRESSION if section.kind == IMPRESSION else FINDINGS
        addendum = section.kind == "addendum"
        for sentence in split_sentences(quiet_capitals(join_lines(section.body))):
            if len(sentence) > _LONGEST_SENTENCE:
                draft.refused = f"no sentences: one of {len(sentence)} characters"
                return
            decision, stated = decider.decide(Statement(sentence))
            draft.lines.append(Line(part, sentence, decision, stated.facts, addendum))


def _agree(draft: Draft, decider: Decider) -> None:
    """Sentences against each other: nothing stated is lost, nothing contradicts itself."""
    _refuse_contradiction(draft)
    _drop_untrue_denials(draft)
    _restore_lost(draft, decider)
    for line in draft.lines:
        decision = line.decision
        rule = "+".join(decision.rules)
        if decision.action == REMOVE:
            draft.removed.append(Removed(line.before, rule, decision.category))
        elif decision.action == REWRITE:
            draft.rewritten.append(Rewritten(line.before, decision.text, rule))
        draft.guarded.extend(decision.problems)


def _refuse_contradiction(draft: Draft) -> None:
    if not any(line.addendum for line in draft.lines):
        return
    body = merge(f for line in draft.lines if line.kept and not line.addendum for f in line.facts)
    later = merge(f for line in draft.lines if line.kept and line.addendum for f in line.facts)
    for name, label in later.items():
        known = body.get(name)
        if known and {known.state, label.state} == {POSITIVE, NEGATIVE} and name != "No Finding":
            draft.refused = f"addendum contradicts the report: {name}"
            return


def _drop_untrue_denials(draft: Draft) -> None:
    """`No new X` may become `No X` only where nothing else in the report speaks of X."""
    for line in draft.lines:
        if "change.no-new" not in line.decision.rules or line.decision.action != REWRITE:
            continue
        denied = {fact.label for fact in line.facts if fact.state == NEGATIVE}
        stated = {
            fact.label
            for other in draft.lines
            if other is not line and other.kept
            for fact in other.facts
            if fact.state != NEGATIVE
        }
        if denied & stated:
            line.decision = Decision(
                REMOVE, line.before, ("change.no-new-beside-old",), Category.PRIOR
            )


def _restore_lost(draft: Draft, decider: Decider) -> None:
    """A removed sentence that alone states a finding comes back, and is counted."""
    removed = [line for line in draft.lines if not line.kept and line.facts]
    if not removed:
        return
    kept = [fact for line in draft.lines if line.kept for fact in line.facts]
    for line in removed:
        if line.decision.rules == ("change.no-new-beside-old",):
            continue
        lost = lost_facts(line.facts, kept)
        if not lost:
            continue
        problems = tuple(f"lost: {name}" for name in lost)
        line.decision = decider.rescue(line.before, line.decision, problems)
        line.facts = facts(tokenize(line.decision.text))
        kept.extend(line.facts)
