"""`unix-cxr report`: findings text for X-rays."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from unix_cxr.cli.options import AsJson, Device, DType, Model


def report(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="JSONL file; printed where not given.")
    ] = None,
    model: Model = "nano",
    indication: Annotated[str | None, typer.Option(help="Why the images were taken.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What to ask of the model.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images read at once.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest report in tokens.")] = 200,
    device: Device = "auto",
    dtype: DType = "float32",
    json: AsJson = False,
) -> None:
    """Write the report of each X-ray. Images that cannot be read are counted and named."""
    from unix_cxr.cli.options import load_pipeline
    from unix_cxr.pipelines.reading import ReadingOptions, find_images, read_images

    found = find_images(images)
    options = ReadingOptions(prompt, indication, batch_size, max_new_tokens)
    rows = read_images(load_pipeline(model, device, dtype), found, options)
    written = 0
    failed: list[str] = []
    sink = None if out is None else out.open("w", encoding="utf-8")
    try:
        for row in rows:
            written += row.report is not None
            if row.error is not None:
                failed.append(row.error)
            if sink is not None:
                sink.write(row.to_json() + "\n")
            elif json or row.report is None:
                typer.echo(row.to_json())
            else:
                typer.echo(f"{row.image}: {row.report}")
    finally:
        if sink is not None:
            sink.close()
    summary = {"reports": written, "unreadable": len(failed), "out": str(out) if out else None}
    if out is not None:
        typer.echo(
            json_module.dumps(summary)
            if json
            else f"{written} reports in {out}, {len(failed)} images unreadable"
        )
    for line in failed:
        typer.secho(f"unreadable: {line}", fg="yellow", err=True)
    if not written:
        raise typer.Exit(1)
