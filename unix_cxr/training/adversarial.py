"""Autoencoder with a critic: reconstructions whose fine texture cannot be told from real X-rays'.

Absolute errors alone leave out what they cannot predict, so reconstructions are smooth. The critic
sees patches (arXiv:1611.07004), and both sides play for the hinge loss, as in arXiv:2012.09841.
There, the critic's part in the decoder's gradient is brought to the size of the reconstruction's;
here the same is done image by image, against the absolute error's, and a critic that cannot tell
is not listened to. Axes: b batch, k image channels, h and w pixels.
"""

from collections.abc import Mapping
from typing import Final

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from unix_cxr.training.autoencoder import AutoencoderObjective
from unix_cxr.training.batches import ImageBatch
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.objective_settings import AdversarialSettings

PATCH_STRIDE: Final = 4
"""Pixels from one judged patch to the next; a patch is 26 pixels wide."""
_GROUPS: Final = 8


class AdversarialObjective(AutoencoderObjective):
    """The autoencoder's losses, and those of a critic that is thrown away after the stage.

    Args:
        vae: the autoencoder.
        weights: see `AutoencoderObjective`.
        adversarial: how much the critic counts, and its width.
        seed: of the critic's random weights.
    """

    own_parts = ("critic.*",)
    """Parameters that learn in every stage with this objective, and are thrown away after it."""

    def __init__(
        self,
        vae: AutoencoderKL,
        weights: Mapping[str, float],
        adversarial: AdversarialSettings,
        seed: int,
    ) -> None:
        super().__init__(vae, weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = patch_critic(int(vae.config["in_channels"]), adversarial.width)
        self.weights |= {"adversarial": adversarial.weight, "critic": 1.0}

    def counts(self, batch: ImageBatch) -> dict[str, int]:
        """Elements of every loss term: judged patches are the critic's, all others pixels."""
        height, width = batch.images.shape[-2:]
        judged = 2 * len(batch.images) * (height // PATCH_STRIDE) * (width // PATCH_STRIDE)
        shared = super().counts(batch)
        return shared | {"adversarial": shared["l1"], "critic": judged}

    def losses(
        self,
        images: Float[Tensor, "b k h w"],
        reconstructed: Float[Tensor, "b k h w"],
    ) -> dict[str, LossTerm]:
        """Loss terms of reconstructions."""
        real, made = self.critic(torch.cat([images, reconstructed.detach()])).float().chunk(2)
        real, made = F.relu(1 - real), F.relu(1 + made)
        with torch.no_grad():
            telling = (1 - (real + made).mean(dim=(1, 2, 3)) / 2).clamp_min(0)
        return super().losses(images, reconstructed) | {
            "adversarial": self._adversarial(reconstructed, telling),
            "critic": LossTerm.of(torch.cat([real, made])),
        }

    def _adversarial(
        self, reconstructed: Float[Tensor, "b k h w"], telling: Float[Tensor, " b"]
    ) -> LossTerm:
        """Minus the critic's mean score, with a gradient like that of the absolute error.

        The absolute error's gradient is 1 or -1 at every pixel; this one points where the critic's
        score grows, and its root mean square in an image is `telling`: 1 where the critic is sure,
        0 where it knows nothing and its gradient is noise.
        """
        with torch.enable_grad():
            seen = reconstructed.detach().requires_grad_()
            score = self.critic(seen).float().mean(dim=(1, 2, 3))
            (uphill,) = torch.autograd.grad(score.sum(), seen)
        size = uphill.square().mean(dim=(1, 2, 3)).sqrt()
        strength = telling / size.clamp_min(torch.finfo(size.dtype).tiny)
        slope = -(strength.view(-1, 1, 1, 1) * uphill * reconstructed)
        pixels = reconstructed[0].numel()
        return LossTerm(
            slope.sum() - slope.sum().detach() - pixels * score.detach().sum(),
            reconstructed.numel(),
        )


def patch_critic(image_channels: int, width: int) -> nn.Sequential:
    """Convolutions that score patches of an image: more is more like a real X-ray.

    Args:
        image_channels: of the images.
        width: channels of the first layer; the next have twice and four times as many.
    """
    return nn.Sequential(
        nn.Conv2d(image_channels, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.GroupNorm(_GROUPS, 2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 3, padding=1),
        nn.GroupNorm(_GROUPS, 4 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4 * width, 1, 3, padding=1),
    )
