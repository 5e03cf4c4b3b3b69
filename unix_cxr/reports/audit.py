"""The audit of a run: JSON, and one HTML page that needs nothing from the network."""

import difflib
import html
import json
import re
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader

from unix_cxr.files import write_text
from unix_cxr.reports.config import CleanerConfig
from unix_cxr.reports.rules import CATALOGUE
from unix_cxr.reports.statistics import Statistics
from unix_cxr.vocabulary import FINDINGS

_WORDS: Final = re.compile(r"\s+")
_STATES: Final = ("positive", "uncertain", "negative")


def audit_values(statistics: Statistics, config: CleanerConfig) -> dict[str, Any]:
    """Everything the audit shows, as JSON values."""
    return {
        "config": config.model_dump(),
        "reports": statistics.reports,
        **statistics.as_dict(),
    }


def write_audit(
    path: str | Path, statistics: Statistics, config: CleanerConfig
) -> tuple[Path, Path]:
    """Write the page and, beside it, the same as JSON; both hold sentences of the reports.

    Returns:
        The HTML file and the JSON file.
    """
    page = Path(path)
    data = page.with_suffix(".json")
    write_text(data, json.dumps(audit_values(statistics, config), indent=1, ensure_ascii=False))
    write_text(page, render_audit(statistics, config))
    return page, data


def render_audit(statistics: Statistics, config: CleanerConfig) -> str:
    """The page as a string; every text in it is escaped."""
    environment = Environment(loader=PackageLoader("unix_cxr.reports"), autoescape=True)
    rules = {rule.name: rule for rule in CATALOGUE}
    counted = sorted(statistics.rules.items(), key=lambda item: (-item[1], item[0]))
    labels = [
        (name, [statistics.labels[f"{name}: {state}"] for state in _STATES]) for name in FINDINGS
    ]
    return environment.get_template("audit.html").render(
        statistics=statistics,
        config=config,
        rules=[
            (name, count, rules.get(name), statistics.examples.get(name, []))
            for name, count in counted
        ],
        unused=sorted(set(rules) - set(statistics.rules)),
        labels=labels,
        sample=[
            (report_id, difference(before, after))
            for _, report_id, before, after in statistics.sample
        ],
        difference=difference,
    )


def difference(before: str, after: str) -> Any:  # noqa: ANN401 - markupsafe.Markup
    """Both texts as one: what went is struck out, what came is underlined."""
    from markupsafe import Markup

    old, new = _WORDS.split(before.strip()), _WORDS.split(after.strip())
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    pieces = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            pieces.append(html.escape(" ".join(old[a:b])))
            continue
        if a < b:
            pieces.append(f"<del>{html.escape(' '.join(old[a:b]))}</del>")
        if c < d:
            pieces.append(f"<ins>{html.escape(' '.join(new[c:d]))}</ins>")
    return Markup(" ".join(pieces))
