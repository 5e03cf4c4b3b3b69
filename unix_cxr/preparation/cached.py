"""What a model computes once per image: moments of its latents, features of its vision tower.

Axes: b images, c latent channels, H and W latents, n tokens, f features.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from unix_cxr.models.autoencoder import downsampling_of, to_range
from unix_cxr.models.fingerprint import fingerprint
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.processing import UniXProcessor
from unix_cxr.preparation.settings import PreparationSettings


class Cacher(Protocol):
    """Computes one binary column."""

    column: str
    shape: Sequence[int]
    fingerprint: str

    def __call__(self, images: Sequence[bytes]) -> list[bytes]:
        """One value per PNG image."""
        ...


def load_cachers(settings: PreparationSettings, device: torch.device) -> list[Cacher]:
    """The cachers that the settings ask for.

    Raises:
        FileNotFoundError: a folder lacks the weights.
    """
    cachers: list[Cacher] = []
    if settings.latents is not None:
        cachers.append(MomentsCacher(Path(settings.latents), settings.image_size, device))
    if settings.features is not None:
        cachers.append(FeaturesCacher(Path(settings.features), device))
    return cachers


class MomentsCacher:
    """Means and log-variances of the latents' posterior, float32, not yet normalised.

    Moments are kept and not samples: a sample that is drawn once is noise that never averages out.

    Args:
        folder: a pipeline folder with vae/.
        image_size: side of the images in pixels.
        device: where the autoencoder runs.
    """

    column = "moments"

    def __init__(self, folder: Path, image_size: int, device: torch.device) -> None:
        path = _weights(folder, "vae")
        self._device = device
        vae: Any = AutoencoderKL.from_pretrained(path.parent, use_safetensors=True)
        self._vae = vae.to(device=device, dtype=torch.float32).eval()
        self.fingerprint = fingerprint(self._vae)
        side = image_size // downsampling_of(self._vae)
        self.shape: Sequence[int] = (2 * self._vae.config["latent_channels"], side, side)

    @torch.no_grad()
    def __call__(self, images: Sequence[bytes]) -> list[bytes]:
        """One value per PNG image."""
        pixels = to_range(_images(images).to(self._device), self._vae)
        moments: Tensor = self._vae.encode(pixels).latent_dist.parameters
        return [value.tobytes() for value in moments.float().cpu().numpy()]


class FeaturesCacher:
    """Outputs of a model's vision tower, before the connector, float16.

    Args:
        folder: a pipeline folder with model/ and processor/.
        device: where the vision tower runs.
    """

    column = "features"

    def __init__(self, folder: Path, device: torch.device) -> None:
        path = _weights(folder, "model")
        self._device = device
        self._processor = UniXProcessor.from_pretrained(folder / "processor")
        vision: Any = UniXModel.from_pretrained(path.parent).vision
        self._vision = vision.to(device).eval()
        self.fingerprint = fingerprint(self._vision)
        config = self._vision.config
        self.shape: Sequence[int] = (
            (config.image_size // config.patch_size) ** 2,
            config.hidden_size,
        )

    @torch.no_grad()
    def __call__(self, images: Sequence[bytes]) -> list[bytes]:
        """One value per PNG image."""
        pixels = self._processor.normalise(_images(images)).to(self._device)
        features: Tensor = self._vision(pixels).last_hidden_state
        return [value.tobytes() for value in features.half().cpu().numpy()]


def _weights(folder: Path, part: str) -> Path:
    found = sorted((folder / part).glob("*.safetensors"))
    if not found:
        raise FileNotFoundError(
            f"{folder / part} has no safetensors file; give the folder of a pipeline, such as "
            "the pipeline/ of a training run"
        )
    return found[0]


def _images(images: Sequence[bytes]) -> Float[Tensor, "b 1 h w"]:
    pixels = []
    for png in images:
        with Image.open(io.BytesIO(png)) as image:
            values = np.asarray(image)
        pixels.append(values.astype(np.float32) / np.iinfo(values.dtype).max)
    return torch.from_numpy(np.stack(pixels))[:, None]
