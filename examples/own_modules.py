"""The generation branch by itself: a context, a velocity, and one step of the solver."""

from itertools import pairwise

import torch

from unix_cxr import Text, UniXPipeline
from unix_cxr.functional.flow import euler_step, time_grid


def main() -> None:
    pipe = UniXPipeline.from_pretrained("nano")
    caption = pipe.processor.captions(["Viral pneumonia.", "No pneumonia."])
    sizes = pipe.model.config
    side = sizes.max_latent_size * sizes.latent_patch_size
    noise = torch.Generator().manual_seed(0)
    latents = torch.randn(2, sizes.latent_channels, side, side, generator=noise)
    with torch.no_grad():
        context = pipe.model.encode([Text(caption.ids, caption.real)])
        for now, then in pairwise(time_grid(5, shift=1.0)):
            velocity = pipe.model.denoise(latents, now.expand(2), context)
            latents = euler_step(latents, velocity, now - then)
            print(f"t {now:.2f} -> {then:.2f}, spread {latents.std():.2f}")


if __name__ == "__main__":
    main()
