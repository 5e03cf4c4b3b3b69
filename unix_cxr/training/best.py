"""The step at which a metric of the dev split was best, and the weights of that step."""

import json
import logging
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unix_cxr.files import replacing_folder, sha256, write_text
from unix_cxr.training.checkpoints import checkpoints, save_tensors, stored_best
from unix_cxr.training.settings import StageSettings
from unix_cxr.training.watch_settings import FD, REPORT_F1

_WEIGHTS: Final = "weights.safetensors"
_RECORD: Final = "best.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Best:
    """The best step so far.

    Args:
        metric: that was compared.
        value: of the metric.
        step: at which it was measured.
        losses: all that was measured then.
    """

    metric: str
    value: float
    step: int
    losses: Mapping[str, float]


def known_metrics(stage: StageSettings, terms: Collection[str]) -> dict[str, bool]:
    """What `keep_best` may name, and whether more of it is better.

    Args:
        stage: measures some only where it says so.
        terms: names of the objective's losses.
    """
    known = {f"dev_{name}": False for name in terms}
    if len(terms) > 1:
        known["dev_loss"] = False
    if stage.measure is not None and stage.measure.fd:
        known[FD] = False
    if stage.measure is not None and stage.measure.reports:
        known[REPORT_F1] = True
    return known


def check_metric(stage: StageSettings, terms: Collection[str]) -> None:
    """Refuse a `keep_best` that nothing measures.

    Raises:
        ValueError: the message lists the known ones.
    """
    known = known_metrics(stage, terms)
    if stage.keep_best is not None and stage.keep_best not in known:
        raise ValueError(
            f"stage {stage.name!r}: keep_best {stage.keep_best!r} is no metric that it measures; "
            f"it measures {sorted(known)} ({FD} and {REPORT_F1} where its key measure asks for "
            "them)"
        )


class BestKeeper:
    """Keeps the weights of the best step in `best-…`, until no checkpoint speaks of them.

    Args:
        folder: of the stage.
        stage: says by which metric.
        terms: names of the objective's losses.

    Raises:
        ValueError: nothing measures the metric; the message lists the known ones.
    """

    def __init__(self, folder: Path, stage: StageSettings, terms: Collection[str]) -> None:
        check_metric(stage, terms)
        self.folder = folder
        self.metric = stage.keep_best
        self.more_is_better = known_metrics(stage, terms).get(stage.keep_best or "", False)
        self.best: Best | None = None

    def restore(self, stored: Mapping[str, Any] | None) -> None:
        """Go on from what a checkpoint says; the best by another metric is forgotten."""
        self.best = None
        if stored is None or self.metric is None:
            return
        best = Best(**stored)
        if best.metric == self.metric:
            self.best = best
        else:
            logger.warning(
                "the checkpoint knows the best step by %s; the best by %s is looked for from here",
                best.metric,
                self.metric,
            )

    def as_dict(self) -> dict[str, Any] | None:
        """For a checkpoint."""
        return None if self.best is None else asdict(self.best)

    def is_better(self, measured: Mapping[str, float]) -> bool:
        """Whether this validation is the best so far; the first of equals stays."""
        value = math.nan if self.metric is None else measured.get(self.metric, math.nan)
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        return value > self.best.value if self.more_is_better else value < self.best.value

    def take(
        self,
        step: int,
        measured: Mapping[str, float],
        weights: Mapping[str, Tensor],
        *,
        writes: bool,
    ) -> None:
        """This step is the best: keep its weights.

        Args:
            step: the number of it.
            measured: at its validation.
            weights: that were validated.
            writes: False in processes that must not write.

        Raises:
            OSError: the disk is full; the best step before it is untouched.
        """
        metric = str(self.metric)
        self.best = Best(metric, measured[metric], step, dict(measured))
        if not writes:
            return
        with replacing_folder(self._path(step)) as folder:
            save_tensors(weights, folder / _WEIGHTS)
            record = asdict(self.best) | {"sha256": sha256(folder / _WEIGHTS)}
            write_text(folder / _RECORD, json.dumps(record, indent=1))

    def prune(self) -> None:
        """Remove the weights of steps that neither this run nor a checkpoint calls the best."""
        spoken_of = {None if self.best is None else self.best.step}
        spoken_of |= {stored_best(path) for path in checkpoints(self.folder)}
        for path in self.folder.glob("best-*"):
            if int(path.name[5:]) not in spoken_of:
                shutil.rmtree(path)

    def load(self) -> dict[str, Tensor]:
        """Weights of the best step.

        Raises:
            ValueError: there is no best step, or its folder is missing or damaged.
        """
        if self.best is None:
            raise ValueError("no step is known as the best")
        folder = self._path(self.best.step)
        remedy = "say keep_best: null to export the last step's weights"
        about = f"{folder} with the weights of the best step is missing or damaged"
        try:
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            checksum = sha256(folder / _WEIGHTS)
            weights = load_file(folder / _WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"{about} ({error}); {remedy}") from error
        if record.get("sha256") != checksum:
            raise ValueError(f"{about} (its checksum is another); {remedy}")
        return weights

    def _path(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}"


def best_folders(folder: Path) -> Sequence[Path]:
    """Folders of best steps of a stage, oldest first."""
    return sorted(folder.glob(f"best-*/{_RECORD}"))
