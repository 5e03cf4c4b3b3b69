"""How fast a stage runs: tokens of a batch, arithmetic of a step, and what the machine can do.

Axes: b batch, c latent channels, h and w latents.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from unix_cxr.training.batches import generator_of

_PEAK_SECONDS: Final = 0.2
_CPU_SIDE: Final = 1024
_DEVICE_SIDE: Final = 4096
_TYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _cpu_attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))


_CPU_ATTENTION: Final = "_scaled_dot_product_flash_attention_for_cpu"
_FORMULAS: Final[Mapping[Any, Callable[..., int]]] = {
    **flop_registry,
    getattr(torch.ops.aten, _CPU_ATTENTION): _cpu_attention,
    getattr(torch.ops.aten, f"{_CPU_ATTENTION}_backward"): _cpu_attention_backward,
}
"""Torch's own formulas, and those of the CPU's attention, which it lacks."""


class OperatorWatch(TorchDispatchMode, ABC):
    """Sees every operator that runs inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch is untyped here

    @abstractmethod
    def ran(self, operator: Any, given: tuple[Any, Mapping[str, Any]], out: Any) -> None:  # noqa: ANN401 - anything at all
        """An operator ran on `given`, its arguments by place and by name, and made `out`."""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's signature
        types: Any,  # noqa: ANN401 - torch's signature
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        """Run the operator and see it."""
        named = kwargs or {}
        out = func(*args, **named)
        self.ran(func, (args, named), out)
        return out


class ArithmeticCounter(OperatorWatch):
    """Adds up the floating point operations of matrix products, convolutions and attention.

    Torch's `FlopCounterMode` does too, but follows the modules by hooks, which checkpointing and
    wrappers confuse, and leaves out attention on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def ran(self, operator: Any, given: tuple[Any, Mapping[str, Any]], out: Any) -> None:  # noqa: ANN401 - anything at all
        """Count it."""
        formula = _FORMULAS.get(getattr(operator, "overloadpacket", None))
        if formula is not None:
            args, named = given
            self.total += int(formula(*args, **named, out_val=out))


@cache
def gemm_peak(device: torch.device, precision: str) -> float:
    """Floating point operations per second of a large matrix product; measured once per process.

    Args:
        device: where.
        precision: of a stage.
    """
    side = _CPU_SIDE if device.type == "cpu" else _DEVICE_SIDE
    generator = generator_of(0)
    left, right = (
        torch.rand(side, side, generator=generator).to(device, _TYPES[precision]) for _ in range(2)
    )
    out = left @ right
    best, ends = float("inf"), time.perf_counter() + _PEAK_SECONDS
    while best == float("inf") or time.perf_counter() < ends:
        _finish(device)
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        _finish(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / max(best, 1e-9)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def tokens_of(batch: Any, objective: nn.Module) -> int:  # noqa: ANN401 - the stage's batch
    """Tokens that a batch brings: texts without padding, images, latents with BOI and EOI.

    A batch without texts and latents, such as the autoencoder's, has none.
    """
    masks = (getattr(batch, name, None) for name in ("attention_mask", "caption_mask"))
    tokens = sum(int(mask.sum()) for mask in masks if mask is not None)
    latents: Tensor | None = getattr(batch, "latents", None)
    if latents is not None:
        count, _, height, width = latents.shape
        model: Any = getattr(objective, "model", None)
        patch = getattr(getattr(model, "config", None), "latent_patch_size", 1)
        tokens += count * ((height // patch) * (width // patch) + 2)
    return tokens
