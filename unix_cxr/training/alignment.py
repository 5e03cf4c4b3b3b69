"""Representation alignment: hidden states of the generation branch learn to tell an encoder's.

Source: arXiv:2410.06940 (REPA), with 1 − cosine in the place of −cosine, so that a loss of 0
is the best. Axes: b batch, n latent tokens, d width, f features, r and c rows and columns of
latent tokens, s studies, k augmented copies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from unix_cxr.functional.images import random_affine
from unix_cxr.models.unix import UniXModel
from unix_cxr.modules.joint_block import Block
from unix_cxr.training.batches import CaptionedLatentBatch, generator_of
from unix_cxr.training.contexts import CaptionContexts
from unix_cxr.training.encoders import PatchEncoder, square_map
from unix_cxr.training.generation import ENCODED_AT_ONCE, CaptionedLatentSource, GenerationObjective
from unix_cxr.training.images import ImageStore, PreparedStore
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.objective_settings import AlignmentSettings
from unix_cxr.training.times import Weighting


@dataclass(frozen=True)
class AlignedBatch(CaptionedLatentBatch):
    """Captioned latents with an encoder's features, one per latent token.

    Args:
        features: of the image at the place of each latent token.
    """

    features: Float[Tensor, "b f r c"]


class AlignedObjective(GenerationObjective):
    """Error of the velocity, and 1 − cosine of projected hidden states and features.

    The projector learns with the stage and is thrown away after it.

    Args:
        model: both branches are run.
        understanding_gradient: see `GenerationObjective`.
        weighting: see `GenerationObjective`.
        alignment: which layer, and how much it counts.
        features: width of the encoder.
        seed: of the projector's random weights.
        contexts: see `GenerationObjective`.

    Raises:
        ValueError: the generation branch has no such layer.
    """

    own_parts = ("projector.*",)
    """Parameters that learn in every stage with this objective, and are thrown away after it."""

    def __init__(
        self,
        model: UniXModel,
        understanding_gradient: float,
        weighting: Weighting | None,
        *,
        alignment: AlignmentSettings,
        features: int,
        seed: int,
        contexts: CaptionContexts | None = None,
    ) -> None:
        super().__init__(model, understanding_gradient, weighting, contexts=contexts)
        layers = len(model.generation.layers)
        if alignment.layer > layers:
            raise ValueError(
                f"alignment.layer ({alignment.layer}) must lie between 1 and {layers}, the number "
                "of layers of the generation branch"
            )
        self.layer = alignment.layer
        hidden: Any = model.generation.final_norm.weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projector = projector(len(hidden), alignment.width or len(hidden), features)
        self.weights = self.weights | {"alignment": alignment.weight}

    def counts(self, batch: CaptionedLatentBatch) -> dict[str, int]:
        """Elements of every loss term; of the alignment, latent tokens."""
        features = _features_of(batch)
        tokens = features.shape[0] * features.shape[2] * features.shape[3]
        return super().counts(batch) | {"alignment": tokens}

    def forward(self, batch: CaptionedLatentBatch) -> dict[str, LossTerm]:
        """Loss terms of a batch of captioned latents with features."""
        features = rearrange(_features_of(batch), "b f r c -> b (r c) f")
        with latents_after(self.model.generation.layers[self.layer - 1]) as seen:
            terms = super().forward(batch)
        (states,) = seen
        if states.shape[1] != features.shape[1]:
            raise ValueError(
                f"{features.shape[1]} features cannot be aligned with {states.shape[1]} latent "
                "tokens; the source must resize the encoder's map to the grid of the tokens"
            )
        cosine = F.cosine_similarity(self.projector(states).float(), features.float(), dim=-1)
        return terms | {"alignment": LossTerm.of(1 - cosine)}


def projector(width: int, hidden: int, features: int) -> nn.Sequential:
    """Three linear layers with SiLU between them, as REPA has them."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, features),
    )


@contextmanager
def latents_after(layer: nn.Module) -> Iterator[list[Float[Tensor, "b n d"]]]:
    """The latent states that a joint block returns inside the `with` block, pass by pass.

    BOI and EOI are not among them.
    """
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: tuple[Block, object]) -> None:
        seen.append(output[0].latents)

    handle = layer.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def resize_map(maps: Float[Tensor, "b f h w"], grid: tuple[int, int]) -> Float[Tensor, "b f r c"]:
    """Feature maps on another grid, by bilinear interpolation over rows and columns."""
    if tuple(maps.shape[-2:]) == grid:
        return maps
    return F.interpolate(maps, size=grid, mode="bilinear", antialias=True, align_corners=False)


class AlignedSource:
    """Batches of a source of captioned latents with an encoder's features; a `BatchSource`.

    Args:
        source: of the latents; its images are encoded.
        encoder: makes the features; None takes those of the prepared folder.
        grid: rows and columns of latent tokens.
        keep: "memory" encodes all images when the stage begins and keeps a feature per latent
            token in float16; "step" encodes a step's images when it comes.

    Raises:
        ValueError: images are augmented, which are encoded when the stage begins or never.
    """

    def __init__(
        self,
        source: CaptionedLatentSource,
        encoder: PatchEncoder | None,
        grid: tuple[int, int],
        *,
        keep: str,
    ) -> None:
        self.source = source
        self.encoder = encoder
        self.grid = grid
        self._kept: Float[Tensor, "k s f r c"] | None = None
        if source.augmentation and (keep == "step" or encoder is None):
            raise ValueError(
                "features of a step's images or of a prepared folder are of images as they are: "
                f"set augmentation ({source.augmentation}) to 0, or let alignment.keep be memory "
                "with an encoder"
            )
        if keep == "memory" and encoder is not None:
            self._kept = torch.stack(
                [self._encode_all(encoder, n) for n in range(source.settings.augmented_copies)]
            )
        self._dev: Float[Tensor, "s f r c"] = torch.cat(
            [self._look(source.dev, part) for part in _parts(source.dev)]
        )
        if self._kept is not None:
            self.encoder = None  # it has seen everything

    @property
    def width(self) -> int:
        """Number of features."""
        return self._dev.shape[1]

    def batch(self, step: int) -> AlignedBatch:
        """The studies of that step with their features."""
        copies, chosen = self.source.picked(step)
        if self._kept is None:
            features = self._look(self.source.train, chosen)
        else:
            features = self._kept[copies, chosen]
        return AlignedBatch(**vars(self.source.batch(step)), features=features.float())

    def validation(self) -> list[AlignedBatch]:
        """All dev studies, as the source has them, with their features."""
        batches = self.source.validation()
        features = self._dev.split(self.source.batch_size)
        return [
            AlignedBatch(**vars(batch), features=part.float())
            for batch, part in zip(batches, features, strict=True)
        ]

    def _encode_all(self, encoder: PatchEncoder, copy: int) -> Float[Tensor, "s f r c"]:
        """The very images whose moments are cached: augmented by the same draws."""
        store, strength = self.source.train, self.source.augmentation
        generator = generator_of(self.source.seed, copy, 3)
        parts = tqdm(_parts(store), "features", unit="batch", disable=None)
        return torch.cat(
            [
                self._on_grid(encoder.maps(random_affine(store[part], strength, generator)))
                for part in parts
            ]
        )

    def _look(self, store: ImageStore, studies: Int[Tensor, " b"]) -> Float[Tensor, "b f r c"]:
        if self.encoder is not None:
            return self._on_grid(self.encoder.maps(store[studies]))
        if not isinstance(store, PreparedStore):
            raise ValueError("alignment.encoder prepared needs data.kind prepared")  # noqa: TRY004 - a setting
        return self._on_grid(square_map(store.features(studies)))

    def _on_grid(self, maps: Float[Tensor, "b f h w"]) -> Float[Tensor, "b f r c"]:
        return resize_map(maps, self.grid).half().cpu()


def _parts(store: ImageStore) -> tuple[Int[Tensor, " b"], ...]:
    parts: tuple[Tensor, ...] = torch.arange(len(store)).split(ENCODED_AT_ONCE)
    return parts


def _features_of(batch: CaptionedLatentBatch) -> Float[Tensor, "b f r c"]:
    if not isinstance(batch, AlignedBatch):
        raise TypeError(f"alignment needs an AlignedBatch, not a {type(batch).__name__}")
    return batch.features
