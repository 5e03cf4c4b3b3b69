"""Every command that the documentation shows is there, with the options that it shows."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from unix_cxr.cli import app
from unix_cxr.training.settings import load_recipe

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "recipes").glob("*.yaml")),
]
_SHOWN = re.compile(r"(?m)(?:^|[`$] ?)(unix-cxr [a-z][^`\n]*)")


def shown(text: str) -> Iterator[list[str]]:
    """The words of every command of a page, without what a shell takes for itself."""
    for found in _SHOWN.finditer(re.sub(r"\\\n\s*", " ", text)):
        line = re.sub(r"\s+#.*$", "", found[1])
        try:
            words = shlex.split(re.split(r" (?:\||>|&&|2>) ", line)[0])
        except ValueError:  # an apostrophe: a sentence that speaks of the command
            words = line.split()
        yield words[1:]


def wrong(words: list[str]) -> list[str]:
    """What of a command does not exist."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands") and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        if rest[0] not in command.commands:
            return [rest[0]]
        command = command.commands[rest.pop(0)]
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    options = [re.match(r"--[a-z-]*[a-z]|-[a-z]\b", word) for word in rest]
    return [one[0] for one in options if one and one[0] not in {*known, "--help", "--version"}]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_commands_exist(page: Path) -> None:
    commands = shown(page.read_text(encoding="utf-8"))
    found = {" ".join(words): wrong(words) for words in commands}
    assert not {line: lacks for line, lacks in found.items() if lacks}


def overrides(words: list[str]) -> tuple[Path, list[str]] | None:
    """The recipe of the project that a command trains, and what it changes in it."""
    recipes = [ROOT / word for word in words if word.startswith("recipes/")]
    if words[:2] != ["train", "run"] or not recipes:
        return None
    return recipes[0], [two for one, two in pairwise(words) if one == "--set"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_changes_fit_their_recipes(page: Path) -> None:
    for words in shown(page.read_text(encoding="utf-8")):
        given = overrides(words)
        if given is not None:
            load_recipe(*given)


def test_a_change_that_fits_no_recipe_is_found() -> None:
    words = ["train", "run", "recipes/nano.yaml", "--set", "stages.drawing.steps=3", "--dry-run"]
    given = overrides(words)
    assert given == (ROOT / "recipes/nano.yaml", ["stages.drawing.steps=3"])
    with pytest.raises(ValueError, match="drawing"):
        load_recipe(*given)


def test_enough_commands_are_found_and_wrong_ones_too() -> None:
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    assert sum(1 for text in pages for _ in shown(text)) > 60
    (first, second, third) = shown(
        "```bash\nunix-cxr train run a.yaml --sett b=1 \\\n  --out c   # told\n```\n"
        "`unix-cxr evalute model` and `unix-cxr clean a.csv | wc`"
    )
    assert wrong(first) == ["--sett"]
    assert wrong(second) == ["evalute"]
    assert third == ["clean", "a.csv"]
    assert not wrong(third)
