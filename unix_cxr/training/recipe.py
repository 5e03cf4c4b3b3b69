"""From a recipe to trained weights: stage after stage, each going on where it stopped."""

import logging
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from unix_cxr.data.findings_text import all_texts
from unix_cxr.data.studies import read_table
from unix_cxr.defaults import REPORT_PROMPT
from unix_cxr.models.autoencoder import build_autoencoder
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.processing import UniXProcessor
from unix_cxr.training.autoencoder import AutoencoderObjective, ImageSource, latent_statistics
from unix_cxr.training.generation import CaptionedLatentSource, GenerationObjective
from unix_cxr.training.images import XRayStore
from unix_cxr.training.loop import Trainer
from unix_cxr.training.settings import (
    AutoencoderObjectiveSettings,
    GenerationObjectiveSettings,
    Recipe,
    StageSettings,
    UnderstandingObjectiveSettings,
)
from unix_cxr.training.tokenizer import train_tokenizer
from unix_cxr.training.understanding import ReportSource, UnderstandingObjective

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

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The autoencoder, with random weights until a stage or a folder gives it others."""
        torch.manual_seed(self.recipe.seed)
        settings = self.recipe.autoencoder
        return build_autoencoder(
            **settings.model_dump(), sample_size=self.recipe.data.image_size
        )

    @cached_property
    def processor(self) -> UniXProcessor:
        """Tokenizer and image settings of the recipe."""
        sizes, side = self.recipe.model, self.recipe.data.image_size
        texts = [*all_texts(), REPORT_PROMPT, "Indication:"]
        return UniXProcessor(
            train_tokenizer(texts, sizes.vocabulary_size),
            image_size=side,
            image_tokens=(side // sizes.vision_patch_size) ** 2,
            placeholder="<image>",
        )

    @cached_property
    def model(self) -> UniXModel:
        """The model, with random weights until a stage or a folder gives it others."""
        torch.manual_seed(self.recipe.seed)
        return UniXModel(model_config(self.recipe, self.processor))

    def store(self, split: str) -> XRayStore:
        """Images of a split, read once."""
        if split not in self._stores:
            data = self.recipe.data
            studies = read_table(data.root, subsets=data.subsets)
            chosen = [study for study in studies if study.split == split]
            self._stores[split] = XRayStore(chosen[: data.limit], data.image_size)
        return self._stores[split]

    def run_stage(self, stage: StageSettings) -> dict[str, float]:
        """Train one stage and keep what it learned; returns its validation losses."""
        settings = stage.objective
        match settings:
            case AutoencoderObjectiveSettings():
                return self._train_autoencoder(stage, settings)
            case UnderstandingObjectiveSettings():
                return self._train_understanding(stage)
            case GenerationObjectiveSettings():
                return self._train_generation(stage, settings)

    def _train_autoencoder(
        self, stage: StageSettings, settings: AutoencoderObjectiveSettings
    ) -> dict[str, float]:
        source = ImageSource(
            self.store("train"),
            self.store("dev"),
            batch_size=stage.batch_size,
            latent_channels=self.recipe.autoencoder.latent_channels,
            augmentation=stage.augmentation,
            crop=settings.crop,
            seed=self.recipe.seed,
        )
        weights = settings.model_dump(include={"l1", "kl", "structure"})
        objective = AutoencoderObjective(self.vae, weights)
        losses = self._trainer(objective, source, stage).run()
        mean, deviation = latent_statistics(self.vae, self.store("train"))
        self.vae.register_to_config(shift_factor=mean, scaling_factor=1 / deviation)
        self.vae.save_pretrained(self.folder / stage.name / "vae")
        return losses

    def _train_understanding(self, stage: StageSettings) -> dict[str, float]:
        source = ReportSource(
            self.store("train"),
            self.store("dev"),
            self.processor,
            batch_size=stage.batch_size,
            augmentation=stage.augmentation,
            seed=self.recipe.seed,
        )
        losses = self._trainer(UnderstandingObjective(self.model), source, stage).run()
        self.model.save_pretrained(self.folder / stage.name / "model")
        return losses

    def _train_generation(
        self, stage: StageSettings, settings: GenerationObjectiveSettings
    ) -> dict[str, float]:
        source = CaptionedLatentSource(
            self.store("train"),
            self.store("dev"),
            self.vae.to(self.device).eval(),
            self.processor,
            settings,
            batch_size=stage.batch_size,
            augmentation=stage.augmentation,
            seed=self.recipe.seed,
        )
        objective = GenerationObjective(self.model, settings.understanding_gradient)
        losses = self._trainer(objective, source, stage).run()
        self.model.save_pretrained(self.folder / stage.name / "model")
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


def model_config(recipe: Recipe, processor: UniXProcessor) -> UniXConfig:
    """The published layout in a recipe's sizes, with the processor's token ids."""
    sizes = recipe.model
    return UniXConfig(
        text_config={
            "vocab_size": sizes.vocabulary_size,
            "hidden_size": sizes.hidden_size,
            "intermediate_size": sizes.intermediate_size,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim,
            "attention_bias": True,
            "rope_theta": 10_000.0,
            "max_position_embeddings": 4096,
        },
        vision_config={
            "hidden_size": sizes.vision_hidden_size,
            "intermediate_size": sizes.vision_intermediate_size,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_heads,
            "patch_size": sizes.vision_patch_size,
            "image_size": recipe.data.image_size,
            "vision_use_head": False,
            "hidden_act": "gelu",
        },
        latent_channels=recipe.autoencoder.latent_channels,
        max_latent_size=sizes.max_latent_size,
        begin_image_token_id=processor.begin_id,
        end_image_token_id=processor.end_id,
        bos_token_id=processor.bos_id,
        eos_token_id=processor.eos_id,
        pad_token_id=processor.pad_id,
        sampling=recipe.sampling,
    )
