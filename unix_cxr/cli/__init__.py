"""The command line: arguments in, one clear line of outcome out, errors without tracebacks."""

import sys

import typer

from unix_cxr.cli.clean import clean
from unix_cxr.cli.convert import convert_app
from unix_cxr.cli.data import data_app
from unix_cxr.cli.demo import demo
from unix_cxr.cli.doctor import doctor
from unix_cxr.cli.evaluate import compare, evaluate_app
from unix_cxr.cli.generate import generate
from unix_cxr.cli.lora import lora
from unix_cxr.cli.prepare import prepare  # noqa: F401 - adds itself to `data`
from unix_cxr.cli.report import report
from unix_cxr.cli.terminal import tell_error
from unix_cxr.cli.train import train_app
from unix_cxr.cli.verify import verify

app = typer.Typer(
    name="unix-cxr",
    help="Write the report of a chest X-ray, and draw the X-ray of a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(generate)
app.command()(report)
app.command()(clean)
train_app.command("lora")(lora)
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")
app.command()(compare)
app.add_typer(data_app, name="data")
app.add_typer(convert_app, name="convert")
app.command()(verify)
app.command()(demo)
app.command()(doctor)


def main() -> None:
    """Entry point of the `unix-cxr` command.

    An error that a user can mend is one line on standard error and exit status 1.
    """
    try:
        app()
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        tell_error(error)
        sys.exit(1)
    except ImportError as error:
        if error.name is not None:  # not ours, which tells what to install
            raise
        tell_error(error)
        sys.exit(1)
