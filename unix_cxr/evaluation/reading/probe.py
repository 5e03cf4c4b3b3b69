"""A linear probe: logistic regression on frozen features, one per label.

Axes: n X-rays, f features, l labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

_TINY = 1e-9


@dataclass(frozen=True)
class LinearProbe:
    """Weights on standardised features.

    Args:
        mean: of the training features.
        std: of the training features.
        weight: per label.
        bias: per label.
    """

    mean: Float[Tensor, " f"]
    std: Float[Tensor, " f"]
    weight: Float[Tensor, "l f"]
    bias: Float[Tensor, " l"]

    def __call__(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n l"]:
        """Logits of each label."""
        standard = (features.double() - self.mean) / self.std
        logits: Tensor = standard @ self.weight.T + self.bias
        return logits


def fit_probe(
    features: Float[Tensor, "n f"], labels: Bool[Tensor, "n l"], strength: float = 0.01
) -> LinearProbe:
    """Fit by L-BFGS in float64: mean cross-entropy plus strength / 2 · |w|², the bias left free.

    Args:
        features: of the training X-rays.
        labels: of the same.
        strength: of the penalty; scikit-learn's C is 1 / (n · strength).

    Raises:
        ValueError: counts that differ, a label with one class only, features without spread or not
            finite.
    """
    if len(features) != len(labels) or not len(features):
        raise ValueError(f"{len(features)} features for {len(labels)} labels; give one each")
    if not torch.isfinite(features).all():
        raise ValueError("the features hold NaN or infinity")
    for column in range(labels.shape[1]):
        count = int(labels[:, column].sum())
        if count in {0, len(labels)}:
            raise ValueError(
                f"label {column} has one class only: {count} positives among {len(labels)}"
            )
    points = features.double()
    mean, std = points.mean(dim=0), points.std(dim=0)
    if bool((std <= _TINY).all()):
        raise ValueError(
            f"all {len(features)} feature vectors are equal; there is nothing to learn"
        )
    std = torch.where(std <= _TINY, torch.ones_like(std), std)
    standard, wanted = (points - mean) / std, labels.double()
    weight = torch.zeros(labels.shape[1], features.shape[1], dtype=torch.float64)
    bias = torch.zeros(labels.shape[1], dtype=torch.float64)
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=300,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = standard @ weight.T + bias
        total = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        total = total / len(wanted) + 0.5 * strength * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    return LinearProbe(mean, std, weight.detach(), bias.detach())


def label_table(labels: Sequence[frozenset[str]], names: Sequence[str]) -> Bool[Tensor, "n l"]:
    """Which X-ray has which label."""
    return torch.tensor([[name in found for name in names] for found in labels], dtype=torch.bool)


def learnable(sets: Sequence[Sequence[frozenset[str]]], least: int = 5) -> list[str]:
    """Labels that every set holds at least `least` times and lacks as often."""
    every: frozenset[str] = frozenset().union(*[found for one in sets for found in one])
    return [
        name
        for name in sorted(every)
        if all(least <= sum(name in found for found in one) <= len(one) - least for one in sets)
    ]
