"""Weights that a run begins with: read from a pipeline folder, or from a stage's own export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from unix_cxr.files import read_json
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.processing import UniXProcessor
from unix_cxr.training.stages import ALWAYS_FROZEN, matches

_MODEL_KEYS_OF_NO_WEIGHT: Final = frozenset(
    {
        "sampling",
        "known_findings",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "_name_or_path",
        "max_position_embeddings",
    }
)
_VAE_KEYS_OF_WEIGHTS: Final = (
    "in_channels",
    "out_channels",
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "latent_channels",
    "norm_num_groups",
)
_FOLDED: Final = 1e-6
_WEIGHT_FILES: Final = ("model*.safetensors", "diffusion_pytorch_model*.safetensors")


def load_processor(folder: Path) -> UniXProcessor:
    """The processor of a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: its files cannot be read.
    """
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no tokenizer.json; a model needs the tokenizer that it was trained with"
        )
    try:
        processor: UniXProcessor = UniXProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, KeyError) as error:
        raise ValueError(f"{folder} holds no processor that can be read: {error}") from error
    return processor


def load_model_weights(model: UniXModel, folder: Path) -> None:
    """Copy a folder's weights into a model, whole; float16 becomes the model's own type.

    Raises:
        FileNotFoundError: the folder has no weights.
        ValueError: the folder's config or its weights do not fit; the message says which.
    """
    check_model_weights(model, folder)
    _load_whole(model, folder)
    biases = [name for name, value in _output_biases(model).items() if value.any()]
    if biases:
        raise ValueError(
            f"{folder} has output biases of the language model that are not 0, such as "
            f"{biases[0]}; the published layout has none: see fold_output_biases"
        )


def check_model_weights(model: UniXModel, folder: Path) -> None:
    """Refuse a folder whose configuration, or whose weights by name and shape, are not a model's.

    No weight is read, and the model may be without any (on the meta device).

    Raises:
        FileNotFoundError: the folder has no weights.
        ValueError: what differs.
    """
    theirs = UniXConfig(**(_config(folder) | {"sampling": None}))
    _refuse_other_config(_plain(theirs.to_dict()), _plain(model.config.to_dict()), folder)
    _refuse_other_weights(model, folder)


def check_vae_weights(vae: AutoencoderKL, folder: Path) -> None:
    """The same for an autoencoder.

    Raises:
        FileNotFoundError: the folder has no weights.
        ValueError: what differs.
    """
    network: Any = vae
    theirs = _config(folder)
    wanted = {key: network.config[key] for key in _VAE_KEYS_OF_WEIGHTS}
    found = {key: theirs.get(key) for key in _VAE_KEYS_OF_WEIGHTS}
    _refuse_other_config(_plain(found), _plain(wanted), folder)
    _refuse_other_weights(network, folder)


def load_vae_weights(vae: AutoencoderKL, folder: Path) -> None:
    """Copy a folder's weights into an autoencoder, whole, with its scale and shift.

    Raises:
        FileNotFoundError: the folder has no weights.
        ValueError: the folder's config or its weights do not fit; the message says which.
    """
    network: Any = vae
    check_vae_weights(vae, folder)
    _load_whole(network, folder)
    theirs = _config(folder)
    network.register_to_config(
        scaling_factor=theirs.get("scaling_factor", 1.0), shift_factor=theirs.get("shift_factor")
    )


@torch.no_grad()
def copy_understanding(model: UniXModel) -> None:
    """Let the generation layers begin as copies of the language model's (arXiv:2601.11522).

    Projections, norms and feed-forward layers of every layer, and the final norm, are copied; the
    latents' embedding and the velocity head have no counterpart there.
    """
    theirs: Any = model.language_model.model
    for ours, layer in zip(model.generation.layers, theirs.layers, strict=True):
        block: Any = ours
        pairs = [
            (block.attention_norm, layer.input_layernorm),
            (block.mlp_norm, layer.post_attention_layernorm),
            *(
                (getattr(block.attention, name), getattr(layer.self_attn, name))
                for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")
            ),
            *(
                (getattr(block.mlp, name), getattr(layer.mlp, name))
                for name in ("gate_proj", "up_proj", "down_proj")
            ),
        ]
        for own, other in pairs:
            for name, parameter in own.named_parameters():
                parameter.copy_(other.get_parameter(name))
    model.generation.final_norm.weight.copy_(theirs.norm.weight)


@torch.no_grad()
def fold_output_biases(model: UniXModel) -> None:
    """Bring the language model's output biases to 0 without changing what it computes.

    Attention weights sum to 1, so a shift δ of the values comes out of the attention as it went in:
    v_proj.bias + δ with W_o δ = b does what o_proj.bias = b did. This holds for texts and images;
    a generation branch reads the values too, so fold before it is trained.

    Raises:
        ValueError: no such δ exists, because heads share values or W_o is singular.
    """
    text: Any = model.config.text_config
    groups = text.num_attention_heads // text.num_key_value_heads
    for layer in cast("Any", model.language_model).model.layers:
        attention = layer.self_attn
        bias = attention.o_proj.bias.double()
        weight = attention.o_proj.weight.double()
        # heads of a group share their values, and so the shift of their values
        shared = weight.unflatten(1, (-1, groups, text.head_dim)).sum(2).flatten(1)
        shift = torch.linalg.lstsq(shared, bias[:, None], driver="gelsd").solution[:, 0]
        left = float((shared @ shift - bias).abs().max())
        if left > _FOLDED * max(1.0, float(bias.abs().max())):
            raise ValueError(
                f"output biases cannot be folded into the values: {left:.2g} would be left over"
            )
        attention.v_proj.bias += shift.to(attention.v_proj.bias.dtype)
        attention.o_proj.bias.zero_()


def _output_biases(model: UniXModel) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if matches(name, ALWAYS_FROZEN)}


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no config.json")
    content = read_json(file)
    content.pop("model_type", None)
    return content


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(file for pattern in _WEIGHT_FILES for file in folder.glob(pattern))
    if not files:
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        told = f" ({pickles[0]} is a pickle, which is never read)" if pickles else ""
        raise FileNotFoundError(f"{folder} has no weights in safetensors files{told}")
    return files


def _refuse_other_weights(network: nn.Module, folder: Path) -> None:
    """Compare names and shapes, which stand at the beginning of the files."""
    found: dict[str, list[int]] = {}
    for file in _weight_files(folder):
        try:
            with safe_open(file, framework="pt") as content:
                found |= {name: content.get_slice(name).get_shape() for name in content.keys()}  # noqa: SIM118 - it is no dictionary
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or no safetensors file: {error}") from error
    wanted = {name: list(value.shape) for name, value in network.state_dict().items()}
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    shapes = [name for name in wanted if name in found and found[name] != wanted[name]]
    if missing or unknown or shapes:
        raise ValueError(
            f"the weights in {folder} do not fit: missing {missing[:3]}, unknown {unknown[:3]}, "
            f"of another shape {shapes[:3]} ({len(missing)}, {len(unknown)}, {len(shapes)} in all)"
        )


def _load_whole(network: nn.Module, folder: Path) -> None:
    weights: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        weights |= load_file(file)
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(f"weights in {folder} are not finite: {broken[:3]}")
    network.load_state_dict(weights)


def _refuse_other_config(theirs: Mapping[str, Any], ours: Mapping[str, Any], folder: Path) -> None:
    differing = [
        f"{key} is {theirs.get(key)!r}, the recipe says {ours.get(key)!r}"
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key) != ours.get(key)
    ]
    if differing:
        raise ValueError(
            f"{folder / 'config.json'} is of another configuration: {'; '.join(differing)}; give "
            "weights of the recipe's sizes, or a recipe of these"
        )


def _plain(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of a configuration by dotted name, without what says nothing about weights."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if key in _MODEL_KEYS_OF_NO_WEIGHT:
            continue
        if isinstance(value, Mapping):
            leaves |= _plain(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return leaves
