"""A small network that tells pneumonia from normal: the eye of the offline measurements.

Axes: b X-rays, h rows, w columns, s side, f features, c channels.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, NamedTuple, Self

import torch
from einops import reduce
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from unix_cxr.evaluation.xrays import check_images
from unix_cxr.files import replacing, write_text

CONFIG_NAME: Final = "classifier.json"
WEIGHTS_NAME: Final = "classifier.safetensors"
_TINY: Final = 1e-6


@dataclass(frozen=True)
class ClassifierConfig:
    """Shape of the network.

    Args:
        input_size: X-rays are resized to this many rows and columns.
        widths: channels of each stage; each stage halves the resolution.
        norm_groups: groups of every GroupNorm.
    """

    input_size: int
    widths: tuple[int, ...]
    norm_groups: int

    def __post_init__(self) -> None:
        if self.input_size < 2 ** (len(self.widths) + 1):
            raise ValueError(
                f"input_size ({self.input_size}) is too small for {len(self.widths)} stages; "
                f"use at least {2 ** (len(self.widths) + 1)}"
            )
        for width in self.widths:
            if width % self.norm_groups:
                raise ValueError(
                    f"width ({width}) must be divisible by norm_groups ({self.norm_groups})"
                )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a config; every key is required and no other is allowed.

        Raises:
            ValueError: not a JSON object, or keys that are unknown or missing.
        """
        values = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != known:
            found = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"a classifier config has the keys {sorted(known)}, got {found}")
        return cls(**{**values, "widths": tuple(values["widths"])})

    def to_json(self) -> str:
        """The config as JSON, for `from_json`."""
        return json.dumps(asdict(self), indent=2) + "\n"


DEFAULT_CLASSIFIER: Final = ClassifierConfig(
    input_size=128, widths=(24, 48, 96, 128), norm_groups=8
)
"""The network behind the documented numbers: 0.6 M parameters."""


class Classified(NamedTuple):
    """What the network sees in each X-ray."""

    logits: Float[Tensor, " b"]
    features: Float[Tensor, "b f"]


class _Stage(nn.Module):
    """Halve the resolution, then one residual block."""

    def __init__(self, channels_in: int, channels_out: int, norm_groups: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
        self.down_norm = nn.GroupNorm(norm_groups, channels_out)
        self.first = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(norm_groups, channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(norm_groups, channels_out)

    def forward(self, maps: Tensor) -> Tensor:
        maps = functional.silu(self.down_norm(self.down(maps)))
        inner = functional.silu(self.first_norm(self.first(maps)))
        return functional.silu(maps + self.second_norm(self.second(inner)))


class XrayClassifier(nn.Module):
    """Pneumonia or normal, and the features by which it decides.

    The features are the channel means of all stages but the first, each standardised by its mean
    and spread over the training X-rays. Taking several depths keeps texture and layout visible: the
    last stage alone is free to forget all but the label, and then any two X-rays of one class look
    alike.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        channels = (config.widths[0], *config.widths)
        self.stem = nn.Conv2d(1, config.widths[0], 5, stride=2, padding=2)
        self.stages = nn.ModuleList(
            _Stage(narrow, wide, config.norm_groups)
            for narrow, wide in zip(channels, config.widths, strict=False)
        )
        self.head = nn.Linear(config.widths[-1], 1)
        self.register_buffer("feature_mean", torch.zeros(self.feature_width))
        self.register_buffer("feature_std", torch.ones(self.feature_width))

    @property
    def feature_width(self) -> int:
        """Features per X-ray."""
        return sum(self.config.widths[1:]) if len(self.config.widths) > 1 else self.config.widths[0]

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Classified:
        """Logit of pneumonia and standardised features.

        Raises:
            TypeError: images that are not float32.
            ValueError: images of another shape or out of [0, 1].
        """
        check_images(images)
        logits, features = self.see(self.prepare(images))
        return Classified(logits, (features - self.feature_mean) / self.feature_std)

    def prepare(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 s s"]:
        """Resize to the input size and give each X-ray mean 0 and spread 1."""
        size = (self.config.input_size, self.config.input_size)
        if images.shape[-2:] != size:
            images = functional.interpolate(
                images, size, mode="bilinear", antialias=True, align_corners=False
            )
        mean = reduce(images, "b c h w -> b 1 1 1", "mean")
        spread = (reduce((images - mean) ** 2, "b c h w -> b 1 1 1", "mean") + _TINY).sqrt()
        return ((images - mean) / spread).contiguous(memory_format=torch.channels_last)

    def see(
        self, prepared: Float[Tensor, "b 1 s s"]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b f"]]:
        """Logits and plain features of prepared X-rays: the training path, maybe in bfloat16."""
        seen = self.pooled(prepared)
        logits = self.head(seen[-1].to(self.head.weight.dtype)).squeeze(-1).float()
        return logits, torch.cat(seen[1:] or seen, dim=-1)

    def pooled(self, prepared: Float[Tensor, "b 1 s s"]) -> list[Float[Tensor, "b c"]]:
        """Channel means of every stage."""
        maps = self.stem(prepared)
        seen = []
        for stage in self.stages:
            maps = stage(maps)
            seen.append(reduce(maps.float(), "b f h w -> b f", "mean"))
        return seen

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `classifier.json` and `classifier.safetensors`, each whole or not at all."""
        folder = Path(folder)
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        with replacing(folder / WEIGHTS_NAME) as path:
            save_file(state, path, metadata={"format": "pt"})
        write_text(folder / CONFIG_NAME, self.config.to_json())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load what `save_pretrained` wrote, in evaluation mode.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: the config is not one, the weights are no safetensors or do not fit.
        """
        folder = Path(folder)
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}; train_classifier makes one")
        try:
            config = ClassifierConfig.from_json((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / CONFIG_NAME}: {error}") from error
        try:
            weights = load_file(folder / WEIGHTS_NAME)
        except SafetensorError as error:
            raise ValueError(
                f"{folder / WEIGHTS_NAME} is not a safetensors file: {error}"
            ) from error
        classifier = cls(config)
        _check_names(weights, classifier.state_dict(), folder)
        classifier.load_state_dict(weights)
        return classifier.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # torch's stub lacks this overload


@torch.inference_mode()
def classify(
    classifier: XrayClassifier, images: Float[Tensor, "b 1 h w"], batch_size: int = 128
) -> Classified:
    """Logits and features of many X-rays, in batches, without gradients."""
    check_images(images)
    parts = [classifier(batch) for batch in torch.split(images, batch_size)]
    return Classified(
        torch.cat([part.logits for part in parts]), torch.cat([part.features for part in parts])
    )


def _check_names(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], folder: Path) -> None:
    shapes = {name: list(value.shape) for name, value in found.items()}
    expected = {name: list(value.shape) for name, value in wanted.items()}
    wrong = sorted(
        name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name)
    )
    if wrong:
        raise ValueError(
            f"{folder / WEIGHTS_NAME} does not fit {CONFIG_NAME}: {wrong[0]} is "
            f"{shapes.get(wrong[0], 'missing')}, expected {expected.get(wrong[0], 'nothing')} "
            f"({len(wrong)} differ)"
        )
