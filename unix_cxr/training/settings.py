"""What a recipe may say, checked by pydantic; an unknown key is an error that names known ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from unix_cxr.training.kinds import KINDS
from unix_cxr.training.objective_settings import (
    Fraction,
    ObjectiveSettings,
    Positive,
    StrictSettings,
)
from unix_cxr.training.watch_settings import DrawSettings, MeasureSettings


class DataSettings(StrictSettings):
    """Which studies are read, and at which size.

    Args:
        root: a folder, relative to the working directory, or "phantom:COUNT".
        kind: "table" is a folder with metadata.csv and the images, "prepared" one that
            `unix-cxr data prepare` made, "phantom" draws phantoms.
        subsets: collections of a table to train on; a table needs it and nothing else takes it.
        image_size: side of the square images in pixels.
        limit: keep only the first studies of each split; None keeps all.
    """

    root: str
    kind: Literal["table", "prepared", "phantom"] = "table"
    subsets: tuple[str, ...] | None = None
    image_size: Annotated[int, Field(ge=32, multiple_of=16)]
    limit: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _subsets_of_a_table(self) -> "DataSettings":
        if (self.kind == "table") != (self.subsets is not None):
            raise ValueError(
                "subsets must list the collections of a table to train on"
                if self.kind == "table"
                else f"subsets are for kind table; leave them out for kind {self.kind}"
            )
        return self


class AutoencoderSettings(StrictSettings):
    """Sizes of the autoencoder; see `build_autoencoder`."""

    channels: tuple[int, ...]
    layers_per_block: Annotated[int, Field(ge=1)]
    latent_channels: Annotated[int, Field(ge=1)]
    image_channels: Literal[1, 3]
    norm_groups: Annotated[int, Field(ge=1)]


class ModelSettings(StrictSettings):
    """Sizes of the model; see `UniXConfig`.

    A token of the generation branch holds a square of `latent_patch_size` by as many latents.
    `vision_stem` lists the channels of the convolutions in front of the vision tower; without it
    the tower cuts the image into patches with one linear map. A language model that begins from one
    without norms of queries and keys, as Janus' is, takes `query_key_norm: false`.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary_size: int
    vision_hidden_size: int
    vision_intermediate_size: int
    vision_layers: int
    vision_heads: int
    vision_patch_size: int
    vision_stem: tuple[int, ...] | None = None
    connector_activation: Literal["gelu", "gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    query_key_norm: bool = True
    max_latent_size: int
    latent_patch_size: Annotated[int, Field(ge=1)] = 1


class StageSettings(StrictSettings):
    """One stage: what it minimises, what learns, for how long and how fast.

    Args:
        name: names the stage's folder.
        objective: what is minimised.
        trains: shell patterns of the parameters that learn; each must match one.
        data: which studies the stage learns from, in the place of the recipe's; their size is that
            of what is drawn, and what is read is resized to the vision tower's.
        freezes: shell patterns of parameters that stay as they are although `trains` matches them;
            each must match one.
        allow_random: the stage may read frozen weights that nothing has trained or loaded.
        steps: optimizer steps.
        batch_size: samples per step, over all processes and micro-batches.
        accumulation: micro-batches per step and process; changes memory, not what is learned.
        learning_rate: after the warm-up.
        warmup_steps: linear rise at the start.
        schedule: "constant", or "cosine" down to a hundredth of the rate.
        optimizer: "adamw", or "muon" for the weight matrices of the layers and AdamW for the rest.
        betas: of AdamW.
        adam_eps: of AdamW.
        momentum: of Muon.
        weight_decay: of both.
        clip_norm: largest norm of the gradient.
        ema_decay: of the weights' moving average, which is validated and kept in the place of the
            weights; None keeps no average.
        spike_factor: a loss above this many times its running mean is a spike; None minds none.
        on_spike: "skip" takes no step with a spike's batch, "stop" ends the run before it.
        precision: "float32", or autocast to "bfloat16" or "float16" over float32 weights; float16
            needs a GPU, and scales the loss so that small gradients do not vanish.
        activation_checkpointing: keep each layer's input alone and compute the rest again for the
            gradient: less memory, about a third more arithmetic, the same result.
        compile: translate the objective with torch.compile before the first step.
        augmentation: strength of the image augmentation; 0 is none, 1 the usual.
        length_window: batches that are sorted by the length of their texts and cut anew, so that
            little is padded; 1 sorts none.
        workers: processes that make batches; 0 makes them in the training process.
        log_every: steps between lines of the log.
        validate_every: steps between passes over the dev split.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many are kept.
        keep_best: a metric of the dev split, such as "dev_velocity": the stage exports the step at
            which it was best in the place of the last one.
        draw: X-rays to draw along the way; None draws none.
        measure: what else to measure along the way; None measures the losses alone.
        trackers: of accelerate, such as "tensorboard", that get every row of the log.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    objective: ObjectiveSettings
    trains: Annotated[tuple[str, ...], Field(min_length=1)]
    data: DataSettings | None = None
    freezes: tuple[str, ...] = ()
    allow_random: bool = False
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    accumulation: Annotated[int, Field(ge=1)] = 1
    learning_rate: Positive
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Literal["constant", "cosine"]
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[Fraction, Fraction]
    adam_eps: Positive = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Positive
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    spike_factor: Annotated[float, Field(gt=1)] | None = None
    on_spike: Literal["skip", "stop"] = "skip"
    precision: Literal["float32", "bfloat16", "float16"]
    activation_checkpointing: bool = False
    compile: bool = False
    augmentation: Annotated[float, Field(ge=0, le=2)]
    length_window: Annotated[int, Field(ge=1)] = 1
    workers: Annotated[int, Field(ge=0)] = 0
    log_every: Annotated[int, Field(ge=1)] = 20
    validate_every: Annotated[int, Field(ge=1)] = 500
    checkpoint_every: Annotated[int, Field(ge=1)] = 250
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    keep_best: str | None = None
    draw: DrawSettings | None = None
    measure: MeasureSettings | None = None
    trackers: tuple[str, ...] = ()


class Recipe(StrictSettings):
    """A whole training run: data, sizes, and the stages in their order.

    Args:
        name: names the run's folder.
        seed: of everything that is drawn.
        begins_from: pipeline folder whose weights the run begins with; None begins with random
            ones, or with those that the command names.
        data: the studies; their size is the vision tower's.
        autoencoder: its sizes.
        model: its sizes.
        sampling: defaults of the exported pipeline; see `SamplingDefaults`.
        stages: in their order.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    seed: int
    begins_from: str | None = None
    data: DataSettings
    autoencoder: AutoencoderSettings
    model: ModelSettings
    sampling: dict[str, Any]
    stages: Annotated[tuple[StageSettings, ...], Field(min_length=1)]

    def stage(self, name: str) -> StageSettings:
        """The stage of that name.

        Raises:
            ValueError: there is none; the message lists the stages.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ValueError(
            f"recipe {self.name!r} has no stage {name!r}; it has {[s.name for s in self.stages]}"
        )


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and apply overrides such as "data.root=/xrays" or "stages.0.steps=10".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the YAML, an override or a value is wrong; the message names the key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recipe at {path}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold keys such as name, data and stages; it holds {tree!r}")  # noqa: TRY004 - a wrong value in a file
    for override in overrides:
        _override(tree, override)
    return parse_recipe(tree, str(path))


def parse_recipe(tree: Mapping[str, Any], origin: str) -> Recipe:
    """Check a recipe that is already a tree of plain values.

    Raises:
        ValueError: every wrong key with its path, and the known keys where one is unknown.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise ValueError(f"{origin}:\n  " + "\n  ".join(lines)) from error


def _explain(problem: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key; known keys here: {_known_keys(problem['loc'])}"
    value = problem.get("input")
    shown = f" (got {value!r})" if isinstance(value, str | int | float) else ""
    return f"{place}: {problem['msg']}{shown}"


def _known_keys(location: Sequence[str | int]) -> list[str]:
    parts = [part for part in location[:-1] if isinstance(part, str)]
    if not parts:
        return list(Recipe.model_fields)
    if "objective" in parts:
        kind, *inner = parts[parts.index("objective") + 1 :]
        section = KINDS[kind].settings
        for name in inner:
            section = _section_of(section, name) or section
        return list(section.model_fields)
    sections: dict[str, type[BaseModel]] = {
        "data": DataSettings,
        "autoencoder": AutoencoderSettings,
        "model": ModelSettings,
        "stages": StageSettings,
    }
    section = sections[parts[0]]
    for name in parts[1:]:
        section = _section_of(section, name) or section
    return list(section.model_fields)


def _section_of(settings: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The settings that a field holds; None where it holds plain values."""
    field = settings.model_fields.get(name)
    choices = (field.annotation, *get_args(field.annotation)) if field else ()
    found = [kind for kind in choices if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return found[0] if found else None


def _override(tree: Any, override: str) -> None:  # noqa: ANN401 - a tree of YAML values
    key, separator, text = override.partition("=")
    if not separator:
        raise ValueError(f"override {override!r} must look like key.subkey=value")
    *parents, last = key.split(".")
    node = tree
    for part in parents:
        node = _child(node, part, key)
    if not isinstance(node, dict):
        raise ValueError(  # noqa: TRY004 - the value of an option, not the type of an argument
            f"override {key!r}: {last!r} is no key of a list; name an entry before it"
        )
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: {text!r} is no YAML value") from error


def _child(node: Any, part: str, key: str) -> Any:  # noqa: ANN401 - a tree of YAML values
    if isinstance(node, list):
        if part.isdigit() and int(part) < len(node):
            return node[int(part)]
        by_name = [item for item in node if isinstance(item, dict) and item.get("name") == part]
        if by_name:
            return by_name[0]
        names = [item["name"] for item in node if isinstance(item, dict) and "name" in item]
        raise ValueError(
            f"override {key!r}: no entry {part!r}; give a number below {len(node)}, or one of "
            f"{names}"
        )
    if isinstance(node, dict) and node.get(part) is None and _is_section(node, part):
        node[part] = {}  # settings that the recipe leaves to their defaults
    if not isinstance(node, dict) or part not in node:
        known = sorted(node) if isinstance(node, dict) else []
        raise ValueError(f"override {key!r}: unknown key {part!r}; known keys here: {known}")
    return node[part]


def _is_section(node: Mapping[str, Any], part: str) -> bool:
    """Whether an objective's or a stage's tree may hold settings of their own under that key."""
    if "objective" in node:
        return _section_of(StageSettings, part) is not None
    kind = KINDS.get(str(node.get("kind")))
    return kind is not None and _section_of(kind.settings, part) is not None
