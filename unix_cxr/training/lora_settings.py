"""What a LoRA run may be told, checked by pydantic; an unknown key is an error."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unix_cxr.models.adapters import AdapterSettings, Preset
from unix_cxr.training.objective_settings import (
    Fraction,
    GenerationObjectiveSettings,
    Positive,
    TimesSettings,
    UnderstandingObjectiveSettings,
)
from unix_cxr.training.settings import StageSettings

STAGE: Final = "lora"
_HARMLESS: Final = frozenset(
    {
        "accumulation",
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
        "validate_every",
        "workers",
    }
)
_ADAPTER: Final = ("preset", "rank", "alpha", "rslora", "dora", "dropout", "modules_to_save")
_DRAWING: Final = ("caption_dropout", "augmented_copies")


class LoraSettings(BaseModel):
    """An adapter and how it learns.

    Args:
        preset: see `AdapterSettings`, as for the six below. "und" learns to read, "gen" to draw,
            "both" does both in every step.
        rank: of the low-rank products.
        alpha: of their scale; the rank where None.
        rslora: scale by alpha / √rank.
        dora: learn magnitudes apart from directions.
        dropout: share of the adapter's inputs dropped in training.
        modules_to_save: modules that learn in full and are kept with the adapter.
        caption_dropout: share of captions replaced by the empty context.
        timestep_shift: shift of the logit-normal training times; the model's own where None.
        augmented_copies: latents that are cached per image, each of another augmentation.
        understanding_gradient: with "both", the factor on the gradient that drawing sends into the
            understanding branch.
        reading_weight: with "both", of the reports' loss; the velocity's is 1.
        dev_share: share of the patients to validate on, where the source has no dev split.
        split_salt: decides who they are; see `split_of`.
        limit: keep only the first studies of each split; None keeps all.
        seed: of the adapter's random half, the order, the wording, the noise and the dropout.
        steps: see `StageSettings`, as for all below.
        batch_size: studies per step.
        accumulation: micro-batches per step.
        learning_rate: after the warm-up.
        warmup_steps: linear rise at the start.
        schedule: "constant" or "cosine".
        betas: of AdamW.
        weight_decay: of AdamW.
        clip_norm: largest norm of the gradient.
        ema_decay: of the adapter's moving average; None keeps none.
        precision: "float32" or "bfloat16" autocast over float32 weights.
        augmentation: strength of the image augmentation.
        workers: processes that make batches.
        log_every: steps between lines of the log.
        validate_every: steps between passes over the dev split.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Preset = "gen"
    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Positive | None = None
    rslora: bool = False
    dora: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    modules_to_save: tuple[str, ...] = ()

    caption_dropout: Fraction = 0.1
    timestep_shift: Positive | None = None
    augmented_copies: Annotated[int, Field(ge=1)] = 3
    understanding_gradient: Fraction = 1.0
    reading_weight: Positive = 1.0

    dev_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    split_salt: Annotated[str, Field(min_length=1)] = "unix-cxr lora"
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    steps: Annotated[int, Field(ge=1)] = 500
    batch_size: Annotated[int, Field(ge=1)] = 16
    accumulation: Annotated[int, Field(ge=1)] = 1
    learning_rate: Positive = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    schedule: Literal["constant", "cosine"] = "cosine"
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Positive = 1.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    augmentation: Annotated[float, Field(ge=0, le=2)] = 1.0
    workers: Annotated[int, Field(ge=0)] = 0
    log_every: Annotated[int, Field(ge=1)] = 20
    validate_every: Annotated[int, Field(ge=1)] = 100
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2

    def adapter(self) -> AdapterSettings:
        """What the fresh adapter is like."""
        return AdapterSettings(**self.model_dump(include=set(_ADAPTER)))

    def drawing(self, shift: float) -> GenerationObjectiveSettings:
        """What drawing minimises; `shift` is the model's own."""
        return GenerationObjectiveSettings(
            kind="generation",
            times=TimesSettings(shift=self.timestep_shift or shift),
            understanding_gradient=self.understanding_gradient if self.preset == "both" else 0.0,
            **self.model_dump(include=set(_DRAWING)),
        )

    def stage(self, shift: float) -> StageSettings:
        """The same as a stage of the trainer: what learns are the adapter's parameters."""
        shared = set(StageSettings.model_fields) & set(type(self).model_fields)
        saved = ("*.modules_to_save.*",) if self.modules_to_save else ()
        reading = UnderstandingObjectiveSettings(kind="understanding")
        return StageSettings(
            name=STAGE,
            objective=reading if self.preset == "und" else self.drawing(shift),
            trains=("*.lora_*", *saved),
            **self.model_dump(include=shared),
        )

    def identity(self) -> dict[str, Any]:
        """What decides the adapter's weights; a run with another identity is another run."""
        harmless = _HARMLESS | ({"steps"} if self.schedule == "constant" else set())
        return self.model_dump(mode="json", exclude=set(harmless))


def lora_settings(values: Mapping[str, object], overrides: Sequence[str] = ()) -> LoraSettings:
    """Settings of plain values and of overrides such as "dropout=0.05".

    Args:
        values: by key; None leaves the default.
        overrides: "key=value", the value in YAML; they win over `values`.

    Raises:
        ValueError: an override is no key and value, a key is unknown, or a value is out of range.
    """
    tree = {key: value for key, value in values.items() if value is not None}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"override {override!r} must look like key=value")
        try:
            tree[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"override {key!r}: {text!r} is no YAML value") from error
    try:
        return LoraSettings.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise ValueError("; ".join(lines)) from error


def _explain(problem: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key; known keys: {sorted(LoraSettings.model_fields)}"
    return f"{place}: {problem['msg']} (got {problem['input']!r})"
