"""Frozen image encoders whose patch features a generation branch may be aligned with.

Each owns its preprocessing. Axes: b batch, h and w pixels, f features, r and c rows and columns.
"""

import copy
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from unix_cxr.models.fingerprint import fingerprint
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.processing import UniXProcessor

DINO_FILES: Final = ("config.json", "model.safetensors", "preprocessor_config.json")


class PatchEncoder(Protocol):
    """Feature maps of X-rays; nothing in it learns.

    Args:
        width: number of features.
        fingerprint: of its weights.
    """

    width: int
    fingerprint: str

    def maps(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b f r c"]:
        """Features of every patch, for images in [0, 1]."""
        ...


class DinoEncoder:
    """DINOv2 or RAD-DINO (arXiv:2304.07193, 2401.10815) of a local folder: its patch tokens.

    The folder is one of transformers; its preprocessor_config.json says size, crop, mean and
    spread.

    Args:
        folder: with config.json, model.safetensors and preprocessor_config.json.
        device: where it runs.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the folder holds another kind of model.
    """

    def __init__(self, folder: str | Path, device: torch.device) -> None:
        check_dino_folder(folder)
        # imported here so that training without an encoder does not load the evaluation
        from unix_cxr.evaluation.imaging.extractors import Dinov2Extractor

        self._extractor = Dinov2Extractor(folder, name=Path(folder).name, device=device)
        network: nn.Module = self._extractor.model
        config: Any = network.config
        if config.model_type != "dinov2":
            raise ValueError(f"{folder} holds a {config.model_type}, not a dinov2")
        height, width = self._extractor.crop
        self._grid = (height // config.patch_size, width // config.patch_size)
        self._model: Any = network
        self.width = self._extractor.width
        self.fingerprint = fingerprint(network)

    @torch.no_grad()
    def maps(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b f r c"]:
        """Patch tokens after the last norm."""
        pixels = torch.stack([self._extractor.prepare(image) for image in images.cpu()])
        tokens: Tensor = self._model(pixels.to(self._model.device)).last_hidden_state[:, 1:]
        rows, columns = self._grid
        return rearrange(tokens, "b (r c) f -> b f r c", r=rows, c=columns).float()


class TowerEncoder:
    """The vision tower of a UniX model: its tokens before the connector.

    It is a copy: whatever the model learns, the encoder stays as it is.

    Args:
        model: has the tower.
        processor: resizes and normalises.
        device: where it runs.
    """

    def __init__(self, model: UniXModel, processor: UniXProcessor, device: torch.device) -> None:
        vision: Any = copy.deepcopy(model.vision)
        self._vision: Any = vision.to(device).eval().requires_grad_(requires_grad=False)
        self._processor = processor
        self._device = device
        self.width: int = self._vision.config.hidden_size
        self.fingerprint = fingerprint(self._vision)

    @torch.no_grad()
    def maps(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b f r c"]:
        """Tokens after the tower's last norm."""
        pixels = self._processor.normalise(images).to(self._device)
        tokens: Tensor = self._vision(pixels).last_hidden_state
        return square_map(tokens.float())


def square_map(tokens: Float[Tensor, "b n f"]) -> Float[Tensor, "b f r c"]:
    """Tokens in raster order as a square map.

    Raises:
        ValueError: their number is no square.
    """
    side = round(tokens.shape[1] ** 0.5)
    if side**2 != tokens.shape[1]:
        raise ValueError(f"{tokens.shape[1]} patch features are no square map")
    return rearrange(tokens, "b (r c) f -> b f r c", r=side)


def check_dino_folder(folder: str | Path) -> None:
    """Refuse a folder that lacks what a DINOv2 needs.

    Raises:
        FileNotFoundError: the message names the file and the remedy.
    """
    missing = [name for name in DINO_FILES if not (Path(folder) / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"the encoder folder {folder} has no {', '.join(missing)}; save a DINOv2 such as "
            "microsoft/rad-dino there, with its weights as safetensors, or set alignment.encoder "
            "to vision, the model's own tower"
        )
