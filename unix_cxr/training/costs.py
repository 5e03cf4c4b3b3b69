"""What a step of a stage costs on this machine: arithmetic, memory, time.

Nothing is guessed from sizes: a few samples of the stage's own data run forward and backward, and
what that took is scaled to the stage's batch. No weight is changed and no random number is drawn
from the process's own generators.
"""

import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from unix_cxr.training.batches import Share, take, to_device
from unix_cxr.training.losses import weighted_sum
from unix_cxr.training.optimizers import make_optimizer
from unix_cxr.training.precision import computing, prepare
from unix_cxr.training.settings import StageSettings
from unix_cxr.training.speed import ArithmeticCounter, OperatorWatch, gemm_peak
from unix_cxr.training.stages import select_learning

STUDIES: Final = 16
"""Studies of each split that are read for the look."""
_TRIAL_SECONDS: Final = 1.0
_STAND_IN: Final = 4_000_000
_FLOAT_BYTES: Final = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the moment of a step when most are in use, in each process.

    What Python, the libraries, the images and cached latents take is not in it.

    Args:
        weights: of all networks that the stage holds; in shards they are gathered, so whole too.
        gradients: of the learning parameters; in shards whole until they are shared out.
        optimizer: what it remembers of them; in shards this process's part.
        average: of the weights, where the stage keeps one; in shards this process's part.
        activations: of a micro-batch, with what is used for a moment only.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations


@dataclass(frozen=True)
class StageCosts:
    """What one step of a stage costs, over all processes unless said otherwise.

    Args:
        tokens: by branch: "vision", "understanding" and "generation", as far as the stage runs
            them; padding is counted, since it is computed.
        flop: floating point operations of matrix products, convolutions and attention, forward and
            backward.
        memory: in each process.
        memory_there: bytes that the device has.
        step_seconds: expected of a step.
        data_seconds: of which a batch takes to make; 0 where workers make it beside the step.
        seconds: expected of all steps that are left; validation and checkpoints come on top.
        gemm_flops: operations per second of a large matrix product, in the stage's number type.
        timed_samples: how many samples the timed pass had.
    """

    tokens: Mapping[str, int]
    flop: int
    memory: MemoryEstimate
    memory_there: int
    step_seconds: float
    data_seconds: float
    seconds: float
    gemm_flops: float
    timed_samples: int


@dataclass(frozen=True)
class Look:
    """A stage on the point of being trained, as far as its costs depend on it.

    Args:
        stage: its settings.
        objective: what is minimised.
        batch: makes the batch of a step, from a few studies.
        networks: every network that is in memory meanwhile.
        device: where it computes.
        processes: how many share the batch.
        steps_left: how many steps are to come.
        sharded: whether they also share what is remembered of the learning parameters.
    """

    stage: StageSettings
    objective: nn.Module
    batch: Callable[[int], Any]
    networks: Sequence[nn.Module]
    device: torch.device
    processes: int
    steps_left: int
    sharded: bool = False

    @property
    def shares(self) -> int:
        """Among how many processes optimizer state and average are divided."""
        return self.processes if self.sharded else 1


def measure_costs(look: Look) -> StageCosts:
    """Run a few samples forward and backward, and scale to a step.

    The first pass has one sample (or as few as the batch can be cut into), the second two (or the
    next number that divides the batch): what they differ by is what a sample adds. The timed pass
    has as many as fit into about a second of matrix products, a micro-batch at most.
    """
    stage, device = look.stage, look.device
    objective = look.objective.to(device)
    with _undisturbed(objective), torch.random.fork_rng(devices=_devices(device)):
        learning = _begin(look)
        whole = look.batch(0)
        units = math.gcd(*(len(getattr(whole, name)) for name in _fields(whole)))
        micro = -(-units // (stage.accumulation * look.processes))
        first = _passing(look, take(whole, Share(0, units)))
        more = next(n for n in range(2, units + 2) if units % n == 0) if micro > 1 else 1
        second = _passing(look, take(whole, Share(0, units // more))) if more > 1 else first
        each = max(0, second.peak - first.peak) // max(1, more - 1)
        peak = gemm_peak(device, stage.precision)
        timed = _units(units, min(micro, int(_TRIAL_SECONDS * peak / max(1, first.arithmetic))))
        seconds = _seconds(look, take(whole, Share(0, units // timed)))
        data = 0.0 if stage.workers else _time(lambda: look.batch(1), device)
        for parameter in objective.parameters():
            parameter.grad = None
        stepping = _optimizer_seconds(learning, stage)
        step = units / look.processes * seconds / timed + stepping + data
    learned = sum(parameter.nbytes for parameter in learning.values())
    return StageCosts(
        tokens=tokens_by_branch(whole, look.objective),
        flop=first.arithmetic * units,
        memory=MemoryEstimate(
            weights=_bytes((*look.networks, objective)),
            gradients=learned,
            optimizer=_optimizer_bytes(learning, stage) // look.shares,
            average=_average_bytes(learning, stage) // look.shares,
            activations=first.peak + each * (micro - 1),
        ),
        memory_there=memory_of(device),
        step_seconds=step,
        data_seconds=data,
        seconds=step * look.steps_left,
        gemm_flops=peak,
        timed_samples=stage.batch_size * timed // units,
    )


def tokens_by_branch(batch: Any, objective: nn.Module) -> dict[str, int]:  # noqa: ANN401 - the stage's batch
    """Tokens that a batch brings to each branch, with padding.

    An image's patches count in the vision tower, and again among the understanding branch's
    tokens; BOI and EOI of latents are the understanding branch's.
    """
    model: Any = getattr(objective, "model", None)
    if model is None:
        return {}
    config: Any = model.config
    tokens: dict[str, int] = {}
    if hasattr(batch, "pixel_values"):
        side = config.vision_config.image_size // config.vision_config.patch_size
        tokens["vision"] = len(batch.pixel_values) * side**2
    texts = [getattr(batch, name, None) for name in ("input_ids", "caption_ids")]
    tokens["understanding"] = sum(ids.numel() for ids in texts if ids is not None)
    if hasattr(batch, "latents"):
        count, _, height, width = batch.latents.shape
        patch = config.latent_patch_size
        tokens["generation"] = count * (height // patch) * (width // patch)
        tokens["understanding"] += 2 * count
    return {branch: number for branch, number in tokens.items() if number}


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class LiveBytes(OperatorWatch):
    """Counts the bytes of tensors that are made inside, as long as they live.

    `peak` is the most there were at once. What an operator uses inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def ran(self, operator: Any, given: tuple[Any, Mapping[str, Any]], out: Any) -> None:  # noqa: ANN401 - anything at all
        """See what was there and what is new."""
        for value in tree_leaves(given):
            self._see(value, made=False)
        for value in tree_leaves(out):
            self._see(value, made=True)

    def _see(self, value: object, *, made: bool) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        key = storage._cdata  # noqa: SLF001 - its identity in C++, which has no other name
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes() if made else 0
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@dataclass(frozen=True)
class _Passing:
    arithmetic: int
    peak: int


def _begin(look: Look) -> dict[str, nn.Parameter]:
    """Let learn what the stage teaches, with gradients of 0 in place."""
    own = tuple(getattr(look.objective, "own_parts", ()))
    learning = select_learning(look.objective, (*look.stage.trains, *own), look.stage.freezes)
    prepare(look.objective, look.stage.model_copy(update={"compile": False}), look.device)
    look.objective.train()
    for parameter in learning.values():
        parameter.grad = torch.zeros_like(parameter)
    return learning


def _passing(look: Look, batch: Any) -> _Passing:  # noqa: ANN401 - the stage's batch
    batch = to_device(batch, look.device)
    with ArithmeticCounter() as arithmetic, LiveBytes() as live:
        _forward_and_backward(look, batch)
    return _Passing(arithmetic.total, live.peak)


def _fields(batch: Any) -> list[str]:  # noqa: ANN401 - the stage's batch
    return [field.name for field in fields(batch)]


def _units(units: int, most: int) -> int:
    """The largest divisor up to a number: what a batch can be cut into without a rest."""
    return next(n for n in range(max(1, most), 0, -1) if units % n == 0)


def _forward_and_backward(look: Look, batch: Any) -> None:  # noqa: ANN401 - the stage's batch
    with computing(look.stage, look.device):
        terms = look.objective(batch)
    weights: Any = look.objective.weights
    weighted_sum(terms, weights).backward()


def _seconds(look: Look, batch: Any) -> float:  # noqa: ANN401 - the stage's batch
    batch = to_device(batch, look.device)

    def once() -> float:
        return _time(lambda: _forward_and_backward(look, batch), look.device)

    return min(once(), once())


def _time(run: Callable[[], object], device: torch.device) -> float:
    _finish(device)
    started = time.perf_counter()
    run()
    _finish(device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _optimizer_seconds(learning: Mapping[str, nn.Parameter], stage: StageSettings) -> float:
    """Of one step, from parameters that stand in for some of the learning ones."""
    chosen = _stand_ins(learning)
    optimizer = make_optimizer(chosen, stage)
    for parameter in chosen.values():
        parameter.grad = torch.full_like(parameter, 1e-3)
    device = next(iter(chosen.values())).device
    optimizer.step()  # makes its state
    seconds = _time(optimizer.step, device)
    share = sum(p.numel() for p in chosen.values()) / sum(p.numel() for p in learning.values())
    return seconds / share


def _optimizer_bytes(learning: Mapping[str, nn.Parameter], stage: StageSettings) -> int:
    chosen = {name: nn.Parameter(p.detach()[:1].clone()) for name, p in learning.items() if p.ndim}
    optimizer = make_optimizer(chosen, stage)
    for parameter in chosen.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return sum(
        learning[name].nbytes // parameter.nbytes * value.nbytes
        for name, parameter in chosen.items()
        for value in optimizer.state[parameter].values()
        if isinstance(value, Tensor) and value.shape == parameter.shape
    )


def _average_bytes(learning: Mapping[str, nn.Parameter], stage: StageSettings) -> int:
    if stage.ema_decay is None:
        return 0
    return sum(_FLOAT_BYTES * parameter.numel() for parameter in learning.values())


def _stand_ins(learning: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """New parameters like the first of each shape and size, some millions of scalars in all."""
    chosen: dict[str, nn.Parameter] = {}
    scalars = 0
    # matrices first: where a stage says muon, one must be there
    for name, parameter in sorted(learning.items(), key=lambda item: -item[1].ndim):
        if not chosen or scalars + parameter.numel() <= _STAND_IN:
            chosen[name] = nn.Parameter(torch.zeros_like(parameter))
            scalars += parameter.numel()
    return chosen


def _bytes(networks: Iterable[nn.Module]) -> int:
    """Of parameters and buffers, each counted once."""
    tensors = {
        value.data_ptr(): value.nbytes
        for network in networks
        for value in (*network.parameters(), *network.buffers())
    }
    return sum(tensors.values())


def _devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


@contextmanager
def _undisturbed(objective: nn.Module) -> Iterator[None]:
    """Gradients, flags and modes are afterwards what they were before."""
    flags = {parameter: parameter.requires_grad for parameter in objective.parameters()}
    modes = {module: module.training for module in objective.modules()}
    try:
        yield
    finally:
        for parameter, learns in flags.items():
            parameter.grad = None
            parameter.requires_grad_(learns)
        for module, training in modes.items():
            module.training = training
