"""A dataset of Hugging Face's `datasets`, streamed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from unix_cxr.data.readers.base import OnBadRow, Reader, Row, SourceKind, split_named
from unix_cxr.data.readers.folder import StudyColumns, image_in
from unix_cxr.data.studies import Study


class HuggingFaceReader(Reader):
    """Streams a dataset with `datasets.load_dataset(…, streaming=True)`, split by split.

    Images stay the bytes that are stored, so that 16-bit images keep their depth. A repository of
    the hub is read over the network, as naming it asks for; a local folder is not.

    Args:
        path: a repository of the hub ("owner/name"), or a local folder that `load_dataset` reads.
        config: the configuration's name, where the dataset has several.
        split: read only this split; all of them where None.
        revision: the commit of the repository.
        columns: which column holds which fact; see `StudyColumns`.
        label_columns: columns that each hold one label.
        on_bad_row: see `Reader`. Problems name the split and the number of the row.

    Raises:
        ImportError: `datasets` is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        config: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        columns: Mapping[str, str] | None = None,
        label_columns: Sequence[str] = (),
        on_bad_row: OnBadRow = "raise",
    ) -> None:
        super().__init__(f"datasets {path}", on_bad_row)
        self._path = str(path)
        self._config, self._split, self._revision = config, split, revision
        self._columns = StudyColumns(columns, label_columns=label_columns)
        _import_datasets()

    def rows(self) -> Iterator[Row]:
        """The rows of each split, in the dataset's order; `line` is the row's number."""
        datasets = _import_datasets()
        parts = datasets.load_dataset(
            self._path, name=self._config, revision=self._revision, streaming=True
        )
        if self._split is not None and self._split not in parts:
            raise ValueError(f"{self._path} has no split {self._split!r}; splits: {list(parts)}")
        for name in [self._split] if self._split is not None else parts:
            part = parts[name]
            if part.features is not None:
                part = _undecoded(datasets, part)
            file = Path(self._path) / str(name)
            for number, values in enumerate(part, start=1):
                yield self._row(file, number, values, str(name))

    def _row(self, file: Path, number: int, values: dict[str, Any], split: str) -> Row:
        missing = [name for name in self._columns.required if name not in values]
        problem = ""
        if missing:
            problem = (
                f"lacks the columns {missing}; it has {sorted(values)}. Name yours with columns=, "
                "such as columns={'patient_id': 'subject'}"
            )
        named = {self._columns.column("split"): _known_split(split), **values}
        return Row(file, number, named, problem)

    def study(self, row: Row) -> Study:
        """The study of a row."""
        values = row.values
        image = image_in(values.get(self._columns.column("image")), Path())
        number = f"{row.file.name}-{row.line}"
        return self._columns.study(values, image, source=self._path, study_id=number)


def _known_split(name: str) -> str:
    """The dataset's split in our words; "" for one of another name."""
    try:
        return split_named(name)
    except ValueError:
        return ""


def _undecoded(datasets: Any, part: Any) -> Any:  # noqa: ANN401 - the library has no types
    for column, feature in part.features.items():
        if isinstance(feature, datasets.Image):
            part = part.cast_column(column, datasets.Image(decode=False))
    return part


def _import_datasets() -> Any:  # noqa: ANN401 - the library has no types
    try:
        import datasets
    except ImportError as error:
        raise ImportError("streaming needs datasets: pip install 'unix-cxr[data]'") from error
    return datasets


KIND: Final = SourceKind(
    name="datasets",
    looks_like='only by name: "datasets:owner/name", or a local folder that load_dataset reads',
    recognises=lambda _path: False,
    open=HuggingFaceReader,
)
