"""The model under its adapters: its weights by their plain names, their fingerprint, and a copy."""

import copy
import hashlib
from typing import Any

import torch
from torch import Tensor

from unix_cxr.models.adapters import (
    active_adapters,
    merged_adapters,
    refuse_merged,
    saved_modules,
)
from unix_cxr.models.unix import UniXModel


def base_state(model: UniXModel) -> dict[str, Tensor]:
    """The model's weights under their plain names, without any adapter."""
    state = {}
    for name, value in model.state_dict().items():
        if ".lora_" not in name and ".modules_to_save." not in name:
            state[name.replace(".base_layer.", ".").replace(".original_module.", ".")] = value
    return state


def base_fingerprint(model: UniXModel) -> str:
    """SHA-256 of the base weights and their names, the same in every number type.

    Weights are rounded to bfloat16 for it, so that a base that is read in half precision is still
    the same base.
    """
    refuse_merged(model)
    digest = hashlib.sha256()
    for name, value in sorted(base_state(model).items()):
        rounded = value.detach().to(torch.bfloat16).cpu().contiguous().flatten()
        raw: Any = rounded.view(torch.uint8).numpy()
        digest.update(f"{name} {list(value.shape)}".encode())
        digest.update(raw)
    return digest.hexdigest()


def plain_model(model: UniXModel) -> UniXModel:
    """A model of the stock layers with the same weights, what was merged included; nothing copied.

    Raises:
        ValueError: adapters are active and not merged.
    """
    active, merged = active_adapters(model), merged_adapters(model)
    if active and not merged:
        raise ValueError(
            f"adapters {active} are active and not merged: merge_adapters() puts them into the "
            "weights, disable_adapters() leaves them out"
        )
    state = base_state(model)
    for place, module in saved_modules(model).items():
        if module.disable_adapters or not module.active_adapters:
            continue
        (name,) = module.active_adapters
        for key, value in module.modules_to_save[name].state_dict().items():
            state[f"{place}.{key}"] = value
    with torch.device("meta"):
        plain = UniXModel(copy.deepcopy(model.config))
    plain.load_state_dict(state, assign=True)
    # what no file holds: frequencies and places that are worked out when a model is made
    theirs = dict(model.named_buffers())
    for name, buffer in list(plain.named_buffers()):
        if buffer.is_meta:
            parent, _, last = name.rpartition(".")
            plain.get_submodule(parent)._buffers[last] = theirs[name]  # noqa: SLF001 - keeps it unsaved
    plain.generation_config = model.generation_config
    plain.train(model.training)
    return plain
