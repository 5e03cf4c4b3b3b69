"""Where a stage stands: what learns, what moves it, and the checkpoints that hold both."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unix_cxr.training.averaging import WeightAverage
from unix_cxr.training.batches import BatchSource
from unix_cxr.training.best import BestKeeper
from unix_cxr.training.checkpoints import (
    TrainingState,
    checkpoints,
    newest_whole,
    optimizer_tensors,
    refuse_strangers,
    restore_optimizer,
    save_checkpoint,
)
from unix_cxr.training.guards import SpikeGuard
from unix_cxr.training.optimizers import make_optimizer
from unix_cxr.training.precision import LossScale, check_computing, prepare
from unix_cxr.training.processes import Processes
from unix_cxr.training.runlog import RunLog
from unix_cxr.training.settings import StageSettings
from unix_cxr.training.sharding import check_sharded, gather_into, gathered, part_like
from unix_cxr.training.stages import select_learning
from unix_cxr.training.trackers import Trackers
from unix_cxr.training.validation import Watching

logger = logging.getLogger(__name__)


class Standing:
    """A stage between two steps.

    A step's batch is cut into `accumulation` micro-batches for each process; losses are sums that
    are divided once by the whole batch's counts, so neither number changes what is learned.

    Sharded processes train a copy of the objective; it gets the copy's weights back where it is
    looked at, and at the end.

    Args:
        objective: an `nn.Module` that is called with batches; see `Objective`.
        source: makes the batch of every step.
        stage: what learns, for how long, how fast.
        folder: takes log.jsonl and the checkpoints.
        recipe: the resolved recipe as JSON text, kept in every checkpoint.
        device: where the objective runs.
        started_from: fingerprints of the networks at the stage's beginning, kept in every
            checkpoint; a checkpoint that began from others is refused.
        watching: draws and measures along the way, and is told when there is something to see.

    Raises:
        ImportError: a tracker's package is missing.
        ValueError: `keep_best` or a tracker is unknown, a pattern of the stage matches no
            parameter, the batch is too small for the processes and micro-batches, or the device
            cannot compute as the stage says.
    """

    def __init__(
        self,
        objective: nn.Module,
        source: BatchSource[Any],
        stage: StageSettings,
        folder: Path,
        *,
        recipe: str,
        device: torch.device,
        started_from: Mapping[str, str] | None = None,
        watching: Watching | None = None,
    ) -> None:
        self.processes = Processes.find(device)
        self.device = self.processes.device
        sharded = self.processes.sharded
        self.objective = objective if sharded else objective.to(self.device)
        self.source = source
        self.stage = stage
        self.folder = folder
        self.recipe = recipe
        self.started_from = dict(started_from or {})
        self.watching = watching or Watching()
        self.step = 0
        self._told = False
        check_computing(stage, self.device)
        if sharded:
            check_sharded(stage)
        self.parts = stage.accumulation * self.processes.count
        if stage.batch_size < self.parts:
            raise ValueError(
                f"batch_size ({stage.batch_size}) must be at least {self.parts}: accumulation "
                f"({stage.accumulation}) x processes ({self.processes.count})"
            )
        own = tuple(getattr(objective, "own_parts", ()))  # heads that only the stage itself needs
        learning = select_learning(objective, (*stage.trains, *own), stage.freezes)
        prepare(self.objective, stage, self.device)
        self._wrapped = self.processes.wrap(self.objective)
        trained = dict((self._wrapped if sharded else self.objective).named_parameters())
        self.learning = {name: trained[name] for name in learning}
        self.average = WeightAverage(self.learning, stage.ema_decay)
        self.spikes = SpikeGuard(stage.spike_factor)
        self.log = RunLog(folder, writes=self.processes.first)
        self.trackers = Trackers(stage, folder, writes=self.processes.first)
        self.best = BestKeeper(folder, stage, self.weights)
        self.exported: dict[str, Any] = {}
        self.optimizer = make_optimizer(self.learning, stage)
        self.scale = LossScale.of(stage)

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each loss term."""
        weights: Mapping[str, float] = self.objective.weights  # type: ignore[assignment]  # nn.Module's attributes are untyped
        return weights

    # -- checkpoints ---------------------------------------------------------------------------

    def restore(self) -> bool:
        """Load the newest checkpoint that is whole; False where there is none.

        A damaged one is passed over, and a warning names it.

        Raises:
            ValueError: all checkpoints are damaged, or the checkpoint belongs to another recipe,
                other starting weights or other parameters; the message says what differs and the
                remedy.
        """
        if not checkpoints(self.folder):
            self.log.cut(self.step)
            return False
        path, state = newest_whole(self.folder)
        refuse_strangers(
            path,
            state,
            stage=self.stage,
            recipe=self.recipe,
            started_from=self.started_from,
            learning=self.learning,
            known=dict(self.objective.named_parameters()),
        )
        self._put(state.weights)
        kept = {k: v for k, v in state.optimizer.items() if k.rsplit("/", 1)[0] in self.learning}
        restore_optimizer(self.optimizer, self.learning, kept)
        self.average.restore(state.average)
        self.spikes.mean, self.spikes.seen = state.loss_mean, state.losses_seen
        self.scale = LossScale(state.loss_scale, state.scale_steps)
        self.best.restore(state.best)
        self.step = state.step
        self.log.cut(self.step)
        logger.info("restored %s at step %d", path, self.step)
        return True

    def save(self) -> None:
        """Write a checkpoint of this moment; the first process does, the others wait for it."""
        weights = self._gathered(self.learning)
        optimizer = self._gathered(optimizer_tensors(self.optimizer, self.learning))
        average = self._gathered(self.average.values)
        if self.processes.first:
            save_checkpoint(
                self.folder,
                TrainingState(
                    step=self.step,
                    weights=weights,
                    optimizer=optimizer,
                    average=average,
                    recipe=self.recipe,
                    started_from=self.started_from,
                    loss_mean=self.spikes.mean,
                    losses_seen=self.spikes.seen,
                    loss_scale=self.scale.value,
                    scale_steps=self.scale.steps,
                    best=self.best.as_dict(),
                ),
                keep=self.stage.keep_checkpoints,
            )
            self.best.prune()
        self.processes.wait()

    def _gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors in the process that writes; see `gathered`."""
        detached = {name: tensor.detach() for name, tensor in tensors.items()}
        return gathered(detached, keeps=self.processes.first)

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        """Whole weights in the place of those that learn."""
        for name, parameter in self.learning.items():
            parameter.copy_(part_like(weights[name], parameter))

    def _settle(self) -> None:
        """Let the objective have the weights that were learned, where a copy learned them."""
        if self.processes.sharded:
            own = dict(self.objective.named_parameters())
            gather_into({name: own[name] for name in self.learning}, self.learning)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """The objective is whole, and where it computes, inside the block."""
        if not self.processes.sharded:
            yield
            return
        self._settle()
        lies = next(self.objective.parameters()).device
        self.objective.to(self.device)
        try:
            yield
        finally:
            self.objective.to(lies)
