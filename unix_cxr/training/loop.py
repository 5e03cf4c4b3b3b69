"""One loop for every stage: batches in, optimizer steps out, a log line now and then."""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import nn
from torch.profiler import record_function
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from unix_cxr.training.averaging import WeightAverage
from unix_cxr.training.batches import BatchSource, Share, SteppedDataset, take, to_device
from unix_cxr.training.checkpoints import (
    TrainingState,
    checkpoints,
    newest_whole,
    optimizer_tensors,
    refuse_strangers,
    restore_optimizer,
    save_checkpoint,
)
from unix_cxr.training.guards import RunStopped, SpikeGuard, keep_batch, listening
from unix_cxr.training.losses import LossTerm, weighted_sum
from unix_cxr.training.optimizers import make_optimizer
from unix_cxr.training.precision import LossScale, check_computing, computing, prepare
from unix_cxr.training.processes import Processes
from unix_cxr.training.runlog import RunLog
from unix_cxr.training.settings import StageSettings
from unix_cxr.training.stages import select_learning

_FLOOR: Final = 0.01
logger = logging.getLogger(__name__)


class Objective(Protocol):
    """A module whose forward runs everything that a stage trains, and returns named loss terms."""

    weights: Mapping[str, float]

    def __call__(self, batch: Any) -> Mapping[str, LossTerm]:  # noqa: ANN401 - the stage's batch
        """Loss terms of one batch."""
        ...

    def counts(self, batch: Any) -> Mapping[str, int]:  # noqa: ANN401 - the stage's batch
        """Elements of every loss term, without running anything."""
        ...


def learning_rate_factor(step: int, stage: StageSettings) -> float:
    """Share of the learning rate at a step: linear warm-up, then constant or cosine."""
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    if stage.schedule == "constant":
        return 1.0
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Trainer:
    """Runs one stage to its end, from wherever its newest checkpoint stands.

    A step's batch is cut into `accumulation` micro-batches for each process; losses are sums that
    are divided once by the whole batch's counts, so neither number changes what is learned.

    Args:
        objective: an `nn.Module` that is called with batches; see `Objective`.
        source: makes the batch of every step.
        stage: what learns, for how long, how fast.
        folder: takes log.jsonl and the checkpoints.
        recipe: the resolved recipe as JSON text, kept in every checkpoint.
        device: where the objective runs.
        started_from: fingerprints of the networks at the stage's beginning, kept in every
            checkpoint; a checkpoint that began from others is refused.

    Raises:
        ValueError: a pattern of the stage matches no parameter, the batch is too small for the
            processes and micro-batches, or the device cannot compute as the stage says.
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
    ) -> None:
        self.processes = Processes.find(device)
        self.device = self.processes.device
        self.objective = objective.to(self.device)
        self.source = source
        self.stage = stage
        self.folder = folder
        self.recipe = recipe
        self.started_from = dict(started_from or {})
        self.step = 0
        self._told = False
        check_computing(stage, self.device)
        self.parts = stage.accumulation * self.processes.count
        if stage.batch_size < self.parts:
            raise ValueError(
                f"batch_size ({stage.batch_size}) must be at least {self.parts}: accumulation "
                f"({stage.accumulation}) x processes ({self.processes.count})"
            )
        own = tuple(getattr(objective, "own_parts", ()))  # heads that only the stage itself needs
        self.learning = select_learning(objective, (*stage.trains, *own), stage.freezes)
        self.average = WeightAverage(self.learning, stage.ema_decay)
        self.spikes = SpikeGuard(stage.spike_factor)
        self.log = RunLog(folder, writes=self.processes.first)
        self.optimizer = make_optimizer(self.learning, stage)
        self.scale = LossScale.of(stage)
        prepare(self.objective, stage, self.device)
        self._wrapped = self.processes.wrap(self.objective)

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
        for name, parameter in self.learning.items():
            parameter.data.copy_(state.weights[name])
        kept = {k: v for k, v in state.optimizer.items() if k.rsplit("/", 1)[0] in self.learning}
        restore_optimizer(self.optimizer, self.learning, kept)
        self.average.restore(state.average)
        self.spikes.mean, self.spikes.seen = state.loss_mean, state.losses_seen
        self.scale = LossScale(state.loss_scale, state.scale_steps)
        self.step = state.step
        self.log.cut(self.step)
        logger.info("restored %s at step %d", path, self.step)
        return True

    def save(self) -> None:
        """Write a checkpoint of this moment; the first process does, the others wait for it."""
        if self.processes.first:
            save_checkpoint(
                self.folder,
                TrainingState(
                    step=self.step,
                    weights={name: value.detach() for name, value in self.learning.items()},
                    optimizer=optimizer_tensors(self.optimizer, self.learning),
                    average=self.average.values,
                    recipe=self.recipe,
                    started_from=self.started_from,
                    loss_mean=self.spikes.mean,
                    losses_seen=self.spikes.seen,
                    loss_scale=self.scale.value,
                    scale_steps=self.scale.steps,
                ),
                keep=self.stage.keep_checkpoints,
            )
        self.processes.wait()

    # -- the run -------------------------------------------------------------------------------

    def run(self) -> dict[str, float]:
        """Train to the stage's last step and return the last validation losses.

        At the end the weights' average, where the stage keeps one, stands in their place.

        Raises:
            FloatingPointError: a loss or a gradient is not finite, or a loss spikes where the
                stage says stop; the step is not taken, and the batch is kept for inspection.
            RunStopped: a signal asked for it; the state is in a checkpoint.
            OSError: a checkpoint does not fit on the disk, or a worker process died; older
                checkpoints are untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.restore()
        last: dict[str, float] | None = None
        recent: defaultdict[str, list[float]] = defaultdict(list)
        started, samples = time.monotonic(), 0
        self.objective.train()
        with listening() as request, self._telling_of_workers(), self._bar() as bar:
            for batch in self._batches():
                for name, value in self._step(batch).items():
                    recent[name].append(value)
                bar.update()
                samples += self.stage.batch_size
                if self._due(self.stage.log_every):
                    means = {name: sum(values) / len(values) for name, values in recent.items()}
                    rate = samples / max(time.monotonic() - started, 1e-9)
                    self._log(means | {"samples_per_second": rate})
                    bar.set_postfix({k: f"{v:.4g}" for k, v in means.items()}, refresh=False)
                    recent.clear()
                    started, samples = time.monotonic(), 0
                last = None
                if self._due(self.stage.validate_every):
                    last = self.validate()
                    self._log(last)
                    started, samples = time.monotonic(), 0
                stopping = self.processes.any(flag=request.signal is not None)
                if stopping or self._due(self.stage.checkpoint_every):
                    self.save()
                if stopping and self.step < self.stage.steps:
                    raise RunStopped(
                        f"{request.signal or 'a signal to another process'}: stage "
                        f"{self.stage.name!r} stands at step {self.step} of {self.stage.steps} in "
                        f"{self.folder}; the same command goes on"
                    )
        losses = last if last is not None else self.validate()
        self.average.apply()
        return losses

    @contextmanager
    def _telling_of_workers(self) -> Iterator[None]:
        """Say what a worker's death means.

        Torch raises it wherever the training process happens to be, perhaps in the middle of a
        step: nothing is saved then.
        """
        try:
            yield
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ChildProcessError(
                f"stage {self.stage.name!r}: {error} The same command goes on from the newest "
                f"checkpoint; if memory was short, with fewer workers than {self.stage.workers}"
            ) from error

    def _bar(self) -> "tqdm[Any]":
        return tqdm(
            initial=self.step,
            total=self.stage.steps,
            desc=self.stage.name,
            unit="step",
            disable=None if self.processes.first else True,  # quiet where nobody looks
            mininterval=1.0,
        )

    def _batches(self) -> Iterator[Any]:
        """Whole batches of the steps that are left; what breaks one comes after a checkpoint."""
        loader = DataLoader(
            SteppedDataset(self.source, self.stage.steps),
            batch_size=None,
            sampler=range(self.step, self.stage.steps),
            num_workers=self.stage.workers,
            multiprocessing_context="spawn" if self.stage.workers else None,
            persistent_workers=self.stage.workers > 0,
            generator=torch.Generator(),  # else it would draw a seed from the process's own
        )
        batches = iter(loader)
        while self.step < self.stage.steps:
            try:
                with record_function("training.data"):
                    batch = next(batches)
            except (ValueError, OSError) as error:
                self.save()
                raise type(error)(f"{self._where()}: its batch cannot be made: {error}") from error
            yield batch

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.stage.steps

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean of every loss term over the source's fixed validation batches.

        Where the stage keeps an average of the weights, it is the average that is validated.
        """
        was_training = self.objective.training
        self.objective.eval()
        sums: dict[str, LossTerm] = {}
        try:
            with self.average.applied():
                for batch in self.source.validation():
                    terms = self._terms(self.objective, to_device(batch, self.device))
                    for name, term in terms.items():
                        sums[name] = sums[name] + term if name in sums else term
        finally:
            self.objective.train(was_training)
        return {f"dev_{name}": float(term.mean) for name, term in sums.items()}

    def _terms(self, objective: Any, batch: Any) -> Mapping[str, LossTerm]:  # noqa: ANN401 - the stage's
        with computing(self.stage, self.device), record_function("training.forward"):
            terms: Mapping[str, LossTerm] = objective(batch)
        return terms

    # -- one step ------------------------------------------------------------------------------

    def _step(self, batch: Any) -> dict[str, float]:  # noqa: ANN401 - the stage's batch
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.learning_rate * learning_rate_factor(self.step, self.stage)
        try:
            means, norm = self._gradients(batch)
        except FloatingPointError:
            self._keep_batch(batch)
            raise
        loss = sum(self.weights[name] * value for name, value in means.items())
        spike = self.spikes.spikes(loss)
        if spike and self.stage.on_spike == "stop":
            self.optimizer.zero_grad(set_to_none=True)
            self._keep_batch(batch)
            raise FloatingPointError(
                f"{self._where()}: the loss is {loss:.4g}, more than {self.stage.spike_factor} "
                f"times its running mean {self.spikes.mean:.4g}; look at the batch, or set "
                "on_spike: skip"
            )
        skipped = spike or norm is None
        with record_function("training.optimizer"):
            if not skipped:
                self.optimizer.step()
                self.scale.passed()
            self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if not skipped:
            self.average.update(self.step)
        guarded = self.stage.spike_factor is not None or self.stage.precision == "float16"
        told = {"skipped": float(skipped)} if guarded else {}
        return means | ({} if norm is None else {"norm": norm}) | told

    def _gradients(self, batch: Any) -> tuple[dict[str, float], float | None]:  # noqa: ANN401 - the stage's
        """Leave clipped gradients in the learning parameters.

        Returns:
            The means of the loss terms, and the gradient's norm before it was clipped; None where
            float16 overflowed and no step must be taken.
        """
        objective: Any = self.objective
        counts: Mapping[str, int] = objective.counts(batch)
        names = list(counts)
        totals = torch.zeros(len(names), device=self.device)
        for micro in range(self.stage.accumulation):
            share = Share(self.processes.rank * self.stage.accumulation + micro, self.parts)
            last = micro + 1 == self.stage.accumulation
            with self.processes.quietly(self._wrapped, last=last):
                terms = self._terms(self._wrapped, to_device(take(batch, share), self.device))
                self._check_terms(terms)
                # averaged over the processes: the sum is what the whole batch has
                loss: Any = self.processes.count * weighted_sum(terms, self.weights, counts)
                with record_function("training.backward"):
                    self.scale.up(loss).backward()
            totals += torch.stack([terms[name].total.detach().float() for name in names])
        totals = self.processes.sum(totals)
        gradients = {k: p.grad for k, p in self.learning.items() if p.grad is not None}
        self._tell_of_idle({k for k in self.learning if k not in gradients})
        self.scale.down(list(gradients.values()))
        means = {name: float(t) / counts[name] for name, t in zip(names, totals, strict=True)}
        norm = nn.utils.get_total_norm(list(gradients.values()))
        if not torch.isfinite(norm):
            if self.scale.gives_way():
                return means, None
            wrong = [name for name, grad in gradients.items() if not torch.isfinite(grad).all()]
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(
                f"{self._where()}: gradients are not finite, of {len(wrong)} parameters such as "
                f"{wrong[:3]}; lower the learning rate or look at the batch"
            )
        nn.utils.clip_grads_with_norm_(self.learning.values(), self.stage.clip_norm, norm)
        return means, float(norm)

    def _check_terms(self, terms: Mapping[str, LossTerm]) -> None:
        """Stop all processes before the step if a loss of one of them is not finite."""
        wrong = {k: float(t.mean.detach()) for k, t in terms.items() if not t.is_finite}
        if self.processes.any(flag=bool(wrong)):
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(
                f"{self._where()}: loss terms are not finite: {wrong or 'in another process'}; "
                "lower the learning rate or look at the batch"
            )

    def _where(self) -> str:
        return (
            f"stage {self.stage.name!r} stops before step {self.step} (the weights are those of "
            f"{self.step} steps, and no step was taken with this batch)"
        )

    def _keep_batch(self, batch: Any) -> None:  # noqa: ANN401 - the stage's batch
        path = self.folder / f"bad-batch-{self.step:08d}.safetensors"
        if self.processes.first:
            keep_batch(batch, path)
            logger.warning("the batch of step %d is kept in %s", self.step, path)

    def _tell_of_idle(self, idle: set[str]) -> None:
        """Say once which learning parameters the objective does not reach."""
        if idle and not self._told:
            logger.warning(
                "stage %s: %d learning parameters get no gradient and stay as they are: %s",
                self.stage.name,
                len(idle),
                ", ".join(sorted(idle)),
            )
        self._told = True

    def _log(self, values: Mapping[str, float]) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        self.log.add({"step": self.step, "learning_rate": rate} | dict(values))
