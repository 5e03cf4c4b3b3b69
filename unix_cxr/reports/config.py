"""The cleaner's configuration: presets by name, YAML files, unknown keys refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unix_cxr.reports.sections import ALIASES

PRESETS: Final = ("unix", "conservative")


class CleanerConfig(BaseModel):
    """How reports are cleaned.

    `unix` follows arXiv:2601.11522: no comparison and no change over time is left.
    `conservative` cuts references to other examinations and all that is no finding, and leaves
    words of change ("stable", "new", "worsened") as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Literal["unix", "conservative"] = "unix"
    keep_sections: tuple[str, ...] = ("findings", "impression", "addendum")
    disabled_rules: tuple[str, ...] = ()
    mask_private: bool = True
    text_from: Literal["both", "findings", "impression"] = "both"
    max_characters: int = Field(default=20_000, gt=0)

    @field_validator("keep_sections")
    @classmethod
    def _known_sections(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(kinds) - set(ALIASES))
        if unknown:
            raise ValueError(f"unknown sections {unknown}; known: {sorted(ALIASES)}")
        return kinds

    @field_validator("disabled_rules")
    @classmethod
    def _known_rules(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from unix_cxr.reports.rules import CATALOGUE

        unknown = sorted(set(names) - {rule.name for rule in CATALOGUE})
        if unknown:
            raise ValueError(
                f"unknown rules {unknown}; docs/reference/cleaning-rules.md lists them"
            )
        return names

    @classmethod
    def from_yaml(cls, path: str | Path) -> "CleanerConfig":
        """Read a YAML file.

        Raises:
            TypeError: the file is no mapping.
            ValueError: a key or value is not known.
        """
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        if not isinstance(values, dict):
            raise TypeError(f"{path} must hold a mapping of options, not {type(values).__name__}")
        return cls.parse(values, str(path))

    @classmethod
    def parse(cls, values: Mapping[str, Any], origin: str = "options") -> "CleanerConfig":
        """Check options that are still plain values.

        Raises:
            ValueError: every wrong one with its name and value, and the known options.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            wrong = [
                f"{'.'.join(map(str, one['loc']))} ({one['input']!r}): {one['msg']}"
                for one in error.errors()
            ]
            known = ", ".join(cls.model_fields)
            raise ValueError(f"{origin}: {'; '.join(wrong)}; known options: {known}") from error
