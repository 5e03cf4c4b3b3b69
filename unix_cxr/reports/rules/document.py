"""The catalogue as a Markdown page: `python -m unix_cxr.reports.rules.document`."""

import sys
from itertools import groupby

from unix_cxr.reports.leftovers import EXEMPT, WORDS
from unix_cxr.reports.rules.catalogue import CATALOGUE
from unix_cxr.reports.rules.protect import PROTECTED
from unix_cxr.reports.sections import ALIASES

_INTRODUCTION = """# The cleaning rules

Generated from the rules themselves by `python -m unix_cxr.reports.rules.document`; do not edit.

A sentence goes through the rules in this order. A *removal* drops the sentence, a *rewrite* cuts or
replaces what it matches and the sentence goes on. After that the guard compares what the sentence
states before and after, and refuses the change where a finding, side, severity, number or negation
differs. `unix` uses every rule; `conservative` those that say so.
"""


def catalogue_markdown() -> str:
    """The page: every rule with its example and what it leaves alone."""
    lines = [_INTRODUCTION]
    for group, rules in groupby(CATALOGUE, lambda rule: rule.name.split(".")[0]):
        lines.append(f"## {group.capitalize()}\n")
        for rule in rules:
            presets = "both presets" if len(rule.presets) > 1 else "`unix` only"
            lines.append(f"### `{rule.name}`\n")
            lines.append(f"A {'removal' if rule.action == 'remove' else 'rewrite'}; {presets}.\n")
            after = rule.example[1] or "*(removed)*"
            lines.append(f"- {rule.example[0]} → {after}")
            lines.append(f"- stays: {rule.counter_example}\n")
    lines.append("## Contexts that no rule touches\n")
    lines.extend(f"- **{name.replace('-', ' ')}**: {example}" for name, _, example in PROTECTED)
    lines.append("\n## Headers of sections\n")
    lines.extend(f"- **{kind}**: {', '.join(sorted(names))}" for kind, names in ALIASES.items())
    lines.append("\n## The list of leftovers\n")
    lines.append("Words that a cleaned report should not hold (`unix_cxr.reports.leftovers`):\n")
    lines.extend(f"- **{kind}**: {', '.join(sorted(words))}" for kind, words in WORDS.items())
    lines.append("\nExempt where they name a finding of this image:\n")
    lines.extend(
        f"- **{why}**: " + ", ".join(f"`{p}`" for p in patterns) for why, patterns in EXEMPT.items()
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(catalogue_markdown())
