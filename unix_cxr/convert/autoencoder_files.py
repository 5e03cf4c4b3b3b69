"""The autoencoder of a new model, from a diffusers folder or a CompVis file."""

import logging
from pathlib import Path
from typing import Any, Final

from diffusers import AutoencoderKL
from safetensors import SafetensorError

from unix_cxr.convert.compvis import (
    PUBLISHED_SCALE,
    PUBLISHED_SHIFT,
    autoencoder_from_compvis,
    load_compvis,
    load_compvis_config,
)
from unix_cxr.convert.unix_release import ConversionReport, listed
from unix_cxr.files import COPY_AGAIN, read_json
from unix_cxr.models.autoencoder import DOWNSAMPLING, downsampling_of

_GREY_OR_COLOUR: Final = (1, 3)
_UNSAID: Final = (0.18215, None)
"""Scale and shift that diffusers writes where nobody has said any."""
logger = logging.getLogger(__name__)


def load_autoencoder(path: Path, latent_channels: int) -> AutoencoderKL:
    """An autoencoder with as many latent channels as the model will draw.

    Args:
        path: a folder of diffusers' `AutoencoderKL`, or a CompVis file with its config beside it.
        latent_channels: that its latents must have.

    Raises:
        FileNotFoundError: there is no such folder or file, or no config in it.
        ValueError: it is another kind of autoencoder, has other channels, or is damaged.
    """
    vae = _from_file(path)[0] if path.is_file() else _from_folder(path, latent_channels)
    _check_channels(vae.config, latent_channels, path)
    return vae.eval()


def load_published_autoencoder(
    path: Path, latent_channels: int
) -> tuple[AutoencoderKL, ConversionReport]:
    """The autoencoder of the published model, and what became of its keys.

    Args:
        path: a CompVis file with its config beside it, or a folder of diffusers' `AutoencoderKL`
            into which somebody has converted it. Where that folder says no scale and no shift of
            latents, they are the published ones.
        latent_channels: that the model draws.

    Raises:
        FileNotFoundError: there is no such file or folder, or no config in it.
        ValueError: it is another kind of autoencoder, of other sizes, or is damaged.
    """
    if path.is_file():
        vae, report = _from_file(path)
    else:
        vae = _from_folder(path, latent_channels)
        report = ConversionReport(mapped={name: [name] for name in vae.state_dict()})
        _publish_scale(vae, path)
    _check_channels(vae.config, latent_channels, path)
    factor = downsampling_of(vae)
    if factor != DOWNSAMPLING:
        raise ValueError(
            f"the autoencoder at {path} shrinks {factor} times, the published one "
            f"{DOWNSAMPLING} times; give a kl-f16"
        )
    return vae.eval(), report


def _from_file(path: Path) -> tuple[AutoencoderKL, ConversionReport]:
    config = load_compvis_config(path)
    if config.get("_class_name") == AutoencoderKL.__name__:
        raise ValueError(
            f"{path} holds the weights of a diffusers AutoencoderKL; give its folder, {path.parent}"
        )
    return autoencoder_from_compvis(load_compvis(path), config)


def _publish_scale(vae: AutoencoderKL, folder: Path) -> None:
    config: Any = vae.config
    if (config.scaling_factor, config.shift_factor) == _UNSAID:
        logger.warning(
            "%s says no scale and shift of latents but diffusers' defaults; the published %s and "
            "%s are taken",
            folder / "config.json",
            PUBLISHED_SCALE,
            PUBLISHED_SHIFT,
        )
        untyped: Any = vae
        untyped.register_to_config(scaling_factor=PUBLISHED_SCALE, shift_factor=PUBLISHED_SHIFT)


def _from_folder(folder: Path, latent_channels: int) -> AutoencoderKL:
    tree = _config(folder)
    kind = tree.get("_class_name")
    if kind != AutoencoderKL.__name__:
        raise ValueError(
            f"{folder / 'config.json'} is of {kind!r}, not of an AutoencoderKL; give a kl-f16 "
            "autoencoder"
        )
    _check_channels(tree, latent_channels, folder)
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} has no weights as safetensors; other files are never opened"
        )
    library: Any = AutoencoderKL
    try:
        vae, told = library.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the autoencoder in {folder} is damaged or not of its config ({error}); {COPY_AGAIN}"
        ) from error
    wrong = [
        *(f"{name} is missing" for name in sorted(told["missing_keys"])),
        *(f"{name} is unknown" for name in sorted(told["unexpected_keys"])),
    ]
    if wrong:
        raise ValueError(f"the autoencoder in {folder} is not of its config: {listed(wrong)}")
    autoencoder: AutoencoderKL = vae
    return autoencoder


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        inner = " (there is one in its folder vae)" if (folder / "vae").is_dir() else ""
        raise FileNotFoundError(
            f"no autoencoder at {folder}: it has no config.json{inner}; give the folder of a "
            "diffusers AutoencoderKL, or a CompVis file"
        )
    return read_json(file)


def _check_channels(config: Any, latent_channels: int, path: Path) -> None:  # noqa: ANN401 - a mapping, frozen or not
    found = config.get("latent_channels", 4)
    if found != latent_channels:
        raise ValueError(
            f"the autoencoder at {path} has {found} latent channels, the model is to draw "
            f"{latent_channels}; the published one is kl-f16 with 16. Give such a one (or, for a "
            f"new model whose recipe says so, --latent-channels {found})"
        )
    image = config.get("in_channels", 3)
    if image not in _GREY_OR_COLOUR or config.get("out_channels", 3) != image:
        raise ValueError(
            f"the autoencoder at {path} takes images of {image} channels and gives "
            f"{config.get('out_channels', 3)}; both must be 1 or both 3"
        )
