"""How a stage computes: number type, scale of the loss, checkpointing, compiling."""

import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from unix_cxr.models.unix import UniXModel
from unix_cxr.training.settings import StageSettings

_TYPES: Final[Mapping[str, torch.dtype]] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_FIRST_SCALE: Final = 2.0**16
_LARGEST_SCALE: Final = 2.0**24
_SMALLEST_SCALE: Final = 2.0
"""1 would be no scale at all."""
_STEPS_TO_DOUBLE: Final = 2000


def check_computing(stage: StageSettings, device: torch.device) -> None:
    """Refuse what this device or machine cannot do.

    Raises:
        ValueError: float16 without a GPU, or compile without a compiler.
    """
    if stage.precision == "float16" and device.type != "cuda":
        raise ValueError(
            f"stage {stage.name!r}: precision float16 needs a CUDA device, not {device.type}; say "
            "precision: bfloat16"
        )
    if not stage.compile:
        return
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ValueError(
            f"stage {stage.name!r}: compile needs a C++ compiler and finds no {compiler!r}; "
            "install g++, name another in the environment variable CXX, or say compile: false"
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ValueError(
            f"stage {stage.name!r}: compile on a GPU needs triton, which is not installed; install "
            "it, or say compile: false"
        )


@contextmanager
def computing(stage: StageSettings, device: torch.device) -> Iterator[None]:
    """The number type of a stage's forward passes."""
    low = _TYPES.get(stage.precision)
    with (
        torch.autocast(device.type, dtype=low or torch.bfloat16, enabled=low is not None),
        _fast_attention(device, low=low is not None),
    ):
        yield


def prepare(objective: nn.Module, stage: StageSettings, device: torch.device) -> None:
    """Switch checkpointing on or off, and compile, as the stage says."""
    low = stage.precision in _TYPES
    for module in objective.modules():
        if isinstance(module, UniXModel | AutoencoderKL):
            _checkpoint(module, device, on=stage.activation_checkpointing, low=low)
    if stage.compile:
        objective.compile()


def _checkpoint(
    module: UniXModel | AutoencoderKL, device: torch.device, *, on: bool, low: bool
) -> None:
    options: dict[str, Any] = {"use_reentrant": False}
    if device.type == "cpu" and low:
        # what is computed again must be computed by the kernel that computed it first
        options["context_fn"] = lambda: (nullcontext(), _fast_attention(device, low=low))
    network: Any = module
    if isinstance(module, UniXModel):
        if on:
            network.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            network.activation_checkpointing_disable()
    elif on:
        network.enable_gradient_checkpointing(
            lambda block, *inputs: checkpoint(block.__call__, *inputs, **options)
        )
    else:
        network.disable_gradient_checkpointing()


def _fast_attention(device: torch.device, *, low: bool) -> AbstractContextManager[None]:
    """On a CPU the plain attention kernel trains bfloat16 twice as fast as the fused one."""
    if device.type == "cpu" and low:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


@dataclass
class LossScale:
    """What the loss is multiplied by before the gradient is taken: a power of two, or 1.

    float16 loses gradients below 6e-8; multiplied they stay above, and a power of two leaves every
    digit as it is, so micro-batches still add up as they did. The scale is halved when a gradient
    overflows, and that step is not taken; it is doubled after 2000 steps without.

    Args:
        value: the present factor.
        steps: taken since it last changed.
    """

    value: float = 1.0
    steps: int = 0

    @classmethod
    def of(cls, stage: StageSettings) -> "LossScale":
        """65536 for float16, 1 for every other precision."""
        return cls(_FIRST_SCALE if stage.precision == "float16" else 1.0)

    def up(self, loss: Tensor) -> Tensor:
        """The loss whose gradient is taken."""
        return loss if self.value == 1 else loss * self.value

    def down(self, gradients: list[Tensor]) -> None:
        """Divide the gradients again, in place."""
        if self.value != 1:
            torch._foreach_mul_(gradients, 1 / self.value)

    def passed(self) -> None:
        """A step was taken."""
        if self.value == 1:
            return
        self.steps += 1
        if self.steps == _STEPS_TO_DOUBLE:
            self.value, self.steps = min(2 * self.value, _LARGEST_SCALE), 0

    def gives_way(self) -> bool:
        """Halve the scale after an overflow; False where it is no longer the scale's fault."""
        if self.value <= _SMALLEST_SCALE:
            return False
        self.value, self.steps = self.value / 2, 0
        return True
