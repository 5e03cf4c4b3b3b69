"""`unix-cxr doctor`: what is here, what is missing, and how to get it."""

import json as json_module
import os
import platform
import sys
from importlib import metadata
from typing import Any, Final

import typer

from unix_cxr.cli.options import AsJson

REQUIRED: Final = (
    "torch",
    "transformers",
    "diffusers",
    "peft",
    "accelerate",
    "safetensors",
    "torchmetrics",
    "tokenizers",
    "pydantic",
    "numpy",
    "pillow",
)
OPTIONAL: Final = {
    "pyarrow": "reports",
    "datasketch": "reports",
    "rapidfuzz": "reports",
    "datasets": "data",
    "pydicom": "dicom",
    "presidio-analyzer": "privacy",
    "tensorboard": "tensorboard",
}
"""Packages of the extras, with the extra that brings each."""


def doctor(json: AsJson = False) -> None:
    """Tell what is installed, which devices and number types work, and what is missing."""
    facts = examine()
    if json:
        typer.echo(json_module.dumps(facts, indent=1))
    else:
        _print(facts)
    if facts["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Versions, devices, bundled weights and problems, as JSON values."""
    import torch

    from unix_cxr import __version__
    from unix_cxr.pipelines.bundled import BUNDLED

    required = {name: _version(name) for name in REQUIRED}
    optional = {name: _version(name) for name in OPTIONAL}
    bundled = {name: (folder / "model_index.json").is_file() for name, folder in BUNDLED.items()}
    problems = [
        f"{name} is not installed: pip install {name}"
        for name, version in required.items()
        if version is None
    ]
    problems += [
        f"bundled weights {name!r} are missing: reinstall the package"
        for name, there in bundled.items()
        if not there
    ]
    if _version("torchvision") is not None:
        problems.append("torchvision is installed but not needed; a mismatched one breaks torch")
    devices = [_device_facts(name) for name in ("cpu", "cuda", "mps") if _usable(name)]
    return {
        "unix_cxr": __version__,
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "required": required,
        "optional": optional,
        "devices": devices,
        "bundled": bundled,
        "problems": problems,
        "hints": [
            f"{name} is not installed; for {extra}: pip install 'unix-cxr[{extra}]'"
            for name, extra in OPTIONAL.items()
            if optional[name] is None
        ],
    }


def _print(facts: dict[str, Any]) -> None:
    typer.echo(f"unix_cxr {facts['unix_cxr']}, Python {facts['python']}, {facts['system']}")
    typer.echo(f"{facts['cores']} cores, {facts['threads']} torch threads")
    for device in facts["devices"]:
        typer.echo(f"device {device['name']}: {device['what']}; {', '.join(device['dtypes'])}")
    for name, version in {**facts["required"], **facts["optional"]}.items():
        typer.echo(f"  {name:<20}{version or '-'}")
    for name, there in facts["bundled"].items():
        typer.echo(f"weights {name}: {'bundled' if there else 'missing'}")
    for hint in facts["hints"]:
        typer.echo(f"optional: {hint}")
    for problem in facts["problems"]:
        typer.secho(f"problem: {problem}", fg="red")
    if not facts["problems"]:
        typer.echo("no problems found")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _usable(device: str) -> bool:
    import torch

    if device == "cuda":
        return torch.cuda.is_available()
    return device == "cpu" or torch.backends.mps.is_available()


def _device_facts(device: str) -> dict[str, Any]:
    import torch

    dtypes = []
    for name in ("float32", "bfloat16", "float16"):
        numbers = torch.ones(2, 2, dtype=getattr(torch, name), device=device)
        try:
            numbers @ numbers
        except RuntimeError:
            continue  # this device does not multiply that type, so it is not listed
        dtypes.append(name)
    what = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "processor"
    return {"name": device, "what": what, "dtypes": dtypes}
