"""Sharpness and exposure of each X-ray: what a classifier's features may not see.

Axes: b X-rays, h rows, w columns, v values per X-ray.
"""

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
    window = torch.outer(
        torch.hann_window(rows, periodic=False), torch.hann_window(columns, periodic=False)
    )
    mean = (inner * window).sum(dim=(-2, -1), keepdim=True) / window.sum()
    power = torch.fft.fft2((inner - mean) * window).abs() ** 2
    cycles = torch.hypot(torch.fft.fftfreq(rows)[:, None], torch.fft.fftfreq(columns)[None])

    def energy(band: tuple[float, float]) -> Tensor:
        within = (cycles >= band[0]) & (cycles < band[1])
        total: Tensor = power[:, within].sum(dim=1)
        return total + _TINY

    coarse = energy(_COARSE)
    return torch.stack([energy(_MIDDLE) / coarse, energy(_FINE) / coarse], dim=1).log2()


def tone(images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 2"]:
    """Mean grey value and its standard deviation."""
    check_images(images)
    flat = images.flatten(1)
    return torch.stack([flat.mean(dim=1), flat.std(dim=1)], dim=1)
