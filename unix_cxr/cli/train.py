"""`unix-cxr train`: run a recipe."""

import json as json_module
import logging
from pathlib import Path
from typing import Annotated

import typer

from unix_cxr.cli.options import AsJson, Device

train_app = typer.Typer(help="Train models, stage by stage.", no_args_is_help=True)


@train_app.callback()
def _train() -> None:
    """Train models, stage by stage."""


@train_app.command("run")
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, such as recipes/nano.yaml.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/NAME by default.")
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="Run only this stage; may be given again.")
    ] = None,
    init_from: Annotated[
        Path | None, typer.Option(help="Pipeline folder whose weights the run starts from.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, such as data.root=/xrays."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the parameters, then stop.")
    ] = False,
    costs: Annotated[
        bool, typer.Option(help="Find out what a step costs: FLOP, memory, seconds.")
    ] = True,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Train a recipe's stages in order; a stopped run goes on from its newest checkpoint."""
    from unix_cxr.cli.options import ending_well_when_stopped, resolve_device
    from unix_cxr.training.recipe import run_recipe
    from unix_cxr.training.settings import load_recipe

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = load_recipe(recipe, set_ or [])
    with ending_well_when_stopped():
        summary = run_recipe(
            settings,
            out or Path("runs") / settings.name,
            device=resolve_device(device),
            stages=stage,
            init_from=init_from,
            dry_run=dry_run,
            costs=costs,
        )
    typer.echo(json_module.dumps(summary.as_dict()) if json else summary.text())
