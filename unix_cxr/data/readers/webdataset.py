"""Tar files in the manner of webdataset: files of one sample share a name and stand together."""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from unix_cxr.data.readers.base import OnBadRow, Reader, Row, SourceKind
from unix_cxr.data.readers.folder import StudyColumns
from unix_cxr.data.studies import Study

_IMAGE_SUFFIXES: Final = ("png", "jpg", "jpeg", "tif", "tiff", "dcm")
_MAX_MEMBER_BYTES: Final = 256 << 20
_END_BYTES: Final = 1024  # two empty blocks


class WebdatasetReader(Reader):
    """Reads tar by tar and sample by sample, without unpacking; one sample is held.

    A sample is an image (`key.png`, .jpg, .tif or .dcm) with `key.json` (the facts, patient_id
    among them) and perhaps `key.txt` (the report, which becomes the findings).

    Args:
        path: a tar file, or a folder of them (`*.tar`, read by name).
        columns: which key of the JSON holds which fact; see `StudyColumns`.
        label_columns: keys that each hold one label.
        on_bad_row: see `Reader`. Problems name the tar and the number of the sample.

    Raises:
        FileNotFoundError: there is no tar.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Mapping[str, str] | None = None,
        label_columns: Sequence[str] = (),
        on_bad_row: OnBadRow = "raise",
    ) -> None:
        root = Path(path)
        super().__init__(f"webdataset {root}", on_bad_row)
        self._tars = _tars(root)
        if not self._tars:
            raise FileNotFoundError(f"no .tar file at {root}")
        self._columns = StudyColumns(columns, label_columns=label_columns)

    def rows(self) -> Iterator[Row]:
        """The samples of each tar; `line` is the sample's number."""
        for path in self._tars:
            yield from _samples(path)

    def study(self, row: Row) -> Study:
        """The study of a sample."""
        values = row.values
        image = next((values[name] for name in _IMAGE_SUFFIXES if name in values), None)
        if image is None:
            raise ValueError(f"sample {values['__key__']!r} has no image ({_IMAGE_SUFFIXES})")
        facts = _facts(values)
        return self._columns.study(facts, image, source="webdataset", study_id=values["__key__"])


def _facts(values: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if "txt" in values:
        try:
            facts["findings"] = values["txt"].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{values['__key__']}.txt is not UTF-8: {error}") from error
    if "json" in values:
        try:
            read = json.loads(values["json"])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{values['__key__']}.json is no JSON: {error}") from error
        if not isinstance(read, dict):
            raise ValueError(f"{values['__key__']}.json is no JSON object")
        facts.update(read)
    return facts


def _samples(path: Path) -> Iterator[Row]:
    number, sample = 0, dict[str, Any]()
    try:
        with tarfile.open(path, "r|") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                key, suffix = _key_and_suffix(member.name)
                if sample and sample["__key__"] != key:
                    number += 1
                    yield Row(path, number, sample, sample.pop("__problem__", ""))
                    sample = {}
                sample["__key__"] = key
                if member.size > _MAX_MEMBER_BYTES:
                    sample["__problem__"] = f"{member.name} has {member.size:,} bytes"
                    continue
                file = archive.extractfile(member)
                sample[suffix] = b"" if file is None else file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        yield Row(path, number + 1, {}, f"the tar is corrupt or cut off: {error}")
        return
    whole = _ends_well(path)
    if sample and whole:
        number += 1
        yield Row(path, number, sample, sample.pop("__problem__", ""))
    if not whole:
        yield Row(path, number + 1, {}, "the tar is cut off: it does not end in blocks of zeros")


def _ends_well(path: Path) -> bool:
    """Whether a tar has its end; the library takes one that is cut between files for whole."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(length - _END_BYTES, 0))
        return length >= _END_BYTES and not any(file.read())


def _key_and_suffix(name: str) -> tuple[str, str]:
    """Webdataset's rule: the key ends at the first dot of the file's own name."""
    folder, _, own = name.rpartition("/")
    key, _, suffix = own.partition(".")
    return (f"{folder}/{key}" if folder else key), suffix.lower()


def _tars(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix == ".tar" else []
    return sorted(root.glob("*.tar"))


KIND: Final = SourceKind(
    name="webdataset",
    looks_like="*.tar files whose samples are key.png and key.json (patient_id …)",
    recognises=lambda path: bool(_tars(path)),
    open=WebdatasetReader,
)
