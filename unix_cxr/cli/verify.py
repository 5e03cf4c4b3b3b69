"""`unix-cxr verify`: recorded outputs against ours."""

from pathlib import Path
from typing import Annotated

import typer

from unix_cxr.cli.options import AsJson


def verify(
    folder: Annotated[Path, typer.Argument(help="Golden folder with manifest.json.")],
    json: AsJson = False,
) -> None:
    """Run a golden folder's inputs through its weights and compare every recorded output."""
    from unix_cxr.convert.verify import verify as run

    verification = run(folder)
    if json:
        typer.echo(verification.to_json())
    else:
        typer.echo(f"{'output':<44}{'compare':>10}{'tolerance':>12}{'error':>12}")
        for check in verification.checks:
            error = f"{check.error:.1e}" if check.checked else "unchecked"
            mark = "" if check.passed else "  FAILED"
            typer.echo(
                f"{check.name:<44}{check.compare:>10}{check.tolerance:>12.0e}{error:>12}{mark}"
            )
        typer.echo(verification.summary())
    if not verification.passed:
        raise typer.Exit(1)
