"""What the trainer of a stage is given, and how it is made for each kind of objective."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from unix_cxr.models.autoencoder import downsampling_of
from unix_cxr.training.adversarial import AdversarialObjective
from unix_cxr.training.alignment import AlignedObjective, AlignedSource
from unix_cxr.training.autoencoder import AutoencoderObjective, ImageSource
from unix_cxr.training.batches import BatchSource
from unix_cxr.training.contexts import CaptionContexts
from unix_cxr.training.data import RecipeData
from unix_cxr.training.encoders import (
    DinoEncoder,
    PatchEncoder,
    TowerEncoder,
    check_dino_folder,
)
from unix_cxr.training.generation import CaptionedLatentSource, GenerationObjective
from unix_cxr.training.images import PreparedStore
from unix_cxr.training.joint import JointObjective, JointSource
from unix_cxr.training.networks import Networks
from unix_cxr.training.objective_settings import (
    AlignmentSettings,
    AutoencoderObjectiveSettings,
    DrawingSettings,
    GenerationObjectiveSettings,
    JointObjectiveSettings,
    UnderstandingObjectiveSettings,
    VisionObjectiveSettings,
)
from unix_cxr.training.processes import Processes
from unix_cxr.training.settings import StageSettings
from unix_cxr.training.times import weighting_of
from unix_cxr.training.understanding import ReportSource, UnderstandingObjective
from unix_cxr.training.vision_teaching import StatementSource, VisionObjective

TOWER: Final = "vision"
PREPARED: Final = "prepared"
"""Encoders of an alignment that are no folders."""
_MEGABYTE: Final = 1_000_000


@dataclass(frozen=True)
class Task:
    """What a stage's trainer is given.

    Args:
        objective: what is minimised.
        source: makes the batch of every step.
        began: fingerprints of what the stage reads besides the networks of its kind, by name.
    """

    objective: torch.nn.Module
    source: BatchSource[Any]
    began: Mapping[str, str] = field(default_factory=dict)


def task_of(
    networks: Networks, stage: StageSettings, data: RecipeData, processes: Processes
) -> Task:
    """What a stage minimises, and the batches that it learns from.

    Args:
        networks: that it runs.
        stage: its settings.
        data: its studies.
        processes: that share a batch.

    Raises:
        FileNotFoundError: an encoder's folder lacks a file.
        ValueError: the stage, its studies and an encoder do not fit together.
    """
    settings = stage.objective
    match settings:
        case AutoencoderObjectiveSettings():
            return _autoencoder_task(networks, stage, settings, data)
        case VisionObjectiveSettings():
            return _vision_task(networks, stage, settings, data)
        case UnderstandingObjectiveSettings():
            reports = _reports(networks, stage, data)
            return Task(UnderstandingObjective(networks.model), reports)
        case GenerationObjectiveSettings():
            return _drawing_task(networks, stage, settings, data, processes)
        case JointObjectiveSettings():
            return _joint_task(networks, stage, settings, data, processes)


def _autoencoder_task(
    networks: Networks,
    stage: StageSettings,
    settings: AutoencoderObjectiveSettings,
    data: RecipeData,
) -> Task:
    source = ImageSource(
        data.store("train"),
        data.store("dev"),
        batch_size=stage.batch_size,
        latent_channels=networks.recipe.autoencoder.latent_channels,
        downsampling=downsampling_of(networks.vae),
        augmentation=stage.augmentation,
        crop=settings.crop,
        seed=networks.recipe.seed,
    )
    weights = settings.model_dump(include={"l1", "kl", "structure"})
    if settings.adversarial is None:
        return Task(AutoencoderObjective(networks.vae, weights), source)
    seed = networks.recipe.seed
    return Task(AdversarialObjective(networks.vae, weights, settings.adversarial, seed), source)


def _vision_task(
    networks: Networks,
    stage: StageSettings,
    settings: VisionObjectiveSettings,
    data: RecipeData,
) -> Task:
    source = StatementSource(
        data.store("train"),
        data.store("dev"),
        networks.processor,
        least=settings.least,
        batch_size=stage.batch_size,
        augmentation=stage.augmentation,
        seed=networks.recipe.seed,
    )
    statements, seed = len(source.statements), networks.recipe.seed
    return Task(VisionObjective(networks.model, statements, seed), source)


def _reports(
    networks: Networks, stage: StageSettings, data: RecipeData, batch_size: int | None = None
) -> ReportSource:
    return ReportSource(
        data.store("train"),
        data.store("dev"),
        networks.processor,
        batch_size=batch_size or stage.batch_size,
        augmentation=stage.augmentation,
        seed=networks.recipe.seed,
        length_window=stage.length_window,
    )


def _drawing_task(
    networks: Networks,
    stage: StageSettings,
    settings: DrawingSettings,
    data: RecipeData,
    processes: Processes,
    *,
    seed: int | None = None,
) -> Task:
    """Flow matching, aligned with an encoder where the stage says so.

    Raises:
        FileNotFoundError: the encoder's folder lacks a file.
        ValueError: the encoder does not fit the stage.
    """
    source = _captioned(networks, stage, settings, data, processes.device, seed=seed)
    gradient, weighting = settings.understanding_gradient, weighting_of(settings)
    contexts = _contexts(settings)
    if settings.alignment is None:
        objective = GenerationObjective(networks.model, gradient, weighting, contexts=contexts)
        return Task(objective, source)
    encoder = _encoder(networks, stage, settings.alignment, processes.device)
    made_by = _prepared_features(data) if encoder is None else encoder.fingerprint
    rows, columns = source.dev_moments.shape[-2:]
    patch = networks.recipe.model.latent_patch_size
    aligned = AlignedSource(
        source, encoder, (rows // patch, columns // patch), keep=settings.alignment.keep
    )
    return Task(
        AlignedObjective(
            networks.model,
            gradient,
            weighting,
            alignment=settings.alignment,
            features=aligned.width,
            seed=networks.recipe.seed,
            contexts=contexts,
        ),
        aligned,
        {"encoder": made_by},
    )


def _joint_task(
    networks: Networks,
    stage: StageSettings,
    settings: JointObjectiveSettings,
    data: RecipeData,
    processes: Processes,
) -> Task:
    """Reading and drawing, each of studies of its own.

    Raises:
        FileNotFoundError: the encoder's folder lacks a file.
        ValueError: the batch cannot be divided in the stage's ratio, each of its parts cannot
            have a sample of either, or the encoder does not fit the stage.
    """
    reading, drawing = settings.shares(stage.batch_size)
    parts = stage.accumulation * processes.count
    if min(reading, drawing) < parts:
        raise ValueError(
            f"stage {stage.name!r} reads {reading} and draws {drawing} samples per step; each must "
            f"be at least {parts}: accumulation ({stage.accumulation}) x processes "
            f"({processes.count})"
        )
    reports = _reports(networks, stage, data, reading)
    # an order of its own, so that a step does not draw what it reads
    drawn = _drawing_task(
        networks,
        stage.model_copy(update={"batch_size": drawing}),
        settings,
        data,
        processes,
        seed=networks.recipe.seed + 1,
    )
    to_draw: Any = drawn.objective
    objective = JointObjective(to_draw, settings.reading_weight)
    return Task(objective, JointSource(reports, drawn.source), drawn.began)


def _captioned(
    networks: Networks,
    stage: StageSettings,
    settings: DrawingSettings,
    data: RecipeData,
    device: torch.device,
    *,
    seed: int | None = None,
) -> CaptionedLatentSource:
    vae: Any = networks.vae
    return CaptionedLatentSource(
        data.store("train"),
        data.store("dev"),
        vae.to(device).eval(),
        networks.processor,
        settings,
        batch_size=stage.batch_size,
        augmentation=stage.augmentation,
        seed=networks.recipe.seed if seed is None else seed,
        length_window=stage.length_window,
    )


def _contexts(settings: DrawingSettings) -> CaptionContexts | None:
    kept = settings.contexts if isinstance(settings, GenerationObjectiveSettings) else None
    if kept is None:
        return None
    folder = None if kept.folder is None else Path(kept.folder)
    return CaptionContexts(kept.memory_mb * _MEGABYTE, folder)


def _encoder(
    networks: Networks, stage: StageSettings, settings: AlignmentSettings, device: torch.device
) -> PatchEncoder | None:
    """The encoder that a stage names; None where its features are in the prepared folder."""
    if settings.encoder == PREPARED:
        return None
    if settings.encoder != TOWER:
        return DinoEncoder(settings.encoder, device)
    if "model.vision" in networks.random_parts() and not stage.allow_random:
        raise ValueError(
            f"stage {stage.name!r} aligns with model.vision, which nothing has trained or loaded: "
            "run the stage that trains it, begin from a folder that has it (--init-from), or say "
            "allow_random: true"
        )
    return TowerEncoder(networks.model, networks.processor, device)


def check_encoder(settings: AlignmentSettings) -> None:
    """Refuse an alignment whose encoder is not there.

    Raises:
        FileNotFoundError: its folder lacks a file.
    """
    if settings.encoder not in {TOWER, PREPARED}:
        check_dino_folder(settings.encoder)


def _prepared_features(data: RecipeData) -> str:
    """Fingerprint of the network that made a prepared folder's features."""
    store = data.store("train")
    if not isinstance(store, PreparedStore):
        raise ValueError("alignment.encoder prepared needs data.kind prepared")  # noqa: TRY004 - a setting
    return str(store.prepared.manifest.settings.get("caches", {}).get("features"))
