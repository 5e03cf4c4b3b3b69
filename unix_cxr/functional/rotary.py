"""Rotary position embedding in the half-split convention (arXiv:2104.09864)."""

import torch
from jaxtyping import Float
from torch import Tensor


def rotate(
    heads: Float[Tensor, "b h n e"], cos: Float[Tensor, "b p e"], sin: Float[Tensor, "b p e"]
) -> Float[Tensor, "b h n e"]:
    """Rotate queries or keys.

    Axes: b batch, h heads, n tokens, p positions (n, or 1 for all tokens), e head width (halves
    repeated).
    """
    first, second = heads.chunk(2, dim=-1)
    (cos_first, cos_second), (sin_first, sin_second) = (
        table[:, None].chunk(2, dim=-1) for table in (cos, sin)
    )
    return torch.cat(
        [first * cos_first - second * sin_first, second * cos_second + first * sin_second], dim=-1
    )
