"""The autoencoder of a new model, from a diffusers folder or a CompVis file."""

from pathlib import Path
from typing import Any, Final

from diffusers import AutoencoderKL
from safetensors import SafetensorError

from unix_cxr.convert.compvis import autoencoder_from_compvis, load_compvis, load_compvis_config
from unix_cxr.convert.unix_release import listed
from unix_cxr.files import read_json

_GREY_OR_COLOUR: Final = (1, 3)


def load_autoencoder(path: Path, latent_channels: int) -> AutoencoderKL:
    """An autoencoder with as many latent channels as the model will draw.

    Args:
        path: a folder of diffusers' `AutoencoderKL`, or a CompVis file with its config beside it.
        latent_channels: that its latents must have.

    Raises:
        FileNotFoundError: there is no such folder or file, or no config in it.
        ValueError: it is another kind of autoencoder, has other channels, or is damaged.
    """
    if path.is_file():
        vae, _ = autoencoder_from_compvis(load_compvis(path), load_compvis_config(path))
    else:
        vae = _from_folder(path, latent_channels)
    _check_channels(vae.config, latent_channels, path)
    return vae.eval()


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
            f"the autoencoder in {folder} is damaged or not of its config ({error}); copy or "
            "download it again"
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
            f"{latent_channels}; the published one is kl-f16 with 16. Give such a one, or "
            f"--latent-channels {found} for a recipe that says so"
        )
    image = config.get("in_channels", 3)
    if image not in _GREY_OR_COLOUR or config.get("out_channels", 3) != image:
        raise ValueError(
            f"the autoencoder at {path} takes images of {image} channels and gives "
            f"{config.get('out_channels', 3)}; both must be 1 or both 3"
        )
