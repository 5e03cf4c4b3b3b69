"""Options that several commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from unix_cxr.pipelines.pipeline import UniXPipeline

Model = Annotated[
    str, typer.Option("--model", help='"nano", a folder, or a repository of the hub.')
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")]
DType = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]

_DTYPES = ("float32", "bfloat16", "float16")


def resolve_device(name: str) -> "torch.device":
    """A device by name; auto takes a GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} cannot be used here; `unix-cxr doctor` lists the devices"
        ) from error
    return device


def load_pipeline(model: str, device: str, dtype: str) -> "UniXPipeline":
    """The pipeline of a command.

    Raises:
        ValueError: the device or the number type is unknown.
        FileNotFoundError: there is no such model.
    """
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from unix_cxr.pipelines.pipeline import UniXPipeline

    if dtype not in _DTYPES:
        raise ValueError(f"dtype ({dtype!r}) must be one of {_DTYPES}")
    target = resolve_device(device)
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    pipeline = UniXPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(target)
    return pipeline


@contextmanager
def ending_well_when_stopped() -> Iterator[None]:
    """A run that a scheduler's signal stopped has saved its state: status 0 and one line."""
    from unix_cxr.training.guards import RunStopped

    try:
        yield
    except RunStopped as stop:
        typer.echo(str(stop), err=True)
        raise typer.Exit(0) from stop
