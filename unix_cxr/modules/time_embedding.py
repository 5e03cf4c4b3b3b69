"""The time of the flow as a vector. Axes: b batch, d width."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

_LOWEST_FREQUENCY = 10_000.0


def sinusoids(t: Float[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
    """[cos | sin] of t at `width / 2` geometric frequencies (arXiv:1706.03762); t is not scaled."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(_LOWEST_FREQUENCY) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoids through a two-layer MLP.

    Args:
        frequencies: width of the sinusoids.
        hidden_size: width of the result.
    """

    def __init__(self, frequencies: int, hidden_size: int) -> None:
        super().__init__()
        if frequencies % 2:
            raise ValueError(f"frequencies ({frequencies}) must be even: cosines and sines")
        self.frequencies = frequencies
        self.input = nn.Linear(frequencies, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Embedding of times in [0, 1]."""
        features = sinusoids(t, self.frequencies).to(self.input.weight.dtype)
        embedded: Tensor = self.output(nn.functional.silu(self.input(features)))
        return embedded
