"""TensorBoard and other trackers of accelerate: they get every row of the log."""

import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from unix_cxr.training.settings import StageSettings

_PACKAGES: Final[Mapping[str, str]] = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "comet_ml": "comet_ml",
    "aim": "aim",
    "mlflow": "mlflow",
    "clearml": "clearml",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
    "trackio": "trackio",
}
"""Module that each of accelerate's trackers needs."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is unknown or whose package is not installed.

    Raises:
        ValueError: accelerate knows no such tracker; the message lists those it knows.
        ImportError: its package is missing; the message says how to install it.
    """
    known = _known() if names else {}
    for name in names:
        if name not in known:
            raise ValueError(
                f"trackers: accelerate knows no {name!r}; it knows {sorted(known)}, and more "
                "after accelerate.tracking.register_tracker_class"
            )
        module = _PACKAGES.get(name)
        if module is not None and importlib.util.find_spec(module) is None:
            package = "'unix-cxr[tensorboard]'" if name == "tensorboard" else module
            raise ImportError(f"tracker {name!r} needs the package {module}: pip install {package}")


class Trackers:
    """Sends every row of the log to the trackers of a stage.

    Args:
        stage: names them; its settings are told to each.
        folder: of the stage; those that write files write into a folder here.
        writes: False in processes that must not write.

    Raises:
        ValueError: a name is unknown.
        ImportError: a package is missing.
    """

    def __init__(self, stage: StageSettings, folder: Path, *, writes: bool = True) -> None:
        check_trackers(stage.trackers)
        self.stage, self.folder = stage, folder
        self.names: Sequence[str] = stage.trackers if writes else ()
        self._started: list[Any] = []

    def __enter__(self) -> Self:
        settings = dict(_flat("", self.stage.model_dump(mode="json")))
        for name in self.names:
            kind = _known()[name]
            if kind.requires_logging_directory:
                tracker = kind(name, str(self.folder))
            else:
                tracker = kind(f"{self.folder.parent.name}-{self.folder.name}")
            tracker.start()
            self._started.append(tracker)
            tracker.store_init_configuration(settings)
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self._started:
            tracker.finish()
        self._started.clear()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send a row; numbers that are not finite are left out."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for tracker in self._started:
            tracker.log(finite, step=step)


def _known() -> Mapping[str, Any]:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    known: Mapping[str, Any] = LOGGER_TYPE_TO_CLASS
    return known


def _flat(prefix: str, tree: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Leaves by dotted name; lists and nothing as text, as trackers want them."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value if isinstance(value, bool | int | float) else str(value)
