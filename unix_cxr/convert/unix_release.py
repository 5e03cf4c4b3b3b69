"""The published UniX checkpoint to our folder and back, every key accounted for."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from unix_cxr.convert.key_table import UNIX_RULES, canonical, to_ours, to_theirs, why_unused
from unix_cxr.convert.weight_files import WeightFiles, read_safetensors
from unix_cxr.files import read_json, replacing, sha256, write_text
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.unix import UniXModel

PUBLISHED_IDS: Final = {
    "bos_token_id": 100000,
    "eos_token_id": 100001,
    "start_of_image": 100003,
    "end_of_image": 100580,
}
_CONFIG: Final = "config.json"
_SIDE_FILE: Final = "unix_release"
_QKV: Final = ("q_proj", "k_proj", "v_proj")


@dataclass
class ConversionReport:
    """What became of every key.

    Args:
        mapped: our names by their name.
        dropped: reason by their name.
        created: reason by our name, for weights that the release does not have.
        missing: our names without any weight; loading is refused while there are any.
        sources: SHA-256 of every file that was read, by its name.
        parameters: numbers of scalars, "taken" from the release and "new".
    """

    mapped: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    created: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """One line with the counts."""
        scalars = [f"{count:,} parameters {what}" for what, count in self.parameters.items()]
        keys = (
            f"{len(self.mapped)} keys mapped, {len(self.dropped)} dropped, "
            f"{len(self.created)} created, {len(self.missing)} missing"
        )
        return "; ".join([keys, *scalars])

    def to_json(self) -> str:
        """Everything, for machines."""
        return json.dumps(asdict(self), indent=1)


def release_config(tree: Mapping[str, Any]) -> UniXConfig:
    """Our configuration from the published `config.json`.

    Raises:
        ValueError: a section is missing, or describes a model that is not UniX.
    """
    for section in ("llm_config", "vit_config"):
        if section not in tree:
            raise ValueError(f"config.json lacks {section!r}; it has {sorted(tree)}")
    llm, vit = tree["llm_config"], tree["vit_config"]
    if not llm.get("qk_norm", True):
        raise ValueError("llm_config.qk_norm is false; UniX normalises queries and keys")
    heads = llm["num_attention_heads"]
    ids = {**PUBLISHED_IDS, **tree.get("special_token_ids", {})}
    sampling = tree.get("inference_config", {}).get("generation", {})
    return UniXConfig(
        text_config={
            "vocab_size": llm["vocab_size"],
            "hidden_size": llm["hidden_size"],
            "intermediate_size": llm["intermediate_size"],
            "num_hidden_layers": llm["num_hidden_layers"],
            "num_attention_heads": heads,
            "num_key_value_heads": llm.get("num_key_value_heads", heads),
            "head_dim": llm.get("head_dim", llm["hidden_size"] // heads),
            "max_position_embeddings": llm.get("max_position_embeddings", 16384),
            "rope_theta": llm.get("rope_theta", 10_000.0),
            "rms_norm_eps": llm.get("rms_norm_eps", 1e-6),
            "attention_bias": True,
            "tie_word_embeddings": llm.get("tie_word_embeddings", False),
        },
        vision_config={
            "hidden_size": vit["hidden_size"],
            "intermediate_size": vit["intermediate_size"],
            "num_hidden_layers": vit["num_hidden_layers"],
            "num_attention_heads": vit["num_attention_heads"],
            "image_size": vit["image_size"],
            "patch_size": vit["patch_size"],
            "layer_norm_eps": 1e-6,
            "hidden_act": "gelu",
            "vision_use_head": False,
        },
        latent_channels=tree.get("vae_config", {}).get("z_channels", 16),
        latent_patch_size=tree.get("latent_patch_size", 1),
        max_latent_size=tree.get("max_latent_size", 32),
        connector_activation=tree.get("connector_act", "gelu_pytorch_tanh"),
        begin_image_token_id=ids["start_of_image"],
        end_image_token_id=ids["end_of_image"],
        bos_token_id=ids["bos_token_id"],
        eos_token_id=ids["eos_token_id"],
        pad_token_id=ids["eos_token_id"],
        sampling={
            "num_inference_steps": sampling.get("num_timesteps", 50) - 1,
            "shift": 3.0,
            "guidance_scale": sampling.get("cfg_text_scale", 2.0),
            "guidance_interval": list(sampling.get("cfg_interval", (0.4, 1.0))),
            "guidance_renorm": "global",
        },
    )


def weights_from_release(
    weights: Mapping[str, Tensor], config: UniXConfig
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Our weights from published ones.

    Args:
        weights: by published name, in any of the known spellings.
        config: says which weights there must be.

    Raises:
        ValueError: a key is unknown, two spellings of one key are there, or a key is missing; the
            message lists them.
    """
    report, ours = ConversionReport(), {}
    unknown, seen = [], set()
    for name, value in weights.items():
        spelled = canonical(name)
        if spelled in seen:
            raise ValueError(f"{name} is in the file twice, in two spellings of {spelled}")
        seen.add(spelled)
        reason = why_unused(spelled)
        if reason is not None:
            report.dropped[name] = reason
            continue
        target = to_ours(spelled, UNIX_RULES)
        if target is None:
            unknown.append(name)
            continue
        parts = _split(target, value)
        report.mapped[name] = list(parts)
        ours.update(parts)
    if unknown:
        raise ValueError(f"keys that are no part of UniX: {listed(unknown)}")
    _create_output_biases(ours, config, report)
    _check_complete(ours, config, report)
    return ours, report


def weights_to_release(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights, in the canonical spelling, from ours.

    Raises:
        ValueError: a key has no published name, or an output bias that UniX lacks is not 0.
    """
    published: dict[str, Tensor] = {}
    for name, value in weights.items():
        if re.search(r"self_attn\.o_proj\.bias$", name) and name.startswith("language_model"):
            if value.any():
                raise ValueError(f"{name} is not 0, and the published layout has no place for it")
            continue
        if any(f"self_attn.{part}." in name for part in _QKV) and name.startswith("vision."):
            fused = re.sub(r"self_attn\.[qkv]_proj", "self_attn.qkv", name)
            parts = [weights[fused.replace("qkv", part)] for part in _QKV]
            name, value = fused, torch.cat(parts)  # noqa: PLW2901 - the fused weight stands for three
        theirs = to_theirs(name, UNIX_RULES)
        if theirs is None:
            raise ValueError(f"{name} has no place in the published layout")
        published[theirs] = value[None] if theirs.endswith("vision_tower.pos_embed") else value
    return published


def convert_model(source: Path, target: Path) -> ConversionReport:
    """Convert a published folder's model into `target`; what ours does not use is kept beside it.

    Raises:
        FileNotFoundError: config.json or the weights are missing.
        ValueError: the folder holds a pickle only, or its keys do not fit.
    """
    weights_file = _weights_file(source)
    tree = read_release_config(source)
    config = release_config(tree)
    theirs = read_safetensors(weights_file)
    ours, report = weights_from_release(theirs, config)
    with torch.device("meta"):
        model = UniXModel(config)
    model.load_state_dict(ours, strict=True, assign=True)
    model.save_pretrained(target)  # each weight keeps the dtype that it came in
    _keep_the_rest(theirs, report, weights_file, tree, target)
    report.sources = {file.name: sha256(file) for file in (source / _CONFIG, weights_file)}
    return report


def read_release_config(source: Path) -> dict[str, Any]:
    """The published `config.json` of a folder, for `release_config`.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it is damaged.
    """
    if not (source / _CONFIG).is_file():
        raise FileNotFoundError(f"no {_CONFIG} in {source}")
    return read_json(source / _CONFIG)


def convert_model_back(source: Path, target: Path) -> int:
    """Write our folder in the published layout again; returns the number of keys.

    A folder that came from a release gives back its very keys, spellings, values and config.

    Raises:
        FileNotFoundError: there is no model in `source`.
        ValueError: the published layout has no place for it.
    """
    names = ("model.safetensors", "model.safetensors.index.json")
    if not any((source / name).is_file() for name in names):
        raise FileNotFoundError(f"no model.safetensors in {source}")
    if not UniXConfig.from_pretrained(source).query_key_norm:
        raise ValueError(
            f"{source} has no norms of queries and keys (query_key_norm is false), which the "
            "published layout must have"
        )
    weights = WeightFiles(source)
    published = weights_to_release({name: weights[name] for name in weights})
    metadata: dict[str, str] = {"format": "pt"}
    side = source / f"{_SIDE_FILE}.json"
    target.mkdir(parents=True, exist_ok=True)
    if side.is_file():
        kept = read_json(side)
        extras = read_safetensors(source / f"{_SIDE_FILE}.safetensors")
        published = {
            name: extras[name] if name in extras else published[canonical(name)]
            for name in kept["names"]
        }
        metadata = kept["metadata"]
        write_text(target / "config.json", json.dumps(kept["config"], indent=2))
    with replacing(target / "model.safetensors") as temporary:
        contiguous = {name: value.contiguous() for name, value in published.items()}
        save_file(contiguous, temporary, metadata=metadata)
    return len(published)


def _weights_file(source: Path) -> Path:
    if not source.is_dir():
        raise FileNotFoundError(f"no folder at {source}")
    for name in ("model.safetensors", "ema.safetensors"):
        if (source / name).is_file():
            return source / name
    found = sorted(source.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    pickles = sorted(path.name for path in source.glob("*.bin")) + sorted(
        path.name for path in source.glob("*.pt*")
    )
    if pickles:
        raise ValueError(
            f"{source} holds only pickles ({pickles}), which are never opened; ask for safetensors"
        )
    raise FileNotFoundError(f"no model.safetensors in {source}")


def _keep_the_rest(
    theirs: Mapping[str, Tensor],
    report: ConversionReport,
    weights_file: Path,
    tree: Mapping[str, Any],
    target: Path,
) -> None:
    with safe_open(weights_file, framework="pt") as file:
        metadata = file.metadata() or {}
    extras = {name: theirs[name] for name in report.dropped}
    with replacing(target / f"{_SIDE_FILE}.safetensors") as temporary:
        save_file(extras, temporary)
    kept = {"names": list(theirs), "metadata": metadata, "config": tree}
    write_text(target / f"{_SIDE_FILE}.json", json.dumps(kept, indent=1))


def _split(target: str, value: Tensor) -> dict[str, Tensor]:
    if ".self_attn.qkv." in target:
        parts = value.chunk(3)
        return {
            target.replace("qkv", name): part.contiguous()
            for name, part in zip(_QKV, parts, strict=True)
        }
    if target == "vision.embeddings.position_embedding.weight":
        return {target: value.squeeze(0)}
    return {target: value}


def _create_output_biases(
    ours: dict[str, Tensor], config: UniXConfig, report: ConversionReport
) -> None:
    text: Any = config.text_config
    for layer in range(text.num_hidden_layers):
        weight = ours.get(f"language_model.model.layers.{layer}.self_attn.o_proj.weight")
        if weight is not None:
            name = f"language_model.model.layers.{layer}.self_attn.o_proj.bias"
            ours[name] = torch.zeros(text.hidden_size, dtype=weight.dtype)
            report.created[name] = "0: the stock class has this bias, the published model has not"


def _check_complete(
    ours: Mapping[str, Tensor], config: UniXConfig, report: ConversionReport
) -> None:
    with torch.device("meta"):
        wanted = UniXModel(config).state_dict()
    report.missing = sorted(set(wanted) - set(ours))
    if report.missing:
        raise ValueError(f"weights that the release lacks: {listed(report.missing)}")
    wrong = [
        f"{name} is {list(ours[name].shape)}, config.json wants {list(value.shape)}"
        for name, value in wanted.items()
        if ours[name].shape != value.shape
    ]
    if wrong:
        raise ValueError("weights of another config: " + "; ".join(wrong[:5]))


def listed(names: list[str]) -> str:
    """The first names and how many more there are."""
    shown = ", ".join(names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")  # noqa: PLR2004
