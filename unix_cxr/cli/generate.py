"""`unix-cxr generate`: X-rays from a text, or from a table of texts."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from unix_cxr.cli.options import AsJson, Device, DType, Model


def generate(
    prompt: Annotated[str | None, typer.Argument(help="Findings text to draw.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="CSV or JSONL with the columns id and prompt; a killed run goes on."),
    ] = None,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for the images and manifest.jsonl.")
    ] = Path("drawn"),
    model: Model = "nano",
    count: Annotated[int, typer.Option(min=1, help="Images per prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first image; the next count up.")] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Solver steps; the checkpoint's own by default.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="1 is none; the checkpoint's own by default.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to draw away from.")] = None,
    solver: Annotated[str, typer.Option(help="euler or unipc.")] = "euler",
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 16,
    with_prompt: Annotated[
        bool, typer.Option("--with-prompt", help="Write the prompt into the files (may be PHI).")
    ] = False,
    device: Device = "auto",
    dtype: DType = "float32",
    json: AsJson = False,
) -> None:
    """Draw X-rays of findings. Every file is marked as synthetic."""
    from unix_cxr.pipelines.batch import DrawingOptions, draw_table, read_prompts, single_prompt

    if (prompt is None) == (prompts is None):
        raise ValueError("give either a prompt or --prompts FILE")
    rows = single_prompt(prompt) if prompt is not None else read_prompts(prompts)
    options = DrawingOptions(
        count=count,
        seed=seed,
        steps=steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        solver=solver,
        batch_size=batch_size,
        with_prompt=with_prompt,
    )
    from unix_cxr.cli.options import load_pipeline

    outcome = draw_table(load_pipeline(model, device, dtype), rows, out, options)
    if json:
        typer.echo(json_module.dumps(outcome.as_dict()))
        return
    typer.echo(
        f"{outcome.drawn} drawn, {outcome.kept} already there, in {out} "
        f"({outcome.network_calls} network calls per image)"
    )
