"""The block in which latents and understanding meet: one softmax over both.

Axes: b batch, k context tokens, n latent tokens, d width, h query heads, g key/value heads,
e head width. The two boundary tokens of an image are its begin (BOI) and its end (EOI).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unix_cxr.functional.gradients import scale_gradient
from unix_cxr.functional.rotary import rotate
from unix_cxr.modules.norm import RMSNorm

Rotary = tuple[Float[Tensor, "b 1 e"], Float[Tensor, "b 1 e"]]
"""Cosine and sine at the one position that all tokens of an image share."""


@dataclass(frozen=True)
class LayerContext:
    """Keys and values that one layer of the context offers, rotated and normalised.

    Args:
        keys: [b, g, k, e].
        values: [b, g, k, e].
    """

    keys: Float[Tensor, "b g k e"]
    values: Float[Tensor, "b g k e"]


@dataclass(frozen=True)
class Block:
    """States of an image block: its two boundary tokens and its latents.

    Args:
        boundary: [b, 2, d] BOI and EOI, which run through the understanding layers.
        latents: [b, n, d], which run through the generation layers.
    """

    boundary: Float[Tensor, "b 2 d"]
    latents: Float[Tensor, "b n d"]


@dataclass(frozen=True)
class Surroundings:
    """What every layer of a denoising pass shares.

    Args:
        rotary: cosine and sine at the block's position.
        mask: True where a context token or a token of the block may be attended; None for all.
        understanding_gradient: factor on the gradient of what the understanding layers offer.
    """

    rotary: Rotary
    mask: Bool[Tensor, "b 1 1 m"] | None
    understanding_gradient: float


if TYPE_CHECKING:

    class Attention(Protocol):
        """The projections of one attention layer, as transformers' decoder layers name them."""

        head_dim: int
        q_proj: nn.Module
        k_proj: nn.Module
        v_proj: nn.Module
        o_proj: nn.Module
        q_norm: nn.Module
        k_norm: nn.Module

    class UnderstandingLayer(Protocol):
        """A decoder layer of the language model, called module by module, never by its weights."""

        input_layernorm: nn.Module
        self_attn: Attention
        post_attention_layernorm: nn.Module
        mlp: nn.Module

else:  # submodules are found by nn.Module.__getattr__, which checks at run time do not ask
    Attention = UnderstandingLayer = nn.Module


class GatedMLP(nn.Module):
    """SiLU-gated feed-forward layer (arXiv:2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Feed every token forward."""
        projected: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return projected


class LatentAttention(nn.Module):
    """Projections of the latents: q, k and v with biases, o without, norms per head or none."""

    def __init__(
        self, hidden_size: int, heads: int, kv_heads: int, head_dim: int, eps: float | None
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj: nn.Module = nn.Linear(hidden_size, heads * head_dim)
        self.k_proj: nn.Module = nn.Linear(hidden_size, kv_heads * head_dim)
        self.v_proj: nn.Module = nn.Linear(hidden_size, kv_heads * head_dim)
        self.o_proj: nn.Module = nn.Linear(heads * head_dim, hidden_size, bias=False)
        self.q_norm: nn.Module = nn.Identity() if eps is None else RMSNorm(head_dim, eps=eps)
        self.k_norm: nn.Module = nn.Identity() if eps is None else RMSNorm(head_dim, eps=eps)


class JointBlock(nn.Module):
    """Pre-norm residual block: latents see the context's keys and values, and each other.

    Args:
        hidden_size: width d.
        intermediate_size: width of the feed-forward layer.
        heads: query heads h.
        kv_heads: key/value heads g.
        head_dim: head width e.
        eps: of every norm.
        query_key_norm: whether each head's queries and keys are normalised.

    Raises:
        ValueError: heads is no multiple of kv_heads.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        intermediate_size: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        eps: float,
        query_key_norm: bool = True,
    ) -> None:
        super().__init__()
        if heads % kv_heads:
            raise ValueError(f"heads ({heads}) must be divisible by kv_heads ({kv_heads})")
        self.groups = heads // kv_heads
        self.attention_norm = RMSNorm(hidden_size, eps=eps)
        self.attention = LatentAttention(
            hidden_size, heads, kv_heads, head_dim, eps if query_key_norm else None
        )
        self.mlp_norm = RMSNorm(hidden_size, eps=eps)
        self.mlp = GatedMLP(hidden_size, intermediate_size)

    def forward(
        self,
        block: Block,
        context: LayerContext,
        understanding: UnderstandingLayer,
        surroundings: Surroundings,
    ) -> tuple[Block, LayerContext]:
        """The block after this layer, and the keys and values that it offers itself.

        Args:
            block: states before the layer.
            context: keys and values of everything before the block.
            understanding: the language model's layer of the same depth; moves BOI and EOI.
            surroundings: what all layers share.
        """
        theirs = _project(understanding.self_attn, understanding.input_layernorm(block.boundary))
        ours = _project(self.attention, self.attention_norm(block.latents))
        factor, rotary = surroundings.understanding_gradient, surroundings.rotary
        # one copy each: what lies before, BOI, the latents, EOI
        keys = _in_order(
            context.keys,
            rotate(scale_gradient(theirs.key, factor), *rotary),
            rotate(ours.key, *rotary),
        )
        values = _in_order(context.values, scale_gradient(theirs.value, factor), ours.value)
        attended = F.scaled_dot_product_attention(
            rotate(_in_order(None, theirs.query, ours.query), *rotary),
            keys,
            values,
            attn_mask=surroundings.mask,
            enable_gqa=self.groups > 1,
        )
        before = context.keys.shape[2]
        offered = LayerContext(keys=keys[:, :, before:], values=values[:, :, before:])
        attended = rearrange(attended, "b h n e -> b n (h e)")
        # split, not sliced: the gradient of each slice would be as large as the whole
        begin, between, end = attended.split([1, block.latents.shape[1], 1], dim=1)
        boundary_part = torch.cat([begin, end], dim=1)

        latents = block.latents + self.attention.o_proj(between)
        latents = latents + self.mlp(self.mlp_norm(latents))
        boundary = block.boundary + understanding.self_attn.o_proj(boundary_part)
        boundary = boundary + understanding.mlp(understanding.post_attention_layernorm(boundary))
        return Block(boundary=boundary, latents=latents), offered


@dataclass(frozen=True)
class _Projected:
    query: Float[Tensor, "b h n e"]
    key: Float[Tensor, "b g n e"]
    value: Float[Tensor, "b g n e"]


def _project(attention: Attention, x: Float[Tensor, "b n d"]) -> _Projected:
    def heads(projected: Tensor) -> Tensor:
        return rearrange(projected, "b n (h e) -> b n h e", e=attention.head_dim)

    return _Projected(
        query=attention.q_norm(heads(attention.q_proj(x))).transpose(1, 2),
        key=attention.k_norm(heads(attention.k_proj(x))).transpose(1, 2),
        value=heads(attention.v_proj(x)).transpose(1, 2),
    )


def _in_order(
    context: Float[Tensor, "b h k e"] | None,
    boundary: Float[Tensor, "b h 2 e"],
    latents: Float[Tensor, "b h n e"],
) -> Float[Tensor, "b h m e"]:
    """[context, BOI, latents, EOI] along the tokens."""
    begin, end = boundary.split(1, dim=2)
    parts = [begin, latents, end]
    return torch.cat(parts if context is None else [context, *parts], dim=2)
