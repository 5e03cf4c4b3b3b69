"""The exponential moving average of weights (EMA), kept beside the weights that learn."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unix_cxr.training.sharding import part_like


class WeightAverage:
    """average <- d average + (1 - d) weight after step k, with d = min(decay, (1 + k) / (10 + k)).

    Early steps forget faster, so that the random beginning does not linger.

    Args:
        parameters: the learning parameters by name.
        decay: of later steps; None keeps no average and every call does nothing.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float | None) -> None:
        self.decay = decay
        self._parameters = parameters
        self.values: dict[str, Tensor] = {}
        if decay is not None:
            self.values = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, counted from 1."""
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self._parameters[name].detach().float(), 1 - decay)

    @torch.no_grad()
    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Put a checkpoint's average in the place of this one."""
        for name in self.values:
            self.values[name].copy_(part_like(values[name], self.values[name]))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The average stands in the place of the weights inside the block."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items() if self.values}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    self._parameters[name].copy_(value)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average in the place of the weights, for good."""
        for name, value in self.values.items():
            self._parameters[name].copy_(value)
