"""Say how many directions of the latents a decoder reads; on request, keep those alone.

    python scripts/narrow_autoencoder.py VAE --data DIR [--channels 4 --out FOLDER]

VAE is a folder of an `AutoencoderKL` in diffusers' layout. `--data` is a folder with
`metadata.csv`; its dev X-rays are encoded, or with `--split train`, as is right for weights that
are measured on dev afterwards, those.

An autoencoder of many channels may use few: what it decodes then changes along some directions of
the latents only. How much each matters is measured at the X-rays' latents: a sign is drawn for
every place, each channel is moved by it, and the decoded changes' inner products are taken. The
directions that are kept become channels of variance 1; encoder and decoder are composed with the
projection, so that images come back as they did if what is left out was not read.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from unix_cxr.data.pixels import Source, load_xray
from unix_cxr.data.studies import Split, Study, read_table
from unix_cxr.functional.images import resize_and_pad
from unix_cxr.models.autoencoder import to_range

MOVE = 0.02
"""In standard deviations of the latents."""
PART = 32


@dataclass(frozen=True)
class Spectrum:
    """Directions of the latents, the one that is read most first.

    Args:
        shares: of the decoded change that the first, the first two, … explain.
        project: [k, c] latents minus their mean to directions of variance 1.
        restore: [c, k] and back.
        mean: [c] of the latents.
        variance: [c] of the posterior, on average.
    """

    shares: Float[Tensor, " c"]
    project: Float[Tensor, "c c"]
    restore: Float[Tensor, "c c"]
    mean: Float[Tensor, " c"]
    variance: Float[Tensor, " c"]


@torch.no_grad()
def spectrum_of(vae: AutoencoderKL, images: Float[Tensor, "b 1 h w"], moved: int = 24) -> Spectrum:
    """What the decoder reads of the latents of these X-rays; `moved` of them are moved."""
    network: Any = vae
    posteriors = [network.encode(to_range(part, vae)).latent_dist for part in images.split(PART)]
    latents = torch.cat([posterior.mode() for posterior in posteriors])
    flat = latents.transpose(0, 1).flatten(1).double()
    covariance, channels = torch.cov(flat), len(flat)
    at = latents[:moved]
    signs = torch.randn(
        (len(at), 1, *at.shape[2:]), generator=torch.Generator().manual_seed(0)
    ).sign()
    step = MOVE * float(latents.std())
    moves = [step * signs * axis.view(1, -1, 1, 1) for axis in torch.eye(channels)]
    changes = torch.stack(
        [
            (network.decode(at + move).sample - network.decode(at - move).sample).flatten()
            for move in moves
        ]
    ).double()
    inner = changes @ changes.T / changes.shape[1] / (2 * step) ** 2
    values, vectors = torch.linalg.eigh(inner)
    read = vectors @ torch.diag(values.clamp_min(values.max() * 1e-12).sqrt()) @ vectors.T
    strengths, directions = torch.linalg.eigh(read @ covariance @ read)
    strengths, directions = strengths.flip(0), directions.flip(1)
    project = directions.T @ read
    spread = (project @ covariance @ project.T).diagonal().sqrt()
    return Spectrum(
        shares=strengths.cumsum(0) / strengths.sum(),
        project=project / spread[:, None],
        restore=torch.linalg.inv(read) @ directions * spread,
        mean=flat.mean(dim=1),
        variance=torch.cat([p.var for p in posteriors]).mean(dim=(0, 2, 3)).double(),
    )


@torch.no_grad()
def narrowed(vae: AutoencoderKL, spectrum: Spectrum, channels: int) -> AutoencoderKL:
    """An autoencoder that has the first directions for its channels."""
    config: Any = vae.config
    small: Any = AutoencoderKL.from_config({**config, "latent_channels": channels})
    wide, narrow = vae.state_dict(), small.state_dict()
    for name, value in wide.items():
        if narrow[name].shape == value.shape:
            narrow[name].copy_(value)
    project = spectrum.project[:channels]
    restore = spectrum.restore[:, :channels]
    # the mean's half of the moments; the log-variances become what they are on average
    count = len(spectrum.mean)
    quant = wide["quant_conv.weight"][:count, :, 0, 0].double()
    kernel = wide["encoder.conv_out.weight"].double()
    mean = torch.einsum("km,mi,iabc->kabc", project, quant, kernel)
    bias = quant @ wide["encoder.conv_out.bias"].double() + wide["quant_conv.bias"][:count]
    variance = project.square() @ spectrum.variance
    narrow["encoder.conv_out.weight"].copy_(torch.cat([mean, torch.zeros_like(mean)]))
    narrow["encoder.conv_out.bias"].copy_(
        torch.cat([project @ (bias - spectrum.mean), variance.log()])
    )
    _make_identity(narrow, "quant_conv", 2 * channels)
    back = wide["post_quant_conv.weight"][:, :, 0, 0].double() @ restore
    offset = wide["post_quant_conv.bias"].double()
    # as much of the offset as can be said in these directions is padded with 0 as it was
    said = torch.linalg.lstsq(back, offset[:, None], driver="gelsd").solution[:, 0]
    kernel = wide["decoder.conv_in.weight"].double()
    narrow["decoder.conv_in.weight"].copy_(torch.einsum("oiab,im->omab", kernel, back))
    narrow["decoder.conv_in.bias"].copy_(
        wide["decoder.conv_in.bias"] + torch.einsum("oiab,i->o", kernel, offset - back @ said)
    )
    _make_identity(narrow, "post_quant_conv", channels)
    narrow["post_quant_conv.bias"].copy_(project @ spectrum.mean + said)
    small.load_state_dict(narrow)
    small.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    return small


def _make_identity(weights: dict[str, Tensor], name: str, channels: int) -> None:
    weights[f"{name}.weight"].copy_(torch.eye(channels)[:, :, None, None])
    weights[f"{name}.bias"].zero_()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vae", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=("train", "dev"), default="dev")
    parser.add_argument("--size", type=int, default=128, help="rows and columns of every X-ray")
    parser.add_argument("--channels", type=int, help="keep so many directions")
    parser.add_argument("--out", type=Path, help="folder for the narrower autoencoder")
    options = parser.parse_args(arguments)
    if (options.channels is None) != (options.out is None):
        parser.error("--channels and --out go together")
    vae: Any = AutoencoderKL.from_pretrained(options.vae, torch_dtype=torch.float32).eval()
    most = vae.config["latent_channels"]
    if options.channels is not None and not 0 < options.channels <= most:
        parser.error(f"--channels ({options.channels}) must lie between 1 and {most}")
    studies = studies_of(options.data, options.split)
    images = torch.stack([square(study.image, options.size) for study in studies])
    spectrum = spectrum_of(vae, images)
    print(f"{len(images)} X-rays; explained by the first directions of {most}:")
    print(" ".join(f"{share:.4f}" for share in spectrum.shares.tolist()))
    print(f"mean absolute error: {error_of(vae, images):.4f} of a range of 2")
    if options.out is not None:
        small = narrowed(vae, spectrum, options.channels)
        print(f"with {options.channels} channels: {error_of(small, images):.4f}")
        small.save_pretrained(options.out)
        print(f"wrote {options.out}")


def studies_of(root: Path, split: Split) -> list[Study]:
    """The studies of a split.

    Raises:
        SystemExit: there are none.
    """
    studies = list(read_table(root, splits=(split,)))
    if not studies:
        raise SystemExit(f"{root} has no {split} studies")
    return studies


def square(source: Source, size: int) -> Float[Tensor, "1 h w"]:
    pixels = torch.from_numpy(load_xray(source).pixels)[None, None]
    return resize_and_pad(pixels, size)[0]


@torch.no_grad()
def error_of(vae: AutoencoderKL, images: Float[Tensor, "b 1 h w"]) -> float:
    network: Any = vae
    total = 0.0
    for part in images.split(PART):
        values = to_range(part, vae)
        back = network.decode(network.encode(values).latent_dist.mode()).sample
        total += float((back - values).abs().mean(dim=(1, 2, 3)).sum())
    return total / len(images)


if __name__ == "__main__":
    main()
