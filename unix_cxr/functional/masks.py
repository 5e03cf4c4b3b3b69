"""Attention masks; True means "may attend". Axes: b batch, q queries, k keys, n new tokens."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor


def segment_mask(
    context_real: Bool[Tensor, "b k"], new_real: Bool[Tensor, "b n"], *, causal: bool
) -> Bool[Tensor, "b 1 n kn"]:
    """New tokens see the whole context, and each other: causally, or all of them."""
    length = new_real.shape[1]
    among_new = torch.ones(length, length, dtype=torch.bool, device=new_real.device)
    if causal:
        among_new = among_new.tril()
    own = torch.eye(length, dtype=torch.bool, device=new_real.device)
    to_new = (among_new & new_real[:, None, :]) | own
    to_context = context_real[:, None, :].expand(-1, length, -1)
    return rearrange(torch.cat([to_context, to_new], dim=-1), "b n k -> b 1 n k")


def additive(mask: Bool[Tensor, "*any"], dtype: torch.dtype) -> Float[Tensor, "*any"]:
    """The same mask as numbers to add to attention scores: 0 or the lowest finite value."""
    scores = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return scores.masked_fill(~mask, torch.finfo(dtype).min)
