"""Stage "generation": the velocity of noisy latents, given the caption.

Axes: b batch, a augmented copies, s studies, c latent channels, h and w latents, n tokens.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from unix_cxr.functional.flow import interpolate, per_sample, velocity
from unix_cxr.functional.images import random_affine
from unix_cxr.models.autoencoder import normalise_latents, to_range
from unix_cxr.models.context import Context, Text
from unix_cxr.models.fingerprint import fingerprint
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.processing import UniXProcessor
from unix_cxr.training.batches import CaptionedLatentBatch, generator_of
from unix_cxr.training.contexts import CaptionContexts
from unix_cxr.training.images import ImageStore, PreparedStore
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.objective_settings import DrawingSettings, TimesSettings
from unix_cxr.training.times import Weighting, sample_times
from unix_cxr.training.understanding import text_order

ENCODED_AT_ONCE: Final = 64
"""Images that an encoder takes together when a stage begins."""


class GenerationObjective(nn.Module):
    """Mean squared error of the velocity (arXiv:2209.03003, eq. 1).

    With a weighting, the weighted error is what is minimised, and the plain one is told beside it.

    Args:
        model: both branches are run.
        understanding_gradient: 1 trains the understanding branch jointly, 0 freezes it.
        weighting: weight of a sample's error by its time; None weighs all alike.
        contexts: keeps captions' contexts; None encodes a batch's captions together, every time.

    Raises:
        ValueError: contexts are to be kept, and the understanding branch learns.
    """

    def __init__(
        self,
        model: UniXModel,
        understanding_gradient: float,
        weighting: Weighting | None = None,
        *,
        contexts: CaptionContexts | None = None,
    ) -> None:
        super().__init__()
        if contexts is not None and understanding_gradient:
            raise ValueError(
                f"contexts cannot be kept while understanding_gradient ({understanding_gradient}) "
                "lets the understanding branch learn; set it to 0, or leave contexts out"
            )
        self.contexts = contexts
        self.model = model
        self.understanding_gradient = understanding_gradient
        self.weighting = weighting
        self.weights = {"velocity": 1.0}
        if weighting is not None:
            self.weights = {"velocity": 0.0, "weighted_velocity": 1.0}

    def counts(self, batch: CaptionedLatentBatch) -> dict[str, int]:
        """Elements of every loss term."""
        return dict.fromkeys(self.weights, batch.latents.numel())

    def forward(self, batch: CaptionedLatentBatch) -> dict[str, LossTerm]:
        """Loss terms of a batch of captioned latents."""
        noisy = interpolate(batch.latents, batch.noise, batch.times)
        predicted = self.model.denoise(
            noisy,
            batch.times,
            self._context(batch),
            understanding_gradient=self.understanding_gradient,
        )
        errors = (predicted.float() - velocity(batch.latents, batch.noise)).square()
        if self.weighting is None:
            return {"velocity": LossTerm.of(errors)}
        weights = per_sample(self.weighting(batch.times), errors)
        return {
            "velocity": LossTerm.of(errors.detach()),
            "weighted_velocity": LossTerm.of(weights * errors),
        }

    def _context(self, batch: CaptionedLatentBatch) -> Context:
        if self.contexts is not None:
            return self.contexts.of(self.model, batch.caption_ids, batch.caption_mask)
        frozen = self.understanding_gradient == 0
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.model.encode([Text(batch.caption_ids, batch.caption_mask)])


class CaptionedLatentSource:
    """Batches of latents with captions, noise and times; a `BatchSource`.

    Moments of the autoencoder's posterior are cached, and sampled afresh at every step.

    Args:
        train: images and studies to learn from.
        dev: images and studies to validate on.
        vae: makes the moments, once.
        processor: makes the captions' ids.
        settings: caption dropout, times, number of augmented copies.
        batch_size: studies per batch.
        augmentation: strength; see `random_affine`.
        seed: of everything that is drawn.
        length_window: see `BatchOrder`.
    """

    def __init__(  # noqa: PLR0913 - everything that a batch depends on
        self,
        train: ImageStore,
        dev: ImageStore,
        vae: AutoencoderKL,
        processor: UniXProcessor,
        settings: DrawingSettings,
        *,
        batch_size: int,
        augmentation: float,
        seed: int,
        length_window: int = 1,
    ) -> None:
        self.train = train
        self.dev = dev
        self.vae = vae
        self.processor = processor
        self.settings = settings
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.order = text_order(train, processor, batch_size, seed, length_window)
        self.moments = _moments(train, vae, settings, augmentation, seed)
        self.dev_moments = posterior_moments(vae, dev, 0.0, generator_of(seed, 4))

    def batch(self, step: int) -> CaptionedLatentBatch:
        """The studies of that step with everything that is drawn for it."""
        generator = generator_of(self.seed, step, 5)
        copies, chosen = self._picked(step, generator)
        words = random.Random(int(torch.randint(2**62, (), generator=generator)))
        caption = self.processor.captions(self.train.texts(chosen, words))
        kept = torch.rand(len(chosen), generator=generator) >= self.settings.caption_dropout
        return self._batch(
            self.moments(copies, chosen),
            Text(caption.ids, caption.real & kept[:, None]),
            self.settings.times,
            generator,
        )

    def picked(self, step: int) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Which augmented copies of which studies a step sees."""
        return self._picked(step, generator_of(self.seed, step, 5))

    def _picked(
        self, step: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        chosen = self.order.batch(step)
        copies = torch.randint(self.settings.augmented_copies, chosen.shape, generator=generator)
        return copies, chosen

    def validation(self) -> list[CaptionedLatentBatch]:
        """All dev studies with fixed captions, noise and times."""
        words = random.Random(self.seed)
        generator = generator_of(self.seed, 6)
        order = torch.arange(len(self.dev))
        return [
            self._batch(
                self.dev_moments[part],
                self.processor.captions(self.dev.texts(part, words)),
                TimesSettings(),  # whatever training draws, so that losses of dev compare
                generator,
            )
            for part in order.split(self.batch_size)
        ]

    def _batch(
        self,
        moments: Float[Tensor, "b 2c h w"],
        caption: Text,
        times: TimesSettings,
        generator: torch.Generator,
    ) -> CaptionedLatentBatch:
        mean, logvar = moments.chunk(2, dim=1)
        sample = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=generator)
        drawn = sample_times(len(mean), times, generator)
        return CaptionedLatentBatch(
            latents=normalise_latents(sample, self.vae),
            noise=torch.randn(mean.shape, generator=generator),
            times=drawn,
            caption_ids=caption.ids,
            caption_mask=caption.real,
        )


Moments = Callable[[Int[Tensor, " b"], Int[Tensor, " b"]], Float[Tensor, "b 2c h w"]]
"""Moments of some studies: which augmented copy, and which study."""


def _moments(
    store: ImageStore,
    vae: AutoencoderKL,
    settings: DrawingSettings,
    augmentation: float,
    seed: int,
) -> Moments:
    if settings.prepared_moments:
        return _prepared_moments(store, vae, settings, augmentation)
    copies = torch.stack(
        [
            posterior_moments(vae, store, augmentation, generator_of(seed, copy, 3))
            for copy in range(settings.augmented_copies)
        ]
    )
    return partial(_kept_moments, copies)


def _kept_moments(
    kept: Float[Tensor, "a s 2c h w"], copies: Int[Tensor, " b"], studies: Int[Tensor, " b"]
) -> Float[Tensor, "b 2c h w"]:
    return kept[copies, studies]


def _moments_of_folder(
    store: PreparedStore, _: Int[Tensor, " b"], studies: Int[Tensor, " b"]
) -> Float[Tensor, "b 2c h w"]:
    return store.moments(studies)


def _prepared_moments(
    store: ImageStore,
    vae: AutoencoderKL,
    settings: DrawingSettings,
    augmentation: float,
) -> Moments:
    if not isinstance(store, PreparedStore):
        raise ValueError("prepared_moments needs data.kind prepared")  # noqa: TRY004 - a setting
    if augmentation or settings.augmented_copies > 1:
        raise ValueError(
            f"prepared_moments are of images as they are: set augmentation ({augmentation}) to 0 "
            f"and augmented_copies ({settings.augmented_copies}) to 1"
        )
    recorded = store.prepared.manifest.settings.get("caches", {}).get("moments")
    if recorded != fingerprint(vae):
        raise ValueError(
            f"{store.prepared.folder} has moments of another autoencoder than the run's; prepare "
            "it again with --latents and the folder that the run begins from"
        )
    return partial(_moments_of_folder, store)


@torch.no_grad()
def posterior_moments(
    vae: AutoencoderKL,
    store: ImageStore,
    augmentation: float,
    generator: torch.Generator,
    batch_size: int = ENCODED_AT_ONCE,
) -> Float[Tensor, "s 2c h w"]:
    """Mean and log-variance of every image's posterior, not yet normalised."""
    device = next(vae.parameters()).device
    moments = []
    parts = torch.arange(len(store)).split(batch_size)
    for part in tqdm(parts, "encoding", unit="batch", disable=None):
        images = random_affine(store[part], augmentation, generator)
        moments.append(vae.encode(to_range(images, vae).to(device)).latent_dist.parameters.cpu())
    return torch.cat(moments)
