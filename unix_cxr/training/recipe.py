"""From a recipe to trained weights: stage after stage, each going on where it stopped."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL

from unix_cxr.data.findings_text import all_texts
from unix_cxr.data.studies import Study, read_table
from unix_cxr.defaults import REPORT_PROMPT
from unix_cxr.files import replacing_folder, write_text
from unix_cxr.models.autoencoder import DOWNSAMPLING, build_autoencoder
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.sampling import SamplingDefaults, euler_scheduler
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.pipeline import UniXPipeline
from unix_cxr.pipelines.processing import UniXProcessor
from unix_cxr.training.autoencoder import AutoencoderObjective, ImageSource, latent_statistics
from unix_cxr.training.checkpoints import checkpoints
from unix_cxr.training.generation import CaptionedLatentSource, GenerationObjective
from unix_cxr.training.identity import changed_keys, fingerprint, processor_fingerprint
from unix_cxr.training.images import XRayStore
from unix_cxr.training.loop import Trainer
from unix_cxr.training.plan import (
    LEFT_OUT,
    RunSummary,
    StagePlan,
    StageResult,
    learning_of,
    parts_of,
    plan_lines,
    plan_stage,
)
from unix_cxr.training.settings import (
    AutoencoderObjectiveSettings,
    GenerationObjectiveSettings,
    Recipe,
    StageSettings,
    UnderstandingObjectiveSettings,
)
from unix_cxr.training.stages import ALWAYS_FROZEN, matches
from unix_cxr.training.starting import load_model_weights, load_processor, load_vae_weights
from unix_cxr.training.tokenizer import train_tokenizer
from unix_cxr.training.understanding import ReportSource, UnderstandingObjective

FINISHED_STATE: Final = "finished"
FINISHED: Final = "finished.json"
"""Written last into a stage's folder: the recipe, what the stage began from, its losses."""

_NETWORKS: Final[Mapping[str, tuple[str, ...]]] = {
    "autoencoder": ("vae",),
    "understanding": ("model", "processor"),
    "generation": ("vae", "model", "processor"),
}
logger = logging.getLogger(__name__)


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    device: torch.device | str = "cpu",
    stages: Sequence[str] | None = None,
    init_from: str | Path | None = None,
    dry_run: bool = False,
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
            the run begins with.
        dry_run: check and plan, and write nothing.

    Raises:
        FileNotFoundError: data or weights are missing.
        ValueError: the recipe, the data, the weights or a checkpoint do not fit together.
        FloatingPointError: a loss or a gradient is not finite.
        OSError: the disk is full; checkpoints that were whole stay so.
    """
    run = RecipeRun(recipe, Path(out), torch.device(device))
    run.check()
    if init_from is not None:
        run.begin_from(Path(init_from))
    wanted = [stage.name for stage in recipe.stages] if stages is None else list(stages)
    plan = run.plan(wanted)
    logger.info("\n".join(plan_lines(plan)))
    results: list[StageResult] = []
    if not dry_run:
        run.check_data(plan)
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
    return RunSummary(
        recipe=recipe.name,
        folder=run.folder,
        device=str(run.device),
        plan=plan,
        results=tuple(results),
        pipeline=pipeline,
        random_parts=random,
    )


class RecipeRun:
    """A recipe with its data and networks, built when a stage first needs them.

    Args:
        recipe: what to do.
        folder: takes one folder per stage and, at the end, the pipeline.
        device: where to train.
    """

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device) -> None:
        self.recipe = recipe
        self.folder = folder
        self.device = device
        self.known: set[str] = set()
        self._stores: dict[str, XRayStore] = {}

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The autoencoder, with random weights until a stage or a folder gives it others."""
        settings = self.recipe.autoencoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            vae: Any = build_autoencoder(
                **settings.model_dump(), sample_size=self.recipe.data.image_size
            )
        # once and for all: another layout in memory rounds otherwise
        return vae.to(memory_format=torch.channels_last)  # type: ignore[no-any-return]  # diffusers is untyped

    @cached_property
    def processor(self) -> UniXProcessor:
        """Tokenizer and image settings of the recipe."""
        sizes, side = self.recipe.model, self.recipe.data.image_size
        texts = [*all_texts(), REPORT_PROMPT, "Indication:"]
        return UniXProcessor(
            train_tokenizer(texts, sizes.vocabulary_size),
            image_size=side,
            image_tokens=(side // sizes.vision_patch_size) ** 2,
            placeholder="<image>",
        )

    @cached_property
    def model(self) -> UniXModel:
        """The model, with random weights until a stage or a folder gives it others."""
        config = model_config(self.recipe, self.processor)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            return UniXModel(config)

    @cached_property
    def studies(self) -> list[Study]:
        """The studies of the recipe's subsets."""
        return read_table(self.recipe.data.root, subsets=self.recipe.data.subsets)

    def store(self, split: str) -> XRayStore:
        """Images of a split, read once."""
        if split not in self._stores:
            data = self.recipe.data
            chosen = [study for study in self.studies if study.split == split]
            self._stores[split] = XRayStore(chosen[: data.limit], data.image_size)
        return self._stores[split]

    # -- before training ---------------------------------------------------------------------

    def check(self) -> None:
        """Refuse sizes that do not fit together, before anything is built or read.

        Raises:
            ValueError: the message names the keys.
        """
        side, sizes = self.recipe.data.image_size, self.recipe.model
        if side % sizes.vision_patch_size:
            raise ValueError(
                f"data.image_size ({side}) must be divisible by model.vision_patch_size "
                f"({sizes.vision_patch_size})"
            )
        if side // DOWNSAMPLING > sizes.max_latent_size:
            raise ValueError(
                f"model.max_latent_size ({sizes.max_latent_size}) must be at least "
                f"{side // DOWNSAMPLING}: data.image_size ({side}) over {DOWNSAMPLING}"
            )
        names = [stage.name for stage in self.recipe.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two stages are named {twice}; each needs a folder of its own")

    def check_data(self, plan: Sequence[StagePlan]) -> None:
        """Refuse a run whose studies are missing, unless no stage needs any.

        Raises:
            FileNotFoundError: the table or an image is missing.
            ValueError: the table is wrong, or a split is empty.
        """
        if all(stage.state in {FINISHED_STATE, LEFT_OUT} for stage in plan):
            return
        for split in ("train", "dev"):
            count = sum(study.split == split for study in self.studies)
            if not count:
                raise ValueError(f"{self.recipe.data.root} has no studies in split {split!r}")
            logger.info("%s: %d studies", split, min(count, self.recipe.data.limit or count))

    def begin_from(self, folder: Path) -> None:
        """Take the weights of a pipeline folder, or of a stage's: model/, vae/, processor/.

        Raises:
            FileNotFoundError: the folder has neither model/ nor vae/, or lacks weights.
            ValueError: its configuration is not the recipe's, or a file cannot be read.
        """
        has_model, has_vae = (folder / "model").is_dir(), (folder / "vae").is_dir()
        if not has_model and not has_vae:
            raise FileNotFoundError(
                f"{folder} has neither model/ nor vae/; give a pipeline folder such as "
                "OUT/pipeline of another run"
            )
        if has_model:
            self._take_processor(folder / "processor")
            load_model_weights(self.model, folder / "model")
            self.known |= {f"model.{name}" for name, _ in self.model.named_parameters()}
        if has_vae:
            load_vae_weights(self.vae, folder / "vae")
            self.known |= {name for name in self.sizes() if name.startswith("vae.")}
        logger.info("begins from %s", folder)

    def _take_processor(self, folder: Path) -> None:
        processor, sizes = load_processor(folder), self.recipe.model
        side = self.recipe.data.image_size
        wanted = {
            "image_size": side,
            "image_tokens": (side // sizes.vision_patch_size) ** 2,
        }
        for name, value in wanted.items():
            found = getattr(processor, name)
            if found != value:
                raise ValueError(f"{folder}: {name} is {found}, the recipe needs {value}")
        if len(processor.tokenizer) > sizes.vocabulary_size:
            raise ValueError(
                f"{folder}: the tokenizer has {len(processor.tokenizer)} tokens, more than "
                f"model.vocabulary_size ({sizes.vocabulary_size})"
            )
        self.processor = processor  # takes the cached property's place, before the model is built

    def sizes(self) -> dict[str, int]:
        """Number of scalars of every parameter, by the names that stages use."""
        networks: dict[str, Any] = {"vae": self.vae, "model": self.model}
        return {
            f"{prefix}.{name}": parameter.numel()
            for prefix, network in networks.items()
            for name, parameter in network.named_parameters()
        }

    def plan(self, wanted: Sequence[str]) -> tuple[StagePlan, ...]:
        """What is about to happen to every stage of the recipe.

        Args:
            wanted: names of the stages to run.

        Raises:
            ValueError: a wanted stage is unknown, or a stage cannot be run; see `plan_stage`.
        """
        for name in wanted:
            self.recipe.stage(name)
        SamplingDefaults.of(self.model.config)  # refuses unknown keys now, not after the training
        known, sizes = set(self.known), self.sizes()
        return tuple(
            plan_stage(stage, sizes, known, self._state(stage, wanted))
            for stage in self.recipe.stages
        )

    def random_parts(self) -> tuple[str, ...]:
        """Parts of the networks that nothing has trained or loaded."""
        names = [name for name in self.sizes() if not matches(name, ALWAYS_FROZEN)]
        return tuple(parts_of([name for name in names if name not in self.known]))

    # -- training ----------------------------------------------------------------------------

    def advance(self, name: str, wanted: Sequence[str]) -> StageResult | None:
        """Load a finished stage, run a wanted one, leave out any other (None).

        Raises:
            ValueError: a finished stage began from other weights than this run has.
        """
        stage, started = self.recipe.stage(name), time.monotonic()
        finished = self._finished(stage)
        if finished is not None:
            self._reuse(stage, finished, wanted)
        elif name not in wanted:
            logger.warning("stage %s is left out: it was not asked for and is not finished", name)
            return None
        losses = finished["losses"] if finished is not None else self.run_stage(stage)
        self.known |= learning_of(stage, self.sizes())
        return StageResult(
            name=name,
            steps=stage.steps,
            skipped=finished is not None,
            seconds=round(time.monotonic() - started, 3),
            losses=losses,
        )

    def run_stage(self, stage: StageSettings) -> dict[str, float]:
        """Train one stage and keep what it learned; returns its validation losses."""
        began = self._fingerprints(stage)
        settings = stage.objective
        match settings:
            case AutoencoderObjectiveSettings():
                losses = self._train_autoencoder(stage, settings, began)
            case UnderstandingObjectiveSettings():
                losses = self._train_understanding(stage, began)
            case GenerationObjectiveSettings():
                losses = self._train_generation(stage, settings, began)
        record = {"recipe": self._text, "started_from": began, "losses": losses}
        write_text(self.folder / stage.name / FINISHED, json.dumps(record, indent=1))
        return losses

    def _train_autoencoder(
        self, stage: StageSettings, settings: AutoencoderObjectiveSettings, began: dict[str, str]
    ) -> dict[str, float]:
        source = ImageSource(
            self.store("train"),
            self.store("dev"),
            batch_size=stage.batch_size,
            latent_channels=self.recipe.autoencoder.latent_channels,
            augmentation=stage.augmentation,
            crop=settings.crop,
            seed=self.recipe.seed,
        )
        weights = settings.model_dump(include={"l1", "kl", "structure"})
        objective = AutoencoderObjective(self.vae, weights)
        losses = self._trainer(objective, source, stage, began).run()
        mean, deviation = latent_statistics(self.vae, self.store("train"))
        vae: Any = self.vae
        vae.register_to_config(shift_factor=mean, scaling_factor=1 / deviation)
        self._keep(stage, {"vae": vae})
        return losses

    def _train_understanding(self, stage: StageSettings, began: dict[str, str]) -> dict[str, float]:
        source = ReportSource(
            self.store("train"),
            self.store("dev"),
            self.processor,
            batch_size=stage.batch_size,
            augmentation=stage.augmentation,
            seed=self.recipe.seed,
        )
        losses = self._trainer(UnderstandingObjective(self.model), source, stage, began).run()
        self._keep(stage, {"model": self.model, "processor": self.processor})
        return losses

    def _train_generation(
        self, stage: StageSettings, settings: GenerationObjectiveSettings, began: dict[str, str]
    ) -> dict[str, float]:
        vae: Any = self.vae
        source = CaptionedLatentSource(
            self.store("train"),
            self.store("dev"),
            vae.to(self.device).eval(),
            self.processor,
            settings,
            batch_size=stage.batch_size,
            augmentation=stage.augmentation,
            seed=self.recipe.seed,
        )
        objective = GenerationObjective(self.model, settings.understanding_gradient)
        losses = self._trainer(objective, source, stage, began).run()
        self._keep(stage, {"model": self.model, "processor": self.processor})
        return losses

    def _trainer(
        self,
        objective: torch.nn.Module,
        source: Any,  # noqa: ANN401 - each objective has a source of its own
        stage: StageSettings,
        began: dict[str, str],
    ) -> Trainer:
        return Trainer(
            objective,
            source,
            stage,
            self.folder / stage.name,
            recipe=self._text,
            device=self.device,
            started_from=began,
        )

    def _keep(self, stage: StageSettings, parts: Mapping[str, Any]) -> None:
        for name, part in parts.items():
            with replacing_folder(self.folder / stage.name / name) as folder:
                part.save_pretrained(folder)

    # -- stages that are finished ------------------------------------------------------------

    @property
    def _text(self) -> str:
        return self.recipe.model_dump_json()

    def _fingerprints(self, stage: StageSettings) -> dict[str, str]:
        names = _NETWORKS[stage.objective.kind]
        makers = {
            "vae": lambda: fingerprint(self.vae),
            "model": lambda: fingerprint(self.model),
            "processor": lambda: processor_fingerprint(self.processor),
        }
        return {name: makers[name]() for name in names}

    def _finished(self, stage: StageSettings) -> dict[str, Any] | None:
        """The record of a stage that was finished under the same recipe."""
        folder = self.folder / stage.name
        export = "vae" if stage.objective.kind == "autoencoder" else "model"
        if not (folder / FINISHED).is_file() or not (folder / export).is_dir():
            return None
        try:
            record: dict[str, Any] = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
            same = not changed_keys(record["recipe"], self._text, stage)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{folder / FINISHED} is damaged ({error}); remove it") from error
        return record if same else None

    def _state(self, stage: StageSettings, wanted: Sequence[str]) -> str:
        if self._finished(stage) is not None:
            return FINISHED_STATE
        if stage.name not in wanted:
            return LEFT_OUT
        found = checkpoints(self.folder / stage.name)
        return f"goes on at step {int(found[-1].name[5:])}" if found else "begins"

    def _reuse(
        self, stage: StageSettings, record: Mapping[str, Any], wanted: Sequence[str]
    ) -> None:
        folder = self.folder / stage.name
        began = self._fingerprints(stage)
        # a stage that was only asked to lend its weights may come from anywhere, but its tokens
        # must be ours
        checked = set(began) if stage.name in wanted else {"processor"}
        others = [
            name
            for name, value in record["started_from"].items()
            if name in checked and began.get(name) != value
        ]
        if others:
            raise ValueError(
                f"stage {stage.name!r} in {folder} is finished, but began from other weights of "
                f"{', '.join(others)} than this run has; remove {folder} to train it anew, or "
                "give another output folder"
            )
        if stage.objective.kind == "autoencoder":
            load_vae_weights(self.vae, folder / "vae")
        else:
            load_model_weights(self.model, folder / "model")
        logger.info("stage %s is finished: its weights are loaded from %s", stage.name, folder)

    def export(self) -> Path:
        """Write the pipeline folder: model/, vae/, processor/, scheduler/ and their index."""
        target = self.folder / "pipeline"
        shift = SamplingDefaults.of(self.model.config).shift
        pipeline = UniXPipeline(self.model.eval(), self.vae, self.processor, euler_scheduler(shift))
        with replacing_folder(target) as folder:
            pipeline.save_pretrained(folder)
        logger.info("pipeline in %s", target)
        return target


def model_config(recipe: Recipe, processor: UniXProcessor) -> UniXConfig:
    """The published layout in a recipe's sizes, with the processor's token ids."""
    sizes = recipe.model
    return UniXConfig(
        text_config={
            "vocab_size": sizes.vocabulary_size,
            "hidden_size": sizes.hidden_size,
            "intermediate_size": sizes.intermediate_size,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim,
            "attention_bias": True,
            "rope_theta": 10_000.0,
            "max_position_embeddings": 4096,
        },
        vision_config={
            "hidden_size": sizes.vision_hidden_size,
            "intermediate_size": sizes.vision_intermediate_size,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_heads,
            "patch_size": sizes.vision_patch_size,
            "image_size": recipe.data.image_size,
            "vision_use_head": False,
            "hidden_act": "gelu",
        },
        latent_channels=recipe.autoencoder.latent_channels,
        max_latent_size=sizes.max_latent_size,
        begin_image_token_id=processor.begin_id,
        end_image_token_id=processor.end_id,
        bos_token_id=processor.bos_id,
        eos_token_id=processor.eos_id,
        pad_token_id=processor.pad_id,
        sampling={"image_size": recipe.data.image_size} | recipe.sampling,
    )
