"""What each kind of objective reads, teaches and leaves behind: one row per kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from unix_cxr.training.objective_settings import (
    AutoencoderObjectiveSettings,
    GenerationObjectiveSettings,
    JointObjectiveSettings,
    UnderstandingObjectiveSettings,
    VisionObjectiveSettings,
)


@dataclass(frozen=True)
class Kind:
    """One kind of objective, as recipes, plans and checkpoints see it.

    Args:
        settings: what a recipe may say about it.
        networks: "vae", "model" and "processor", as far as a stage begins with them.
        sections: of the recipe, whose sizes reach what is learned.
        reads: shell patterns of the parameters that it runs through.
        chooses: shell patterns of the parameters among which a stage's `trains` chooses.
        exports: the network that a finished stage keeps.
    """

    settings: type[BaseModel]
    networks: tuple[str, ...]
    sections: tuple[str, ...]
    reads: tuple[str, ...]
    chooses: tuple[str, ...]
    exports: str


KINDS: Final[Mapping[str, Kind]] = {
    "autoencoder": Kind(
        AutoencoderObjectiveSettings,
        networks=("vae",),
        sections=("autoencoder",),
        reads=("vae.*",),
        chooses=("vae.*",),
        exports="vae",
    ),
    "vision": Kind(
        VisionObjectiveSettings,
        networks=("model", "processor"),
        sections=("model",),
        reads=("model.vision.*", "model.connector.*"),
        chooses=("model.vision.*", "model.connector.*"),
        exports="model",
    ),
    "understanding": Kind(
        UnderstandingObjectiveSettings,
        networks=("model", "processor"),
        sections=("model",),
        reads=("model.vision.*", "model.connector.*", "model.language_model.*"),
        chooses=("model.*",),
        exports="model",
    ),
    "generation": Kind(
        GenerationObjectiveSettings,
        networks=("vae", "model", "processor"),
        sections=("autoencoder", "model"),
        reads=("model.language_model.model.*", "model.generation.*", "vae.*"),
        chooses=("model.*",),
        exports="model",
    ),
    "joint": Kind(
        JointObjectiveSettings,
        networks=("vae", "model", "processor"),
        sections=("autoencoder", "model"),
        reads=("model.*", "vae.*"),
        chooses=("model.*",),
        exports="model",
    ),
}
"""By the name that a recipe gives."""
