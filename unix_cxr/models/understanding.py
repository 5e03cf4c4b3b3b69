"""The language model's layers, run over a segment so that their keys and values are kept.

Axes: b batch, n new tokens, m context and new tokens, d width, g key/value heads, e head width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Qwen3Model

from unix_cxr.models.context import Context
from unix_cxr.modules.joint_block import LayerContext


def run_layers(
    decoder: Qwen3Model,
    embedded: Float[Tensor, "b n d"],
    positions: Int[Tensor, "b n"],
    mask: Tensor,
    context: Context,
) -> tuple[Float[Tensor, "b n d"], list[LayerContext]]:
    """Normalised last states of new tokens, and the keys and values they leave per layer.

    Args:
        decoder: the stock decoder; its layers are called as they are.
        embedded: new tokens.
        positions: their rotary positions.
        mask: [b, 1, n, m] who may attend to what, as the attention implementation wants it.
        context: everything before.
    """
    rotary = decoder.rotary_emb(embedded, positions)
    hidden, kept = embedded, []
    checkpointing = decoder.gradient_checkpointing and decoder.training
    for layer, before in zip(decoder.layers, context.layers, strict=True):
        if checkpointing:
            hidden, keys, values = decoder._gradient_checkpointing_func(  # noqa: SLF001 - the library's own hook
                _run_layer, layer, hidden, mask, rotary, before
            )
        else:
            hidden, keys, values = _run_layer(layer, hidden, mask, rotary, before)
        kept.append(LayerContext(keys, values))
    return decoder.norm(hidden), kept


def _run_layer(
    layer: nn.Module,
    hidden: Tensor,
    mask: Tensor,
    rotary: tuple[Tensor, Tensor],
    before: LayerContext,
) -> tuple[Tensor, Tensor, Tensor]:
    cache = _OneLayerCache(before)
    with _keeping_its_cache(layer):
        hidden = layer(
            hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=cache
        )
    return hidden, cache.keys, cache.values


class _OneLayerCache:
    """As much of a cache as an attention layer calls: it sees the past, and keeps what is new."""

    keys: Tensor
    values: Tensor

    def __init__(self, before: LayerContext) -> None:
        self.before = before

    def update(self, keys: Tensor, values: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values = keys, values
        return (
            torch.cat([self.before.keys, keys], dim=2),
            torch.cat([self.before.values, values], dim=2),
        )


@contextmanager
def _keeping_its_cache(layer: nn.Module) -> Iterator[None]:
    """Under the library's own checkpointing a layer is denied its cache; ours wraps it instead."""
    before = getattr(layer, "gradient_checkpointing", False)
    if not before:
        yield
        return
    layer.gradient_checkpointing = False  # type: ignore[assignment]  # nn.Module types its attributes as tensors
    try:
        yield
    finally:
        layer.gradient_checkpointing = before  # type: ignore[assignment]  # as above
