"""What turns a stage's gradients into steps: AdamW for everything, or Muon for the layers."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from unix_cxr.training.settings import StageSettings
from unix_cxr.training.sharding import part_like, whole

_OF_LAYERS: Final = ".layers."
_MATRIX: Final = 2


def make_optimizer(
    learning: Mapping[str, nn.Parameter], stage: StageSettings
) -> torch.optim.Optimizer:
    """The optimizer that a stage asks for, over the parameters that learn.

    Raises:
        ValueError: the stage says muon, and no weight matrix of a layer learns.
    """
    if stage.optimizer == "adamw":
        return torch.optim.AdamW(learning.values(), **_of_adamw(stage))
    matrices = [parameter for name, parameter in learning.items() if is_matrix(name, parameter)]
    if not matrices:
        raise ValueError(
            f"stage {stage.name!r} says optimizer: muon, but no weight matrix of a layer learns "
            f"(it trains {list(stage.trains)}); say optimizer: adamw"
        )
    others = [parameter for name, parameter in learning.items() if not is_matrix(name, parameter)]
    return MuonWithAdamW(matrices, others, stage)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon moves it: a weight matrix inside a layer of a transformer.

    Embeddings, heads, norms, biases and convolutions are AdamW's.
    """
    return _OF_LAYERS in name and parameter.ndim == _MATRIX


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the layers' matrices and AdamW for the rest, as one optimizer.

    A step of Muon has the size of a step of AdamW (0.2 times the square root of the larger side,
    arXiv:2502.16982), so one learning rate and one weight decay serve both.

    Args:
        matrices: parameters that Muon moves.
        others: parameters that AdamW moves; may be none.
        stage: learning rate, betas, momentum and weight decay.
    """

    def __init__(
        self, matrices: list[nn.Parameter], others: list[nn.Parameter], stage: StageSettings
    ) -> None:
        decay, rate = stage.weight_decay, stage.learning_rate
        self._muon = torch.optim.Muon(
            matrices,
            lr=rate,
            weight_decay=decay,
            momentum=stage.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        self._optimizers: list[torch.optim.Optimizer] = [self._muon]
        if others:
            self._optimizers.append(torch.optim.AdamW(others, **_of_adamw(stage)))
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # the library's own is overloaded
        """Move every parameter that has a gradient.

        Raises:
            ValueError: a closure is given; neither part would know when to call it.
        """
        if closure is not None:
            raise ValueError("MuonWithAdamW takes no closure")
        # groups and states may have been replaced since, as load_state_dict does
        for optimizer, group in zip(self._optimizers, self.param_groups, strict=True):
            optimizer.param_groups = [group]
            optimizer.state = self.state
            if optimizer is self._muon and any(isinstance(p, DTensor) for p in group["params"]):
                self._step_of_parts(group)
            else:
                optimizer.step()

    def _step_of_parts(self, group: dict[str, Any]) -> None:
        """Muon needs whole matrices: each is gathered, moved in every process, and cut again."""
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            matrix = nn.Parameter(whole(parameter))
            matrix.grad = whole(parameter.grad)
            remembered = {name: whole(value) for name, value in self.state[parameter].items()}
            self._muon.state = defaultdict(dict, {matrix: remembered})
            self._muon.param_groups = [group | {"params": [matrix]}]
            self._muon.step()
            parameter.copy_(part_like(matrix.detach(), parameter))
            for name, value in self._muon.state[matrix].items():
                # a copy: a part alone would keep the whole of it in memory
                self.state[parameter][name] = part_like(value, parameter).clone()


def _of_adamw(stage: StageSettings) -> dict[str, Any]:
    return {
        "lr": stage.learning_rate,
        "betas": stage.betas,
        "eps": stage.adam_eps,
        "weight_decay": stage.weight_decay,
    }
