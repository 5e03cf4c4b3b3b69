"""Phantoms as a kind of source: "phantom:COUNT" draws them while they are read."""

from pathlib import Path
from typing import Final

from unix_cxr.data.phantom.sampling import BUSY, COUNTS
from unix_cxr.data.phantom.source import PhantomSource
from unix_cxr.data.readers.base import OnBadRow, SourceKind, StudySource

_SIZE: Final = 128
_BUSY: Final = "busy"


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
        path: how many, such as "2000"; "2000:busy" has none to five findings a film.
        on_bad_row: has no effect.
        size: pixels on each side.
        seed: of the first.
        dirty: give reports with priors, phone calls and blanks.
        workers: processes that render.

    Raises:
        ValueError: `path` is no number.
    """
    count, colon, how = str(path).partition(":")
    if not count.isdigit() or (colon and how != _BUSY):
        raise ValueError(
            f"phantom:{path} must end in how many, such as phantom:2000 or phantom:2000:{_BUSY}"
        )
    counts = BUSY if colon else COUNTS
    return PhantomSource(
        int(count), size=size, seed=seed, counts=counts, dirty=dirty, workers=workers
    )


KIND = SourceKind(
    name="phantom",
    looks_like='no folder: "phantom:COUNT" draws COUNT simulated chests',
    recognises=lambda _: False,
    open=open_phantoms,
)
