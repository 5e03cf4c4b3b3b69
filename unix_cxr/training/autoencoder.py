"""Stage "autoencoder": reconstruct X-rays through few latents.

Axes: b batch, h and w pixels.
"""

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure

from unix_cxr.functional.images import random_affine
from unix_cxr.models.autoencoder import to_range
from unix_cxr.training.batches import ImageBatch, batch_indices, generator_of
from unix_cxr.training.images import XRayStore
from unix_cxr.training.losses import LossTerm


class AutoencoderObjective(nn.Module):
    """L1 + KL + (1 − SSIM) of the reconstruction.

    Args:
        vae: the autoencoder.
        weights: of the terms "l1" (per pixel), "kl" (per latent element, in nats) and
            "structure" (per image, arXiv:2006.13846 for its use in training).
    """

    def __init__(self, vae: AutoencoderKL, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.vae = vae.to(memory_format=torch.channels_last)
        self.weights = dict(weights)

    def forward(self, batch: ImageBatch) -> dict[str, LossTerm]:
        """Loss terms of a batch of images."""
        images = to_range(batch.images, self.vae)
        posterior = self.vae.encode(images.contiguous(memory_format=torch.channels_last))
        distribution = posterior.latent_dist
        mean, logvar = distribution.mean.float(), distribution.logvar.float()
        latents = mean
        if self.training:
            latents = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
        reconstructed = self.vae.decode(latents).sample.float()
        with torch.autocast(images.device.type, enabled=False):  # differences of near equals
            similarity = structural_similarity_index_measure(
                reconstructed / 2 + 0.5, images / 2 + 0.5, data_range=1.0, reduction="none"
            )
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
        return {
            "l1": LossTerm.of((reconstructed - images).abs()),
            "kl": LossTerm.of(divergence),
            "structure": LossTerm.of(1 - torch.as_tensor(similarity)),
        }


class ImageSource:
    """Batches of X-rays from memory, augmented; a `BatchSource`.

    Args:
        train: images to learn from.
        dev: images to validate on.
        batch_size: images per batch.
        augmentation: strength; see `random_affine`.
        seed: of the order and the augmentation.
    """

    def __init__(
        self,
        train: XRayStore,
        dev: XRayStore,
        *,
        batch_size: int,
        augmentation: float,
        seed: int,
    ) -> None:
        self.train = train
        self.dev = dev
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed

    def batch(self, step: int) -> ImageBatch:
        """The images of that step, augmented as that step augments them."""
        chosen = batch_indices(len(self.train), self.batch_size, step, self.seed)
        images = self.train[chosen]
        generator = generator_of(self.seed, step, 1)
        return ImageBatch(random_affine(images, self.augmentation, generator))

    def validation(self) -> list[ImageBatch]:
        """All dev images as they are."""
        order = torch.arange(len(self.dev))
        return [ImageBatch(self.dev[part]) for part in order.split(self.batch_size)]


def latent_statistics(
    vae: AutoencoderKL, store: XRayStore, batch_size: int = 64
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


