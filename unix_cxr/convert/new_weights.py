"""Weights that a language model without a generation branch lacks, and what they begin as."""

import re
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from unix_cxr.convert.key_table import UNIX_RULES, to_theirs
from unix_cxr.models.config import UniXConfig
from unix_cxr.modules.latent_embedding import position_table

QUERY_KEY_NORMS: Final = ("ones", "matched", "none")
"""What norms of queries and keys may begin as, where the language model was trained without."""

_GENERATION_MARK: Final = "_moe_gen"
_ZEROS: Final = {
    r"language_model\..*\.o_proj\.bias": "0: the published model has no such bias",
    r"language_model\..*\.[qkv]_proj\.bias": "0: the language model was trained without",
    r"generation\.velocity_head\.(weight|bias)": "0: the first velocity is 0",
    r"generation\.embedding\..*\.bias": "0",
}
_RANDOM: Final = (
    "generation.embedding.projection.weight",
    "generation.embedding.time.input.weight",
    "generation.embedding.time.output.weight",
)
_POSITIONS: Final = "generation.embedding.positions"


def copied_from(name: str) -> str | None:
    """The language model's weight that a weight of the generation branch begins as a copy of.

    >>> copied_from("generation.layers.3.attention.q_proj.weight")
    'language_model.model.layers.3.self_attn.q_proj.weight'
    >>> copied_from("generation.velocity_head.weight") is None
    True
    """
    theirs = to_theirs(name, UNIX_RULES)
    if theirs is None or _GENERATION_MARK not in theirs:
        return None
    return theirs.replace(_GENERATION_MARK, "")


class NewWeights:
    """Makes the weights that a language model lacks (arXiv:2601.11522).

    The generation layers begin as copies of the language model's; what has no counterpart there
    begins as it does in a new model.

    Args:
        config: of the whole model.
        read: a weight of the understanding branch by our name; KeyError where there is none.
        query_key_norm: what the norms of queries and keys begin as.
        seed: of what is drawn.
    """

    def __init__(
        self,
        config: UniXConfig,
        read: Callable[[str], Tensor],
        query_key_norm: str,
        seed: int,
    ) -> None:
        self.config = config
        self.read = read
        self.query_key_norm = query_key_norm
        self.seed = seed

    def reason(self, name: str) -> str | None:
        """Why and as what a weight is made; None where nobody here can make it."""
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            return {"ones": "1", "matched": "the scale that its head had without a norm"}.get(
                self.query_key_norm
            )
        origin = copied_from(name)
        if origin is not None:
            return f"a copy of {origin}"
        if name == _POSITIONS:
            return "the table of places"
        if name in _RANDOM:
            return f"drawn with seed {self.seed}"
        return next((why for pattern, why in _ZEROS.items() if re.fullmatch(pattern, name)), None)

    def make(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A weight that has a reason; in float32 unless it is a copy."""
        origin = copied_from(name)
        if origin is not None and not self._is_made(origin):
            return self.read(origin)
        name = origin or name
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            return self._norm(name, shape)
        if name == _POSITIONS:
            text: Any = self.config.text_config
            table: Tensor = position_table(self.config.max_latent_size, text.hidden_size)
            return table
        if name in _RANDOM:
            text = self.config.text_config
            generator = torch.Generator().manual_seed(self.seed + _RANDOM.index(name))
            std: float = text.initializer_range
            return torch.randn(shape, generator=generator) * std
        return torch.zeros(shape)

    def _is_made(self, origin: str) -> bool:
        return origin.endswith(("_norm.weight", ".bias")) and ".self_attn." in origin

    def _norm(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if self.query_key_norm == "ones":
            return torch.ones(shape)
        return torch.full(shape, self._scale(name))

    def _scale(self, name: str) -> float:
        """Root mean square of a projection of normalised states, were these uncorrelated.

        A norm gives every head of every token the same length; the best constant is the one that
        heads had on average: sqrt(mean over rows of the sum of (W g)^2), g the input norm's gains.
        """
        layer = name.split(".self_attn.", maxsplit=1)[0]
        weight = self.read(name.replace("_norm.", "_proj.")).double()
        gains = self.read(f"{layer}.input_layernorm.weight").double()
        return float((weight * gains).square().sum(dim=1).mean().sqrt())


def draw_rows(table: Tensor, first: int, count: int, seed: int) -> Tensor:
    """A copy of a table whose rows `first` to `first + count` are drawn like those before them.

    Args:
        table: [v, d] a row per token.
        first: first new row; at least one stands before it.
        count: of new rows.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    known = table[:first].float()
    noise = torch.randn(count, table.shape[1], generator=generator)
    drawn = known.mean(dim=0) + noise * known.std(dim=0, correction=0)
    table = table.clone()
    table[first : first + count] = drawn.to(table.dtype)
    return table
