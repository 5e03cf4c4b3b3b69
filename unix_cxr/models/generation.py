"""The generation branch: a denoiser that reads a language model's keys and values.

Axes: b batch, c latent channels, h and w latent rows and columns, n latent tokens, d width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unix_cxr.functional.patchify import unpatchify
from unix_cxr.models.config import UniXConfig
from unix_cxr.modules.joint_block import (
    Block,
    JointBlock,
    LayerContext,
    Rotary,
    Surroundings,
    UnderstandingLayer,
)
from unix_cxr.modules.latent_embedding import LatentEmbedding
from unix_cxr.modules.norm import RMSNorm


@dataclass(frozen=True)
class Denoised:
    """What a pass of the generation branch leaves behind.

    Args:
        block: states after the last layer, before any final norm.
        latents: [b, n, d] latent states after the branch's final norm.
        layers: keys and values of the block, one entry per layer.
    """

    block: Block
    latents: Float[Tensor, "b n d"]
    layers: tuple[LayerContext, ...]


class GenerationBranch(nn.Module):
    """Latent embedding, one joint block per language-model layer, and a velocity head.

    Args:
        config: sizes; the branch has the language model's widths.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

    def __init__(self, config: UniXConfig) -> None:
        super().__init__()
        text: Any = config.text_config
        self.patch_size = config.latent_patch_size
        self.embedding = LatentEmbedding(
            channels=config.latent_channels,
            patch_size=config.latent_patch_size,
            hidden_size=text.hidden_size,
            max_size=config.max_latent_size,
            time_frequencies=config.time_frequencies,
        )
        self.layers = nn.ModuleList(
            JointBlock(
                hidden_size=text.hidden_size,
                intermediate_size=text.intermediate_size,
                heads=text.num_attention_heads,
                kv_heads=text.num_key_value_heads,
                head_dim=text.head_dim,
                eps=text.rms_norm_eps,
                query_key_norm=config.query_key_norm,
            )
            for _ in range(text.num_hidden_layers)
        )
        self.final_norm = RMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.velocity_head = nn.Linear(
            text.hidden_size, config.latent_patch_size**2 * config.latent_channels
        )

    def forward(
        self,
        block: Block,
        context: Sequence[LayerContext],
        understanding: Iterable[UnderstandingLayer],
        surroundings: Surroundings,
    ) -> Denoised:
        """Run a block through all layers.

        Args:
            block: embedded BOI, EOI and latents.
            context: keys and values before the block, one entry per layer.
            understanding: the language model's layers.
            surroundings: rotary angles, mask and gradient factor that all layers share.
        """
        offered = []
        for layer, before, theirs in zip(self.layers, context, understanding, strict=True):
            if self.gradient_checkpointing and self.training:
                block, keys_and_values = self._gradient_checkpointing_func(
                    layer.__call__, block, before, theirs, surroundings
                )
            else:
                block, keys_and_values = layer(block, before, theirs, surroundings)
            offered.append(keys_and_values)
        return Denoised(block, self.final_norm(block.latents), tuple(offered))

    def velocity(
        self, latents: Float[Tensor, "b n d"], height: int, width: int
    ) -> Float[Tensor, "b c h w"]:
        """Velocity from the normalised latent states."""
        return unpatchify(self.velocity_head(latents), self.patch_size, height, width)


def surroundings_of(
    rotary: Rotary,
    real: Bool[Tensor, "b k"],
    tokens: int,
    *,
    padded: bool,
    understanding_gradient: float,
) -> Surroundings:
    """What all layers share when a block of `tokens` tokens follows a context."""
    mask = None
    if padded:
        own = real.new_ones(real.shape[0], tokens)
        mask = torch.cat([real, own], dim=1)[:, None, None, :]
    return Surroundings(rotary, mask, understanding_gradient)
