"""Reading the gold set, and scoring a cleaner against it."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.content import STATES
from unix_cxr.reports.labeler import facts
from unix_cxr.reports.records import Status
from unix_cxr.reports.tokens import tokenize

GOLD = Path(__file__).parent / "gold"


@dataclass(frozen=True)
class GoldSentence:
    action: str
    category: str
    sentence: str
    accepted: tuple[str, ...]


def read_sentences(half: str) -> list[GoldSentence]:
    found = []
    for line in (GOLD / f"{half}_sentences.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        action, category, rest = (part.strip() for part in line.split("|", 2))
        sentence, _, rewritten = rest.partition(" => ")
        accepted = tuple(part.strip() for part in rewritten.split(" // ")) if rewritten else ()
        found.append(GoldSentence(action, category, sentence, accepted))
    return found


def read_reports(half: str) -> list[dict[str, Any]]:
    return yaml.safe_load((GOLD / f"{half}_reports.yaml").read_text(encoding="utf-8"))


def content(sentence: str) -> str:
    """The words that carry meaning: articles, "there is" and "is present" do not count."""
    words = re.findall(r"[a-z0-9.]+", sentence.lower().rstrip("."))
    empty = {"a", "an", "the", "there", "is", "are", "present", "seen", "noted"}
    return " ".join(word for word in words if word not in empty)


@dataclass(frozen=True)
class Outcome:
    action: str
    category: str
    text: str


def outcome(cleaner: ReportCleaner, sentence: str) -> Outcome:
    """What the whole cleaner makes of one sentence."""
    report = cleaner.clean(sentence)
    if report.status is not Status.CLEAN:
        category = report.removed[0].category.value if report.removed else report.reason
        return Outcome("remove", category, "")
    if report.removed:
        return Outcome("mixed", report.removed[0].category.value, report.text)
    if not report.rewritten:
        return Outcome("keep", "finding", report.text)
    first = report.rewritten[0].rule.split("+")[0]
    return Outcome("rewrite", first.split(".")[0].replace("change", "prior"), report.text)


def _said(text: str) -> set[str]:
    """The findings' words and the labels of a sentence: what must survive."""
    tokens = tokenize(text)
    labels = {f"{f.label} {f.state} {sorted(f.sides)} {f.severity}" for f in facts(tokens)}
    return labels | (set(tokens) & STATES)


@dataclass
class Scores:
    category_f1: float
    category_f1_by_name: dict[str, float]
    action_accuracy: float
    rewrite_exact: float
    rewrite_content: float
    kept_survive: float
    kept_untouched: float
    errors: list[str]


def score(half: str, cleaner: ReportCleaner | None = None) -> Scores:
    """Micro F1 of the categories that are no finding, accuracies of the rewrites."""
    cleaner = cleaner or ReportCleaner()
    hit, predicted, true = Counter(), Counter(), Counter()
    right = exact = near = rewrites = kept = survive = untouched = 0
    errors = []
    gold = read_sentences(half)
    for item in gold:
        got = outcome(cleaner, item.sentence)
        true[item.category] += 1
        predicted[got.category] += 1
        hit[item.category] += got.category == item.category
        right += got.action == item.action
        good = got.action == item.action and got.category == item.category
        if item.action == "rewrite":
            rewrites += 1
            exact += got.text in item.accepted
            same = content(got.text) in {content(text) for text in item.accepted}
            near += same
            good = good and same
        if item.action == "keep":
            kept += 1
            untouched += content(got.text) == content(item.sentence)
            survive += _said(item.sentence) <= _said(got.text)
        if not good:
            errors.append(f"{item.action}/{item.category}: {item.sentence} -> {got}")
    f1 = {
        c: 2 * hit[c] / max(1, true[c] + predicted[c]) for c in sorted(set(true) | set(predicted))
    }
    macro = sum(f1[c] for c in true) / len(true)
    return Scores(
        macro,
        f1,
        right / len(gold),
        exact / rewrites,
        near / rewrites,
        survive / kept,
        untouched / kept,
        errors,
    )


def score_reports(half: str, cleaner: ReportCleaner | None = None) -> tuple[float, list[str]]:
    """Share of reports whose status and sentences are the gold's, by content words."""
    cleaner = cleaner or ReportCleaner()
    gold = read_reports(half)
    errors = []
    for item in gold:
        got = cleaner.clean(item["text"])
        status = item.get("status", "clean")
        if status == "any":
            continue
        want = (
            [content(" ".join(item[part])) for part in ("findings", "impression")]
            if ("findings" in item)
            else ["", ""]
        )
        have = [content(got.findings), content(got.impression)]
        if got.status.value != status or want != have:
            errors.append(f"{item['id']}: {got.status} {got.reason!r} {want} != {have}")
    return 1 - len(errors) / len(gold), errors
