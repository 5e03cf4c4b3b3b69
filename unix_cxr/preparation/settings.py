"""What decides the content of a prepared folder, checked by pydantic."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unix_cxr.data.frontal import CONSTANT, PICTURE_PROBLEMS
from unix_cxr.data.studies import VIEWS

Fraction = Annotated[float, Field(ge=0, le=1)]


class PreparationSettings(BaseModel):
    """How studies become rows of shards.

    Args:
        image_size: side of the square images in pixels; the aspect ratio is kept.
        image_bits: 8 or 16 bits per pixel.
        text: preset of the report cleaner; "as-is" keeps the source's text.
        section: which part of a report is kept; "text" is findings and impression.
        require_text: leave out studies without a text.
        views: views that are kept; "" is an unknown one.
        refuse_pictures: what a look at a picture may find that leaves it out; see
            `PICTURE_PROBLEMS`.
        salt: a text of your own that draws the split of each patient where the source states
            none; None refuses such a source.
        dev_fraction: share of the patients that it sends to `dev`.
        val_fraction: share of the patients that it sends to `val`.
        shard_rows: studies of the source per shard.
        row_group_rows: studies that are written at once; their facts are read at once too.
        latents: folder of the pipeline or model whose autoencoder's moments are cached, or None.
        features: folder of the pipeline whose vision tower's outputs are cached, or None.
        on_bad: "raise" stops at the first image that cannot be read; "count" leaves it out and
            lists it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: Annotated[int, Field(ge=32, multiple_of=16)]
    image_bits: Literal[8, 16] = 8
    text: Literal["unix", "conservative", "as-is"] = "unix"
    section: Literal["text", "findings", "impression"] = "text"
    require_text: bool = False
    views: tuple[str, ...] = ("AP", "PA", "")
    refuse_pictures: tuple[str, ...] = (CONSTANT,)
    salt: Annotated[str, Field(min_length=1)] | None = None
    dev_fraction: Fraction = 0.1
    val_fraction: Fraction = 0.1
    shard_rows: Annotated[int, Field(ge=1)] = 1024
    row_group_rows: Annotated[int, Field(ge=1)] = 64
    latents: str | None = None
    features: str | None = None
    on_bad: Literal["raise", "count"] = "raise"

    @field_validator("views")
    @classmethod
    def _known_views(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        if set(views) - set(VIEWS) or not views:
            raise ValueError(f"views {list(views)} must be some of {list(VIEWS)}")
        return views

    @field_validator("refuse_pictures")
    @classmethod
    def _known_problems(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(names) - set(PICTURE_PROBLEMS))
        if unknown:
            raise ValueError(f"{unknown} are unknown; known: {list(PICTURE_PROBLEMS)}")
        return names

    @property
    def fractions(self) -> dict[str, float]:
        """Share of the patients by split."""
        rest = 1 - self.dev_fraction - self.val_fraction
        return {"train": rest, "dev": self.dev_fraction, "val": self.val_fraction}


def parse_settings(values: Mapping[str, Any]) -> PreparationSettings:
    """Check settings that are still plain values.

    Raises:
        ValueError: every wrong value with its name.
    """
    try:
        return PreparationSettings.model_validate(values)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, problem['loc']))} ({problem['input']!r}): {problem['msg']}"
            for problem in error.errors()
        ]
        raise ValueError("; ".join(wrong)) from error
