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
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from unix_cxr.training.batches import BatchSource, SteppedDataset, to_device
from unix_cxr.training.checkpoints import (
    TrainingState,
    checkpoints,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from unix_cxr.training.losses import LossTerm, weighted_sum
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
    ) -> None:
        self.objective = objective.to(device)
        self.source = source
        self.stage = stage
        self.folder = folder
        self.recipe = recipe
        self.device = device
        self.step = 0
        self.learning = select_learning(objective, stage.trains)
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
            ValueError: the checkpoint holds other parameters than the stage trains.
        """
        found = checkpoints(self.folder)
        if not found:
            return False
        state = load_checkpoint(found[-1])
        if set(state.weights) != set(self.learning):
            raise ValueError(
                f"{found[-1]} holds other parameters than this stage trains; give another output "
                "folder, or remove it to begin anew"
            )
        for name, parameter in self.learning.items():
            parameter.data.copy_(state.weights[name])
        restore_optimizer(self.optimizer, self.learning, state.optimizer)
        self.step = state.step
        logger.info("restored %s at step %d", found[-1], self.step)
        return True

    def save(self) -> Path:
        """Write a checkpoint of this moment."""
        return save_checkpoint(
            self.folder,
            TrainingState(
                step=self.step,
                weights={name: value.detach() for name, value in self.learning.items()},
                optimizer=optimizer_tensors(self.optimizer, self.learning),
                recipe=self.recipe,
            ),
        )

    def run(self) -> dict[str, float]:
        """Train to the stage's last step and return the last validation losses.

        Raises:
            FloatingPointError: a loss is not finite; the step is not taken.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.restore()
        loader = DataLoader(
            SteppedDataset(self.source, self.stage.steps),
            batch_size=None,
            sampler=range(self.step, self.stage.steps),
        )
        bar = tqdm(
            loader, initial=self.step, total=self.stage.steps, desc=self.stage.name, unit="step"
        )
        recent: defaultdict[str, list[float]] = defaultdict(list)
        started, samples = time.monotonic(), 0
        self.objective.train()
        for batch in bar:
            for name, value in self._step(batch).items():
                recent[name].append(value)
            samples += self.stage.batch_size
            if self.step % self.stage.log_every == 0 or self.step == self.stage.steps:
                means = {name: sum(values) / len(values) for name, values in recent.items()}
                rate = samples / (time.monotonic() - started)
                self._log(means | {"samples_per_second": rate})
                bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
                recent.clear()
                started, samples = time.monotonic(), 0
            if self.step % self.stage.validate_every == 0:
                self._log(self.validate())
                started = time.monotonic()
            if self.step % self.stage.checkpoint_every == 0 or self.step == self.stage.steps:
                self.save()
        final = self.validate()
        self._log(final)
        return final

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean of every loss term over the source's fixed validation batches."""
        self.objective.eval()
        sums: dict[str, LossTerm] = {}
        for batch in self.source.validation():
            for name, term in self._terms(batch).items():
                sums[name] = sums[name] + term if name in sums else term
        self.objective.train()
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
        weighted_sum(terms, self.weights).backward()
        norm: Tensor = nn.utils.clip_grad_norm_(
            self.learning.values(), self.stage.clip_norm, error_if_nonfinite=True
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {name: float(term.mean.detach()) for name, term in terms.items()} | {"norm": float(norm)}

    def _log(self, values: Mapping[str, float]) -> None:
        rate = self.optimizer.param_groups[0]["lr"]
        row = {"step": self.step, "learning_rate": rate} | dict(values)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _fast_attention(device: torch.device, *, low: bool) -> AbstractContextManager[None]:
    """On a CPU the plain attention kernel trains bfloat16 twice as fast as the fused one."""
    if device.type == "cpu" and low:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
