"""Rotary positions of tokens: text advances one by one, an image shares one position.

Axes: b batch, n tokens.
"""

from jaxtyping import Bool, Int
from torch import Tensor


def inside_image(
    ids: Int[Tensor, "b n"], begin_id: int, end_id: int
) -> tuple[Bool[Tensor, "b n"], Int[Tensor, "b n"]]:
    """Which tokens belong to an image block, and to which one.

    Args:
        ids: token ids; a block is begin-of-image, its tokens, end-of-image.
        begin_id: id of the begin-of-image token.
        end_id: id of the end-of-image token.

    Returns:
        True for every token of a block, both ends included; and the block's number (0, 1, …), or
        −1 outside.
    """
    begins = (ids == begin_id).long().cumsum(-1)
    ends = (ids == end_id).long()
    inside = begins > ends.cumsum(-1) - ends
    return inside, (begins - 1).masked_fill(~inside, -1)


def rotary_positions(
    block_ids: Int[Tensor, "b n"], real: Bool[Tensor, "b n"]
) -> Int[Tensor, "b n"]:
    """Position of every token; padding stays at 0 and counts for nothing.

    Args:
        block_ids: number of the image block each token is in, −1 for text.
        real: True for tokens, False for padding.
    """
    follows_same_block = (block_ids[:, 1:] == block_ids[:, :-1]) & (block_ids[:, 1:] >= 0)
    advances = real.long()
    advances[:, 1:] *= (~follows_same_block).long()
    return (advances.cumsum(-1) - 1).clamp(min=0) * real
