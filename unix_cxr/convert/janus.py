"""Janus (arXiv:2501.17811) to a model that training can begin from, every key accounted for.

The understanding branch takes Janus' language model, vision tower and connector. Janus' own image
generation, which draws discrete tokens, is left behind; the generation branch is new.
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import GenerationConfig

from unix_cxr.convert.janus_config import JanusSizes, open_janus
from unix_cxr.convert.janus_keys import JANUS_RULES, JANUS_UNUSED, JanusLayout
from unix_cxr.convert.janus_tokenizer import JanusTokens
from unix_cxr.convert.key_table import to_ours
from unix_cxr.convert.new_weights import QUERY_KEY_NORMS, NewWeights, draw_rows
from unix_cxr.convert.unix_release import ConversionReport, listed
from unix_cxr.convert.weight_files import WeightFiles, write_shards
from unix_cxr.files import sha256
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.unix import UniXModel

_POSITIONS: Final = "vision.embeddings.position_embedding.weight"
_PLACES: Final = "generation.embedding.positions"
_TABLE: Final = "language_model.model.embed_tokens.weight"
_HEAD: Final = "language_model.lm_head.weight"
_MAX_POSITIONS: Final = 4096
"""Tokens that Janus was trained with, and what our own recipes' models say."""
_SHARD_BYTES: Final = 2_000_000_000
_DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_QKV: Final = ("q_proj", "k_proj", "v_proj")
_CONFIG_FILES: Final = ("config.json", "tokenizer.json")


@dataclass(frozen=True)
class JanusOptions:
    """What Janus does not decide.

    Args:
        query_key_norm: "ones" adds norms of queries and keys with weight 1, as the published code
            does; "matched" gives them the scale that the heads had; "none" adds none, and the
            language model computes exactly what Janus' does.
        latent_channels: channels of the autoencoder's latents.
        latent_patch_size: latents per token along each side.
        max_latent_size: side of the table of latent positions, in tokens.
        dtype: "float32", "bfloat16" or "float16"; None leaves each weight as it is.
        seed: of the new weights.
        shard_bytes: most bytes of a written file, and about the memory that is needed.

    Raises:
        ValueError: a value is unknown.
    """

    query_key_norm: str = "ones"
    latent_channels: int = 16
    latent_patch_size: int = 1
    max_latent_size: int = 32
    dtype: str | None = None
    seed: int = 0
    shard_bytes: int = _SHARD_BYTES

    def __post_init__(self) -> None:
        if self.query_key_norm not in QUERY_KEY_NORMS:
            raise ValueError(
                f"query_key_norm ({self.query_key_norm!r}) must be one of {QUERY_KEY_NORMS}"
            )
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise ValueError(f"dtype ({self.dtype!r}) must be one of {list(_DTYPES)}")

    @property
    def exact(self) -> bool:
        """Whether the understanding branch computes exactly what Janus' does."""
        return self.query_key_norm == "none"

    @property
    def number(self) -> torch.dtype | None:
        """The number type of the written weights, or None for each one's own."""
        return None if self.dtype is None else _DTYPES[self.dtype]


@dataclass(frozen=True)
class _Taken:
    """Where one of our weights is in Janus' files.

    Args:
        name: theirs.
        part: which third of it, where three of ours are one of theirs.
    """

    name: str
    part: int | None = None


def convert_janus(
    source: Path, target: Path, tokens: JanusTokens, options: JanusOptions
) -> ConversionReport:
    """Write the model that begins as the Janus in `source` into the folder `target`.

    Raises:
        FileNotFoundError: the configuration or weights are missing.
        ValueError: the folder is not of Janus, a file is damaged, keys do not fit or weights are
            not finite.
    """
    sizes, weights = open_janus(source)
    config = janus_config(sizes, tokens, options)
    taken, report = _account(weights, sizes)
    with torch.device("meta"):
        wanted = {name: tuple(v.shape) for name, v in UniXModel(config).state_dict().items()}
    read = _reader(weights, taken, tokens, options.seed)
    new = NewWeights(config, read, options.query_key_norm, options.seed)
    for name in wanted.keys() - taken.keys():
        reason = new.reason(name)
        if reason is None:
            report.missing.append(name)
        else:
            report.created[name] = reason
    _check(wanted, taken, weights, report)

    def make(name: str) -> Tensor:
        value = read(name) if name in taken else new.make(name, wanted[name])
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{name} is not finite everywhere; {source} is damaged, download it again"
            )
        if name == _PLACES:
            return value  # a table that is told, not learned, is never rounded
        return value.to(options.number or (value.dtype if name in taken else usual))

    usual = read(_TABLE).dtype
    write_shards(target, wanted, make, options.shard_bytes)
    config.dtype = options.number or usual
    config.architectures = [UniXModel.__name__]
    config.save_pretrained(target)
    GenerationConfig.from_model_config(config).save_pretrained(target)
    for name in tokens.added:
        report.created[f"rows of the token {name}"] = f"drawn with seed {options.seed}"
    _count(report, wanted, taken)
    report.sources = {file.name: sha256(file) for file in _sources(source, weights)}
    return report


def copy_licences(source: Path, target: Path) -> None:
    """Copy a release's licence texts, which must go where its weights go."""
    for file in sorted(source.glob("LICENSE*")):
        if file.is_file():
            shutil.copyfile(file, target / file.name)


def janus_config(sizes: JanusSizes, tokens: JanusTokens, options: JanusOptions) -> UniXConfig:
    """Our configuration of a model that begins as Janus.

    Without norms of queries and keys everything is as Janus computes it; with them the layout is
    the published one, whose connector has the other GELU.

    Raises:
        ValueError: the tokenizer has more tokens than the table of embeddings has rows.
    """
    rows = sizes.text["vocab_size"]
    last = tokens.known + len(tokens.added)
    if last > rows:
        raise ValueError(
            f"the tokenizer needs {last} rows, {len(tokens.added)} of them for tokens that Janus "
            f"lacks ({', '.join(tokens.added) or 'none'}), but the table of embeddings has {rows}; "
            "give the tokenizer that belongs to the weights"
        )
    return UniXConfig(
        text_config=sizes.text
        | {"max_position_embeddings": _MAX_POSITIONS, "attention_bias": True},
        vision_config=sizes.vision | {"hidden_act": "gelu", "vision_use_head": False},
        latent_channels=options.latent_channels,
        latent_patch_size=options.latent_patch_size,
        max_latent_size=options.max_latent_size,
        connector_activation="gelu" if options.exact else "gelu_pytorch_tanh",
        query_key_norm=not options.exact,
        **tokens.ids,
    )


def _account(weights: WeightFiles, sizes: JanusSizes) -> tuple[dict[str, _Taken], ConversionReport]:
    """Where each of our weights comes from; every key of theirs is mapped, dropped or refused."""
    report = ConversionReport()
    taken: dict[str, _Taken] = {}
    unknown = []
    for name in weights:
        why = _why_unused(name, sizes.layout)
        if why is not None:
            report.dropped[name] = why
            continue
        target = to_ours(name, JANUS_RULES[sizes.layout])
        if target is None:
            unknown.append(name)
            continue
        parts = _split(target, name)
        report.mapped[name] = list(parts)
        taken |= parts
    if unknown:
        raise ValueError(
            f"keys that are no part of Janus in the layout of {sizes.layout!r}: {listed(unknown)}"
        )
    if sizes.tied and _HEAD not in taken and _TABLE in taken:
        taken[_HEAD] = taken[_TABLE]
        report.mapped[taken[_TABLE].name].append(_HEAD)
    return taken, report


def _why_unused(name: str, layout: JanusLayout) -> str | None:
    unused = JANUS_UNUSED[layout].items()
    return next((why for pattern, why in unused if re.fullmatch(pattern, name)), None)


def _split(target: str, name: str) -> dict[str, _Taken]:
    if ".self_attn.qkv." not in target:
        return {target: _Taken(name)}
    return {target.replace("qkv", part): _Taken(name, n) for n, part in enumerate(_QKV)}


def _check(
    wanted: Mapping[str, tuple[int, ...]],
    taken: Mapping[str, _Taken],
    weights: WeightFiles,
    report: ConversionReport,
) -> None:
    report.missing.sort()
    if report.missing:
        raise ValueError(f"weights that Janus must have are missing: {listed(report.missing)}")
    over = sorted(taken.keys() - wanted.keys())
    if over:
        raise ValueError(f"weights of more layers than config.json says: {listed(over)}")
    wrong = [
        f"{place.name} is {list(weights.shape(place.name))}, config.json wants {list(wanted[name])}"
        for name, place in taken.items()
        if _shape(weights, name, place) != wanted[name]
    ]
    if wrong:
        raise ValueError("weights of another config: " + "; ".join(wrong[:5]))


def _shape(weights: WeightFiles, name: str, place: _Taken) -> tuple[int, ...]:
    shape = weights.shape(place.name)
    if place.part is not None:
        return (shape[0] // 3, *shape[1:])
    return shape[-2:] if name == _POSITIONS else shape


def _reader(
    weights: WeightFiles, taken: Mapping[str, _Taken], tokens: JanusTokens, seed: int
) -> Callable[[str], Tensor]:
    """Weights of the understanding branch by our name, with rows for the tokens that are new."""

    def read(name: str) -> Tensor:
        place = taken[name]
        value = weights[place.name]
        if place.part is not None:
            value = value.chunk(3)[place.part]
        if name == _POSITIONS:
            value = value.flatten(0, -2)
        if name in {_TABLE, _HEAD} and tokens.added:
            value = draw_rows(value, tokens.known, len(tokens.added), seed + (name == _HEAD))
        return value

    return read


def _count(
    report: ConversionReport,
    wanted: Mapping[str, tuple[int, ...]],
    taken: Mapping[str, _Taken],
) -> None:
    scalars = {name: int(torch.Size(shape).numel()) for name, shape in wanted.items()}
    report.parameters = {
        "taken": sum(count for name, count in scalars.items() if name in taken),
        "new": sum(count for name, count in scalars.items() if name not in taken),
    }


def _sources(source: Path, weights: WeightFiles) -> Sequence[Path]:
    beside = [source / name for name in _CONFIG_FILES]
    return [*(file for file in beside if file.is_file()), *weights.files]
