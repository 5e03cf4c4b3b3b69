"""Opening a corpus, whatever its layout: `open_source("folder")` gives a stream of studies."""

import inspect
import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from unix_cxr.data.readers.base import OnBadRow, RowProblem, SourceKind, StudySource

__all__ = ["OnBadRow", "RowProblem", "SourceKind", "StudySource", "kinds", "open_source"]

_LOG: Final = logging.getLogger(__name__)

_MODULES: Final = (
    "unix_cxr.data.readers.phantoms",
    "unix_cxr.data.readers.prepared",
    "unix_cxr.data.readers.mimic",
    "unix_cxr.data.readers.chexpert_plus",
    "unix_cxr.data.readers.chexpert",
    "unix_cxr.data.readers.nih",
    "unix_cxr.data.readers.padchest",
    "unix_cxr.data.readers.openi",
    "unix_cxr.data.readers.webdataset",
    "unix_cxr.data.readers.folder",
    "unix_cxr.data.readers.hugging_face",
)
"""Modules with a `KIND`, in the order in which a folder is held against them.

A further kind is one more module here. The general folder with a table comes after every corpus.
"""


def kinds() -> dict[str, SourceKind]:
    """Every layout that can be read, by name."""
    found: list[SourceKind] = [import_module(name).KIND for name in _MODULES]
    return {kind.name: kind for kind in found}


def open_source(
    spec: str | Path,
    *,
    kind: str | None = None,
    on_bad_row: OnBadRow = "raise",
    **options: Any,
) -> StudySource:
    """Open a corpus as a stream of studies; its `name` says which kind was taken.

    Args:
        spec: a folder or file, whose layout is recognised; or "KIND:REST", such as
            "mimic:/data/mimic-cxr-jpg" or "datasets:owner/name", which names the kind.
        kind: the kind, where it shall not be recognised.
        on_bad_row: "raise" stops at a bad row, "count" lists it in the source's `problems`.
        options: of the kind, such as `reports=` of "mimic" or `columns=` of "folder".

    Raises:
        FileNotFoundError: there is nothing at `spec`, or a file of the layout is missing.
        ValueError: the layout or the kind is unknown.
        TypeError: the kind has no such option.
    """
    known = kinds()
    named, rest = _prefix(str(spec), known)
    if kind is not None and named and named != kind:
        raise ValueError(f"{spec} names the kind {named!r}, and kind= says {kind!r}; give one")
    chosen = kind or named
    if chosen and chosen not in known:
        raise ValueError(f"kind ({chosen!r}) is unknown; {_described(known)}")
    if not chosen:
        chosen = _recognised(Path(rest), known)
    _LOG.info("%s is read as %s", rest, chosen)
    opener = known[chosen].open
    _check_options(chosen, opener, options)
    return opener(rest, on_bad_row=on_bad_row, **options)


def _prefix(spec: str, known: dict[str, SourceKind]) -> tuple[str, str]:
    kind, colon, rest = spec.partition(":")
    return (kind, rest) if colon and kind in known else ("", spec)


def _recognised(path: Path, known: dict[str, SourceKind]) -> str:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    for name, kind in known.items():
        if kind.recognises(path):
            return name
    raise ValueError(f"the layout of {path} is unknown; {_described(known)}")


def _described(known: dict[str, SourceKind]) -> str:
    lines = [f"  {name}: {kind.looks_like}" for name, kind in known.items()]
    return "these can be read:\n" + "\n".join(lines)


def _check_options(name: str, opener: Callable[..., StudySource], options: dict[str, Any]) -> None:
    taken = [option for option in inspect.signature(opener).parameters if option != "path"]
    unknown = sorted(set(options) - set(taken))
    if unknown:
        raise TypeError(f"kind {name!r} has no option {unknown}; its options: {taken}")
