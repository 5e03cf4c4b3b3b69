"""A stage looked at as a user would: by the X-rays it draws and the reports it writes.

Axes: n dev studies, h and w pixels, f features.
"""

import copy
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from unix_cxr import __version__
from unix_cxr.defaults import MAX_PROMPT_CHARACTERS
from unix_cxr.evaluation.classifier import XrayClassifier
from unix_cxr.evaluation.contact_sheet import Row, contact_sheet
from unix_cxr.evaluation.imaging.frechet import weighted_frechet_distance
from unix_cxr.evaluation.text.label_scores import (
    RuleLabeler,
    f1_metrics,
    label_statistics,
    present,
)
from unix_cxr.files import write_text
from unix_cxr.pipelines.marking import save_synthetic_png
from unix_cxr.pipelines.pipeline import UniXPipeline
from unix_cxr.training.images import ImageStore
from unix_cxr.training.processes import Processes
from unix_cxr.training.settings import StageSettings
from unix_cxr.training.stages import matches
from unix_cxr.training.watch_settings import FD, REPORT_F1

SHEETS: Final = "drawn"
TEXTS: Final = "texts.json"
_BATCH: Final = 16
_ACROSS: Final = 8
_TILE: Final = 128
_WORDING: Final = 9


class ModelExaminer:
    """Draws fixed dev texts, writes reports of fixed dev X-rays; under processes each its share.

    Args:
        pipeline: of the networks that the stage trains; what it draws and writes is theirs.
        dev: studies to draw and to read.
        stage: says how many, and which eye looks.
        folder: of the stage.
        seed: of the drawings; image k has seed + k.
        processes: that share the work.

    Raises:
        ValueError: the dev split has too few studies with texts, or there is no such eye.
        FileNotFoundError: the eye's folder lacks a file.
    """

    def __init__(
        self,
        pipeline: UniXPipeline,
        dev: ImageStore,
        stage: StageSettings,
        folder: Path,
        *,
        seed: int,
        processes: Processes,
    ) -> None:
        self.pipeline, self.dev, self.stage = pipeline, dev, stage
        self.folder, self.seed, self.processes = folder, seed, processes
        pipeline.set_progress_bar_config(disable=True)
        draw, measure = stage.draw, stage.measure
        self._drawn = 0 if draw is None else draw.count
        self._fd = 0 if measure is None else measure.fd
        self._reports = 0 if measure is None else measure.reports
        self.rows, self.texts = self._choose(max(self._drawn, self._fd, self._reports))
        self._eye = self._choose_eye() if self._fd else None
        self._real: Float[Tensor, "n f"] | None = None

    def _choose(self, wanted: int) -> tuple[list[int], list[str]]:
        """The first dev studies that have a text which can be drawn."""
        everything = torch.arange(len(self.dev))
        words = random.Random(self.seed + _WORDING)
        texts = [text for part in everything.split(256) for text in self.dev.texts(part, words)]
        fit = [
            row for row, text in enumerate(texts) if 0 < len(text.strip()) <= MAX_PROMPT_CHARACTERS
        ]
        if len(fit) < wanted:
            raise ValueError(
                f"stage {self.stage.name!r} draws or reads {wanted} dev studies, but only "
                f"{len(fit)} of {len(texts)} have a text of 1 to {MAX_PROMPT_CHARACTERS:,} "
                "characters; lower draw.count, measure.fd or measure.reports"
            )
        return fit[:wanted], [texts[row] for row in fit[:wanted]]

    def _choose_eye(self) -> "_Eye":
        name = self.stage.measure.eye if self.stage.measure else "vision"
        if name != "vision":
            return _ClassifierEye(XrayClassifier.from_pretrained(name))
        model = self.pipeline.model
        names = [f"model.vision.{key}" for key, _ in model.vision.named_parameters()]
        learns = any(
            matches(key, self.stage.trains) and not matches(key, self.stage.freezes)
            for key in names
        )
        return _TowerEye(self.pipeline, copy.deepcopy(model.vision) if learns else model.vision)

    # -- drawing -----------------------------------------------------------------------------

    def draw(self, step: int) -> Path:
        """Draw the fixed texts and write `drawn/step-….png`, marked as synthetic."""
        path = self.folder / SHEETS / f"step-{step:08d}.png"
        images = self._draw(self._drawn)
        if self.processes.first:
            texts = json.dumps(self.texts[: self._drawn], ensure_ascii=False, indent=1)
            write_text(self.folder / SHEETS / TEXTS, texts)
            facts = {"stage": self.stage.name, "step": step, "version": __version__}
            save_synthetic_png(sheet(images, step), path, facts | {"seed": self.seed})
        return path

    def _draw(self, count: int) -> Float[Tensor, "n 1 h w"]:
        mine = range(count)[self.processes.rank :: self.processes.count]
        parts = []
        for start in range(0, len(mine), _BATCH):
            chosen = mine[start : start + _BATCH]
            drawn: Any = self.pipeline(
                [self.texts[index] for index in chosen],
                seed=[self.seed + index for index in chosen],
                output_type="pt",
            ).images
            parts.append(drawn.float().cpu())
        return self._together(parts, count)

    # -- measuring ---------------------------------------------------------------------------

    def measure(self) -> dict[str, float]:
        """Fréchet distance of drawn to real dev X-rays, F1 of the findings of written reports.

        What has no value, such as the F1 while nothing is stated on either side, is left out.
        """
        found: dict[str, float] = {}
        if self._eye is not None:
            found[FD] = self._distance(self._eye)
        if self._reports:
            found[REPORT_F1] = self._report_f1()
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _distance(self, eye: "_Eye") -> float:
        if self._real is None:
            self._real = self._features(eye, self.dev[torch.tensor(self.rows[: self._fd])])
        drawn = self._features(eye, self._draw(self._fd))
        if not torch.isfinite(drawn).all():
            return float("nan")
        ones = torch.ones(self._fd)
        return weighted_frechet_distance(self._real, drawn, ones, ones)

    def _features(self, eye: "_Eye", images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n f"]:
        mine = images[self.processes.rank :: self.processes.count]
        return self._together([eye(part) for part in mine.split(_BATCH) if len(part)], len(images))

    def _report_f1(self) -> float:
        measure = self.stage.measure
        mine = range(self._reports)[self.processes.rank :: self.processes.count]
        parts = []
        for start in range(0, len(mine), _BATCH):
            chosen = mine[start : start + _BATCH]
            images = self.dev[torch.tensor([self.rows[index] for index in chosen])]
            written = self.pipeline.describe(
                [image[0].numpy() for image in images],
                max_new_tokens=measure.max_new_tokens if measure else 1,
            ).reports
            labeler = RuleLabeler()
            true, predicted = (
                present(labeler(texts), "positive")
                for texts in ([self.texts[index] for index in chosen], written)
            )
            parts.append(label_statistics(true, predicted).float())
        statistics = self._together(parts, self._reports).double()
        micro = f1_metrics(RuleLabeler.name, "positive")[0]
        return float(micro.of_sums(statistics.sum(dim=0, keepdim=True))[0])

    def _together(self, parts: Sequence[Tensor], total: int) -> Tensor:
        """All rows in their order, of which every process computed each k-th."""
        mine = torch.cat(list(parts)) if parts else None
        if self.processes.count == 1 and mine is not None:
            return mine
        shape = torch.zeros(3, dtype=torch.long, device=self.processes.device)
        if self.processes.first and mine is not None:
            shape[: mine.dim() - 1] = torch.tensor(mine.shape[1:])
        sides = [side for side in self.processes.sum(shape).tolist() if side]
        whole = torch.zeros(total, *sides, device=self.processes.device)
        if mine is not None:
            whole[self.processes.rank :: self.processes.count] = mine.to(whole)
        return self.processes.sum(whole).cpu()


class _Eye(Protocol):
    def __call__(self, images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n f"]: ...


class _TowerEye:
    """The model's vision tower, averaged over its tokens."""

    def __init__(self, pipeline: UniXPipeline, tower: Any) -> None:  # noqa: ANN401 - transformers' tower
        self.processor, self.tower = pipeline.processor, tower

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n f"]:
        """Features."""
        parameter = next(self.tower.parameters())
        pixels = self.processor.normalise(images).to(parameter.device, parameter.dtype)
        features: Tensor = self.tower(pixels).last_hidden_state.float().mean(dim=1)
        return features.cpu()


class _ClassifierEye:
    """A classifier of X-rays."""

    def __init__(self, classifier: XrayClassifier) -> None:
        self.classifier = classifier

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n f"]:
        """Features."""
        features: Tensor = self.classifier(images.clamp(0, 1)).features
        return features.float()


def sheet(images: Float[Tensor, "n 1 h w"], step: int) -> Image.Image:
    """Drawn X-rays in rows of eight."""
    rows = [
        Row(f"drawn at step {step:,}" if not start else "", images[start : start + _ACROSS])
        for start in range(0, len(images), _ACROSS)
    ]
    return contact_sheet(rows, tile=min(_TILE, images.shape[-1]))
