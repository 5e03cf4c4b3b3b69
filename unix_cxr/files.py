"""Files that are either whole or absent: atomic writing, checksums, and what is damaged."""

import errno
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

COPY_AGAIN: Final = "copy or download it again"
"""What to do about a damaged file that came from elsewhere."""
_CHUNK_BYTES: Final = 1 << 20
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_GZIP: Final = b"\x1f\x8b"
_NO_TEXT: Final = {
    _GZIP: "is packed with gzip; add .gz to its name",
    b"PK\x03\x04": "is an Excel or zip file; save its table as CSV in UTF-8",
    b"PAR1": "is parquet; its name must end in .parquet",
}
_UTF_16: Final = {b"\xff\xfe", b"\xfe\xff"}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well.

    Whatever happens inside the block, a reader of `path` sees the old file or the new one,
    never a half-written one; an error removes the temporary file and leaves the old one.

    Raises:
        OSError: the disk is full or the folder is read-only; the message names the file and says
            that the old one survives.
    """
    path = Path(path)
    kept = "the old file is untouched" if path.exists() else "nothing was written"
    with explaining_full_disk(path, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """An empty temporary folder beside `path` that takes its place when the block ends well.

    A folder that was there before is removed only after the new one is whole; an error removes
    the temporary folder and leaves the old one. (Between two renames there is a moment without
    either; what is left of a crash then is the old folder, named `.NAME.old`.)

    Raises:
        OSError: the disk is full or read-only; the message names the folder and says what is left.
    """
    path = Path(path)
    temporary, old = (path.parent / f".{path.name}.{state}" for state in ("partial", "old"))
    kept = "the old folder is untouched" if path.exists() else "nothing was written"
    with explaining_full_disk(path, kept):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                _flush(file)
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def explaining_full_disk(path: str | Path, kept: str) -> Iterator[None]:
    """Say which file did not fit, and what is left, when the disk is full inside the block.

    Args:
        path: what is being written.
        kept: what is left on the disk, as a clause.

    Raises:
        OSError: with the errno of the first cause and a message that names `path`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(
            error.errno,
            f"no space left on the disk while writing {path} ({kept}); free some space and run "
            "the same command again",
        ) from error


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 so that `path` is never half-written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` so that `path` is never half-written."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def append_line(path: str | Path, line: str) -> None:
    """Add a line to a text file; its folder must exist.

    Raises:
        OSError: the disk is full; the message names the file.
    """
    with (
        explaining_full_disk(path, "the last line may be cut off"),
        Path(path).open("a", encoding="utf-8") as file,
    ):
        file.write(line + "\n")


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def check_text(path: str | Path, encoding: str = "utf-8") -> None:
    """Refuse by its first bytes what is no table of text, or is packed otherwise than it is called.

    Raises:
        ValueError: the file is something else; the message says what to do.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(4)
    if path.suffix == ".gz":
        if head and not head.startswith(_GZIP):
            raise ValueError(f"{path} is not packed with gzip; take .gz from its name")
        return
    for start, what in _NO_TEXT.items():
        if head.startswith(start):
            raise ValueError(f"{path} {what}")
    if head[:2] in _UTF_16 and "16" not in encoding:
        raise ValueError(f"{path} is UTF-16; save it as UTF-8")


def read_json(path: str | Path, remedy: str = COPY_AGAIN) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: of the file.
        remedy: what to do where it is damaged, as a clause.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no JSON, or holds no object; the message names the file and the remedy.
    """
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text at all
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f"{path} is damaged (no object, but {kind}); {remedy}")  # noqa: TRY004 - a wrong value in a file
    return content


@contextmanager
def explaining_damage(path: str | Path) -> Iterator[None]:
    """Say which packed file is cut off or damaged, inside a block that reads it.

    Raises:
        ValueError: it is.
    """
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is cut off or damaged ({error}); {COPY_AGAIN}") from error


def _flush(path: Path) -> None:
    if path.is_file():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
