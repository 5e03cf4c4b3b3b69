"""Latents as tokens of the generation branch.

Axes: b batch, c latent channels, h and w latent rows and columns, n tokens, d width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unix_cxr.functional.patchify import patchify
from unix_cxr.modules.time_embedding import TimeEmbedding, sinusoids


def position_table(side: int, hidden_size: int) -> Float[Tensor, "s d"]:
    """Frozen 2-D sin-cos table [side², d]: the column in the first half, each half [sin | cos].

    A checkpoint's own table is loaded over this one, never recomputed.
    """
    if hidden_size % 4:
        raise ValueError(f"hidden_size ({hidden_size}) must be divisible by 4 for 2-D positions")
    places = torch.arange(side, dtype=torch.float32)
    cos_sin = sinusoids(places, hidden_size // 2)
    cos, sin = cos_sin.chunk(2, dim=-1)
    along = torch.cat([sin, cos], dim=-1)
    columns = along[None, :].expand(side, side, -1)
    rows = along[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).reshape(side * side, hidden_size)


class LatentEmbedding(nn.Module):
    """Linear projection + time + place of every latent token.

    Args:
        channels: latent channels.
        patch_size: latents per token along each side.
        hidden_size: width of the branch.
        max_size: side of the table of positions, in tokens.
        time_frequencies: width of the sinusoidal time features.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        channels: int,
        patch_size: int,
        hidden_size: int,
        max_size: int,
        time_frequencies: int,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.patch_size = patch_size
        self.max_size = max_size
        self.projection = nn.Linear(patch_size**2 * channels, hidden_size)
        self.time = TimeEmbedding(time_frequencies, hidden_size)
        self.register_buffer("positions", position_table(max_size, hidden_size))

    def forward(
        self, latents: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b n d"]:
        """Tokens in raster order.

        Raises:
            ValueError: the latents have other channels, cannot be cut into patches, or are larger
                than the table of positions.
        """
        if latents.shape[1] != self.channels or any(
            n % self.patch_size for n in latents.shape[-2:]
        ):
            raise ValueError(
                f"latents of shape {tuple(latents.shape)} must have {self.channels} channels, and "
                f"sides that are multiples of latent_patch_size ({self.patch_size})"
            )
        rows, columns = (side // self.patch_size for side in latents.shape[-2:])
        if max(rows, columns) > self.max_size:
            raise ValueError(
                f"latents of {rows}x{columns} tokens exceed max_latent_size ({self.max_size}); "
                "draw a smaller image"
            )
        tokens = patchify(latents, self.patch_size).to(self.projection.weight.dtype)
        places = self.positions.view(self.max_size, self.max_size, -1)[:rows, :columns]
        embedded: Tensor = self.projection(tokens) + self.time(t)[:, None]
        return embedded + places.reshape(1, rows * columns, -1).to(embedded.dtype)
