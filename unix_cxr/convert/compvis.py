"""The CompVis kl-f16 autoencoder (arXiv:2112.10752) to diffusers' `AutoencoderKL`."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from diffusers import AutoencoderKL
from torch import Tensor

from unix_cxr.convert.key_table import Rule, to_ours
from unix_cxr.convert.unix_release import ConversionReport
from unix_cxr.convert.weight_files import read_safetensors
from unix_cxr.files import COPY_AGAIN, read_json
from unix_cxr.models.autoencoder import DOWNSAMPLING

PUBLISHED_SCALE: Final = 0.238092
PUBLISHED_SHIFT: Final = -0.201906
_ATTENTION: Final = (
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
)
_LEVELS: Final = 5


def autoencoder_rules(levels: int = _LEVELS) -> list[Rule]:
    """Names of both layouts; the decoder's levels run the other way round there."""
    rules = [
        Rule("quant_conv.{}", "quant_conv.{}"),
        Rule("post_quant_conv.{}", "post_quant_conv.{}"),
    ]
    for half in ("encoder", "decoder"):
        rules += [
            Rule(f"{half}.conv_in.{{}}", f"{half}.conv_in.{{}}"),
            Rule(f"{half}.conv_out.{{}}", f"{half}.conv_out.{{}}"),
            Rule(f"{half}.norm_out.{{}}", f"{half}.conv_norm_out.{{}}"),
            Rule(f"{half}.mid.block_1.{{}}.{{}}", f"{half}.mid_block.resnets.0.{{}}.{{}}"),
            Rule(f"{half}.mid.block_2.{{}}.{{}}", f"{half}.mid_block.resnets.1.{{}}.{{}}"),
        ]
        rules += _attention(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0")
    for level in range(levels):
        down = (f"encoder.down.{level}", f"encoder.down_blocks.{level}", "downsample")
        up = (f"decoder.up.{level}", f"decoder.up_blocks.{levels - 1 - level}", "upsample")
        for theirs, ours, sampler in (down, up):
            rules += [
                Rule(
                    f"{theirs}.block.{{}}.nin_shortcut.{{}}",
                    f"{ours}.resnets.{{}}.conv_shortcut.{{}}",
                ),
                Rule(f"{theirs}.block.{{}}.{{}}.{{}}", f"{ours}.resnets.{{}}.{{}}.{{}}"),
                Rule(f"{theirs}.{sampler}.conv.{{}}", f"{ours}.{sampler}rs.0.conv.{{}}"),
            ]
            rules += _attention(f"{theirs}.attn.{{}}", f"{ours}.attentions.{{}}")
    return rules


def _attention(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}.{a}.{{}}", f"{ours}.{b}.{{}}") for a, b in _ATTENTION]


def autoencoder_from_compvis(
    weights: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[AutoencoderKL, ConversionReport]:
    """Build and fill an `AutoencoderKL`.

    Args:
        weights: by CompVis name; those of the training loss are dropped.
        config: `ddconfig` (or the whole YAML tree), and optionally scale_factor and shift_factor.

    Raises:
        ValueError: the layout is not kl-f16, or keys are unknown or missing.
    """
    sizes = _sizes(config)
    widths = tuple(sizes["ch"] * factor for factor in sizes["ch_mult"])
    vae = AutoencoderKL(
        in_channels=sizes["in_channels"],
        out_channels=sizes["out_ch"],
        down_block_types=_block_types(sizes, "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=_block_types(sizes, "UpDecoderBlock2D", "AttnUpDecoderBlock2D")[::-1],
        block_out_channels=widths,
        layers_per_block=sizes["num_res_blocks"],
        latent_channels=sizes["z_channels"],
        norm_num_groups=config.get("num_groups", 32),
        sample_size=sizes["resolution"],
        scaling_factor=config.get("scale_factor", PUBLISHED_SCALE),
        shift_factor=config.get("shift_factor", PUBLISHED_SHIFT),
    )
    report, ours, unknown = ConversionReport(), {}, []
    rules = autoencoder_rules(len(widths))
    wanted = vae.state_dict()
    for name, value in weights.items():
        if name.startswith("loss."):
            report.dropped[name] = "part of the training loss"
            continue
        target = to_ours(name, rules)
        if target is None or target not in wanted:
            unknown.append(name)
            continue
        report.mapped[name] = [target]
        ours[target] = _as_linear(value.float(), wanted[target].ndim)
    report.missing = sorted(set(wanted) - set(ours))
    if unknown or report.missing:
        raise ValueError(
            f"not a kl-f16 autoencoder of this config: unknown keys {unknown[:5]}, missing "
            f"{report.missing[:5]}"
        )
    wrong = [
        f"{name} is {list(ours[name].shape)}, the config wants {list(value.shape)}"
        for name, value in wanted.items()
        if ours[name].shape != value.shape
    ]
    if wrong:
        raise ValueError("an autoencoder of another config: " + "; ".join(wrong[:5]))
    vae.load_state_dict(ours, strict=True)
    return vae.eval(), report


def load_compvis(path: Path) -> dict[str, Tensor]:
    """Weights of a CompVis file: safetensors, or a `.ckpt` read with `weights_only=True`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file would run code when opened, is damaged, or holds no weights.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no autoencoder at {path}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        tree: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is a pickle that holds more than weights, which is never opened; save its "
            "state_dict alone"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is no checkpoint, or a damaged one: {error}") from error
    weights = tree.get("state_dict", tree) if isinstance(tree, dict) else {}
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no weights by name, neither flat nor under 'state_dict'")
    return tensors


def load_compvis_config(path: Path) -> dict[str, Any]:
    """The configuration beside a CompVis file: config.yaml, kl-f16d16.yaml or config.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    candidates = (
        path.with_suffix(".yaml"),
        path.parent / "config.yaml",
        path.parent / "kl-f16d16.yaml",
    )
    for candidate in candidates:
        if candidate.is_file():
            return _read_yaml(candidate)
    side = path.parent / "config.json"
    if side.is_file():
        return read_json(side)
    raise FileNotFoundError(f"no config.yaml beside {path}; it says how wide the autoencoder is")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())  # of several lines
        raise ValueError(f"{path} is damaged ({reason}); {COPY_AGAIN}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} is damaged (no keys, but {type(tree).__name__}); {COPY_AGAIN}")  # noqa: TRY004 - a wrong value in a file
    return tree


def _sizes(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`ddconfig`, from the top of the tree or from where CompVis keeps it."""
    sizes: Mapping[str, Any] | None = config.get("ddconfig")
    if sizes is None:
        sizes = config.get("model", {}).get("params", {}).get("ddconfig")
    if sizes is None:
        raise ValueError(f"the autoencoder's config has no 'ddconfig'; it has {sorted(config)}")
    _check_layout(sizes)
    return sizes


def _as_linear(value: Tensor, dimensions: int) -> Tensor:
    """CompVis' attention projects by 1x1 convolutions, ours by linear layers."""
    if value.ndim == 4 and dimensions == 2 and value.shape[2:] == (1, 1):  # noqa: PLR2004
        return value[:, :, 0, 0]
    return value


def _check_layout(sizes: Mapping[str, Any]) -> None:
    factor = 2 ** (len(sizes["ch_mult"]) - 1)
    if factor != DOWNSAMPLING or not sizes.get("double_z", True):
        raise ValueError(
            f"an autoencoder with ch_mult {sizes['ch_mult']} shrinks {factor} times; the kl-f16 "
            f"layout shrinks {DOWNSAMPLING} times"
        )


def _block_types(sizes: Mapping[str, Any], plain: str, attending: str) -> tuple[str, ...]:
    """Attention stands where the nominal resolution of a level is listed."""
    resolutions: Sequence[int] = sizes["attn_resolutions"]
    return tuple(
        attending if sizes["resolution"] // 2**level in resolutions else plain
        for level in range(len(sizes["ch_mult"]))
    )
