"""What guards a long run: against schedulers' signals, loss spikes, batches that break it."""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any, Final

from safetensors.torch import save_file

from unix_cxr.files import replacing

_MEMORY: Final = 0.98
_SETTLING_STEPS: Final = 50
_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1)


class RunStopped(Exception):  # noqa: N818 - it is no error
    """A signal asked the run to stop; its state is in a checkpoint."""


class StopRequest:
    """Whether a signal has asked the run to stop."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def take(self, number: int, _: FrameType | None) -> None:
        """Note the signal; the run stops after the step that is under way."""
        self.signal = signal.Signals(number).name


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGUSR1 inside the block, in the place of dying of them.

    Schedulers send them before they kill a job. Only the main thread can listen; others get a
    request that never comes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.take) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class SpikeGuard:
    """Tells a loss that is far above its running mean.

    Args:
        factor: how many times the mean is too much; None never tells.
        mean: exponential running mean of the loss, NaN before the first.
        seen: number of losses in it.
    """

    factor: float | None
    mean: float = math.nan
    seen: int = 0

    def spikes(self, loss: float) -> bool:
        """Whether this loss is a spike; if it is none, it enters the mean."""
        if self.factor is None:
            return False
        if self.seen >= _SETTLING_STEPS and loss > self.factor * self.mean:
            return True
        self.mean = loss if not self.seen else _MEMORY * self.mean + (1 - _MEMORY) * loss
        self.seen += 1
        return False


def keep_batch(batch: Any, path: Path) -> None:  # noqa: ANN401 - the stage's batch
    """Write the tensors of a batch for inspection."""
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    with replacing(path) as partial:
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, partial)
