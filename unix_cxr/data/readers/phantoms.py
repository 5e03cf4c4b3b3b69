"""Phantoms as a kind of source: "phantom:COUNT" draws them while they are read."""

from pathlib import Path

from unix_cxr.data.phantom.source import PhantomSource
from unix_cxr.data.readers.base import OnBadRow, SourceKind, StudySource

_SIZE = 128


def open_phantoms(
    path: str | Path,
    *,
    on_bad_row: OnBadRow = "raise",
    size: int = _SIZE,
    seed: int = 0,
    dirty: bool = False,
    workers: int = 1,
) -> StudySource:
    """Phantoms by number.

    Args:
        path: how many, such as "2000".
        on_bad_row: has no effect.
        size: pixels on each side.
        seed: of the first.
        dirty: give reports with priors, phone calls and blanks.
        workers: processes that render.

    Raises:
        ValueError: `path` is no number.
    """
    if not str(path).isdigit():
        raise ValueError(f"phantom:{path} must end in how many, such as phantom:2000")
    return PhantomSource(int(str(path)), size=size, seed=seed, dirty=dirty, workers=workers)


KIND = SourceKind(
    name="phantom",
    looks_like='no folder: "phantom:COUNT" draws COUNT simulated chests',
    recognises=lambda _: False,
    open=open_phantoms,
)
