"""Drawing a table of prompts: in batches, with a manifest, going on where a run stopped."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tqdm.auto import tqdm

from unix_cxr.data.readers.tables import table_rows
from unix_cxr.files import sha256, write_text
from unix_cxr.models.sampling import euler_scheduler, unipc_scheduler
from unix_cxr.pipelines.marking import prompt_hash, save_synthetic_png
from unix_cxr.pipelines.pipeline import UniXPipeline

MANIFEST: Final = "manifest.jsonl"
SOLVERS: Final = {"euler": euler_scheduler, "unipc": unipc_scheduler}


@dataclass(frozen=True)
class PromptRow:
    """One prompt of a table, with its id."""

    identity: str
    prompt: str


@dataclass(frozen=True)
class DrawingOptions:
    """How to draw a table; see `UniXPipeline.__call__`.

    Args:
        count: images per prompt.
        seed: of the first image of every prompt; the next ones count up.
        steps: solver steps; the checkpoint's own where None.
        guidance_scale: the checkpoint's own where None.
        negative_prompt: takes the place of the empty context.
        solver: "euler" or "unipc".
        batch_size: images drawn at once.
        with_prompt: write prompts into files and manifest.
    """

    count: int = 1
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    solver: str = "euler"
    batch_size: int = 16
    with_prompt: bool = False

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver ({self.solver!r}) must be one of {list(SOLVERS)}")


@dataclass(frozen=True)
class DrawnTable:
    """What a run did.

    Args:
        drawn: images that it drew.
        kept: images that were there already, whole.
        network_calls: per image; 0 where nothing was drawn.
        manifest: path of the manifest.
    """

    drawn: int
    kept: int
    network_calls: int
    manifest: str

    def as_dict(self) -> dict[str, object]:
        """As JSON values."""
        return asdict(self)


def single_prompt(prompt: str) -> list[PromptRow]:
    """A table of one prompt, identified by its hash."""
    return [PromptRow(prompt_hash(prompt)[:8], prompt)]


def read_prompts(path: Path | None) -> list[PromptRow]:
    """Read a CSV, JSONL or parquet table with `id` and `prompt`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, an id is there twice or unusable, or a row is empty; the
            message names the line.
    """
    if path is None or not path.is_file():
        raise FileNotFoundError(f"no table of prompts at {path}")
    rows: list[PromptRow] = []
    seen: dict[str, int] = {}
    for number, entry in _entries(path):
        missing = [name for name in ("id", "prompt") if not str(entry.get(name) or "").strip()]
        if missing:
            raise ValueError(f"{path}, line {number}: {missing} is missing or empty")
        identity = str(entry["id"])
        if Path(identity).name != identity or identity.startswith("."):
            raise ValueError(f"{path}, line {number}: id {identity!r} cannot be a file name")
        if identity in seen:
            raise ValueError(
                f"{path}, line {number}: id {identity!r} is in line {seen[identity]} too"
            )
        seen[identity] = number
        rows.append(PromptRow(identity, str(entry["prompt"])))
    if not rows:
        raise ValueError(f"{path} holds no prompts")
    return rows


def draw_table(
    pipeline: UniXPipeline, rows: Sequence[PromptRow], folder: Path, options: DrawingOptions
) -> DrawnTable:
    """Draw every prompt of a table into a folder.

    An image of the same prompt and model whose file is there with the checksum of the manifest is
    not drawn again, so the same call goes on after a stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    whole = _whole_images(manifest)
    pipeline.scheduler = SOLVERS[options.solver](pipeline.defaults.shift)
    wanted = [
        (row, options.seed + offset, f"{row.identity}-{options.seed + offset}.png")
        for row in rows
        for offset in range(options.count)
    ]
    todo = [
        (row, seed, name)
        for row, seed, name in wanted
        if whole.get(name) != (prompt_hash(row.prompt), pipeline.model_id)
    ]
    _forget(manifest, {name for _, _, name in todo})
    calls = 0
    starts = range(0, len(todo), options.batch_size)
    for start in tqdm(starts, desc="drawing", unit="batch", disable=None):
        jobs = todo[start : start + options.batch_size]
        drawn = pipeline(
            [row.prompt for row, _, _ in jobs],
            negative_prompt=options.negative_prompt,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale,
            seed=[seed for _, seed, _ in jobs],
        )
        calls = drawn.network_calls
        with manifest.open("a", encoding="utf-8") as file:
            for index, (row, _, name) in enumerate(jobs):
                facts = drawn.facts(index, with_prompt=options.with_prompt)
                save_synthetic_png(drawn.images[index], folder / name, facts)
                line = {"prompt_id": row.identity, "file": name, "sha256": sha256(folder / name)}
                file.write(json.dumps(line | facts) + "\n")
    return DrawnTable(len(todo), len(wanted) - len(todo), calls, str(manifest))


def _whole_images(manifest: Path) -> dict[str, tuple[str, str]]:
    """Files of a manifest that are on disk as they were written: their prompts' hash and model."""
    if not manifest.is_file():
        return {}
    whole = {}
    for row in _rows(manifest):
        path = manifest.parent / row["file"]
        if path.is_file() and sha256(path) == row["sha256"]:
            whole[row["file"]] = (row["prompt_sha256"], row["model"])
    return whole


def _rows(manifest: Path) -> Iterator[dict[str, Any]]:
    for line in manifest.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed while it wrote; its image is redrawn


def _forget(manifest: Path, names: Collection[str]) -> None:
    """Take the rows of images that will be drawn again, and half a row, out of a manifest."""
    if not manifest.is_file():
        return
    kept = [json.dumps(row) + "\n" for row in _rows(manifest) if row["file"] not in names]
    write_text(manifest, "".join(kept))


def _entries(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for row in table_rows(path):
        if row.problem:
            raise ValueError(f"{path}, line {row.line}: {row.problem}")
        yield row.line, row.values
