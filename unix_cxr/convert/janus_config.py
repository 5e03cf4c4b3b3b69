"""Janus' `config.json`, of either layout, as our configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig
from transformers.models.janus.configuration_janus import JanusVisionConfig

from unix_cxr.convert.janus_keys import JanusLayout
from unix_cxr.convert.weight_files import WeightFiles
from unix_cxr.files import read_json

_LAYOUTS: Final[dict[str, JanusLayout]] = {"janus": "transformers", "multi_modality": "original"}
_PIXELS: Final = (0.5, 0.5)
"""Mean and standard deviation of Janus-Pro."""
_HEAD_WIDTHS: Final = {
    "siglip_large_patch16_384": 64,
    "siglip_so400m_patch14_384": 72,
    "siglip_so400m_patch14_224": 72,
}
"""Of the towers that the original layout names; all other sizes are seen in the weights."""
_TEXT_KEYS: Final = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "mlp_bias",
)
_VISION_KEYS: Final = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "mlp_ratio",
    "attention_bias",
    "use_qk_norm",
    "depth",
)


@dataclass(frozen=True)
class JanusSizes:
    """What a Janus folder says about its understanding branch.

    Args:
        layout: how its weights are named.
        text: keys of a `Qwen3Config` that Janus decides.
        vision: keys of a `SiglipVisionConfig` that Janus decides.
        tied: the head is the table of token embeddings where the files hold no other.
    """

    layout: JanusLayout
    text: dict[str, Any]
    vision: dict[str, Any]
    tied: bool


def open_janus(folder: Path) -> tuple[JanusSizes, WeightFiles]:
    """Sizes and weights of the Janus model in a folder.

    Raises:
        FileNotFoundError: there is no config.json, or there are no weights.
        ValueError: a file is damaged, of another kind of model, or says what cannot be
            represented.
    """
    tree = _read(folder)
    kind = tree.get("model_type")
    if kind not in _LAYOUTS:
        raise ValueError(
            f"{folder / 'config.json'} is of a model of type {kind!r}, not of Janus (types "
            f"{sorted(_LAYOUTS)}); give the folder of Janus-Pro-1B"
        )
    layout, weights = _LAYOUTS[kind], WeightFiles(folder)
    if layout == "transformers":
        language = _section(tree, "text_config", folder)
        vision = _transformers_vision(_section(tree, "vision_config", folder))
        tied = bool(tree.get("tie_word_embeddings", True))
    else:
        language = _section(tree, "language_config", folder)
        vision = _original_vision(tree, weights, folder)
        tied = bool(language.get("tie_word_embeddings", False))
    return JanusSizes(layout, _text(language), vision, tied), weights


def janus_normalisation(folder: Path) -> tuple[float, float]:
    """Mean and standard deviation by which Janus' vision tower wants its pixels normalised.

    Raises:
        ValueError: preprocessor_config.json is damaged, or normalises channels differently.
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return _PIXELS
    tree = read_json(file)
    both = [
        tree.get(key, [default] * 3)
        for key, default in zip(("image_mean", "image_std"), _PIXELS, strict=True)
    ]
    if any(len(set(values)) != 1 for values in both):
        raise ValueError(
            f"{file} normalises each channel by its own numbers ({both}); X-rays are grey, so give "
            "one number for all three"
        )
    return float(both[0][0]), float(both[1][0])


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    if not file.is_file():
        raise FileNotFoundError(
            f"no config.json in {folder}; give the whole folder of the checkpoint, with its "
            "configuration and tokenizer"
        )
    return read_json(file)


def _section(tree: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    section = tree.get(name)
    if not isinstance(section, dict):
        raise ValueError(  # noqa: TRY004 - a wrong value in a file
            f"{folder / 'config.json'} lacks {name!r}; it has {sorted(tree)}. Give the "
            "configuration that belongs to the weights"
        )
    return section


def _text(tree: Mapping[str, Any]) -> dict[str, Any]:
    llama = _filled(LlamaConfig, _TEXT_KEYS, tree)
    rope = llama.rope_parameters
    _refuse(
        {
            "model_type": (tree.get("model_type", "llama"), "llama"),
            "hidden_act": (llama.hidden_act, "silu"),
            "attention_bias": (llama.attention_bias, False),
            "mlp_bias": (llama.mlp_bias, False),
            "rope_type": (rope.get("rope_type", "default"), "default"),
        },
        "language model",
    )
    return {
        "vocab_size": llama.vocab_size,
        "hidden_size": llama.hidden_size,
        "intermediate_size": llama.intermediate_size,
        "num_hidden_layers": llama.num_hidden_layers,
        "num_attention_heads": llama.num_attention_heads,
        "num_key_value_heads": llama.num_key_value_heads,
        "head_dim": llama.head_dim,
        "rms_norm_eps": llama.rms_norm_eps,
        "rope_theta": rope["rope_theta"],
    }


def _transformers_vision(tree: Mapping[str, Any]) -> dict[str, Any]:
    vision = _filled(JanusVisionConfig, _VISION_KEYS, tree)
    _refuse(
        {
            "hidden_act": (vision.hidden_act, "gelu"),
            "use_qk_norm": (vision.use_qk_norm, False),
            "attention_bias": (vision.attention_bias, True),
            "depth": (vision.depth, 2),
            "num_channels": (vision.num_channels, 3),
        },
        "vision tower",
    )
    return {
        "hidden_size": vision.hidden_size,
        "intermediate_size": int(vision.hidden_size * vision.mlp_ratio),
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "layer_norm_eps": vision.layer_norm_eps,
    }


def _original_vision(tree: Mapping[str, Any], weights: WeightFiles, folder: Path) -> dict[str, Any]:
    named = _section(tree, "vision_config", folder).get("params", {})
    aligner = _section(tree, "aligner_config", folder).get("params", {})
    tower = named.get("model_name")
    if tower not in _HEAD_WIDTHS:
        raise ValueError(
            f"the vision tower {tower!r} is unknown, so its heads are too; known: "
            f"{sorted(_HEAD_WIDTHS)}"
        )
    _refuse(
        {
            "select_layer": (named.get("select_layer", -1), -1),
            "projector_type": (aligner.get("projector_type"), "mlp_gelu"),
            "depth": (aligner.get("depth"), 2),
        },
        "vision tower",
    )
    prefix = "vision_model.vision_tower"
    patches, first = f"{prefix}.patch_embed.proj.weight", f"{prefix}.blocks.0.mlp.fc1.weight"
    absent = [name for name in (patches, first) if name not in weights]
    if absent:
        raise ValueError(f"weights that Janus must have are missing: {', '.join(absent)}")
    width, _, patch, _ = weights.shape(patches)
    blocks = {name.split(".")[3] for name in weights if name.startswith(f"{prefix}.blocks.")}
    return {
        "hidden_size": width,
        "intermediate_size": weights.shape(first)[0],
        "num_hidden_layers": len(blocks),
        "num_attention_heads": width // _HEAD_WIDTHS[tower],
        "image_size": named.get("image_size", 384),
        "patch_size": patch,
        "layer_norm_eps": 1e-6,
    }


def _filled(kind: type[Any], keys: Sequence[str], tree: Mapping[str, Any]) -> Any:  # noqa: ANN401 - either of two configurations
    """A library's configuration: what the tree leaves out is that library's default."""
    try:
        return kind(**{key: tree[key] for key in keys if tree.get(key) is not None})
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"config.json says what {kind.__name__} cannot hold: {error}") from error


def _refuse(found_and_wanted: Mapping[str, tuple[Any, Any]], part: str) -> None:
    wrong = [
        f"{name} is {found!r} where only {wanted!r} can be represented"
        for name, (found, wanted) in found_and_wanted.items()
        if found != wanted
    ]
    if wrong:
        raise ValueError(f"a {part} that is not Janus-Pro's: {'; '.join(wrong)}")
