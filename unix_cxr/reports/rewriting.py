"""A language model may rewrite a report, and is believed only as far as the guard agrees.

The loop of arXiv:2601.11522: the model rewrites, then judges its own rewrite against the original.
To that we add what does not depend on a model: the answer must state the facts of the rule-cleaned
report, must use no finding's word that the report lacks, and must hold no leftover. An answer that
fails is asked for again with the reason; in the end the rule-cleaned report stands, and is counted.

Backends live in `unix_cxr.pipelines.rewriters`, so that this package imports without torch.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Final, Protocol

from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.content import STATES
from unix_cxr.reports.guard import report_violations
from unix_cxr.reports.labeler import label_report
from unix_cxr.reports.leftovers import leftovers
from unix_cxr.reports.normalise import join_lines, normalise_characters
from unix_cxr.reports.privacy import mask
from unix_cxr.reports.records import CleanReport, Rewritten, Status
from unix_cxr.reports.sections import FINDINGS, IMPRESSION, PREAMBLE, split_sections
from unix_cxr.reports.tokens import tokenize

_ANSWER: Final = re.compile(r"<report>(.*?)</report>", re.DOTALL | re.IGNORECASE)
_LONGEST_FACTOR: Final = 2
_NOT_FINDINGS: Final = frozenset(("positive", "negative", "place", "position", "well", "of"))


class RewriterError(RuntimeError):
    """A backend gave no answer: it timed out, refused, or broke its protocol."""


class Rewriter(Protocol):
    """A language model behind one method."""

    name: str
    """Which model answers; part of the cache's key."""

    def complete(self, prompt: str) -> str:
        """The model's answer to one prompt.

        Raises:
            RewriterError: there is no answer.
        """


class ResponseCache:
    """Answers by the hash of model and prompt, on disk, so that a run can stop and go on."""

    def __init__(self, path: str | Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT)"
        )

    def get(self, model: str, prompt: str) -> str | None:
        """The stored answer, or None."""
        query = "SELECT answer FROM answers WHERE key = ?"
        row = self._database.execute(query, (self._key(model, prompt),)).fetchone()
        return None if row is None else str(row[0])

    def put(self, model: str, prompt: str, answer: str) -> None:
        """Store an answer."""
        self._database.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?)",
            (self._key(model, prompt), answer.encode("utf-8", "replace").decode("utf-8")),
        )

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @staticmethod
    def _key(model: str, prompt: str) -> str:
        return sha256(f"{model}\0{prompt}".encode("utf-8", "surrogatepass")).hexdigest()


class RewritingCleaner:
    """A `ReportCleaner` whose result a language model may improve, under guard.

    Args:
        cleaner: the rules; what they make of a report is the measure and the fallback.
        rewriter: the backend.
        cache: where answers are kept; without it every answer is asked for anew.
        attempts: how often a report is asked for before the rules' result stands.
        judge: whether the model also judges its own answer, as in the paper.
    """

    def __init__(
        self,
        cleaner: ReportCleaner,
        rewriter: Rewriter,
        *,
        cache: ResponseCache | None = None,
        attempts: int = 2,
        judge: bool = True,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {attempts}")
        self.cleaner = cleaner
        self.rewriter = rewriter
        self.cache = cache
        self.attempts = attempts
        self.judge = judge
        self.counts: Counter[str] = Counter()

    def clean(self, text: str) -> CleanReport:
        """Clean one report; the rules' result stands wherever the model fails."""
        report = self.cleaner.clean(text)
        if report.status is not Status.CLEAN:
            return report
        sources = self._sources(text)
        findings, refused = self._part(sources[FINDINGS], report.findings)
        impression, refused_too = self._part(sources[IMPRESSION], report.impression)
        joined = f"{findings} {impression}".strip()
        rule = f"llm.{self.rewriter.name}"
        changes = tuple(
            Rewritten(before, after, rule)
            for before, after in ((report.findings, findings), (report.impression, impression))
            if before != after
        )
        return replace(
            report,
            findings=findings,
            impression=impression,
            text=joined,
            labels=label_report(joined),
            rewritten=report.rewritten + changes,
            guarded=report.guarded + refused + refused_too,
        )

    def map(self, texts: Iterable[str]) -> Iterator[CleanReport]:
        """Clean reports one after the other."""
        return map(self.clean, texts)

    def _sources(self, text: str) -> dict[str, str]:
        """Findings and impression as they were written, masked: what the model is shown."""
        masked = mask(normalise_characters(text))[0] if self.cleaner.config.mask_private else text
        parts: dict[str, list[str]] = {FINDINGS: [], IMPRESSION: []}
        for section in split_sections(masked):
            if section.kind in {FINDINGS, PREAMBLE, "addendum"}:
                parts[FINDINGS].append(join_lines(section.body))
            elif section.kind == IMPRESSION:
                parts[IMPRESSION].append(join_lines(section.body))
        return {kind: " ".join(bodies) for kind, bodies in parts.items()}

    def _part(self, source: str, reference: str) -> tuple[str, tuple[str, ...]]:
        if not reference:
            return "", ()
        feedback = ""
        problems: list[str] = []
        for _ in range(self.attempts):
            try:
                answer = self._answer(source, feedback)
                problems = answer_problems(source, reference, answer)
                if not problems and self.judge:
                    problems = self._judged(source, answer)
            except RewriterError as error:
                self.counts["no answer"] += 1
                return reference, (f"llm: {error}"[:120],)
            if not problems:
                self.counts["accepted"] += 1
                return answer, ()
            feedback = f"\nYour last answer was refused: {'; '.join(problems)[:400]}\n"
        self.counts["refused"] += 1
        return reference, tuple(f"llm {problem}" for problem in problems)

    def _answer(self, source: str, feedback: str) -> str:
        prompt = _prompt("rewrite").replace("{feedback}", feedback).replace("{report}", source)
        found = _ANSWER.findall(self._complete(prompt))
        if not found:
            return ""
        return join_lines(normalise_characters(str(found[-1]).strip()))

    def _judged(self, source: str, answer: str) -> list[str]:
        prompt = _prompt("judge").replace("{original}", source).replace("{edited}", answer)
        verdict = self._complete(prompt).strip()
        return [] if verdict.upper().startswith("PASS") else [f"judge: {verdict[:200]}"]

    def _complete(self, prompt: str) -> str:
        known = self.cache.get(self.rewriter.name, prompt) if self.cache else None
        if known is not None:
            self.counts["from cache"] += 1
            return known
        answer = self.rewriter.complete(prompt)
        if self.cache:
            self.cache.put(self.rewriter.name, prompt, answer)
        return answer


def answer_problems(source: str, reference: str, answer: str) -> list[str]:
    """What a model's answer states beyond or beneath the report.

    Args:
        source: the report as it was written.
        reference: the same, cleaned by the rules; its facts are the measure.
        answer: what the model made of `source`.
    """
    if not answer:
        return ["no <report> in the answer"]
    if len(answer) > _LONGEST_FACTOR * len(source) + 40:
        return [f"{len(answer)} characters for a report of {len(source)}"]
    problems = list(report_violations(reference, answer))
    known = set(tokenize(source)) | set(tokenize(reference))
    invented = (set(tokenize(answer)) & STATES) - known - _NOT_FINDINGS
    problems.extend(f"invented: {word}" for word in sorted(invented))
    problems.extend(f"left over: {kind}" for kind in leftovers(answer))
    return problems


def _prompt(name: str) -> str:
    return (files("unix_cxr.reports") / "prompts" / f"{name}.txt").read_text(encoding="utf-8")
