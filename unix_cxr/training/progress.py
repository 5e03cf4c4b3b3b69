"""The progress bar, and what the log says of the steps since its last row."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

from tqdm.auto import tqdm

from unix_cxr.training.settings import StageSettings

_TINY: Final = 1e-9


class Progress:
    """Takes in every step; `row` gives their means and speeds and begins anew.

    Args:
        stage: its steps and batch size.
        step: where it begins.
        shown: whether this process may show a bar; where nobody looks there is none.
        peak: floating point operations per second that the machine can do.
    """

    def __init__(self, stage: StageSettings, step: int, *, shown: bool, peak: float) -> None:
        self.stage = stage
        self.peak = peak
        self.arithmetic: int | None = None
        """Floating point operations of a step in this process, once they are counted."""
        self._values: defaultdict[str, list[float]] = defaultdict(list)
        self._begun, self._begun_at = time.monotonic(), step
        self._bar: tqdm[Any] = tqdm(
            initial=step,
            total=stage.steps,
            desc=stage.name,
            unit="step",
            disable=None if shown else True,
            mininterval=1.0,
        )
        self._restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _restart(self) -> None:
        self._values.clear()
        self._started, self._aside, self._waited = time.monotonic(), 0.0, 0.0
        self._steps = self._tokens = 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens inside is no part of the training's speed."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._aside += time.monotonic() - started

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time inside is spent waiting for a batch."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - started

    def took(self, values: Mapping[str, float], tokens: int) -> None:
        """A step was taken.

        Args:
            values: losses and norms of the step.
            tokens: of its batch.
        """
        for name, value in values.items():
            self._values[name].append(value)
        self._steps += 1
        self._tokens += tokens
        self._bar.update()

    def row(self, step: int) -> dict[str, float]:
        """Means of the steps since the last row, and how fast they went.

        Args:
            step: where the stage stands.
        """
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        speeds = self._speeds(step)
        shown = {name: f"{value:.4g}" for name, value in means.items()}
        for name, unit in (("tokens_per_second", "tok/s"), ("gemm_share", "of peak")):
            if name in speeds:
                shown[unit] = f"{speeds[name]:.3g}"
        self._bar.set_postfix(shown, refresh=False)
        self._restart()
        return means | speeds

    def _speeds(self, step: int) -> dict[str, float]:
        seconds = max(time.monotonic() - self._started - self._aside, _TINY)
        speeds = {"samples_per_second": self._steps * self.stage.batch_size / seconds}
        if self._tokens:
            speeds["tokens_per_second"] = self._tokens / seconds
        speeds["waiting_share"] = min(1.0, self._waited / seconds)
        if self.arithmetic:
            speeds["gemm_share"] = self._steps * self.arithmetic / seconds / self.peak
        taken = max(step - self._begun_at, 1)
        whole = time.monotonic() - self._begun
        speeds["seconds_left"] = (self.stage.steps - step) * whole / taken
        return speeds
