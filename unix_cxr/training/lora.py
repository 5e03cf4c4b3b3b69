"""Teach an adapter from one source of studies: a plan, a run that goes on, a peft folder."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from unix_cxr.files import read_json, write_text
from unix_cxr.models.adapter_base import base_fingerprint
from unix_cxr.models.adapter_files import save_adapter
from unix_cxr.models.adapters import adapter_names, add_adapter
from unix_cxr.models.fingerprint import fingerprint
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.pipeline import UniXPipeline
from unix_cxr.training.batches import BatchSource, generator_of
from unix_cxr.training.checkpoints import checkpoints
from unix_cxr.training.generation import CaptionedLatentSource, GenerationObjective
from unix_cxr.training.identity import processor_fingerprint
from unix_cxr.training.images import XRayStore
from unix_cxr.training.joint import JointObjective, JointSource
from unix_cxr.training.loop import Trainer
from unix_cxr.training.lora_data import LoraStudies, read_lora_studies
from unix_cxr.training.lora_plan import LoraPlan, LoraSummary, PartPlan
from unix_cxr.training.lora_settings import LoraSettings
from unix_cxr.training.understanding import ReportSource, UnderstandingObjective

ADAPTER: Final = "adapter"
TRAINING: Final = "training"
RUN: Final = "lora.json"
FINISHED: Final = "finished.json"
_NAME: Final = "default"
logger = logging.getLogger(__name__)


class LoraTrainer(Trainer):
    """The loop, with the adapter's dropout drawn from the step: a stopped run goes on exactly."""

    seed = 0

    def _step(self, batch: Any) -> dict[str, float]:  # noqa: ANN401 - the stage's batch
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(
                generator_of(self.seed, self.step, self.processes.rank, 8).initial_seed()
            )
            return super()._step(batch)


def train_lora(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    settings: LoraSettings | None = None,
    *,
    device: torch.device | str = "cpu",
    dry_run: bool = False,
) -> LoraSummary:
    """Teach an adapter and write it to `out/adapter`; the same call goes on where it stopped.

    Args:
        model: "nano", a pipeline folder, or a repository of the hub.
        data: what `open_source` takes, such as a folder of images with a CSV table.
        out: takes the checkpoints, the log and the adapter.
        settings: of the adapter and its training.
        device: where to train.
        dry_run: check and plan, and write nothing.

    Raises:
        FileNotFoundError: the model or the data are missing.
        ValueError: model, data, settings or an earlier run in `out` do not fit together.
        FloatingPointError: a loss or a gradient is not finite.
        RunStopped: a signal asked for it; the state is in a checkpoint.
        OSError: the disk is full; checkpoints that were whole stay so.
    """
    settings = settings or LoraSettings()
    folder = Path(out)
    pipeline = UniXPipeline.from_pretrained(model)
    studies = read_lora_studies(data, settings)
    run = LoraRun(pipeline, studies, settings, folder, torch.device(device))
    plan = run.plan()
    logger.info(plan.text())
    summary = LoraSummary(
        model=pipeline.model_id,
        folder=folder,
        device=str(device),
        plan=plan,
        adapter=None,
        before={},
        after={},
        seconds=0.0,
        left_out=studies.left_out,
    )
    return summary if dry_run else run.run(summary)


class LoraRun:
    """A pipeline with a fresh adapter, the studies it learns from, and where they stand.

    Args:
        pipeline: without adapters; its model gets one.
        studies: to learn from and to validate on.
        settings: of the adapter and its training.
        folder: of the run.
        device: where to train.

    Raises:
        ValueError: the pipeline carries adapters, the settings do not fit the model, or the folder
            holds a run of another kind.
    """

    def __init__(
        self,
        pipeline: UniXPipeline,
        studies: LoraStudies,
        settings: LoraSettings,
        folder: Path,
        device: torch.device,
    ) -> None:
        if adapter_names(pipeline.model):
            raise ValueError(
                f"the model carries adapters {adapter_names(pipeline.model)}; train on a plain one"
            )
        self.pipeline, self.studies, self.settings = pipeline, studies, settings
        self.folder, self.device = folder, device
        self._read_at: dict[int, tuple[XRayStore, XRayStore]] = {}
        self.identity = self._identity()
        self._refuse_another_run()
        self.model: UniXModel = pipeline.model
        self.parameters = add_adapter(self.model, settings.adapter(), _NAME, seed=settings.seed)

    # -- before training ---------------------------------------------------------------------

    def plan(self) -> LoraPlan:
        """What is about to happen."""
        learning: dict[str, int] = {}
        whole: dict[str, int] = {}
        for name, parameter in self.model.named_parameters():
            part = name.split(".")[0]
            whole[part] = whole.get(part, 0) + parameter.numel()
            if name in self.parameters:
                learning[part] = learning.get(part, 0) + parameter.numel()
        found = checkpoints(self.folder / TRAINING)
        state = f"goes on at step {int(found[-1].name[5:])}" if found else "begins"
        return LoraPlan(
            preset=self.settings.preset,
            rank=self.settings.rank,
            state="finished" if self.finished() is not None else state,
            steps=self.settings.steps,
            batch_size=self.settings.batch_size,
            train=len(self.studies.train),
            dev=len(self.studies.dev),
            parts=tuple(
                PartPlan(part, learning.get(part, 0), count - learning.get(part, 0))
                for part, count in whole.items()
            ),
        )

    def finished(self) -> dict[str, Any] | None:
        """The record of this run, if it took all its steps."""
        file = self.folder / FINISHED
        if not file.is_file() or not (self.folder / ADAPTER).is_dir():
            return None
        record = read_json(file, "remove it")
        same = record.get("identity") == self.identity
        return record if same and record.get("steps") == self.settings.steps else None

    def _identity(self) -> dict[str, Any]:
        """What decides the adapter's weights, in plain values."""
        return {
            "settings": self.settings.identity(),
            "model": base_fingerprint(self.pipeline.model),
            "vae": fingerprint(self.pipeline.vae),
            "processor": processor_fingerprint(self.pipeline.processor),
            "studies": self.studies.fingerprint,
        }

    def _refuse_another_run(self) -> None:
        file = self.folder / RUN
        if not file.is_file():
            return
        before, now = _leaves(read_json(file, "remove it")), _leaves(self.identity)
        changed = [
            f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise ValueError(
                f"{self.folder} holds another run ({'; '.join(changed)}); give another output "
                "folder, or remove it to begin anew"
            )

    # -- training ----------------------------------------------------------------------------

    def run(self, summary: LoraSummary) -> LoraSummary:
        """Train to the last step and write the adapter; a finished run is left as it is."""
        record, target = self.finished(), self.folder / ADAPTER
        if record is not None:
            return _with(summary, target, record["before"], record["after"], 0.0)
        started = time.monotonic()
        write_text(self.folder / RUN, json.dumps(self.identity, indent=1))
        trainer = self.trainer()
        before = trainer.validate()  # a fresh adapter does nothing
        after = trainer.run()
        self.model.train(mode=False)
        if trainer.processes.first:
            save_adapter(self.model, target, _NAME, base=self.pipeline.model_id)
            record = {
                "identity": self.identity,
                "steps": self.settings.steps,
                "before": before,
                "after": after,
            }
            write_text(self.folder / FINISHED, json.dumps(record, indent=1))
        return _with(summary, target, before, after, time.monotonic() - started)

    def trainer(self) -> LoraTrainer:
        """The loop over this run's objective and batches."""
        objective, source = self._task()
        trainer = LoraTrainer(
            objective,
            source,
            self.settings.stage(self.pipeline.defaults.shift),
            self.folder / TRAINING,
            recipe=json.dumps(self.identity, sort_keys=True),
            device=self.device,
        )
        trainer.seed = self.settings.seed
        return trainer

    def _task(self) -> tuple[torch.nn.Module, BatchSource[Any]]:
        settings, model = self.settings, self.model
        match settings.preset:
            case "und":
                return UnderstandingObjective(model), self._reading()
            case "gen":
                return GenerationObjective(model, 0.0), self._drawing()
            case "both":
                drawing = GenerationObjective(model, settings.understanding_gradient)
                objective = JointObjective(drawing, settings.reading_weight)
                return objective, JointSource(self._reading(), self._drawing())

    def _reading(self) -> ReportSource:
        train, dev = self._stores(self.pipeline.processor.image_size)
        return ReportSource(
            train,
            dev,
            self.pipeline.processor,
            batch_size=self.settings.batch_size,
            augmentation=self.settings.augmentation,
            seed=self.settings.seed,
        )

    def _drawing(self) -> CaptionedLatentSource:
        train, dev = self._stores(self.pipeline.defaults.image_size)
        vae: Any = self.pipeline.vae
        return CaptionedLatentSource(
            train,
            dev,
            vae.to(self.device).eval(),
            self.pipeline.processor,
            self.settings.drawing(self.pipeline.defaults.shift),
            batch_size=self.settings.batch_size,
            augmentation=self.settings.augmentation,
            seed=self.settings.seed,
        )

    def _stores(self, side: int) -> tuple[XRayStore, XRayStore]:
        if side not in self._read_at:
            parts = (self.studies.train, self.studies.dev)
            train, dev = (XRayStore(part, side) for part in parts)
            self._read_at[side] = train, dev
        return self._read_at[side]


def _with(
    summary: LoraSummary,
    adapter: Path,
    before: Mapping[str, float],
    after: Mapping[str, float],
    seconds: float,
) -> LoraSummary:
    values = {**vars(summary), "adapter": adapter, "before": before, "after": after}
    return LoraSummary(**values | {"seconds": round(seconds, 3)})


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
