"""The networks of a recipe and their processor, and the weights that they begin with."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from unix_cxr.defaults import REPORT_PROMPT
from unix_cxr.models.autoencoder import build_autoencoder
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.fingerprint import fingerprint
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.processing import UniXProcessor
from unix_cxr.training.data import RecipeData
from unix_cxr.training.identity import processor_fingerprint
from unix_cxr.training.kinds import KINDS
from unix_cxr.training.plan import parts_of
from unix_cxr.training.settings import Recipe, StageSettings
from unix_cxr.training.stages import ALWAYS_FROZEN, matches
from unix_cxr.training.starting import (
    check_model_weights,
    check_vae_weights,
    load_model_weights,
    load_processor,
    load_vae_weights,
)
from unix_cxr.training.tokenizer import train_tokenizer

logger = logging.getLogger(__name__)


class Networks:
    """A recipe's autoencoder, model and processor, built when they are first needed.

    Args:
        recipe: their sizes, and the seed of their random weights.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.data = RecipeData(recipe.data)
        self.known: set[str] = set()
        self._data = {recipe.data: self.data}

    def data_of(self, stage: StageSettings) -> RecipeData:
        """The studies that a stage learns from: the recipe's, or its own."""
        settings = stage.data or self.recipe.data
        if settings not in self._data:
            self._data[settings] = RecipeData(settings)
        return self._data[settings]

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The autoencoder, with random weights until a stage or a folder gives it others."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            vae: Any = self._build_vae()
        # once and for all: another layout in memory rounds otherwise
        return vae.to(memory_format=torch.channels_last)

    def _build_vae(self) -> AutoencoderKL:
        settings = self.recipe.autoencoder
        return build_autoencoder(**settings.model_dump(), sample_size=self.recipe.data.image_size)

    @cached_property
    def processor(self) -> UniXProcessor:
        """Tokenizer and image settings of the recipe."""
        sizes, side = self.recipe.model, self.recipe.data.image_size
        texts = [*self.data.tokenizer_texts(), REPORT_PROMPT, "Indication:"]
        return UniXProcessor(
            train_tokenizer(texts, sizes.vocabulary_size),
            image_size=side,
            image_tokens=(side // sizes.vision_patch_size) ** 2,
            placeholder="<image>",
        )

    @cached_property
    def model(self) -> UniXModel:
        """The model, with random weights until a stage or a folder gives it others."""
        config = model_config(self.recipe, self.processor)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            return UniXModel(config)

    @property
    def config(self) -> UniXConfig:
        """The model's configuration, without tokens' ids as long as there is no processor."""
        return model_config(self.recipe, self.__dict__.get("processor"))

    def check(self) -> None:
        """Refuse sizes that do not fit together, before anything is built or read.

        Raises:
            ValueError: the message names the keys.
        """
        side, sizes = self.recipe.data.image_size, self.recipe.model
        if side % sizes.vision_patch_size:
            raise ValueError(
                f"data.image_size ({side}) must be divisible by model.vision_patch_size "
                f"({sizes.vision_patch_size})"
            )
        self._check_latents("data", side)
        for stage in self.recipe.stages:
            if stage.data is not None:
                self._check_latents(f"stages.{stage.name}.data", stage.data.image_size)
        names = [stage.name for stage in self.recipe.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two stages are named {twice}; each needs a folder of its own")

    def _check_latents(self, key: str, side: int) -> None:
        sizes = self.recipe.model
        factor = 2 ** (len(self.recipe.autoencoder.channels) - 1) * sizes.latent_patch_size
        if side % factor or side // factor > sizes.max_latent_size:
            raise ValueError(
                f"model.max_latent_size ({sizes.max_latent_size}) must be at least "
                f"{side / factor:g}: {key}.image_size ({side}) over {factor} pixels per token, "
                "which must leave no rest"
            )

    def begin_from(self, folder: Path, *, load: bool = True) -> None:
        """Take the weights of a pipeline folder, or of a stage's: model/, vae/, processor/.

        Args:
            folder: to begin from.
            load: False checks sizes and names alone, and reads no weight.

        Raises:
            FileNotFoundError: the folder has neither model/ nor vae/, or lacks weights.
            ValueError: its configuration is not the recipe's, or a file cannot be read.
        """
        has_model, has_vae = (folder / "model").is_dir(), (folder / "vae").is_dir()
        if not has_model and not has_vae:
            raise FileNotFoundError(
                f"{folder} has neither model/ nor vae/; give a pipeline folder such as "
                "OUT/pipeline of another run"
            )
        if has_model:
            self._take_processor(folder / "processor")
            if load:
                load_model_weights(self.model, folder / "model")
            else:
                with torch.device("meta"):
                    check_model_weights(UniXModel(self.config), folder / "model")
            self.expect("model.")
        if has_vae:
            if load:
                load_vae_weights(self.vae, folder / "vae")
            else:
                with torch.device("meta"):
                    check_vae_weights(self._build_vae(), folder / "vae")
            self.expect("vae.")
        logger.info("begins from %s", folder)

    def expect(self, prefix: str) -> None:
        """Take the parameters of that prefix for trained or loaded."""
        self.known |= {name for name in self.sizes() if name.startswith(prefix)}

    def _take_processor(self, folder: Path) -> None:
        processor, sizes = load_processor(folder), self.recipe.model
        side = self.recipe.data.image_size
        wanted = {
            "image_size": side,
            "image_tokens": (side // sizes.vision_patch_size) ** 2,
        }
        for name, value in wanted.items():
            found = getattr(processor, name)
            if found != value:
                raise ValueError(f"{folder}: {name} is {found}, the recipe needs {value}")
        if len(processor.tokenizer) > sizes.vocabulary_size:
            raise ValueError(
                f"{folder}: the tokenizer has {len(processor.tokenizer)} tokens, more than "
                f"model.vocabulary_size ({sizes.vocabulary_size})"
            )
        self.processor = processor  # takes the cached property's place, before the model is built

    def sizes(self) -> dict[str, int]:
        """Number of scalars of every parameter, by the names that stages use.

        Nothing is allocated for it.
        """
        return dict(self._sizes)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            networks: dict[str, Any] = {"vae": self._build_vae(), "model": UniXModel(self.config)}
        return {
            f"{prefix}.{name}": parameter.numel()
            for prefix, network in networks.items()
            for name, parameter in network.named_parameters()
        }

    def random_parts(self) -> tuple[str, ...]:
        """Parts of the networks that nothing has trained or loaded."""
        names = [name for name in self.sizes() if not matches(name, ALWAYS_FROZEN)]
        return tuple(parts_of([name for name in names if name not in self.known]))

    def fingerprints(self, stage: StageSettings) -> dict[str, str]:
        """Fingerprints of everything that a stage begins with, by name."""
        names = KINDS[stage.objective.kind].networks
        makers = {
            "vae": lambda: fingerprint(self.vae),
            "model": lambda: fingerprint(self.model),
            "processor": lambda: processor_fingerprint(self.processor),
        }
        return {name: makers[name]() for name in names}


def model_config(recipe: Recipe, processor: UniXProcessor | None) -> UniXConfig:
    """The published layout in a recipe's sizes, with the processor's token ids.

    Args:
        recipe: its sizes.
        processor: its special tokens; None gives them all the id 0, where only sizes matter.
    """
    sizes = recipe.model
    names = ("begin", "end", "bos", "eos", "pad")
    ids = {name: 0 if processor is None else getattr(processor, f"{name}_id") for name in names}
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
        vision_stem=None if sizes.vision_stem is None else list(sizes.vision_stem),
        connector_activation=sizes.connector_activation,
        query_key_norm=sizes.query_key_norm,
        latent_channels=recipe.autoencoder.latent_channels,
        max_latent_size=sizes.max_latent_size,
        latent_patch_size=sizes.latent_patch_size,
        begin_image_token_id=ids["begin"],
        end_image_token_id=ids["end"],
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        pad_token_id=ids["pad"],
        sampling={"image_size": recipe.data.image_size} | recipe.sampling,
    )
