"""One loop for every stage: batches in, optimizer steps out, a log line now and then."""

import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from unix_cxr.files import append_line, write_text
from unix_cxr.training.batches import BatchSource, SteppedDataset, to_device
from unix_cxr.training.checkpoints import (
    TrainingState,
    checkpoints,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from unix_cxr.training.identity import changed_keys
from unix_cxr.training.losses import LossTerm, weighted_sum
from unix_cxr.training.settings import StageSettings
from unix_cxr.training.stages import select_learning

_FLOOR: Final = 0.01
_LOG: Final = "log.jsonl"
logger = logging.getLogger(__name__)


class Objective(Protocol):
    """A module whose forward runs everything that a stage trains, and returns named loss terms."""

    weights: Mapping[str, float]

    def __call__(self, batch: Any) -> Mapping[str, LossTerm]:  # noqa: ANN401 - the stage's batch
        """Loss terms of one batch."""
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
        ValueError: a pattern of the stage matches no parameter.
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
        self.objective = objective.to(device)
        self.source = source
        self.stage = stage
        self.folder = folder
        self.recipe = recipe
        self.device = device
        self.started_from = dict(started_from or {})
        self.step = 0
        self._told = False
        self.learning = select_learning(objective, stage.trains, stage.freezes)
        self.optimizer = torch.optim.AdamW(
            self.learning.values(),
            lr=stage.learning_rate,
            betas=stage.betas,
            weight_decay=stage.weight_decay,
        )

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each loss term."""
        weights: Mapping[str, float] = self.objective.weights  # type: ignore[assignment]  # nn.Module's attributes are untyped
        return weights

    def restore(self) -> bool:
        """Load the newest checkpoint of the stage; False where there is none.

        Raises:
            ValueError: the checkpoint is damaged, or belongs to another recipe, other starting
                weights or other parameters; the message says what differs and the remedy.
        """
        found = checkpoints(self.folder)
        if not found:
            self._forget_later_rows()
            return False
        state = load_checkpoint(found[-1])
        self._refuse_strangers(found[-1], state)
        for name, parameter in self.learning.items():
            parameter.data.copy_(state.weights[name])
        kept = {k: v for k, v in state.optimizer.items() if k.rsplit("/", 1)[0] in self.learning}
        restore_optimizer(self.optimizer, self.learning, kept)
        self.step = state.step
        self._forget_later_rows()
        logger.info("restored %s at step %d", found[-1], self.step)
        return True

    def _refuse_strangers(self, path: Path, state: TrainingState) -> None:
        remedy = f"go back to what it began with, give another output folder, or remove {path}"
        changed = changed_keys(state.recipe, self.recipe, self.stage)
        if changed:
            raise ValueError(f"the recipe has changed since {path}: {'; '.join(changed)}; {remedy}")
        if state.step > self.stage.steps:
            raise ValueError(
                f"{path} stands beyond the {self.stage.steps} steps of stage "
                f"{self.stage.name!r}; {remedy}"
            )
        others = [
            name
            for name, fingerprint in state.started_from.items()
            if self.started_from.get(name, fingerprint) != fingerprint
        ]
        if others:
            raise ValueError(f"{path} began from other weights of {', '.join(others)}; {remedy}")
        missing = sorted(set(self.learning) - set(state.weights))
        known = dict(self.objective.named_parameters())
        unknown = sorted(set(state.weights) - set(known))
        wrong = [
            f"{name} {list(state.weights[name].shape)} instead of {list(parameter.shape)}"
            for name, parameter in self.learning.items()
            if name not in missing and state.weights[name].shape != parameter.shape
        ]
        if missing or unknown or wrong:
            raise ValueError(
                f"{path} holds other parameters than this stage trains (missing: {missing[:3]}, "
                f"unknown: {unknown[:3]}, of another shape: {wrong[:3]}); {remedy}"
            )
        frozen = sorted(set(state.weights) - set(self.learning))
        frozen = [
            name for name in frozen if not torch.equal(state.weights[name], known[name].cpu())
        ]
        if frozen:
            logger.warning(
                "%s also holds %d parameters that do not learn any more; they keep the values "
                "they have now, which are others: %s",
                path,
                len(frozen),
                ", ".join(frozen),
            )

    def save(self) -> Path:
        """Write a checkpoint of this moment."""
        return save_checkpoint(
            self.folder,
            TrainingState(
                step=self.step,
                weights={name: value.detach() for name, value in self.learning.items()},
                optimizer=optimizer_tensors(self.optimizer, self.learning),
                recipe=self.recipe,
                started_from=self.started_from,
            ),
        )

    def run(self) -> dict[str, float]:
        """Train to the stage's last step and return the last validation losses.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; the step is not taken.
            OSError: a checkpoint does not fit on the disk; the older one is untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.restore()
        loader = DataLoader(
            SteppedDataset(self.source, self.stage.steps),
            batch_size=None,
            sampler=range(self.step, self.stage.steps),
            generator=torch.Generator(),  # else it would draw a seed from the process's own
        )
        bar = tqdm(
            loader,
            initial=self.step,
            total=self.stage.steps,
            desc=self.stage.name,
            unit="step",
            disable=None,  # quiet where nobody looks: in a file or a pipe
            mininterval=1.0,
        )
        last: dict[str, float] | None = None
        recent: defaultdict[str, list[float]] = defaultdict(list)
        started, samples = time.monotonic(), 0
        self.objective.train()
        for batch in bar:
            for name, value in self._step(batch).items():
                recent[name].append(value)
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
            if self._due(self.stage.checkpoint_every):
                self.save()
        return last if last is not None else self.validate()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.stage.steps

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean of every loss term over the source's fixed validation batches."""
        was_training = self.objective.training
        self.objective.eval()
        sums: dict[str, LossTerm] = {}
        try:
            for batch in self.source.validation():
                for name, term in self._terms(batch).items():
                    sums[name] = sums[name] + term if name in sums else term
        finally:
            self.objective.train(was_training)
        return {f"dev_{name}": float(term.mean) for name, term in sums.items()}

    def _terms(self, batch: Any) -> Mapping[str, LossTerm]:  # noqa: ANN401 - the stage's batch
        batch = to_device(batch, self.device)
        low = self.stage.precision == "bfloat16"
        with (
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low),
            _fast_attention(self.device, low=low),
        ):
            terms: Mapping[str, LossTerm] = self.objective(batch)
        return terms

    def _step(self, batch: Any) -> dict[str, float]:  # noqa: ANN401 - the stage's batch
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.learning_rate * learning_rate_factor(self.step, self.stage)
        terms = self._terms(batch)
        norm = self._gradients(terms)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {name: float(term.mean.detach()) for name, term in terms.items()} | {"norm": norm}

    def _gradients(self, terms: Mapping[str, LossTerm]) -> float:
        """Leave clipped gradients in the learning parameters; returns their norm before that."""
        where = f"stage {self.stage.name!r} stops before step {self.step} (the weights are those of"
        where += f" {self.step} steps, and no step was taken with this batch)"
        try:
            loss: Any = weighted_sum(terms, self.weights)
        except FloatingPointError as error:
            raise FloatingPointError(f"{where}: {error}") from error
        loss.backward()
        gradients = {k: p.grad for k, p in self.learning.items() if p.grad is not None}
        self._tell_of_idle({k for k in self.learning if k not in gradients})
        norm = nn.utils.get_total_norm(list(gradients.values()))
        if not torch.isfinite(norm):
            wrong = [name for name, grad in gradients.items() if not torch.isfinite(grad).all()]
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(
                f"{where}: gradients are not finite, of {len(wrong)} parameters such as "
                f"{wrong[:3]}; lower the learning rate or look at the batch"
            )
        nn.utils.clip_grads_with_norm_(self.learning.values(), self.stage.clip_norm, norm)
        return float(norm)

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
        row = {"step": self.step, "learning_rate": rate} | dict(values)
        append_line(self.folder / _LOG, json.dumps(row))

    def _forget_later_rows(self) -> None:
        """Drop what the log says of steps after this one: they are about to be taken again."""
        file = self.folder / _LOG
        if not file.is_file():
            return
        rows = file.read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if _step_of(row) <= self.step]
        if len(kept) < len(rows):
            write_text(file, "".join(f"{row}\n" for row in kept))


def _step_of(row: str) -> float:
    try:
        return float(json.loads(row)["step"])
    except ValueError:
        return math.inf  # a line that a crash cut off


def _fast_attention(device: torch.device, *, low: bool) -> AbstractContextManager[None]:
    """On a CPU the plain attention kernel trains bfloat16 twice as fast as the fused one."""
    if device.type == "cpu" and low:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
