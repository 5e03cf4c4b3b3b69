"""`unix-cxr train lora`: teach an adapter from a folder of images with a table."""

import json as json_module
import logging
from pathlib import Path
from typing import Annotated

import typer

from unix_cxr.cli.options import AsJson, Device


def lora(
    model: Annotated[str, typer.Argument(help='"nano", a pipeline folder, or a hub repository.')],
    data: Annotated[
        str, typer.Option(help="Folder of images with a CSV table, or another source of studies.")
    ],
    out: Annotated[
        Path,
        typer.Option(file_okay=False, help="Folder of the run; the adapter is in OUT/adapter."),
    ],
    preset: Annotated[
        str, typer.Option(help="gen learns to draw, und to read, both does both.")
    ] = "gen",
    rank: Annotated[int, typer.Option(help="Of the low-rank products.")] = 8,
    alpha: Annotated[
        float | None, typer.Option(help="Scale is alpha / rank; the rank by default.")
    ] = None,
    rslora: Annotated[bool, typer.Option("--rslora", help="Scale by alpha / √rank.")] = False,
    dora: Annotated[bool, typer.Option("--dora", help="Learn magnitudes and directions.")] = False,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Studies per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="After the warm-up.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, such as dropout=0.05."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, then stop.")] = False,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Teach a LoRA adapter; a stopped run goes on from its newest checkpoint."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from unix_cxr.cli.options import ending_well_when_stopped, resolve_device
    from unix_cxr.training.lora import train_lora
    from unix_cxr.training.lora_settings import lora_settings

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    settings = lora_settings(
        {
            "preset": preset,
            "rank": rank,
            "alpha": alpha,
            "rslora": rslora,
            "dora": dora,
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
        },
        set_ or [],
    )
    with ending_well_when_stopped():
        summary = train_lora(
            model, data, out, settings, device=resolve_device(device), dry_run=dry_run
        )
    typer.echo(json_module.dumps(summary.as_dict()) if json else summary.text())
