"""`unix-cxr train`: run a recipe."""

import json as json_module
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unix_cxr.cli.options import AsJson, Device

if TYPE_CHECKING:
    from unix_cxr.training.settings import Recipe

train_app = typer.Typer(help="Train models, stage by stage.", no_args_is_help=True)


@train_app.callback()
def _train() -> None:
    """Train models, stage by stage."""


@train_app.command("run")
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, such as recipes/nano.yaml.")],
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder of the run; runs/NAME by default."),
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
    overfit_one_batch: Annotated[
        bool,
        typer.Option(
            "--overfit-one-batch",
            help="Check that every stage can learn four samples by heart, then stop: status 1 "
            "where one cannot. Nothing is kept.",
        ),
    ] = False,
    overfit_steps: Annotated[int, typer.Option(min=1, help="Steps of that check at most.")] = 300,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="Say where the time of a step goes, write a trace, then stop."
        ),
    ] = False,
    profile_steps: Annotated[int, typer.Option(min=1, help="Steps to profile.")] = 5,
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
    folder = out or Path("runs") / settings.name
    where: dict[str, Any] = {
        "device": resolve_device(device),
        "stages": stage,
        "init_from": init_from,
    }
    if overfit_one_batch or profile:
        with _failing_when_stopped():
            if overfit_one_batch:
                _check(settings, folder, overfit_steps, where, as_json=json)
            else:
                _profile(settings, folder, profile_steps, where, as_json=json)
        return
    with ending_well_when_stopped():
        summary = run_recipe(settings, folder, dry_run=dry_run, costs=costs, **where)
    typer.echo(json_module.dumps(summary.as_dict()) if json else summary.text())


@contextmanager
def _failing_when_stopped() -> Iterator[None]:
    """A look that a signal ended found nothing out: status 1, as if it had not passed."""
    from unix_cxr.training.guards import RunStopped

    try:
        yield
    except RunStopped as stop:
        typer.echo("stopped by a signal before the end; nothing is kept", err=True)
        raise typer.Exit(1) from stop


def _check(
    recipe: "Recipe", out: Path, steps: int, where: dict[str, Any], *, as_json: bool
) -> None:
    from unix_cxr.training.self_check import check_recipe

    checks = check_recipe(recipe, out, steps=steps, **where)
    for check in checks:
        typer.echo(json_module.dumps(asdict(check)) if as_json else check.text())
    if any(check.missed for check in checks):
        raise typer.Exit(1)


def _profile(
    recipe: "Recipe", out: Path, steps: int, where: dict[str, Any], *, as_json: bool
) -> None:
    from unix_cxr.training.profiling import profile_recipe

    for result in profile_recipe(recipe, out, steps=steps, **where):
        typer.echo(json_module.dumps(result.as_dict()) if as_json else result.text())


@train_app.command("page")
def page(
    run: Annotated[Path, typer.Argument(help="Folder of a run, such as runs/nano.")],
    json: AsJson = False,
) -> None:
    """Write the page of a run anew, from what its folder holds; the run may still go on."""
    from unix_cxr.training.run_page import write_page

    path = write_page(run)
    typer.echo(json_module.dumps({"page": str(path)}) if json else str(path))
