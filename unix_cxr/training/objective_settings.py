"""What a stage may minimise, and the settings of each kind of objective."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class StrictSettings(BaseModel):
    """Settings that cannot be changed and in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AutoencoderObjectiveSettings(StrictSettings):
    """L1 + KL + gradient difference, with their weights.

    Args:
        crop: side of random crops to train on, in pixels; None trains on whole images. Crops give
            more steps per second early on.
    """

    kind: Literal["autoencoder"]
    l1: Positive
    kl: Positive
    structure: Positive
    crop: Annotated[int, Field(ge=32, multiple_of=16)] | None = None


class UnderstandingObjectiveSettings(StrictSettings):
    """Cross-entropy of the report's tokens, given the image."""

    kind: Literal["understanding"]


class GenerationObjectiveSettings(StrictSettings):
    """Flow matching of the latents, given the caption.

    Args:
        caption_dropout: share of captions replaced by the empty context.
        timestep_shift: shift of the logit-normal training times.
        understanding_gradient: 1 trains the understanding branch jointly, 0 freezes it.
        augmented_copies: latents that are cached per image, each of another augmentation.
        prepared_moments: take the latents' moments from the prepared folder in the place of
            encoding the images when the stage begins; they are not augmented.
    """

    kind: Literal["generation"]
    caption_dropout: Fraction
    timestep_shift: Positive
    understanding_gradient: Fraction
    augmented_copies: Annotated[int, Field(ge=1)]
    prepared_moments: bool = False


ObjectiveSettings = Annotated[
    AutoencoderObjectiveSettings | UnderstandingObjectiveSettings | GenerationObjectiveSettings,
    Field(discriminator="kind"),
]
