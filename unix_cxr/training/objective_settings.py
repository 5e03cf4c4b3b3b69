"""What a stage may minimise, and the settings of each kind of objective."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
_LARGEST_SCALE: Final = 2 / (math.pi - 2)


class StrictSettings(BaseModel):
    """Settings that cannot be changed and in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AdversarialSettings(StrictSettings):
    """A critic that learns to tell reconstructions from X-rays, and is thrown away afterwards.

    Args:
        weight: of what the critic says; with 1, a critic that is sure pulls at an image as
            strongly as an absolute error of weight 1, and one that cannot tell does not pull.
        width: channels of the critic's first layer.
    """

    weight: Positive = 3.0
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 32


class AutoencoderObjectiveSettings(StrictSettings):
    """L1 + KL + gradient difference, with their weights.

    Args:
        crop: side of random crops to train on, in pixels; None trains on whole images. Crops give
            more steps per second early on.
        adversarial: a critic of fine texture, for the last steps of a decoder; None has none.
    """

    kind: Literal["autoencoder"]
    l1: Positive
    kl: Positive
    structure: Positive
    crop: Annotated[int, Field(ge=32, multiple_of=16)] | None = None
    adversarial: AdversarialSettings | None = None


class VisionObjectiveSettings(StrictSettings):
    """Telling the statements of labels and findings texts from the image tokens.

    Args:
        least: a statement ("Pleural Effusion", "Pleural Effusion: left") is taught if it holds for
            that many studies, and is absent in as many.
    """

    kind: Literal["vision"]
    least: Annotated[int, Field(ge=1)] = 20


class UnderstandingObjectiveSettings(StrictSettings):
    """Cross-entropy of the report's tokens, given the image."""

    kind: Literal["understanding"]


class TimesSettings(StrictSettings):
    """How training draws its times; validation always draws them logit-normal(0, 1), unshifted.

    Args:
        kind: "logit_normal", "uniform", or "mode"; see `unix_cxr.functional.flow`.
        mean: of the logit; of logit_normal.
        std: of the logit; of logit_normal.
        scale: of mode; above 0 favours the middle, below 0 the ends.
        shift: moves all times towards the noise; 1 moves none.
        stratified: each sample of a batch draws from a stratum of its own: the same times on
            average, and fewer batches with hardly any early or late ones.
    """

    kind: Literal["logit_normal", "uniform", "mode"] = "logit_normal"
    mean: float = 0.0
    std: Positive = 1.0
    scale: Annotated[float, Field(ge=-1, le=_LARGEST_SCALE)] = 0.0
    shift: Positive = 1.0
    stratified: bool = False

    @model_validator(mode="after")
    def _of_its_kind(self) -> "TimesSettings":
        owners = {"mean": "logit_normal", "std": "logit_normal", "scale": "mode"}
        for name, owner in owners.items():
            value = getattr(self, name)
            if self.kind != owner and value != type(self).model_fields[name].default:
                raise ValueError(f"{name} ({value}) is of kind {owner}, not of {self.kind}")
        return self


class AlignmentSettings(StrictSettings):
    """Hidden states of the generation branch that learn to tell an encoder's features (REPA).

    Args:
        encoder: folder of a DINOv2 or RAD-DINO in transformers' layout; "vision", the model's own
            tower as it is when the stage begins; or "prepared", the features in the prepared
            folder.
        layer: the states after it are aligned; 1 is the first.
        weight: of 1 − cosine beside the error of the velocity.
        width: of the projector's hidden layers; None has the model's width.
        keep: "memory" encodes all images when the stage begins and keeps a float16 feature per
            latent token; "step" encodes a step's images when it comes, and needs augmentation 0.
    """

    encoder: Annotated[str, Field(min_length=1)]
    layer: Annotated[int, Field(ge=1)]
    weight: Positive = 0.5
    width: Annotated[int, Field(ge=1)] | None = None
    keep: Literal["memory", "step"] = "memory"


class ContextSettings(StrictSettings):
    """Where contexts of captions are kept under a frozen understanding branch.

    Worth it where captions come again word by word; each is encoded by itself.

    Args:
        memory_mb: megabytes to keep at most in each process's memory.
        folder: keeps them on the disk too, one file per caption; None keeps none there.
    """

    memory_mb: Annotated[int, Field(ge=0)] = 1000
    folder: str | None = None


class DrawingSettings(StrictSettings):
    """What every objective that draws says of it.

    Args:
        caption_dropout: share of captions replaced by the empty context.
        times: how training draws its times.
        weighting: of the squared error by time: "none", "min_snr" (with `snr_gamma`), or "cosmap".
        snr_gamma: largest signal-to-noise ratio that min_snr counts.
        understanding_gradient: 1 trains the understanding branch jointly, 0 freezes it.
        augmented_copies: latents that are cached per image, each of another augmentation.
        alignment: with an encoder's features; None aligns with none.
        prepared_moments: take the latents' moments from the prepared folder in the place of
            encoding the images when the stage begins; they are not augmented.
    """

    caption_dropout: Fraction
    times: TimesSettings = TimesSettings()
    weighting: Literal["none", "min_snr", "cosmap"] = "none"
    snr_gamma: Positive = 5.0
    understanding_gradient: Fraction
    augmented_copies: Annotated[int, Field(ge=1)]
    alignment: AlignmentSettings | None = None
    prepared_moments: bool = False

    @model_validator(mode="before")
    @classmethod
    def _shift_of_old_recipes(cls, values: Any) -> Any:  # noqa: ANN401 - anything at all
        """Read `timestep_shift: s` as `times: {shift: s}`, which it was called before."""
        if not isinstance(values, Mapping) or "timestep_shift" not in values:
            return values
        if "times" in values:
            raise ValueError("timestep_shift is times.shift; give one of the two")
        rest = {key: value for key, value in values.items() if key != "timestep_shift"}
        return rest | {"times": {"shift": values["timestep_shift"]}}


class GenerationObjectiveSettings(DrawingSettings):
    """Flow matching of the latents, given the caption.

    Args:
        copy_understanding: the generation layers begin as copies of the language model's.
        contexts: keeps captions' contexts, which needs understanding_gradient 0; None keeps none.
    """

    kind: Literal["generation"]
    copy_understanding: bool = False
    contexts: ContextSettings | None = None

    @model_validator(mode="after")
    def _contexts_that_stay(self) -> "GenerationObjectiveSettings":
        if self.contexts is not None and self.understanding_gradient:
            raise ValueError(
                f"contexts are kept under a frozen understanding branch: set "
                f"understanding_gradient ({self.understanding_gradient}) to 0, or leave them out"
            )
        return self


class JointObjectiveSettings(DrawingSettings):
    """Reading and drawing in one step: the losses of both, over a batch of each.

    A step's batch is divided in the ratio `reading` : `drawing`, which must divide it.

    Args:
        reading: parts of a step's batch that are read.
        drawing: parts of a step's batch that are drawn.
        reading_weight: of the reports' cross-entropy; the velocity's is 1.
    """

    kind: Literal["joint"]
    reading: Annotated[int, Field(ge=1)] = 1
    drawing: Annotated[int, Field(ge=1)] = 1
    reading_weight: Positive = 1.0

    def shares(self, batch_size: int) -> tuple[int, int]:
        """Samples to read and samples to draw of a step's batch.

        Raises:
            ValueError: the ratio does not divide the batch.
        """
        part, rest = divmod(batch_size, self.reading + self.drawing)
        if rest or not part:
            raise ValueError(
                f"batch_size ({batch_size}) must be a multiple of {self.reading + self.drawing}: "
                f"reading ({self.reading}) + drawing ({self.drawing})"
            )
        return part * self.reading, part * self.drawing


ObjectiveSettings = Annotated[
    AutoencoderObjectiveSettings
    | VisionObjectiveSettings
    | UnderstandingObjectiveSettings
    | GenerationObjectiveSettings
    | JointObjectiveSettings,
    Field(discriminator="kind"),
]
