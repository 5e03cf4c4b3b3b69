"""From a recipe to trained weights: stage after stage, each going on where it stopped."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from unix_cxr.data.studies import Study, read_table
from unix_cxr.models.autoencoder import build_autoencoder
from unix_cxr.training.autoencoder import AutoencoderObjective, ImageSource, latent_statistics
from unix_cxr.training.images import XRayStore
from unix_cxr.training.loop import Trainer
from unix_cxr.training.settings import (
    AutoencoderObjectiveSettings,
    Recipe,
    StageSettings,
)

logger = logging.getLogger(__name__)


class RecipeRun:
    """A recipe with its data and networks, built when a stage first needs them.

    Args:
        recipe: what to do.
        folder: takes one folder per stage and, at the end, the pipeline.
        device: where to train.
    """

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device) -> None:
        self.recipe = recipe
        self.folder = folder
        self.device = device
        self._stores: dict[str, XRayStore] = {}
        torch.manual_seed(recipe.seed)
        settings = recipe.autoencoder
        self.vae: AutoencoderKL = build_autoencoder(
            **settings.model_dump(), sample_size=recipe.data.image_size
        )

    def store(self, split: str) -> XRayStore:
        """Images of a split, read once."""
        if split not in self._stores:
            data = self.recipe.data
            studies = read_table(data.root, subsets=data.subsets)
            chosen: Sequence[Study] = [study for study in studies if study.split == split]
            self._stores[split] = XRayStore(chosen[: data.limit], data.image_size)
        return self._stores[split]

    def run_stage(self, stage: StageSettings) -> dict[str, float]:
        """Train one stage and keep what it learned; returns its validation losses."""
        settings = stage.objective
        if isinstance(settings, AutoencoderObjectiveSettings):
            return self._train_autoencoder(stage, settings)
        raise NotImplementedError(settings.kind)

    def _train_autoencoder(
        self, stage: StageSettings, settings: AutoencoderObjectiveSettings
    ) -> dict[str, float]:
        source = ImageSource(
            self.store("train"),
            self.store("dev"),
            batch_size=stage.batch_size,
            augmentation=stage.augmentation,
            seed=self.recipe.seed,
        )
        objective = AutoencoderObjective(self.vae, settings.model_dump(exclude={"kind"}))
        losses = self._trainer(objective, source, stage).run()
        mean, deviation = latent_statistics(self.vae, self.store("train"))
        self.vae.register_to_config(shift_factor=mean, scaling_factor=1 / deviation)
        self.vae.save_pretrained(self.folder / stage.name / "vae")
        return losses

    def _trainer(self, objective: torch.nn.Module, source: object, stage: StageSettings) -> Trainer:
        return Trainer(
            objective,
            source,  # type: ignore[arg-type]
            stage,
            self.folder / stage.name,
            recipe=self.recipe.model_dump_json(),
            device=self.device,
        )
