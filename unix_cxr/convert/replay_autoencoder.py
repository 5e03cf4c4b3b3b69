"""The recorded cases of an autoencoder, run through ours."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unix_cxr.convert.compvis import autoencoder_from_compvis
from unix_cxr.models.autoencoder import decode, normalise_latents


@torch.no_grad()
def replay_autoencoder(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], recorded: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our outputs by recorded name, computed in float64.

    In float32 the choice of convolution kernel alone moves `roundtrip.image` by 1e-5, half of what
    may differ, so that a machine's kernels would decide. In float64 what is left is the record's
    own rounding. `docs/numerics.md` has the float32 errors beside it.
    """
    vae, _ = autoencoder_from_compvis(weights, config)
    vae.double()
    image, latents = recorded["image"].double(), recorded["z"].double()
    posterior = vae.encode(image).latent_dist
    scale, shift = vae.config["scaling_factor"], vae.config["shift_factor"]
    sample = posterior.mean + posterior.std * recorded["noise"].double()
    mode = normalise_latents(posterior.mode(), vae)
    decoded = decode(latents, vae)
    return {
        "enc.h": vae.encoder(image),
        "enc.moments": posterior.parameters,
        "enc.mean": posterior.mean,
        "enc.logvar": posterior.logvar,
        "enc.std": posterior.std,
        "encode.mode": mode,
        "encode.sample": normalise_latents(sample, vae),
        "decode.image": vae.decode(latents / scale + shift).sample,
        "decode.postquant": vae.post_quant_conv(latents / scale + shift),
        "decode.unit": decoded,
        "decode.uint8": (decoded[0] * 255).to(torch.uint8).permute(1, 2, 0),
        "roundtrip.image": vae.decode(mode / scale + shift).sample,
    }
