"""One loop for every stage: batches in, optimizer steps out, a log line now and then."""

import logging
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.profiler import record_function
from torch.utils.data import DataLoader

from unix_cxr import __version__
from unix_cxr.training.batches import Share, SteppedDataset, take, to_device
from unix_cxr.training.guards import RunStopped, keep_batch, listening
from unix_cxr.training.losses import LossTerm, weighted_sum
from unix_cxr.training.norms import gradient_norms
from unix_cxr.training.precision import computing
from unix_cxr.training.progress import Progress
from unix_cxr.training.schedule import learning_rate_factor
from unix_cxr.training.speed import ArithmeticCounter, gemm_peak, tokens_of
from unix_cxr.training.standing import Standing
from unix_cxr.training.validation import DevLosses, dev_losses, undisturbed

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


class Trainer(Standing):
    """Runs one stage to its end, from wherever its newest checkpoint stands; see `Standing`."""

    def run(self) -> dict[str, float]:
        """Train to the stage's last step and return the dev losses of what it leaves behind.

        At the end stand the weights of the best step where the stage keeps it, else the weights'
        average where it keeps one; `exported` says which.

        Raises:
            FloatingPointError: a loss or a gradient is not finite, or a loss spikes where the
                stage says stop; the step is not taken, and the batch is kept for inspection.
            RunStopped: a signal asked for it; the state is in a checkpoint.
            OSError: a checkpoint does not fit on the disk, or a worker process died; older
                checkpoints are untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tell_of_start(resumes=self.restore())
        last: dict[str, float] | None = None
        peak = gemm_peak(self.device, self.stage.precision)
        self._wrapped.train()
        with (
            listening() as request,
            self._telling_of_workers(),
            self._telling_of_the_end(),
            self.trackers,
            Progress(self.stage, self.step, shown=self.processes.first, peak=peak) as progress,
        ):
            for batch in self._batches(progress):
                progress.took(self._counted_step(batch, progress), tokens_of(batch, self.objective))
                if self._due(self.stage.log_every):
                    self._log(progress.row(self.step))
                with progress.aside():
                    last = self._look()
                    stopping = self.processes.any(flag=request.signal is not None)
                    if stopping or self._due(self.stage.checkpoint_every):
                        self.save()
                    if last is not None:
                        self.watching.changed()
                if stopping and self.step < self.stage.steps:
                    raise RunStopped(
                        f"{request.signal or 'a signal to another process'}: stage "
                        f"{self.stage.name!r} stands at step {self.step} of {self.stage.steps} in "
                        f"{self.folder}; the same command goes on"
                    )
        return self._end(self.validate() if last is None else last)

    def _end(self, last: dict[str, float]) -> dict[str, float]:
        """Put what the stage leaves behind in the place of the weights."""
        best = self.best.best
        if best is None:
            self.average.apply()
            self._settle()
            self.exported = {"exported": "last", "exported_step": self.step}
            return last
        self._put(self.best.load())
        self._settle()
        self.exported = {"exported": "best", "exported_step": best.step}
        self.exported |= {"metric": best.metric, "value": best.value}
        logger.info(
            "stage %s: %s was best at step %d (%.6g); that step is exported, not the last, %d",
            self.stage.name,
            best.metric,
            best.step,
            best.value,
            self.step,
        )
        return dict(best.losses)

    def _tell_of_start(self, *, resumes: bool) -> None:
        if self.step < self.stage.steps:
            facts = {"unix_cxr": __version__, "python": platform.python_version()}
            facts |= {"torch": torch.__version__, "device": str(self.device)}
            facts |= {"processes": str(self.processes.count)}
            self.log.event(self.step, "resumes" if resumes else "begins", **facts)
            self.watching.changed()

    @contextmanager
    def _telling_of_the_end(self) -> Iterator[None]:
        """Note why a run ends early, and show it."""
        try:
            yield
        except (FloatingPointError, RunStopped, ValueError) as error:
            self.log.event(self.step, "stops", str(error))
            self.watching.changed()
            raise

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

    def _batches(self, progress: Progress) -> Iterator[Any]:
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
            batch, problem = None, None
            try:
                with progress.waiting(), record_function("training.data"):
                    batch = next(batches)
            except (ValueError, OSError) as error:
                problem = error
            if self.processes.any(flag=problem is not None):
                self.save()
                kind = OSError if problem is None else type(problem)
                about = problem or "another process says which sample cannot be read"
                raise kind(f"{self._where()}: its batch cannot be made: {about}") from problem
            yield batch

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.stage.steps

    # -- looking -------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """Mean of every loss term over the source's fixed validation batches.

        Where the stage keeps an average of the weights, it is the average that is validated.
        """
        with self._evaluating():
            return dict(self._dev_losses().means)

    def _dev_losses(self) -> DevLosses:
        batches = self.source.validation()
        return dev_losses(
            lambda batch: self._terms(self.objective, batch), batches, self.weights, self.processes
        )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The average stands in the place of the weights, and nothing disturbs the training."""
        was_training = self.objective.training
        self.objective.eval()
        try:
            with (
                torch.no_grad(),
                undisturbed(self.device),
                self.average.applied(),
                self._whole(),
            ):
                yield
        finally:
            self.objective.train(was_training)

    def _look(self) -> dict[str, float] | None:
        """Validate, draw and measure what is due at this step, and log it; None where nothing is.

        Returns:
            The mean losses and the measures.
        """
        draw, measure, examiner = self.stage.draw, self.stage.measure, self.watching.examiner
        draws = draw is not None and examiner is not None and self._due(draw.every)
        measures = measure is not None and examiner is not None and self._due(measure.every)
        validates = self._due(self.stage.validate_every)
        if not (validates or draws or measures):
            return None
        found: dict[str, float] = {}
        by_time: Mapping[str, float] = {}
        with self._evaluating():
            if validates:
                losses = self._dev_losses()
                found, by_time = dict(losses.means), losses.by_time
            with computing(self.stage, self.device):
                if draws and examiner is not None:
                    examiner.draw(self.step)
                if measures and examiner is not None:
                    found |= examiner.measure()
        if found:
            self._log(found | dict(by_time))
        if self.best.is_better(found):
            weights = self._gathered(self.average.values or self.learning)
            self.best.take(self.step, found, weights, writes=self.processes.first)
        return found

    def _terms(self, objective: Any, batch: Any) -> Mapping[str, LossTerm]:  # noqa: ANN401 - the stage's
        with computing(self.stage, self.device), record_function("training.forward"):
            terms: Mapping[str, LossTerm] = objective(batch)
        return terms

    # -- one step ------------------------------------------------------------------------------

    def _counted_step(self, batch: Any, progress: Progress) -> dict[str, float]:  # noqa: ANN401 - the stage's batch
        """A step; the first one of a process also counts its arithmetic."""
        if progress.arithmetic is not None or self.stage.compile:
            return self._step(batch)
        with ArithmeticCounter() as counter:
            values = self._step(batch)
        progress.arithmetic = counter.total
        return values

    def _step(self, batch: Any) -> dict[str, float]:  # noqa: ANN401 - the stage's batch
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.learning_rate * learning_rate_factor(self.step, self.stage)
        try:
            means, norms = self._gradients(batch)
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
        skipped = spike or not norms
        if spike:
            self.log.event(self.step, "spike", f"the loss is {loss:.4g}: no step is taken")
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
        return means | norms | told

    def _gradients(self, batch: Any) -> tuple[dict[str, float], dict[str, float]]:  # noqa: ANN401 - the stage's
        """Leave clipped gradients in the learning parameters.

        Returns:
            The means of the loss terms, and the gradients' norms before they were clipped; none
            where float16 overflowed and no step must be taken.
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
        norms = gradient_norms(gradients)
        norm = norms["norm"]
        if not torch.isfinite(norm):
            if self.scale.gives_way():
                return means, {}
            wrong = [name for name, grad in gradients.items() if not torch.isfinite(grad).all()]
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(
                f"{self._where()}: gradients are not finite, of {len(wrong)} parameters such as "
                f"{wrong[:3]}; lower the learning rate or look at the batch"
            )
        nn.utils.clip_grads_with_norm_(self.learning.values(), self.stage.clip_norm, norm)
        return means, dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True))

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
            self.log.event(self.step, "bad batch", f"kept in {path.name}")

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
        self.trackers.log(self.step, {"learning_rate": rate} | dict(values))
