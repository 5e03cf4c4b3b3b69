"""Eyes of the metrics: networks that turn X-rays into features, each with its own preprocessing.

Axes: b X-rays, h rows, w columns, s side, n tokens, f features.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor, nn

from unix_cxr.evaluation.classifier import XrayClassifier
from unix_cxr.evaluation.contact_sheet import to_pil
from unix_cxr.evaluation.results import MetricUnavailable
from unix_cxr.evaluation.xrays import check_images
from unix_cxr.files import read_json

if TYPE_CHECKING:
    from unix_cxr.pipelines.pipeline import UniXPipeline

_HASH_LENGTH: Final = 12
_PREPROCESSOR: Final = "preprocessor_config.json"
_BICUBIC: Final = 3


class FeatureExtractor(Protocol):
    """Features of X-rays of any size.

    It owns its preprocessing, because the same pixels as floats, as bytes or resized another way
    give other distances, and it refuses what it does not expect.
    """

    name: str
    width: int
    """Features per X-ray."""
    comparable: bool
    """Whether others publish numbers with it."""

    def facts(self) -> Mapping[str, object]:
        """Weights, size and preprocessing, for signatures and cache keys."""
        ...

    def __call__(self, images: Sequence[Float[Tensor, "1 h w"]]) -> Float[Tensor, "b f"]:
        """Features of float32 X-rays in [0, 1].

        Raises:
            TypeError: another dtype.
            ValueError: another shape or range.
        """
        ...


class VisionTowerExtractor:
    """Our own model's vision tower, averaged over its tokens: offline, known to nobody else.

    Args:
        pipeline: of the model; "nano" comes with the package.
    """

    comparable = False

    def __init__(self, pipeline: "UniXPipeline") -> None:
        self.pipeline = pipeline
        self.name = f"{pipeline.model_id}-vision"
        self.width: int = cast("Any", pipeline.model.config.vision_config).hidden_size
        self._weights = weights_hash(pipeline.model.vision)

    def facts(self) -> Mapping[str, object]:
        """For the signature."""
        size = self.pipeline.processor.image_size
        return {
            "extractor": self.name,
            "weights": self._weights,
            "size": size,
            "resize": "pad to a square",
            "features": self.width,
            "dtype": _short(self.pipeline.model.vision.dtype),
        }

    @torch.inference_mode()
    def __call__(self, images: Sequence[Float[Tensor, "1 h w"]]) -> Float[Tensor, "b f"]:
        """Mean of the tower's tokens."""
        from unix_cxr.functional.images import resize_and_pad

        processor, tower = self.pipeline.processor, self.pipeline.model.vision
        square = [resize_and_pad(image[None], processor.image_size) for image in _checked(images)]
        pixels = processor.normalise(torch.cat(square)).to(tower.device, tower.dtype)
        tokens: Float[Tensor, "b n f"] = tower(pixels).last_hidden_state
        return tokens.float().mean(dim=1).cpu()


class ClassifierExtractor:
    """The classifier behind the measurements of drawn X-rays; see `XrayClassifier`.

    Args:
        classifier: in evaluation mode.
        name: how it is called in signatures.
    """

    comparable = False

    def __init__(self, classifier: XrayClassifier, name: str = "classifier") -> None:
        self.classifier = classifier.eval()
        self.name = name
        self.width = classifier.feature_width
        self._weights = weights_hash(classifier)

    def facts(self) -> Mapping[str, object]:
        """For the signature."""
        return {
            "extractor": self.name,
            "weights": self._weights,
            "size": self.classifier.config.input_size,
            "resize": "pad to a square",
            "features": self.width,
            "dtype": "float32",
        }

    @torch.inference_mode()
    def __call__(self, images: Sequence[Float[Tensor, "1 h w"]]) -> Float[Tensor, "b f"]:
        """Standardised features of all stages but the first."""
        from unix_cxr.functional.images import resize_and_pad

        size = self.classifier.config.input_size
        square = torch.cat([resize_and_pad(image[None], size) for image in _checked(images)])
        features: Tensor = self.classifier(square.clamp(0, 1)).features
        return features


class Dinov2Extractor:
    """RAD-DINO (arXiv:2401.10815) or another DINOv2 of a local folder: its normalised [CLS].

    The folder is one of `transformers`: config.json, model.safetensors and
    preprocessor_config.json, which says size, crop, mean and spread.

    Args:
        folder: of the model.
        name: how it is called in signatures.
        device: where it runs.

    Raises:
        MetricUnavailable: the folder lacks a file.
        ValueError: the preprocessor is none of DINOv2.
    """

    comparable = True

    def __init__(
        self, folder: str | Path, name: str = "rad-dino", device: str | torch.device = "cpu"
    ) -> None:
        folder = Path(folder)
        for file in ("config.json", "model.safetensors", _PREPROCESSOR):
            if not (folder / file).is_file():
                raise MetricUnavailable(
                    f"fd/{name}",
                    f"no {file} in {folder}; save microsoft/rad-dino (or another DINOv2) there "
                    "with its weights as safetensors, and give the folder: "
                    f"--extractor {name}=FOLDER",
                )
        from transformers import Dinov2Model

        self.name = name
        self.model = Dinov2Model.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        self.model.eval().requires_grad_(False).to(device)  # noqa: FBT003 - torch's signature
        self.width: int = self.model.config.hidden_size
        self._weights = weights_hash(self.model)
        self._read_preprocessor(folder / _PREPROCESSOR)

    def _read_preprocessor(self, path: Path) -> None:
        values = read_json(path)
        try:
            self.size = int(values["size"]["shortest_edge"])
            crop = values["crop_size"]
            self.crop = (int(crop["height"]), int(crop["width"]))
            self.mean = torch.tensor(values["image_mean"])[:, None, None]
            self.std = torch.tensor(values["image_std"])[:, None, None]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no preprocessor of DINOv2 ({error!r}); it needs size.shortest_edge, "
                "crop_size, image_mean and image_std"
            ) from error
        if values.get("resample", _BICUBIC) != _BICUBIC:
            raise ValueError(
                f"{path}: resample ({values['resample']}) must be {_BICUBIC}, bicubic, as DINOv2's"
            )

    def facts(self) -> Mapping[str, object]:
        """For the signature."""
        return {
            "extractor": self.name,
            "weights": self._weights,
            "size": f"{self.crop[0]}x{self.crop[1]}",
            "resize": f"Pillow bicubic to {self.size} in 8 bits, centre crop",
            "features": self.width,
            "dtype": "float32",
        }

    def prepare(self, image: Float[Tensor, "1 h w"]) -> Float[Tensor, "3 s t"]:
        """Shorter side to `size`, middle crop, normalised; in 8 bits by Pillow, as published."""
        height, width = image.shape[-2:]
        scale = self.size / min(height, width)
        across, down = (max(self.size, int(side * scale)) for side in (width, height))
        large = to_pil(image).resize((across, down), PILImage.Resampling.BICUBIC)
        left, top = (across - self.crop[1]) // 2, (down - self.crop[0]) // 2
        cut = large.crop((left, top, left + self.crop[1], top + self.crop[0]))
        middle = torch.from_numpy(np.asarray(cut, dtype=np.float32))[None] / 255
        normalised: Tensor = (middle.expand(3, -1, -1) - self.mean) / self.std
        return normalised

    @torch.inference_mode()
    def __call__(self, images: Sequence[Float[Tensor, "1 h w"]]) -> Float[Tensor, "b f"]:
        """The [CLS] token after the last norm."""
        pixels = torch.stack([self.prepare(image) for image in _checked(images)])
        features: Tensor = self.model(pixels.to(self.model.device)).pooler_output
        return features.float().cpu()


def weights_hash(module: nn.Module) -> str:
    """Twelve digits that stand for a network's weights: SHA-256 of names and values."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:_HASH_LENGTH]


def _checked(images: Sequence[Tensor]) -> Sequence[Tensor]:
    for image in images:
        check_images(image[None])
    return images


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
