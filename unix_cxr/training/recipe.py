"""From a recipe to trained weights: stage after stage, each going on where it stopped."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from unix_cxr.files import replacing_folder
from unix_cxr.models.sampling import SamplingDefaults, euler_scheduler
from unix_cxr.training.autoencoder import latent_statistics
from unix_cxr.training.checkpoints import checkpoints
from unix_cxr.training.costs import memory_of
from unix_cxr.training.data import RecipeData
from unix_cxr.training.estimates import with_costs
from unix_cxr.training.finished import finished_record, refuse_other_beginning, write_finished
from unix_cxr.training.kinds import KINDS
from unix_cxr.training.loop import Trainer
from unix_cxr.training.networks import Networks
from unix_cxr.training.plan import (
    BEGINS,
    FINISHED_STATE,
    GOES_ON,
    LEFT_OUT,
    RunSummary,
    StagePlan,
    StageResult,
    learning_of,
    plan_lines,
    plan_stage,
)
from unix_cxr.training.precision import check_computing
from unix_cxr.training.processes import Processes
from unix_cxr.training.run_record import write_run
from unix_cxr.training.settings import Recipe, StageSettings
from unix_cxr.training.starting import (
    copy_understanding,
    load_model_weights,
    load_vae_weights,
)
from unix_cxr.training.tasks import Task, check_encoder, task_of
from unix_cxr.training.watching import check_watching, watching_of

_FLOAT_BYTES: Final = 4
_LEARNED_TIMES: Final = 3
"""A gradient and two averages of it, for each parameter that learns."""

logger = logging.getLogger(__name__)


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    device: torch.device | str = "cpu",
    stages: Sequence[str] | None = None,
    init_from: str | Path | None = None,
    dry_run: bool = False,
    costs: bool = False,
) -> RunSummary:
    """Train a recipe's stages in their order and export a pipeline folder at `out/pipeline`.

    A finished stage is skipped and its weights are loaded; a stopped one goes on from its newest
    checkpoint; what one stage learns, the next begins with.

    Args:
        recipe: what to do.
        out: folder of the run.
        device: where to train.
        stages: run these only; others are loaded where they are finished, else left out.
        init_from: folder with model/ and processor/, with vae/, or with all three, whose weights
            the run begins with, in the place of the recipe's `begins_from`.
        dry_run: check and plan, and write nothing and load no weight; what is not there yet is
            told, and the plan counts with it.
        costs: the plan says what a step of every stage costs on this machine, which takes seconds
            per stage to find out.

    Raises:
        FileNotFoundError: data or weights are missing.
        ValueError: the recipe, the data, the weights or a checkpoint do not fit together.
        RunStopped: a signal asked for it; the same call goes on.
        FloatingPointError: a loss or a gradient is not finite.
        OSError: the disk is full; checkpoints that were whole stay so.
    """
    run = RecipeRun(recipe, Path(out), torch.device(device))
    run.check()
    there = begin_run(run, init_from, dry_run=dry_run)
    wanted = [stage.name for stage in recipe.stages] if stages is None else list(stages)
    plan = run.plan(wanted)
    there &= _inputs_there(run, plan, dry_run=dry_run)
    if costs and there and run.fits(plan):
        plan = with_costs(run, plan)
    results: list[StageResult] = []
    if not dry_run:
        logger.info("\n".join(plan_lines(plan)))
        run.note(plan)
        results = [
            result for name in (s.name for s in plan) if (result := run.advance(name, wanted))
        ]
    random = run.random_parts()
    allowed = any(recipe.stage(result.name).allow_random for result in results)
    pipeline = None
    if results and (allowed or not random):
        pipeline = run.export()
    elif results:
        logger.warning("no pipeline is exported: %s still random", ", ".join(random))
    if results:
        run.show()
    return RunSummary(
        recipe=recipe.name,
        folder=run.folder,
        device=str(run.device),
        plan=plan,
        results=tuple(results),
        pipeline=pipeline,
        random_parts=random,
    )


def begin_run(run: "RecipeRun", init_from: str | Path | None, *, dry_run: bool = False) -> bool:
    """Load what a run begins from: `init_from`, or what its recipe names.

    Returns:
        False where a dry run finds that what the recipe names is not there yet.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it does not fit the recipe.
    """
    folder = init_from or run.recipe.begins_from
    if folder is None:
        return True
    try:
        run.begin_from(Path(folder), load=not dry_run)
    except FileNotFoundError as error:
        if init_from is not None:
            raise
        message = f"{error} (the recipe says begins_from: {folder}; --init-from names another)"
        if not dry_run:
            raise FileNotFoundError(message) from error
        logger.warning("not there yet: %s", message)
        run.expect("")
        return False
    return True


def _inputs_there(run: "RecipeRun", plan: Sequence[StagePlan], *, dry_run: bool) -> bool:
    """Refuse a run without its studies or encoders; a dry run is told of them (False)."""
    there = True
    for check in (run.check_data, run.check_encoders):
        try:
            check(plan)
        except FileNotFoundError as error:
            if not dry_run:
                raise
            logger.warning("not there yet: %s", error)
            there = False
    return there


class RecipeRun(Networks):
    """A recipe with its data and networks, built when a stage first needs them.

    Args:
        recipe: what to do.
        folder: takes one folder per stage and, at the end, the pipeline.
        device: where to train.
    """

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device) -> None:
        super().__init__(recipe)
        self.folder = folder
        self.processes = Processes.find(device)
        self.device = self.processes.device

    # -- before training ---------------------------------------------------------------------

    def check_data(self, plan: Sequence[StagePlan]) -> None:
        """Refuse a run whose studies are missing, unless no stage needs any.

        Raises:
            FileNotFoundError: the table or an image is missing.
            ValueError: the table is wrong, or a split is empty.
        """
        stages = [self.recipe.stage(entry.name) for entry in plan if _begins(entry)]
        for data in {id(data): data for data in map(self.data_of, stages)}.values():
            for split in ("train", "dev"):
                count = data.count(split)
                if not count:
                    raise ValueError(f"{data.settings.root} has no studies in split {split!r}")
                logger.info("%s: %d studies", split, count)

    def check_encoders(self, plan: Sequence[StagePlan]) -> None:
        """Refuse a run whose encoders are missing.

        Raises:
            FileNotFoundError: a folder lacks a file.
        """
        for entry in plan:
            alignment = getattr(self.recipe.stage(entry.name).objective, "alignment", None)
            if _begins(entry) and alignment is not None:
                check_encoder(alignment)

    def fits(self, plan: Sequence[StagePlan]) -> bool:
        """Whether weights, gradients and optimizer have room here; tells it where they have not."""
        learning = max(entry.learning.loaded + entry.learning.new for entry in plan)
        needed = _FLOAT_BYTES * (sum(self.sizes().values()) + _LEARNED_TIMES * learning)
        there = memory_of(self.device)
        if needed > there:
            logger.warning(
                "what a step costs is not measured: the networks take %.3g GB to train, this "
                "machine has %.3g GB",
                needed / 1e9,
                there / 1e9,
            )
        return needed <= there

    def plan(self, wanted: Sequence[str]) -> tuple[StagePlan, ...]:
        """What is about to happen to every stage of the recipe.

        Args:
            wanted: names of the stages to run.

        Raises:
            ValueError: a wanted stage is unknown, or a stage cannot be run; see `plan_stage`.
        """
        for name in wanted:
            self.recipe.stage(name)
        SamplingDefaults.of(self.config)  # refuses unknown keys now, not after the training
        known, sizes = set(self.known), self.sizes()
        plan = tuple(
            plan_stage(stage, sizes, known, self._state(stage, wanted))
            for stage in self.recipe.stages
        )
        for entry in plan:
            if entry.steps_left:
                check_computing(self.recipe.stage(entry.name), self.device)
                check_watching(self.recipe.stage(entry.name))
        return plan

    # -- training ----------------------------------------------------------------------------

    def advance(self, name: str, wanted: Sequence[str]) -> StageResult | None:
        """Load a finished stage, run a wanted one, leave out any other (None).

        Raises:
            ValueError: a finished stage began from other weights than this run has.
        """
        stage, started = self.recipe.stage(name), time.monotonic()
        finished = self._finished(stage)
        if finished is None and name not in wanted:
            logger.warning("stage %s is left out: it was not asked for and is not finished", name)
            return None
        self.prepare(stage)  # what a finished stage began with is checked too
        if finished is not None:
            self._reuse(stage, finished, wanted)
        losses = finished["losses"] if finished is not None else self.run_stage(stage)
        self.known |= learning_of(stage, self.sizes())
        return StageResult(
            name=name,
            steps=stage.steps,
            skipped=finished is not None,
            seconds=round(time.monotonic() - started, 3),
            losses=losses,
        )

    def prepare(self, stage: StageSettings) -> None:
        """What a stage does to the networks before it learns."""
        if getattr(stage.objective, "copy_understanding", False):
            copy_understanding(self.model)

    def lend(self, stage: StageSettings) -> bool:
        """Take the weights of a stage that is finished in the run's folder; False where none is.

        Raises:
            ValueError: its tokens are others than this run's, or its record is damaged.
        """
        finished = self._finished(stage)
        if finished is None:
            return False
        self._reuse(stage, finished, ())
        self.known |= learning_of(stage, self.sizes())
        return True

    def run_stage(self, stage: StageSettings) -> dict[str, float]:
        """Train one stage and keep what it learned; returns its validation losses."""
        began = self.fingerprints(stage)
        data = self.data_of(stage)
        task = self.task(stage, data)
        began |= task.began
        trainer = self._trainer(task, stage, began, data)
        losses = trainer.run()
        parts: dict[str, Any]
        if KINDS[stage.objective.kind].exports == "vae":
            mean, deviation = latent_statistics(self.vae, data.store("train"))
            vae: Any = self.vae
            vae.register_to_config(shift_factor=mean, scaling_factor=1 / deviation)
            parts = {"vae": vae}
        else:
            parts = {"model": self.model, "processor": self.processor}
        self._keep(stage, parts)
        results = trainer.exported | {"losses": losses}
        if self.processes.first:
            write_finished(self.folder / stage.name, stage, self._text, began, results)
        self.processes.wait()
        return losses

    def task(self, stage: StageSettings, data: RecipeData) -> Task:
        """What a stage minimises, and the batches that it learns from.

        Args:
            stage: one of the recipe's, or a variant of it.
            data: all studies, or a few of them for a look at what a step costs.
        """
        return task_of(self, stage, data, self.processes)

    def _trainer(
        self, task: Task, stage: StageSettings, began: dict[str, str], data: RecipeData
    ) -> Trainer:
        folder = self.folder / stage.name
        return Trainer(
            task.objective,
            task.source,
            stage,
            folder,
            recipe=self._text,
            device=self.device,
            started_from=began,
            watching=watching_of(self, stage, data, folder, self.show),
        )

    # -- what a person sees ------------------------------------------------------------------

    def note(self, plan: Sequence[StagePlan]) -> None:
        """Write down what is about to happen, and the first page of it."""
        if self.processes.first:
            write_run(self.folder, self.recipe.model_dump(mode="json"), plan_lines(plan))
        self.show()

    def show(self) -> None:
        """Write the run's page anew; a page that cannot be written ends no training."""
        from unix_cxr.training.run_page import write_page

        if not self.processes.first:
            return
        try:
            write_page(self.folder)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("the run's page is not written: %s", error)

    def _keep(self, stage: StageSettings, parts: Mapping[str, Any]) -> None:
        if not self.processes.first:
            return
        for name, part in parts.items():
            with replacing_folder(self.folder / stage.name / name) as folder:
                part.save_pretrained(folder)

    # -- stages that are finished ------------------------------------------------------------

    @property
    def _text(self) -> str:
        return self.recipe.model_dump_json()

    def _finished(self, stage: StageSettings) -> dict[str, Any] | None:
        return finished_record(self.folder / stage.name, stage, self._text)

    def _state(self, stage: StageSettings, wanted: Sequence[str]) -> str:
        if self._finished(stage) is not None:
            return FINISHED_STATE
        if stage.name not in wanted:
            return LEFT_OUT
        found = checkpoints(self.folder / stage.name)
        return f"{GOES_ON}{int(found[-1].name[5:])}" if found else BEGINS

    def _reuse(
        self, stage: StageSettings, record: Mapping[str, Any], wanted: Sequence[str]
    ) -> None:
        folder = self.folder / stage.name
        began = self.fingerprints(stage)
        # a stage that was only asked to lend its weights may come from anywhere, but its tokens
        # must be ours
        checked = set(began) if stage.name in wanted else {"processor"}
        ours = {name: value for name, value in began.items() if name in checked}
        refuse_other_beginning(folder, stage, record, ours)
        if KINDS[stage.objective.kind].exports == "vae":
            load_vae_weights(self.vae, folder / "vae")
        else:
            load_model_weights(self.model, folder / "model")
        logger.info("stage %s is finished: its weights are loaded from %s", stage.name, folder)

    def export(self) -> Path:
        """Write the pipeline folder: model/, vae/, processor/, scheduler/ and their index."""
        target = self.folder / "pipeline"
        shift = SamplingDefaults.of(self.model.config).shift
        # imported here so that training does not wait for what only the export needs
        from unix_cxr.pipelines.pipeline import UniXPipeline

        self.model.train(mode=False)
        pipeline = UniXPipeline(self.model, self.vae, self.processor, euler_scheduler(shift))
        if self.processes.first:
            with replacing_folder(target) as folder:
                pipeline.save_pretrained(folder)
            logger.info("pipeline in %s", target)
        self.processes.wait()
        return target


def _begins(entry: StagePlan) -> bool:
    return entry.state not in {FINISHED_STATE, LEFT_OUT}
