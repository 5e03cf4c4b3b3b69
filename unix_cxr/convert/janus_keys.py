"""Names of Janus' weights in both of its layouts, and in ours, as data.

"transformers" is the layout of `JanusForConditionalGeneration`, "original" that of the first
release (arXiv:2410.13848, arXiv:2501.17811).
"""

from collections.abc import Sequence
from typing import Final, Literal

from unix_cxr.convert.key_table import Rule

JanusLayout = Literal["transformers", "original"]

_LANGUAGE: Final = (
    *(f"self_attn.{name}_proj.weight" for name in ("q", "k", "v", "o")),
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
)


def _language_rules(theirs: str, head: str) -> list[Rule]:
    ours = "language_model.model"
    return [
        *(Rule(f"{theirs}.layers.{{}}.{name}", f"{ours}.layers.{{}}.{name}") for name in _LANGUAGE),
        Rule(f"{theirs}.embed_tokens.weight", f"{ours}.embed_tokens.weight"),
        Rule(f"{theirs}.norm.weight", f"{ours}.norm.weight"),
        Rule(head, "language_model.lm_head.weight"),
    ]


def _transformers_rules() -> list[Rule]:
    layer = "model.vision_model.encoder.layers.{}"
    ours = "vision.encoder.layers.{}"
    names = ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
    pairs = [(name, name) for name in (*names, *(f"self_attn.{part}_proj" for part in "qkv"))]
    pairs.append(("self_attn.projection_layer", "self_attn.out_proj"))
    vision = "model.vision_model"
    return [
        *(Rule(f"{layer}.{theirs}.{{}}", f"{ours}.{name}.{{}}") for theirs, name in pairs),
        Rule(f"{vision}.embeddings.patch_embedding.{{}}", "vision.embeddings.patch_embedding.{}"),
        Rule(
            f"{vision}.embeddings.position_embedding.weight",
            "vision.embeddings.position_embedding.weight",
        ),
        Rule(f"{vision}.post_layernorm.{{}}", "vision.post_layernorm.{}"),
        Rule("model.aligner.fc1.{}", "connector.input.{}"),
        Rule("model.aligner.hidden_layers.0.{}", "connector.output.{}"),
        *_language_rules("model.language_model", "lm_head.weight"),
    ]


def _original_rules() -> list[Rule]:
    tower = "vision_model.vision_tower"
    ours = "vision.encoder.layers.{}"
    pairs = [
        ("norm1", "layer_norm1"),
        ("norm2", "layer_norm2"),
        ("attn.qkv", "self_attn.qkv"),  # one weight there, three here
        ("attn.proj", "self_attn.out_proj"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ]
    return [
        *(
            Rule(f"{tower}.blocks.{{}}.{theirs}.{{}}", f"{ours}.{name}.{{}}")
            for theirs, name in pairs
        ),
        Rule(f"{tower}.patch_embed.proj.{{}}", "vision.embeddings.patch_embedding.{}"),
        Rule(f"{tower}.pos_embed", "vision.embeddings.position_embedding.weight"),
        Rule(f"{tower}.norm.{{}}", "vision.post_layernorm.{}"),
        Rule("aligner.layers.0.{}", "connector.input.{}"),
        Rule("aligner.layers.2.{}", "connector.output.{}"),
        *_language_rules("language_model.model", "language_model.lm_head.weight"),
    ]


JANUS_RULES: Final[dict[JanusLayout, Sequence[Rule]]] = {
    "transformers": tuple(_transformers_rules()),
    "original": tuple(_original_rules()),
}
"""Names of the understanding branch, by layout."""

_OWN_DRAWING: Final = "Janus' own image generation"
_POOLING: Final = "attention pooling is stored but never run"
_ROTARY: Final = "rotary frequencies follow from the configuration"

JANUS_UNUSED: Final[dict[JanusLayout, dict[str, str]]] = {
    "transformers": {
        r"model\.(vqmodel|generation_(embeddings|aligner|head))\..*": _OWN_DRAWING,
        r"model\.language_model\..*rotary_emb\.inv_freq": _ROTARY,
    },
    "original": {
        r"gen_(vision_model|embed|aligner|head)\..*": _OWN_DRAWING,
        r"vision_model\.vision_tower\.attn_pool\..*": _POOLING,
        r"language_model\..*rotary_emb\.inv_freq": _ROTARY,
    },
}
"""Weights that are left behind on purpose, with the reason, by layout."""
