"""A task of microseconds for tests of the loop itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unix_cxr.training.batches import generator_of
from unix_cxr.training.loop import Trainer
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.settings import StageSettings

from .conftest import stage


@dataclass(frozen=True)
class Points:
    x: Tensor
    y: Tensor


class Line(nn.Module):
    """y = a x + b with dropout, so that a mode or a seed that is disturbed shows."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Dropout(0.0), nn.Linear(8, 1))
        with torch.no_grad():
            for number, parameter in enumerate(self.model.parameters()):
                shape = parameter.shape
                parameter.copy_(torch.randn(shape, generator=generator_of(7, number)))
        self.weights: Mapping[str, float] = {"error": 1.0}

    def counts(self, batch: Points) -> dict[str, int]:
        return {"error": len(batch.y)}

    def forward(self, batch: Points) -> dict[str, LossTerm]:
        return {"error": LossTerm.of((self.model(batch.x)[:, 0].float() - batch.y).square())}


class PointSource:
    """Points of a plane; `broken` is the step whose batch is not finite."""

    def __init__(self, broken: int | None = None, value: float = float("nan")) -> None:
        self.broken, self.value = broken, value
        self.steps: list[int] = []

    def batch(self, step: int) -> Points:
        self.steps.append(step)
        x = torch.randn(4, 3, generator=generator_of(1, step))
        y = x.sum(dim=1)
        return Points(x, y if step != self.broken else y * self.value)

    def validation(self) -> list[Points]:
        return [self.batch(10_000), self.batch(10_001)]


def settings(**changes: Any) -> StageSettings:
    content = stage("toy", "understanding", ["model.*"], steps=8)
    return StageSettings.model_validate(content | changes)


def trainer(folder: Path, source: Any = None, **changes: Any) -> Trainer:
    return Trainer(
        Line(),
        source or PointSource(),
        settings(**changes),
        folder,
        recipe="{}",
        device=torch.device("cpu"),
    )


def weights(of: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in of.learning.items()}
