"""Who looks at the stages of a recipe, checked before anything is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unix_cxr.models.sampling import SamplingDefaults, euler_scheduler
from unix_cxr.training.best import check_metric
from unix_cxr.training.data import RecipeData
from unix_cxr.training.kinds import KINDS
from unix_cxr.training.objective_settings import (
    AutoencoderObjectiveSettings,
    GenerationObjectiveSettings,
    JointObjectiveSettings,
    ObjectiveSettings,
    UnderstandingObjectiveSettings,
    VisionObjectiveSettings,
)
from unix_cxr.training.settings import StageSettings
from unix_cxr.training.trackers import check_trackers
from unix_cxr.training.validation import Watching

if TYPE_CHECKING:
    from unix_cxr.training.recipe import RecipeRun


def check_watching(stage: StageSettings) -> None:
    """Refuse what a stage cannot be watched by.

    Raises:
        ValueError: the best is asked for by an unknown metric, X-rays or reports of a stage whose
            objective has not the networks for them, or a tracker is unknown.
        ImportError: a tracker's package is not installed.
    """
    check_metric(stage, terms_of(stage.objective))
    check_trackers(stage.trackers)
    networks = KINDS[stage.objective.kind].networks
    asked = {
        "draw": (stage.draw is not None, {"vae", "model"}),
        "measure.fd": (stage.measure is not None and bool(stage.measure.fd), {"vae", "model"}),
        "measure.reports": (stage.measure is not None and bool(stage.measure.reports), {"model"}),
    }
    for name, (wanted, needed) in asked.items():
        lacking = sorted(needed - set(networks))
        if wanted and lacking:
            raise ValueError(
                f"stage {stage.name!r}: {name} needs {' and '.join(sorted(needed))}, and an "
                f"objective of kind {stage.objective.kind!r} has no {' and no '.join(lacking)}; "
                "leave it out"
            )


def terms_of(objective: ObjectiveSettings) -> list[str]:
    """Names of the losses of an objective with these settings."""
    match objective:
        case AutoencoderObjectiveSettings():
            return ["l1", "kl", "structure"]
        case VisionObjectiveSettings():
            return ["statements"]
        case UnderstandingObjectiveSettings():
            return ["cross_entropy"]
        case GenerationObjectiveSettings() | JointObjectiveSettings():
            joint = isinstance(objective, JointObjectiveSettings)
            terms = ["cross_entropy", "velocity"] if joint else ["velocity"]
            terms += [] if objective.weighting == "none" else ["weighted_velocity"]
            return terms + (["alignment"] if getattr(objective, "alignment", None) else [])


def watching_of(
    run: "RecipeRun",
    stage: StageSettings,
    data: RecipeData,
    folder: Path,
    changed: Callable[[], None],
) -> Watching:
    """Who looks at a stage of a run.

    Args:
        run: its networks are looked at.
        stage: says what is drawn and measured.
        data: whose dev split is drawn and read.
        folder: of the stage.
        changed: called when there is something new to see.

    Raises:
        ValueError: the dev split has too few studies with texts.
    """
    if stage.draw is None and stage.measure is None:
        return Watching(changed=changed)
    # imported here so that training does not wait for what only drawing needs
    from unix_cxr.pipelines.pipeline import UniXPipeline
    from unix_cxr.training.drawn_validation import ModelExaminer

    vae: Any = run.vae
    shift = SamplingDefaults.of(run.model.config).shift
    pipeline = UniXPipeline(
        run.model, vae.to(run.device).eval(), run.processor, euler_scheduler(shift)
    )
    examiner = ModelExaminer(
        pipeline,
        data.store("dev"),
        stage,
        folder,
        seed=run.recipe.seed,
        processes=run.processes,
    )
    return Watching(examiner, changed)
