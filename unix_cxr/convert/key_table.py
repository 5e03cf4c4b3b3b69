"""Names of weights in another release and in ours, as data.

A rule is a pair of patterns with the same "{}" holes; a hole stands for one dotted name part.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_HOLE: Final = r"([^.]+)"


@dataclass(frozen=True)
class Rule:
    """A pattern of theirs and ours, such as "blocks.{}.norm1.{}" and "layers.{}.layer_norm1.{}"."""

    theirs: str
    ours: str

    def to_ours(self, name: str) -> str | None:
        """Our name, or None where the rule is about other names."""
        return _translate(name, self.theirs, self.ours)

    def to_theirs(self, name: str) -> str | None:
        """Their name, or None where the rule is about other names."""
        return _translate(name, self.ours, self.theirs)


def to_ours(name: str, rules: Iterable[Rule]) -> str | None:
    """Our name by the first rule that fits; None where none does."""
    return next((ours for rule in rules if (ours := rule.to_ours(name)) is not None), None)


def to_theirs(name: str, rules: Iterable[Rule]) -> str | None:
    """Their name by the first rule that fits; None where none does."""
    return next((theirs for rule in rules if (theirs := rule.to_theirs(name)) is not None), None)


def _translate(name: str, source: str, target: str) -> str | None:
    match = re.fullmatch(_HOLE.join(map(re.escape, source.split("{}"))), name)
    return None if match is None else target.format(*match.groups())


_LAYER: Final = "language_model.model.layers.{}"
_PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")


def _understanding_rules() -> list[Rule]:
    names = [f"self_attn.{name}" for name in _PROJECTIONS]
    names += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    names += ["input_layernorm", "post_attention_layernorm"]
    rules = [Rule(f"{_LAYER}.{name}.{{}}", f"{_LAYER}.{name}.{{}}") for name in names]
    plain = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    return rules + [Rule(f"language_model.{name}", f"language_model.{name}") for name in plain]


def _generation_rules() -> list[Rule]:
    ours = "generation.layers.{}"
    pairs = [(f"self_attn.{name}_moe_gen", f"attention.{name}") for name in _PROJECTIONS]
    pairs += [
        (f"mlp_moe_gen.{name}", f"mlp.{name}") for name in ("gate_proj", "up_proj", "down_proj")
    ]
    pairs += [
        ("input_layernorm_moe_gen", "attention_norm"),
        ("post_attention_layernorm_moe_gen", "mlp_norm"),
    ]
    rules = [Rule(f"{_LAYER}.{theirs}.{{}}", f"{ours}.{name}.{{}}") for theirs, name in pairs]
    return [
        *rules,
        Rule("language_model.model.norm_moe_gen.weight", "generation.final_norm.weight"),
        Rule("time_embedder.mlp.0.{}", "generation.embedding.time.input.{}"),
        Rule("time_embedder.mlp.2.{}", "generation.embedding.time.output.{}"),
        Rule("vae2llm.{}", "generation.embedding.projection.{}"),
        Rule("llm2vae.{}", "generation.velocity_head.{}"),
        Rule("latent_pos_embed.pos_embed", "generation.embedding.positions"),
    ]


def _vision_rules() -> list[Rule]:
    ours = "vision.encoder.layers.{}"
    pairs = [
        ("norm1", "layer_norm1"),
        ("norm2", "layer_norm2"),
        ("attn.qkv", "self_attn.qkv"),  # split and joined by `unix_release`
        ("attn.proj", "self_attn.out_proj"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ]
    rules = [
        Rule(f"vit_model.vision_tower.blocks.{{}}.{theirs}.{{}}", f"{ours}.{name}.{{}}")
        for theirs, name in pairs
    ]
    return [
        *rules,
        Rule("vit_model.vision_tower.patch_embed.proj.{}", "vision.embeddings.patch_embedding.{}"),
        Rule("vit_model.vision_tower.pos_embed", "vision.embeddings.position_embedding.weight"),
        Rule("vit_model.vision_tower.norm.{}", "vision.post_layernorm.{}"),
        Rule("connector.layers.0.{}", "connector.input.{}"),
        Rule("connector.layers.2.{}", "connector.output.{}"),
    ]


UNIX_RULES: Final[Sequence[Rule]] = (
    *_understanding_rules(),
    *_generation_rules(),
    *_vision_rules(),
)
"""The published UniX layout, in its canonical spelling."""

SPELLINGS: Final[Sequence[Rule]] = (
    Rule("vision_model.vision_tower.{}", "vit_model.vision_tower.{}"),
    Rule("connector.fc1.{}", "connector.layers.0.{}"),
    Rule("connector.fc2.{}", "connector.layers.2.{}"),
    Rule("aligner.layers.{}.{}", "connector.layers.{}.{}"),
)
"""Other spellings of the same names, each to the canonical one. Here a hole may hold dots."""

UNUSED: Final = {
    r"vit_model\.vision_tower\.attn_pool\..*": "attention pooling is stored but never run",
    r"vit_pos_embed\.pos_embed": "positions of vision tokens are stored but never added",
    r"language_model\.model\.repa_loss_fn\..*": "projector of a training loss",
    r"gen_(vision_model|embed|aligner|head)\..*": "Janus' own image generation",
}
"""Weights that the published model does not use, with the reason."""


def canonical(name: str) -> str:
    """The canonical spelling of a published name."""
    for rule in SPELLINGS:
        pattern = re.escape(rule.theirs).replace(r"\{\}", "(.+)")
        match = re.fullmatch(pattern, name)
        if match is not None:
            return rule.ours.format(*match.groups())
    return name


def why_unused(name: str) -> str | None:
    """The reason why a canonical name is not used, or None where it is."""
    return next((why for pattern, why in UNUSED.items() if re.fullmatch(pattern, name)), None)
