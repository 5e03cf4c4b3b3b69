"""A loss is a sum and a count; someone divides once."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LossTerm:
    """Sum of a loss over `count` elements, so that parts of a batch add up exactly.

    Args:
        total: sum over the elements; carries the graph.
        count: number of elements.
    """

    total: Float[Tensor, ""]
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"a loss term needs at least one element, not {self.count}")

    def __add__(self, other: "LossTerm") -> "LossTerm":
        return LossTerm(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> Float[Tensor, ""]:
        """The average over all elements."""
        return self.total / self.count

    @classmethod
    def of(cls, elements: Tensor) -> "LossTerm":
        """Term of a tensor that holds one loss per element."""
        return cls(elements.sum(), elements.numel())


def weighted_sum(terms: Mapping[str, LossTerm], weights: Mapping[str, float]) -> Float[Tensor, ""]:
    """Σ weight × mean over the named terms.

    Raises:
        ValueError: the names of terms and weights differ.
        FloatingPointError: a term is not finite, so no step must be taken with it.
    """
    if set(terms) != set(weights):
        raise ValueError(f"loss terms {sorted(terms)} and weights {sorted(weights)} must agree")
    wrong = {name: float(term.mean.detach()) for name, term in terms.items() if not _finite(term)}
    if wrong:
        raise FloatingPointError(
            f"loss terms are not finite: {wrong}; lower the learning rate or look at the batch"
        )
    return torch.stack([weights[name] * term.mean for name, term in terms.items()]).sum()


def _finite(term: LossTerm) -> bool:
    return bool(torch.isfinite(term.total))
