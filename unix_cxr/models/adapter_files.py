"""Adapters as peft folders: safetensors and JSON, never a pickle, and the base they belong to."""

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unix_cxr.files import read_json, replacing_folder, write_text
from unix_cxr.models.adapter_base import base_fingerprint
from unix_cxr.models.adapters import adapter_names, inject, set_adapters
from unix_cxr.models.unix import UniXModel

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
BASE: Final = "adapter_base.json"
"""Names the model that the adapter was trained on; peft's own files have no place for it."""

_PREFIX: Final = "base_model.model."
_SIZES: Final[Mapping[str, tuple[str, ...]]] = {
    "text_config": (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    ),
    "vision_config": ("hidden_size", "num_hidden_layers"),
}
_HARMLESS_STARTS: Final = (True, False, None, "gaussian", "orthogonal", "eva")
_LEFT_ALONE: Final[Mapping[str, Any]] = {
    "bias": "none",
    "layer_replication": None,
    "trainable_token_indices": None,
}
"""Settings of peft that would change the base model itself, and the values that do not."""

logger = logging.getLogger(__name__)


def save_adapter(
    model: UniXModel, folder: str | Path, name: str = "default", *, base: str = ""
) -> Path:
    """Write one adapter as a folder that `load_adapter` and peft read.

    Args:
        model: carries the adapter.
        folder: is replaced as a whole.
        name: of the adapter in the model; the folder does not keep it.
        base: what users call the model, such as "nano"; its fingerprint is kept beside.

    Raises:
        ValueError: there is no such adapter, or adapters are merged.
        OSError: the disk is full; what was there before is untouched.
    """
    from peft import get_peft_model_state_dict

    if name not in adapter_names(model):
        raise ValueError(f"adapter {name!r} is unknown; the model carries {adapter_names(model)}")
    configs: Any = model.peft_config
    config = copy.deepcopy(configs[name])
    config.inference_mode = True
    # peft would ask the hub about the base before it leaves the embeddings alone
    weights = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    about = {"name": base, "fingerprint": base_fingerprint(model), "sizes": _sizes(model)}
    with replacing_folder(folder) as partial:
        config.save_pretrained(partial)
        tensors = {f"{_PREFIX}{k}": v.detach().cpu().contiguous() for k, v in weights.items()}
        save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        write_text(partial / BASE, json.dumps({"base": about}, indent=1))
    return Path(folder)


def load_adapter(model: UniXModel, folder: str | Path, name: str) -> None:
    """Read an adapter's folder into a model; it acts alone afterwards.

    The model is touched only when the whole folder fits. An adapter whose base has other weights
    of the same sizes is loaded with a warning.

    Args:
        model: is changed in place.
        folder: made by `save_adapter`, or by peft.
        name: what to call it; letters, digits, "_" and "-".

    Raises:
        FileNotFoundError: there is no such folder, or it lacks a file.
        ValueError: the weights are a pickle, a file is damaged, the adapter is no LoRA or changes
            its base model, or it was made for a model of other sizes.
    """
    from peft import set_peft_model_state_dict

    folder = Path(folder)
    _check_folder(folder)
    config, weights, about = _read_config(folder), _read_weights(folder), _read_base(folder)
    _refuse_other_sizes(folder, about.get("sizes", {}), _sizes(model))
    _refuse_other_weights(folder, weights, _expected(model, config, folder))
    _tell_of_another_base(folder, about, model)
    inject(model, config, name)
    set_peft_model_state_dict(model, dict(weights), adapter_name=name)
    model.requires_grad_(requires_grad=False)
    set_adapters(model, [name])


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"no adapter folder at {folder}")
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder} holds no adapter ({CONFIG} is missing); `unix-cxr train lora` writes one"
        )
    if (folder / WEIGHTS).is_file():
        return
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth"})
    if pickles:
        raise ValueError(
            f"{folder} holds its weights only as a pickle ({pickles[0]}), which is never opened; "
            f"save the adapter again as {WEIGHTS}"
        )
    raise FileNotFoundError(f"{folder} has no {WEIGHTS}")


def _read_config(folder: Path) -> "LoraConfig":
    from peft import LoraConfig, PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged: {error}") from error
    if not isinstance(config, LoraConfig):
        raise ValueError(  # noqa: TRY004 - a wrong value in a file
            f"{folder} holds a {type(config).__name__}; only LoRA adapters are read"
        )
    odd = [key for key, value in _LEFT_ALONE.items() if getattr(config, key, value) != value]
    start = config.init_lora_weights
    if not (isinstance(start, bool) or start in _HARMLESS_STARTS):
        odd.append("init_lora_weights")
    if odd:
        said = ", ".join(f"{key} {getattr(config, key)!r}" for key in odd)
        raise ValueError(
            f"{folder / CONFIG} says {said}, which changes the base model; convert the adapter to "
            "a plain LoRA with peft"
        )
    config.init_lora_weights = True
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(
            f"{folder / WEIGHTS} is damaged or no safetensors file: {error}"
        ) from error
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(f"weights in {folder / WEIGHTS} are not finite: {broken[:3]}")
    return {name.removeprefix(_PREFIX): value for name, value in weights.items()}


def _read_base(folder: Path) -> dict[str, Any]:
    file = folder / BASE
    if not file.is_file():
        return {}
    content = read_json(file)
    try:
        about: dict[str, Any] = content["base"]
        dict(about["sizes"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    return about


def _expected(model: UniXModel, config: "LoraConfig", folder: Path) -> dict[str, list[int]]:
    """Names and shapes that an adapter of this configuration has on this model."""
    from peft import get_peft_model_state_dict

    with torch.device("meta"):
        probe = UniXModel(copy.deepcopy(model.config))
    try:
        inject(probe, copy.deepcopy(config), "probe")
    except ValueError as error:
        raise ValueError(f"{folder} is an adapter of another kind of model: {error}") from error
    state = get_peft_model_state_dict(probe, adapter_name="probe", save_embedding_layers=False)
    return {name: list(value.shape) for name, value in state.items()}


def _refuse_other_sizes(
    folder: Path, theirs: Mapping[str, object], ours: Mapping[str, object]
) -> None:
    differing = [
        f"{key} is {ours[key]} here and {theirs[key]} there"
        for key in ours
        if key in theirs and theirs[key] != ours[key]
    ]
    if differing:
        raise ValueError(
            f"{folder} is an adapter of another model: {'; '.join(differing)}; load the model that "
            "it was trained on"
        )


def _refuse_other_weights(
    folder: Path, found: Mapping[str, Tensor], expected: Mapping[str, list[int]]
) -> None:
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    shapes = [
        f"{name} {list(found[name].shape)} instead of {expected[name]}"
        for name in expected
        if name in found and list(found[name].shape) != expected[name]
    ]
    if missing or unknown or shapes:
        raise ValueError(
            f"{folder} is an adapter of another model, or damaged: missing {missing[:3]}, unknown "
            f"{unknown[:3]}, of another shape {shapes[:3]} "
            f"({len(missing)}, {len(unknown)}, {len(shapes)} in all)"
        )


def _tell_of_another_base(folder: Path, about: Mapping[str, Any], model: UniXModel) -> None:
    if "fingerprint" not in about:
        logger.warning(
            "%s does not say which model it was trained on; it fits this one by its shapes", folder
        )
    elif about["fingerprint"] != base_fingerprint(model):
        logger.warning(
            "%s was trained on other weights (%s) than this model's, whose sizes are the same; "
            "what it does here is not what it learned",
            folder,
            about.get("name") or "unnamed",
        )


def _sizes(model: UniXModel) -> dict[str, object]:
    sizes: dict[str, object] = {
        f"{section}.{key}": getattr(getattr(model.config, section), key)
        for section, keys in _SIZES.items()
        for key in keys
    }
    return sizes | {"latent_channels": model.config.latent_channels}
