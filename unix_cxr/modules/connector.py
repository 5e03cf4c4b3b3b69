"""From vision features to the language model's width. Axes: b batch, n image tokens."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}


class Connector(nn.Module):
    """Two linear layers with an activation between.

    Args:
        vision_size: width of the vision features.
        hidden_size: width of the language model.
        activation: "gelu" or "gelu_pytorch_tanh" (the published model's).
    """

    def __init__(self, vision_size: int, hidden_size: int, activation: str) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation ({activation!r}) must be one of {list(_ACTIVATIONS)}")
        self.activation = activation
        self.input = nn.Linear(vision_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, features: Float[Tensor, "b n v"]) -> Float[Tensor, "b n d"]:
        """Image tokens in the language model's space."""
        projected: Tensor = self.output(_ACTIVATIONS[self.activation](self.input(features)))
        return projected
