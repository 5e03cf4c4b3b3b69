"""The numbers of a run as a Markdown table, for a model's card."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from unix_cxr.evaluation.run_folders import METRICS, read_metrics

CEILING: Final = "/ceiling"
MAIN: Final = (
    *("fd", "kd", "precision", "recall", "density", "coverage", "vendi", "ms_ssim"),
    *("sharpness/middle", "sharpness/fine", "tone", "repeated", "near_train/*"),
    *("auroc/label_agreement", "auroc/use/real", "auroc/use/drawn", "auroc/use/both"),
    *("auroc/use/gain", "auroc/use_network/real", "auroc/use_network/drawn"),
    *("auroc/use_network/both", "auroc/use_network/gain", "alignment/wins", "oracle/f1"),
    *("oracle/side", "bleu_4", "chrf", "rouge_l", "micro_f1_14/uncertain_positive"),
    *("macro_f1_14/uncertain_positive", "auroc/probe/masked_0", "auroc/zero_shot/*"),
)
"""What a reader wants first; the rest is on the page and in metrics.json."""
_BETTER: Final = {True: "more", False: "less", None: ""}


def markdown_table(folder: str | Path, patterns: Sequence[str] | None = None) -> str:
    """One row per metric: value with interval, the ceiling of real X-rays, which end is good, n.

    Args:
        folder: of a run.
        patterns: names of metrics, `*` for any part; the main ones where None.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: metrics.json is none of ours, or a pattern fits no metric.
    """
    tree = read_metrics(folder)
    entries: dict[str, Mapping[str, Any]] = {entry["name"]: entry for entry in tree["metrics"]}
    plain = [name for name in entries if not name.endswith(CEILING)]
    names: list[str] = []
    for pattern in patterns or MAIN:
        fitting = [name for name in plain if fnmatchcase(name, pattern)]
        if patterns and not fitting:
            raise ValueError(
                f"no metric of {Path(folder) / METRICS} fits {pattern!r}; it holds "
                f"{', '.join(plain)}"
            )
        names += [name for name in fitting if name not in names]
    lines = [
        f"{tree['title']}, protocol {tree['protocol']}, unix_cxr {tree['unix_cxr']}.",
        "",
        "| metric | value (95 % interval) | real in its place | better | n |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        cells = (
            f"`{name}`",
            _number(entries[name]),
            _number(entries.get(name + CEILING)),
            _BETTER[entries[name]["higher_is_better"]],
            str(entries[name]["n"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    if entry["value"] is None:
        return "none"
    value, interval = f"{entry['value']:.3g}", entry["interval"]
    if interval is None or interval["low"] is None:
        return value
    return f"{value} ({interval['low']:.3g} to {interval['high']:.3g})"
