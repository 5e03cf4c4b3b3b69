"""Latents as tokens and back. Axes: b batch, c channels, h and w latent rows and columns."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def patchify(latents: Float[Tensor, "b c h w"], patch_size: int) -> Float[Tensor, "b n f"]:
    """Tokens in raster order; features ordered (patch row, patch column, channel).

    Raises:
        ValueError: height or width is no multiple of the patch size.
    """
    height, width = latents.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"latents of {height}x{width} must be divisible by the patch size ({patch_size})"
        )
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(
    tokens: Float[Tensor, "b n f"], patch_size: int, height: int, width: int
) -> Float[Tensor, "b c h w"]:
    """Inverse of `patchify`; height and width count latents, not tokens."""
    return rearrange(
        tokens,
        "b (h w) (p q c) -> b c (h p) (w q)",
        p=patch_size,
        q=patch_size,
        h=height // patch_size,
        w=width // patch_size,
    )
