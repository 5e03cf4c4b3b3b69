"""Batches as values, and sources that make the batch of any step, in any order.

A source's batch is a function of the step alone, so a run that restarts at step k sees what it
would have seen. Axes: b batch, c channels, h and w pixels, H and W latents, n tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


@dataclass(frozen=True)
class ImageBatch:
    """X-rays and the noise of their posterior's sample.

    Args:
        images: [b, 1, h, w], values in [0, 1].
        noise: [b, c, H, W] standard normal in training, 0 (the mode) in validation.
    """

    images: Float[Tensor, "b 1 h w"]
    noise: Float[Tensor, "b c H W"]

    def __post_init__(self) -> None:
        low, high = self.images.aminmax()
        if low < 0 or high > 1:
            raise ValueError(f"images must lie in [0, 1], not [{low:.3g}, {high:.3g}]")


@dataclass(frozen=True)
class ReportBatch:
    """Inputs of the understanding branch with the labels of the report's tokens.

    Args:
        input_ids: [b, n] the whole sequence: image block, prompt, report.
        attention_mask: [b, n] 1 for tokens, 0 for padding.
        pixel_values: [b, 3, h, w] normalised for the vision tower.
        labels: [b, n] next token, or `IGNORED_LABEL` where no loss is taken.
    """

    input_ids: Int[Tensor, "b n"]
    attention_mask: Int[Tensor, "b n"]
    pixel_values: Float[Tensor, "b 3 h w"]
    labels: Int[Tensor, "b n"]


@dataclass(frozen=True)
class CaptionedLatentBatch:
    """Latents with their captions, times and noise, all drawn by the source.

    Args:
        latents: [b, c, H, W] normalised.
        noise: [b, c, H, W] standard normal.
        times: [b] in (0, 1).
        caption_ids: [b, n] with BOS and EOS; padded.
        caption_mask: [b, n] True for tokens; all False where the caption was dropped.
    """

    latents: Float[Tensor, "b c H W"]
    noise: Float[Tensor, "b c H W"]
    times: Float[Tensor, " b"]
    caption_ids: Int[Tensor, "b n"]
    caption_mask: Bool[Tensor, "b n"]


class BatchSource(Protocol[B_co]):
    """Makes the batch of a training step, and the fixed batches of a validation pass."""

    def batch(self, step: int) -> B_co:
        """The batch of that step: always the same one."""
        ...

    def validation(self) -> Sequence[B_co]:
        """The same batches at every call."""
        ...


class SteppedDataset(Dataset[B_co]):
    """A source as a map-style dataset whose item k is the batch of step k, for a `DataLoader`."""

    def __init__(self, source: BatchSource[B_co], steps: int) -> None:
        self.source = source
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> B_co:
        return self.source.batch(step)


def generator_of(seed: int, *numbers: int) -> torch.Generator:
    """A generator that depends on these numbers alone, whatever was drawn before."""
    mixed = seed
    for number in numbers:
        mixed = (mixed * 6_364_136_223_846_793_005 + number + 1_442_695_040_888_963_407) % 2**63
    return torch.Generator().manual_seed(mixed)


def batch_indices(samples: int, batch_size: int, step: int, seed: int) -> Int[Tensor, " b"]:
    """Which samples step `step` sees: epoch after epoch, each in an order of its own."""
    return BatchOrder(samples, batch_size, seed).batch(step)


class BatchOrder:
    """Which samples every step sees: epoch after epoch, each in an order of its own.

    With lengths, batches of similar length are made: a window of some batches is sorted by length
    and cut into batches, which are shuffled again. Every epoch still sees every sample once, and a
    step's batch is still a function of its number.

    Args:
        samples: how many there are.
        batch_size: samples per step.
        seed: of the orders.
        lengths: of the samples' texts, in tokens; None keeps no account of them.
        window: batches that are sorted together; 1 sorts none.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        seed: int,
        lengths: Int[Tensor, " s"] | None = None,
        window: int = 1,
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = lengths
        self.window = window
        self._orders: dict[int, Int[Tensor, " s"]] = {}

    def batch(self, step: int) -> Int[Tensor, " b"]:
        """Samples of a step."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        places = [divmod(position, self.samples) for position in positions]
        return torch.stack([self._order(epoch)[place] for epoch, place in places])

    def _order(self, epoch: int) -> Int[Tensor, " s"]:
        if epoch not in self._orders:
            for old in [key for key in self._orders if key < epoch - 1]:
                del self._orders[old]
            generator = generator_of(self.seed, epoch)
            order = torch.randperm(self.samples, generator=generator)
            if self.lengths is not None and self.window > 1:
                order = self._bucketed(order, self.lengths, generator)
            self._orders[epoch] = order
        return self._orders[epoch]

    def _bucketed(
        self, order: Int[Tensor, " s"], lengths: Int[Tensor, " s"], generator: torch.Generator
    ) -> Int[Tensor, " s"]:
        sorted_windows = [
            part[lengths[part].argsort(stable=True)]
            for part in order.split(self.batch_size * self.window)
        ]
        batches = torch.cat(sorted_windows).split(self.batch_size)
        whole = batches[:-1] if len(batches[-1]) < self.batch_size else batches
        shuffled = torch.randperm(len(whole), generator=generator).tolist()
        return torch.cat([*(whole[index] for index in shuffled), *batches[len(whole) :]])


@dataclass(frozen=True)
class Share:
    """One part of a step's batch: its samples index, index + parts, index + 2 parts, ...

    Args:
        index: of this part.
        parts: how many parts there are.
    """

    index: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.parts:
            raise ValueError(f"part {self.index} of {self.parts}")


def take(batch: B, share: Share) -> B:
    """A part of a batch; the whole of it is returned as it is."""
    if share.parts == 1:
        return batch
    parts = {
        field.name: getattr(batch, field.name)[share.index :: share.parts]
        for field in fields(batch)  # type: ignore[arg-type]  # every batch is a dataclass
    }
    return type(batch)(**parts)


def to_device(batch: B, device: torch.device) -> B:
    """The same batch with its tensors on a device."""
    moved = {
        field.name: getattr(batch, field.name).to(device, non_blocking=True)
        for field in fields(batch)  # type: ignore[arg-type]  # every batch is a dataclass
    }
    return type(batch)(**moved)
