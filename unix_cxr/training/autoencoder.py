"""Stage "autoencoder": reconstruct X-rays through few latents.

Axes: b batch, k image channels, h and w pixels.
"""

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from unix_cxr.functional.images import gradient_difference, random_affine, random_crop
from unix_cxr.models.autoencoder import to_range
from unix_cxr.training.batches import ImageBatch, batch_indices, generator_of
from unix_cxr.training.images import ImageStore
from unix_cxr.training.losses import LossTerm


class AutoencoderObjective(nn.Module):
    """L1 + KL + gradient difference of the reconstruction.

    Args:
        vae: the autoencoder.
        weights: of the terms "l1" (per pixel), "kl" (per latent element, in nats) and
            "structure" (per difference of neighbouring pixels, at three scales).
    """

    def __init__(self, vae: AutoencoderKL, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.vae = vae.to(memory_format=torch.channels_last)
        self.weights = dict(weights)

    def counts(self, batch: ImageBatch) -> dict[str, int]:
        """Elements of every loss term."""
        channels = int(self.vae.config["in_channels"])
        images, _, height, width = batch.images.shape
        planes = images * channels
        return {
            "l1": planes * height * width,
            "kl": batch.noise.numel(),
            "structure": planes * gradient_count(height, width),
        }

    def forward(self, batch: ImageBatch) -> dict[str, LossTerm]:
        """Loss terms of a batch of images."""
        images = to_range(batch.images, self.vae)
        posterior = self.vae.encode(images.contiguous(memory_format=torch.channels_last))
        distribution = posterior.latent_dist
        mean, logvar = distribution.mean.float(), distribution.logvar.float()
        latents = mean + batch.noise * torch.exp(0.5 * logvar)
        reconstructed = self.vae.decode(latents).sample.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
        return self.losses(images, reconstructed) | {"kl": LossTerm.of(divergence)}

    def losses(
        self,
        images: Float[Tensor, "b k h w"],
        reconstructed: Float[Tensor, "b k h w"],
    ) -> dict[str, LossTerm]:
        """Loss terms of reconstructions."""
        return {
            "l1": LossTerm.of((reconstructed - images).abs()),
            "structure": LossTerm.of(gradient_difference(reconstructed, images)),
        }


class ImageSource:
    """Batches of X-rays from memory, augmented; a `BatchSource`.

    Args:
        train: images to learn from.
        dev: images to validate on.
        batch_size: images per batch.
        latent_channels: channels of the posterior's noise.
        downsampling: pixels per latent along a side.
        augmentation: strength; see `random_affine`.
        crop: side of random crops; None for whole images.
        seed: of the order, the augmentation and the noise.
    """

    def __init__(
        self,
        train: ImageStore,
        dev: ImageStore,
        *,
        batch_size: int,
        latent_channels: int,
        downsampling: int,
        augmentation: float,
        crop: int | None,
        seed: int,
    ) -> None:
        self.crop = crop
        self.train = train
        self.dev = dev
        self.latent_channels = latent_channels
        self.downsampling = downsampling
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed

    def batch(self, step: int) -> ImageBatch:
        """The images of that step, augmented as that step augments them."""
        chosen = batch_indices(len(self.train), self.batch_size, step, self.seed)
        images = self.train[chosen]
        generator = generator_of(self.seed, step, 1)
        images = random_affine(images, self.augmentation, generator)
        if self.crop is not None:
            images = random_crop(images, self.crop, generator)
        return ImageBatch(images, torch.randn(self._latent_shape(images), generator=generator))

    def validation(self) -> list[ImageBatch]:
        """All dev images as they are."""
        order = torch.arange(len(self.dev))
        batches = [self.dev[part] for part in order.split(self.batch_size)]
        return [ImageBatch(images, torch.zeros(self._latent_shape(images))) for images in batches]

    def _latent_shape(self, images: Tensor) -> tuple[int, int, int, int]:
        count, _, height, width = images.shape
        factor = self.downsampling
        return count, self.latent_channels, height // factor, width // factor


def gradient_count(height: int, width: int, scales: int = 3) -> int:
    """Number of differences that `gradient_difference` gives for one plane of one image."""
    total = 0
    for scale in range(scales):
        h, w = height >> scale, width >> scale
        total += h * (w - 1) + (h - 1) * w
    return total


def latent_statistics(
    vae: AutoencoderKL, store: ImageStore, batch_size: int = 64
) -> tuple[float, float]:
    """Mean and standard deviation of the latents' modes over a store: one number each."""
    device = next(vae.parameters()).device
    with torch.no_grad():
        modes = torch.cat(
            [
                vae.encode(to_range(store[part].to(device), vae)).latent_dist.mode().float()
                for part in torch.arange(len(store)).split(batch_size)
            ]
        )
    return float(modes.mean()), float(modes.std())
