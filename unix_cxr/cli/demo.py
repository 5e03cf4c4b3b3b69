"""`unix-cxr demo`: drawn X-rays and a written report on one page."""

import time
from pathlib import Path
from typing import Annotated

import typer

from unix_cxr.cli.options import Device, Model


def demo(
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for index.html and the images.")
    ] = Path("demo"),
    image: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="X-ray to report on; a shipped synthetic one by default.",
        ),
    ] = None,
    model: Model = "nano",
    images_per_text: Annotated[int, typer.Option(min=1, help="Seeds per text.")] = 4,
    seed: Annotated[int, typer.Option(help="First seed.")] = 0,
    device: Device = "auto",
) -> None:
    """Draw X-rays of five texts, write a report, and show both in one HTML page."""
    from unix_cxr.cli.options import load_pipeline
    from unix_cxr.pipelines.showcase import DEMO_TEXTS, make_showcase

    started = time.monotonic()
    typer.echo(f"drawing {images_per_text} X-rays of each of {len(DEMO_TEXTS)} texts ...")
    pipeline = load_pipeline(model, device, "float32")
    page = make_showcase(
        pipeline, out, image=image, images_per_text=images_per_text, first_seed=seed
    )
    typer.echo(f"the report of {page.reported}: {page.report}")
    typer.echo(f"open {page.path} ({time.monotonic() - started:.0f} s)")
