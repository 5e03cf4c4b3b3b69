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

    @property
    def is_finite(self) -> bool:
        """Whether a step may be taken with it."""
        return bool(torch.isfinite(self.total))

    @classmethod
    def of(cls, elements: Tensor) -> "LossTerm":
        """Term of a tensor that holds one loss per element."""
        return cls(elements.sum(), elements.numel())


def weighted_sum(
    terms: Mapping[str, LossTerm],
    weights: Mapping[str, float],
    counts: Mapping[str, int] | None = None,
) -> Float[Tensor, ""]:
    """Σ weight × total / count over the named terms.

    Args:
        terms: losses of a batch, or of a part of one.
        weights: one per term.
        counts: elements of the whole batch; those of the terms themselves where None.

    Raises:
        ValueError: the names of terms and weights differ, or a part has more elements than the
            whole.
    """
    if set(terms) != set(weights):
        raise ValueError(f"loss terms {sorted(terms)} and weights {sorted(weights)} must agree")
    whole = {name: term.count for name, term in terms.items()} if counts is None else counts
    larger = [name for name, term in terms.items() if term.count > whole[name]]
    if larger:
        raise ValueError(f"loss terms {larger} have more elements than their batch: {dict(whole)}")
    return torch.stack(
        [weights[name] * (term.total / whole[name]) for name, term in terms.items()]
    ).sum()
