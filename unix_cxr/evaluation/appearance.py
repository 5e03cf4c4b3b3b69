"""Sharpness and exposure of each X-ray: what a classifier's features may not see.

Axes: b X-rays, h rows, w columns, v values per X-ray.
"""

from functools import cache
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.evaluation.xrays import check_images

_COARSE: Final = (1 / 32, 1 / 8)
_MIDDLE: Final = (1 / 8, 1 / 4)
_FINE: Final = (1 / 4, 1 / 2)
_TINY: Final = 1e-12


def detail(images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 2"]:
    """Energy of structures 4 to 8 pixels wide, and of 2 to 4, against 8 to 32 pixels; in octaves.

    From the power spectrum of the inner three quarters under a Hann window, so that neither the
    border nor black bars count. It does not change with brightness or contrast. Blur lowers both
    values, noise raises the second before the first.
    """
    check_images(images)
    height, width = images.shape[-2:]
    inner = images[:, 0, height // 8 : height - height // 8, width // 8 : width - width // 8]
    rows, columns = inner.shape[-2:]
    window, bands = _window_and_bands(rows, columns)
    mean = (inner * window).sum(dim=(-2, -1), keepdim=True) / window.sum()
    power = torch.fft.rfft2((inner - mean) * window).abs().square_().flatten(1)
    energies = power @ bands.T + _TINY
    octaves: Float[Tensor, "b 2"] = (energies[:, 1:] / energies[:, :1]).log2()
    return octaves


@cache
@torch.inference_mode(mode=False)
def _window_and_bands(rows: int, columns: int) -> tuple[Float[Tensor, "h w"], Float[Tensor, "3 v"]]:
    """The window, and which values of half a spectrum each band adds up, and how often."""
    window = torch.outer(
        torch.hann_window(rows, periodic=False), torch.hann_window(columns, periodic=False)
    )
    across = torch.fft.rfftfreq(columns)
    cycles = torch.hypot(torch.fft.fftfreq(rows)[:, None], across)
    # the other half of the spectrum is the mirror image; 0 and the highest frequency are their own
    times = torch.where((across == 0) | (across == 1 / 2), 1.0, 2.0).expand(rows, -1)
    bands = [times * ((cycles >= low) & (cycles < high)) for low, high in (_COARSE, _MIDDLE, _FINE)]
    return window, torch.stack(bands).flatten(1)


def tone(images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 2"]:
    """Mean grey value and its standard deviation."""
    check_images(images)
    flat = images.flatten(1)
    mean = flat.mean(dim=1, keepdim=True)
    variance = (flat - mean).square_().sum(dim=1, keepdim=True) / (flat.shape[1] - 1)
    return torch.cat([mean, variance.sqrt()], dim=1)
