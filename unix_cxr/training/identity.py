"""Whether a checkpoint belongs to this stage of this recipe, begun from these weights."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from unix_cxr.pipelines.processing import UniXProcessor
from unix_cxr.training.kinds import KINDS
from unix_cxr.training.settings import Recipe, StageSettings

_HARMLESS: Final = frozenset(
    {
        "accumulation",
        "activation_checkpointing",
        "allow_random",
        "checkpoint_every",
        "compile",
        "draw",
        "keep_best",
        "keep_checkpoints",
        "log_every",
        "measure",
        "trackers",
        "validate_every",
        "workers",
    }
)


def changed_keys(stored: str, recipe: str, stage: StageSettings) -> list[str]:
    """What a stage's stored recipe says otherwise than the present one: "key: old -> new".

    Only what reaches the stage's weights is compared: its own settings, the data (wherever they
    lie), the seed and the sizes of the networks that it runs. How often it logs or saves may
    change, and so may the number of steps under a constant schedule.

    Args:
        stored: recipe as JSON text.
        recipe: recipe as JSON text.
        stage: the stage in question.

    Raises:
        ValueError: a stored recipe that this version cannot read, or one without the stage.
    """
    if stored == recipe:
        return []
    try:
        old, new = Recipe.model_validate_json(stored), Recipe.model_validate_json(recipe)
        before, now = _relevant(old, old.stage(stage.name)), _relevant(new, stage)
    except ValidationError as error:
        raise ValueError(
            f"the stored recipe is not one that this version reads ({error.error_count()} "
            f"problems, the first at {'.'.join(map(str, error.errors()[0]['loc']))})"
        ) from error
    return [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _relevant(recipe: Recipe, stage: StageSettings) -> dict[str, Any]:
    harmless = _HARMLESS | ({"steps"} if stage.schedule == "constant" else set())
    # where an encoder or contexts lie may change; what they are, fingerprints say
    left_out: Any = dict.fromkeys((*harmless, "data"), True) | {
        "objective": {"alignment": {"encoder"}, "contexts": {"folder"}}
    }
    tree: dict[str, Any] = {
        "seed": recipe.seed,
        "data": (stage.data or recipe.data).model_dump(exclude={"root"}),
        f"stages.{stage.name}": stage.model_dump(exclude=left_out),
    }
    for section in KINDS[stage.objective.kind].sections:
        tree[section] = getattr(recipe, section).model_dump()
    return dict(_leaves("", tree))


def _leaves(prefix: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def processor_fingerprint(processor: UniXProcessor) -> str:
    """SHA-256 of a processor's tokenizer and image settings: other tokens mean other weights."""
    backend: Any = processor.tokenizer
    tokenizer = json.loads(backend.backend_tokenizer.to_str())
    for passing in ("truncation", "padding"):  # of the last call
        tokenizer.pop(passing, None)
    digest = hashlib.sha256(json.dumps(tokenizer).encode())
    names = ("image_size", "image_tokens", "image_mean", "image_std", "placeholder")
    digest.update(json.dumps([getattr(processor, name) for name in names]).encode())
    return digest.hexdigest()
