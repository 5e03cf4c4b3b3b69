"""A whole pipeline from a published release: model, autoencoder, tokenizer."""

from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from unix_cxr.defaults import VISION_MEAN, VISION_STD
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.sampling import SamplingDefaults, euler_scheduler
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.pipeline import UniXPipeline
from unix_cxr.pipelines.processing import UniXProcessor

_PARTS_AROUND: Final = ("vae", "processor", "scheduler")


def assemble(
    model: UniXModel,
    vae: AutoencoderKL,
    tokenizer: PreTrainedTokenizerBase,
    normalisation: tuple[float, float] | None = None,
) -> UniXPipeline:
    """A pipeline of parts that fit together.

    Args:
        model: both branches.
        vae: the latent autoencoder.
        tokenizer: the model's own.
        normalisation: mean and standard deviation of the pixels that the vision tower wants; the
            published model's where None.

    Raises:
        ValueError: the tokenizer does not have the special tokens at the ids of the config.
    """
    config = model.config
    mean, std = normalisation or (VISION_MEAN, VISION_STD)
    vision: Any = config.vision_config
    processor = UniXProcessor(
        tokenizer,
        image_size=vision.image_size,
        image_tokens=(vision.image_size // vision.patch_size) ** 2,
        image_mean=mean,
        image_std=std,
        begin_of_image=_token(tokenizer, config.begin_image_token_id),
        end_of_image=_token(tokenizer, config.end_image_token_id),
        placeholder=_token(tokenizer, config.pad_token_id),
    )
    _check_ids(processor, config)
    scheduler = euler_scheduler(SamplingDefaults.of(config).shift)
    return UniXPipeline(model, vae, processor, scheduler)


def save_around(
    folder: Path,
    vae: AutoencoderKL,
    tokenizer: PreTrainedTokenizerBase,
    normalisation: tuple[float, float] | None = None,
) -> None:
    """Write everything of a pipeline but its model, which is in `folder/model` already.

    The model's weights are not read.

    Args:
        folder: of the pipeline.
        vae: the latent autoencoder.
        tokenizer: the model's own.
        normalisation: as `assemble` takes it.

    Raises:
        ValueError: the tokenizer does not have the special tokens at the ids of the config.
    """
    config = UniXConfig.from_pretrained(folder / "model")
    with torch.device("meta"):
        model = UniXModel(config)
    pipeline = assemble(model, vae, tokenizer, normalisation)
    parts: dict[str, Any] = {name: getattr(pipeline, name) for name in _PARTS_AROUND}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    pipeline.save_config(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder.

    Raises:
        FileNotFoundError: there is none.
    """
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer.model").is_file():
        raise FileNotFoundError(f"no tokenizer.json in {folder}; give the release's own folder")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def _token(tokenizer: PreTrainedTokenizerBase, identity: int) -> str:
    token = tokenizer.convert_ids_to_tokens(identity)
    if not isinstance(token, str):
        raise ValueError(  # noqa: TRY004 - the id has no token
            f"the tokenizer ({len(tokenizer)} tokens) has none with id {identity}; it is not the "
            "release's own"
        )
    return token


def _check_ids(processor: UniXProcessor, config: UniXConfig) -> None:
    ids = {
        "bos": (processor.bos_id, config.bos_token_id),
        "eos": (processor.eos_id, config.eos_token_id),
        "begin of image": (processor.begin_id, config.begin_image_token_id),
        "end of image": (processor.end_id, config.end_image_token_id),
    }
    for name, (found, wanted) in ids.items():
        if found != wanted:
            raise ValueError(
                f"the tokenizer has {name} at id {found}, the config at {wanted}; it is not the "
                "release's own"
            )
