"""A tiny random Janus, written as each of the two layouts that exist."""

import json
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import JanusConfig, JanusForConditionalGeneration, PreTrainedConfig

from unix_cxr import UniXModel
from unix_cxr.convert.janus import JanusOptions, convert_janus
from unix_cxr.convert.janus_tokenizer import read_janus_tokenizer
from unix_cxr.convert.unix_release import ConversionReport
from unix_cxr.models.autoencoder import build_autoencoder

Files = Literal["safetensors", "bin", "sharded safetensors", "sharded bin"]

SIDE = 48
TOKENS = 9
TEXTS = ["The heart is normal in size.", "There is a small left pleural effusion."]
SPECIAL_TOKENS = (
    "<\uff5c\u2581pad\u2581\uff5c>",
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<begin_of_image>",
    "<end_of_image>",
)
SMALL: dict[str, Any] = {"latent_channels": 2, "max_latent_size": 4}
PIXELS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def tiny_janus(**text: Any) -> JanusForConditionalGeneration:
    """Two layers of everything; weights large enough that every part shows in the logits."""
    config = JanusConfig(
        text_config={
            "vocab_size": 300,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 16384,
            "rms_norm_eps": 1e-6,
        }
        | text,
        vision_config={
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 16,
            "mlp_ratio": 2.0,
            "projection_dim": 64,
            "num_image_tokens": TOKENS,
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": 64,
            "image_token_embed_dim": 64,
        },
        image_token_id=7,
        tie_word_embeddings=False,
    )
    janus = JanusForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in janus.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = "norm" in name and name.endswith("weight")
            parameter.copy_(noise * (0.1 if parameter.ndim == 1 else 0.25) + norm)
    janus.eval()
    return janus


def write_janus(
    folder: Path, janus: JanusForConditionalGeneration, layout: str, files: Files = "safetensors"
) -> Path:
    """A folder as it would be downloaded, with a tokenizer that has Janus' names of tokens."""
    folder.mkdir(parents=True)
    theirs = janus.state_dict()
    if layout == "original":
        theirs = original_weights(theirs)
        write_json(folder / "config.json", original_config(janus.config))
    else:
        janus.config.save_pretrained(folder)
    write_weights(folder, theirs, files)
    write_tokenizer(folder)
    write_json(folder / "preprocessor_config.json", PIXELS)
    (folder / "LICENSE-MODEL").write_text("Terms of the weights.\n", encoding="utf-8")
    return folder


def write_weights(folder: Path, weights: dict[str, Tensor], files: Files) -> None:
    names = list(weights)
    sharded = files.startswith("sharded")
    end = "safetensors" if files.endswith("safetensors") else "bin"
    stem = "model" if end == "safetensors" else "pytorch_model"
    halves = [names[::2], names[1::2]] if sharded else [names]
    places: dict[str, str] = {}
    for number, half in enumerate(halves, start=1):
        suffix = f"-{number:05}-of-{len(halves):05}" if sharded else ""
        file = f"{stem}{suffix}.{end}"
        content = {name: weights[name].clone() for name in half}
        if end == "safetensors":
            save_file(content, folder / file, metadata={"format": "pt"})
        else:
            torch.save(content, folder / file)
        places |= dict.fromkeys(half, file)
    if sharded:
        write_json(folder / f"{stem}.{end}.index.json", {"weight_map": places})


def write_tokenizer(folder: Path, *, image_tokens: bool = True) -> None:
    """Byte-level pairs with Janus' names of special tokens, which come last as they do there."""
    pad, bos, eos, *images = SPECIAL_TOKENS
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    )
    library.add_special_tokens([bos, eos, pad, *(images if image_tokens else [])])
    library.save(str(folder / "tokenizer.json"))
    names = {"bos_token": bos, "eos_token": {"content": eos}, "pad_token": None}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"} | names)
    write_json(folder / "special_tokens_map.json", {"pad_token": pad})


def write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree), encoding="utf-8")


def write_vae(folder: Path, channels: int = 2, image_channels: int = 1) -> Path:
    torch.manual_seed(5)
    autoencoder: AutoencoderKL = build_autoencoder(
        channels=(4, 4, 4, 4, 8),
        layers_per_block=1,
        latent_channels=channels,
        image_channels=image_channels,
        norm_groups=2,
        sample_size=SIDE,
    )
    network: Any = autoencoder
    network.save_pretrained(folder)
    return folder


def original_weights(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Janus' first layout, spelled out by hand; what the other layout lacks is made up."""
    tower, text = "vision_model.vision_tower", "language_model.model"
    vision = "model.vision_model"
    weights = {
        f"{tower}.pos_embed": theirs[f"{vision}.embeddings.position_embedding.weight"][None],
        f"{tower}.attn_pool.latent": torch.ones(1, 1, 128),
        f"{tower}.attn_pool.mlp.fc1.weight": torch.ones(2, 2),
        "language_model.lm_head.weight": theirs["lm_head.weight"],
        f"{text}.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "gen_embed.weight": torch.ones(3, 2),
        "gen_vision_model.encoder.conv_in.weight": torch.ones(3, 2),
        "gen_aligner.layers.0.weight": torch.ones(3, 2),
        "gen_head.output_mlp_projector.weight": torch.ones(3, 2),
    }
    for part in ("weight", "bias"):
        weights |= {
            f"{tower}.patch_embed.proj.{part}": theirs[
                f"{vision}.embeddings.patch_embedding.{part}"
            ],
            f"{tower}.norm.{part}": theirs[f"{vision}.post_layernorm.{part}"],
            f"aligner.layers.0.{part}": theirs[f"model.aligner.fc1.{part}"],
            f"aligner.layers.2.{part}": theirs[f"model.aligner.hidden_layers.0.{part}"],
        }
        for layer in range(2):
            ours, block = f"{vision}.encoder.layers.{layer}", f"{tower}.blocks.{layer}"
            qkv = [theirs[f"{ours}.self_attn.{name}_proj.{part}"] for name in "qkv"]
            weights |= {
                f"{block}.attn.qkv.{part}": torch.cat(qkv),
                f"{block}.attn.proj.{part}": theirs[f"{ours}.self_attn.projection_layer.{part}"],
                f"{block}.norm1.{part}": theirs[f"{ours}.layer_norm1.{part}"],
                f"{block}.norm2.{part}": theirs[f"{ours}.layer_norm2.{part}"],
                f"{block}.mlp.fc1.{part}": theirs[f"{ours}.mlp.fc1.{part}"],
                f"{block}.mlp.fc2.{part}": theirs[f"{ours}.mlp.fc2.{part}"],
            }
    prefix = "model.language_model."
    for name, value in theirs.items():
        if name.startswith(prefix):
            weights[f"{text}.{name.removeprefix(prefix)}"] = value
    return weights


def original_config(config: JanusConfig) -> dict[str, Any]:
    """The shape of Janus-Pro-1B's config.json (most values left to Llama's defaults there)."""
    text = cast("PreTrainedConfig", config.text_config).to_dict()
    kept = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"]
    kept += ["num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"]
    return {
        "model_type": "multi_modality",
        "language_config": {"model_type": "llama"} | {key: text[key] for key in kept},
        "vision_config": {
            "cls": "CLIPVisionTower",
            "params": {
                "image_size": SIDE,
                "model_name": "siglip_large_patch16_384",
                "select_feature": "same",
                "select_layer": -1,
            },
        },
        "aligner_config": {
            "cls": "MlpProjector",
            "params": {"depth": 2, "input_dim": 128, "n_embed": 64, "projector_type": "mlp_gelu"},
        },
    }


def convert(source: Path, target: Path, **options: Any) -> ConversionReport:
    return convert_janus(
        source, target, read_janus_tokenizer(source), JanusOptions(**SMALL | options)
    )


def converted(source: Path, **options: Any) -> tuple[UniXModel, ConversionReport]:
    target = source.parent / "ours"
    report = convert(source, target, **options)
    model = UniXModel.from_pretrained(target, dtype="auto")
    return model.eval(), report


def refuse(source: Path, message: str, error: type[Exception] = ValueError) -> None:
    target = source.parent / "refused"
    with pytest.raises(error, match=message):
        convert(source, target)


def change(source: Path, section: str | None = None, **values: Any) -> None:
    file = source / "config.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    (tree[section] if section else tree).update(values)
    write_json(file, tree)
