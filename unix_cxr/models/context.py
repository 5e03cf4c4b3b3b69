"""What a denoising pass reads: segments of input, and the keys and values they leave behind.

Axes: b batch, k context tokens, n tokens of a segment, g key/value heads, e head width, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unix_cxr.functional.gradients import scale_gradient
from unix_cxr.modules.joint_block import LayerContext


@dataclass(frozen=True)
class Text:
    """Token ids exactly as in the sequence, BOS and EOS included.

    Args:
        ids: [b, n] token ids.
        mask: [b, n] True for tokens, False for padding on either side; None where nothing is
            padded. A row without any True leaves that sample's context as it was.
    """

    ids: Int[Tensor, "b n"]
    mask: Bool[Tensor, "b n"] | None = None

    def __post_init__(self) -> None:
        if self.ids.ndim != 2:  # noqa: PLR2004 - batch and tokens
            raise ValueError(f"text ids must be [batch, tokens], not {list(self.ids.shape)}")
        if self.mask is not None and self.mask.shape != self.ids.shape:
            raise ValueError(
                f"text mask {list(self.mask.shape)} must match ids {list(self.ids.shape)}"
            )

    @property
    def real(self) -> Bool[Tensor, "b n"]:
        """True for tokens, False for padding."""
        if self.mask is None:
            return torch.ones_like(self.ids, dtype=torch.bool)
        return self.mask.bool()


@dataclass(frozen=True)
class Image:
    """An image for the vision tower: [b, 3, h, w], normalised as the processor does."""

    pixel_values: Float[Tensor, "b 3 h w"]


@dataclass(frozen=True)
class Latents:
    """A clean image for the generation weights: [b, c, h, w] normalised latents, t = 0."""

    latents: Float[Tensor, "b c h w"]


Segment = Text | Image | Latents
"""What a context is made of."""


@dataclass(frozen=True)
class Context:
    """Keys and values of every layer for everything that comes before an image to be drawn.

    Args:
        layers: one per layer.
        real: [b, k] True for tokens, False for padding.
        from_generation: [b, k] True where the generation weights made the keys and values.
        position: [b] rotary position of whatever comes next.
        hidden: [b, n, d] normalised last states of the newest segment; None when empty.
    """

    layers: tuple[LayerContext, ...]
    real: Bool[Tensor, "b k"]
    from_generation: Bool[Tensor, "b k"]
    position: Int[Tensor, " b"]
    hidden: Float[Tensor, "b n d"] | None = None

    def __post_init__(self) -> None:
        for index, layer in enumerate(self.layers):
            if layer.keys.shape[2] != self.length or layer.values.shape[2] != self.length:
                raise ValueError(
                    f"layer {index} holds {layer.keys.shape[2]} keys for {self.length} context "
                    "tokens: the layer was run without its cache"
                )

    @property
    def length(self) -> int:
        """Number of context tokens, padding included."""
        return self.real.shape[1]

    @property
    def batch_size(self) -> int:
        """Number of samples."""
        return self.real.shape[0]

    @cached_property
    def padded(self) -> bool:
        """Whether any token is padding."""
        return not bool(self.real.all())

    def append(
        self,
        layers: Sequence[LayerContext],
        real: Bool[Tensor, "b n"],
        *,
        position: Int[Tensor, " b"],
        from_generation: Bool[Tensor, " n"],
        hidden: Float[Tensor, "b n d"],
    ) -> "Context":
        """This context with a further segment's keys and values behind it."""
        return Context(
            layers=tuple(
                LayerContext(
                    torch.cat([old.keys, new.keys], dim=2),
                    torch.cat([old.values, new.values], dim=2),
                )
                for old, new in zip(self.layers, layers, strict=True)
            ),
            real=torch.cat([self.real, real], dim=1),
            from_generation=torch.cat(
                [self.from_generation, from_generation.expand(self.batch_size, -1)], dim=1
            ),
            position=position,
            hidden=hidden,
        )

    def repeat(self, times: int) -> "Context":
        """Every sample `times` times in a row, for several images of one prompt."""
        return self.select(torch.arange(self.batch_size).repeat_interleave(times))

    def select(self, samples: Int[Tensor, " s"]) -> "Context":
        """The chosen samples, in that order."""
        samples = samples.to(self.real.device)
        return Context(
            layers=tuple(LayerContext(x.keys[samples], x.values[samples]) for x in self.layers),
            real=self.real[samples],
            from_generation=self.from_generation[samples],
            position=self.position[samples],
            hidden=None if self.hidden is None else self.hidden[samples],
        )

    def read_by_generation(self, factor: float) -> "Context":
        """The context as the generation weights read it.

        The gradient of what the understanding branch made is multiplied by `factor`; what the
        generation weights made themselves keeps its own.
        """
        if factor == 1:
            return self
        own = self.from_generation[:, None, :, None]

        def scaled(value: Tensor) -> Tensor:
            return torch.where(own, value, scale_gradient(value, factor))

        layers = tuple(LayerContext(scaled(x.keys), scaled(x.values)) for x in self.layers)
        return replace(self, layers=layers)

    @staticmethod
    def stack(contexts: Sequence["Context"]) -> "Context":
        """Several contexts as one batch; shorter ones are padded on the left."""
        length = max(context.length for context in contexts)
        padded = [context.pad(length) for context in contexts]
        return Context(
            layers=tuple(
                LayerContext(
                    torch.cat([layer.keys for layer in layers]),
                    torch.cat([layer.values for layer in layers]),
                )
                for layers in zip(*(context.layers for context in padded), strict=True)
            ),
            real=torch.cat([context.real for context in padded]),
            from_generation=torch.cat([context.from_generation for context in padded]),
            position=torch.cat([context.position for context in padded]),
        )

    def pad(self, length: int) -> "Context":
        """This context with padding on the left up to `length` tokens."""
        missing = length - self.length
        if missing == 0:
            return self

        def grow(value: Tensor) -> Tensor:
            return torch.nn.functional.pad(value, (0, 0, missing, 0))

        def grow_flags(flags: Tensor) -> Tensor:
            return torch.nn.functional.pad(flags, (missing, 0), value=False)

        return Context(
            layers=tuple(LayerContext(grow(x.keys), grow(x.values)) for x in self.layers),
            real=grow_flags(self.real),
            from_generation=grow_flags(self.from_generation),
            position=self.position,
            hidden=self.hidden,
        )
