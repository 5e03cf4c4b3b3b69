"""Stage "generation": the velocity of noisy latents, given the caption.

Axes: b batch, a augmented copies, s studies, c latent channels, h and w latents, n tokens.
"""

import random

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from unix_cxr.functional.flow import interpolate, training_times, velocity
from unix_cxr.functional.images import random_affine
from unix_cxr.models.autoencoder import normalise_latents, to_range
from unix_cxr.models.context import Text
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.processing import UniXProcessor
from unix_cxr.training.batches import CaptionedLatentBatch, batch_indices, generator_of
from unix_cxr.training.images import XRayStore
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.settings import GenerationObjectiveSettings
from unix_cxr.training.understanding import texts_of


class GenerationObjective(nn.Module):
    """Mean squared error of the velocity (arXiv:2209.03003, eq. 1).

    Args:
        model: both branches are run.
        understanding_gradient: 1 trains the understanding branch jointly, 0 freezes it.
    """

    def __init__(self, model: UniXModel, understanding_gradient: float) -> None:
        super().__init__()
        self.model = model
        self.understanding_gradient = understanding_gradient
        self.weights = {"velocity": 1.0}

    def forward(self, batch: CaptionedLatentBatch) -> dict[str, LossTerm]:
        """Loss terms of a batch of captioned latents."""
        noisy = interpolate(batch.latents, batch.noise, batch.times)
        frozen = self.understanding_gradient == 0
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            context = self.model.encode([Text(batch.caption_ids, batch.caption_mask)])
        predicted = self.model.denoise(
            noisy, batch.times, context, understanding_gradient=self.understanding_gradient
        )
        target = velocity(batch.latents, batch.noise)
        return {"velocity": LossTerm.of((predicted.float() - target).square())}


class CaptionedLatentSource:
    """Batches of latents with captions, noise and times; a `BatchSource`.

    Moments of the autoencoder's posterior are cached, and sampled afresh at every step.

    Args:
        train: images and studies to learn from.
        dev: images and studies to validate on.
        vae: makes the moments, once.
        processor: makes the captions' ids.
        settings: caption dropout, time shift, number of augmented copies.
        batch_size: studies per batch.
        augmentation: strength; see `random_affine`.
        seed: of everything that is drawn.
    """

    def __init__(
        self,
        train: XRayStore,
        dev: XRayStore,
        vae: AutoencoderKL,
        processor: UniXProcessor,
        settings: GenerationObjectiveSettings,
        *,
        batch_size: int,
        augmentation: float,
        seed: int,
    ) -> None:
        self.train = train
        self.dev = dev
        self.vae = vae
        self.processor = processor
        self.settings = settings
        self.batch_size = batch_size
        self.seed = seed
        copies = settings.augmented_copies
        strengths = [augmentation] * copies
        self.train_moments = torch.stack(
            [
                posterior_moments(vae, train, strength, generator_of(seed, copy, 3))
                for copy, strength in enumerate(strengths)
            ]
        )
        self.dev_moments = posterior_moments(vae, dev, 0.0, generator_of(seed, 4))

    def batch(self, step: int) -> CaptionedLatentBatch:
        """The studies of that step with everything that is drawn for it."""
        chosen = batch_indices(len(self.train), self.batch_size, step, self.seed)
        generator = generator_of(self.seed, step, 5)
        copies = torch.randint(len(self.train_moments), chosen.shape, generator=generator)
        words = random.Random(int(torch.randint(2**62, (), generator=generator)))
        caption = self.processor.captions(texts_of(self.train, chosen, words))
        kept = torch.rand(len(chosen), generator=generator) >= self.settings.caption_dropout
        moments = self.train_moments[copies, chosen]
        return self._batch(moments, Text(caption.ids, caption.real & kept[:, None]), generator)

    def validation(self) -> list[CaptionedLatentBatch]:
        """All dev studies with fixed captions, noise and times."""
        words = random.Random(self.seed)
        generator = generator_of(self.seed, 6)
        order = torch.arange(len(self.dev))
        return [
            self._batch(
                self.dev_moments[part],
                self.processor.captions(texts_of(self.dev, part, words)),
                generator,
            )
            for part in order.split(self.batch_size)
        ]

    def _batch(
        self, moments: Float[Tensor, "b 2c h w"], caption: Text, generator: torch.Generator
    ) -> CaptionedLatentBatch:
        mean, logvar = moments.chunk(2, dim=1)
        sample = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=generator)
        normals = torch.randn(len(mean), generator=generator)
        return CaptionedLatentBatch(
            latents=normalise_latents(sample, self.vae),
            noise=torch.randn(mean.shape, generator=generator),
            times=training_times(normals, self.settings.timestep_shift),
            caption_ids=caption.ids,
            caption_mask=caption.real,
        )


@torch.no_grad()
def posterior_moments(
    vae: AutoencoderKL,
    store: XRayStore,
    augmentation: float,
    generator: torch.Generator,
    batch_size: int = 64,
) -> Float[Tensor, "s 2c h w"]:
    """Mean and log-variance of every image's posterior, not yet normalised."""
    device = next(vae.parameters()).device
    moments = []
    parts = torch.arange(len(store)).split(batch_size)
    for part in tqdm(parts, "encoding", unit="batch", disable=None):
        images = random_affine(store[part], augmentation, generator)
        moments.append(vae.encode(to_range(images, vae).to(device)).latent_dist.parameters.cpu())
    return torch.cat(moments)
