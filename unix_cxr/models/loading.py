"""Loading that is strict: safetensors only, and every weight of the config is in the file."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError

_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MOST_PARTS_OF_A_HUB_ID: Final = 2


def check_model_folder(name: str | PathLike[str], subfolder: str = "") -> None:
    """Refuse a folder that cannot be loaded, with the reason; a hub id passes.

    Raises:
        FileNotFoundError: there is no such folder, or no config or weights in it.
        ValueError: the weights are pickles.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or str(name).startswith(".") or not _may_be_hub_id(folder):
            raise FileNotFoundError(
                f"no model folder at {name}; `save_pretrained` or `unix-cxr convert` writes one"
            )
        return
    folder /= subfolder
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no config.json in {folder}; is it a model folder?")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ValueError(
            f"{folder} holds its weights only as a pickle ({', '.join(pickles)}), which is never "
            "opened; ask for safetensors"
        )
    raise FileNotFoundError(f"no weights in {folder}: model.safetensors is missing")


def load_strictly(
    load: Callable[..., Any],
    name: str | PathLike[str] | None,
    *args: Any,
    **kwargs: Any,
) -> Any:  # noqa: ANN401 - the model, or what else transformers was asked for
    """What transformers' `from_pretrained` loads, where its warnings are errors.

    Raises:
        ValueError: a pickle is asked for, the file is damaged, or weights and config disagree.
    """
    if kwargs.pop("use_safetensors", None) is False:
        raise ValueError("use_safetensors=False asks for a pickle, which is never opened")
    wants_info = kwargs.pop("output_loading_info", False)
    kwargs["ignore_mismatched_sizes"] = True  # collected, and refused below
    try:
        model, info = load(name, *args, use_safetensors=True, output_loading_info=True, **kwargs)
    except SafetensorError as error:
        raise ValueError(
            f"the weights of {name} are damaged ({error}); copy or download them again"
        ) from error
    problems = [
        *(f"{key} is missing" for key in sorted(info["missing_keys"])),
        *(f"{key} is unknown" for key in sorted(info["unexpected_keys"])),
        *(
            f"{key} is {list(found)}, the config wants {list(wanted)}"
            for key, found, wanted in sorted(info["mismatched_keys"])
        ),
    ]
    if problems:
        shown = "; ".join(problems[:5])
        raise ValueError(
            f"{name} holds weights of another config: {shown}"
            + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")  # noqa: PLR2004
        )
    return (model, info) if wants_info else model


def _may_be_hub_id(path: Path) -> bool:
    return len(path.parts) <= _MOST_PARTS_OF_A_HUB_ID
