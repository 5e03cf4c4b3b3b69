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
    """Our outputs by recorded name."""
    vae, _ = autoencoder_from_compvis(weights, config)
    image, latents = recorded["image"], recorded["z"]
    posterior = vae.encode(image).latent_dist
    scale, shift = vae.config["scaling_factor"], vae.config["shift_factor"]
    sample = posterior.mean + posterior.std * recorded["noise"]
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
