"""Reports for many images: in batches, with what cannot be read named and counted."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from unix_cxr.data.pixels import load_xray
from unix_cxr.pipelines.pipeline import UniXPipeline

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class ReadingOptions:
    """How to read; see `UniXPipeline.describe`."""

    prompt: str | None = None
    indication: str | None = None
    batch_size: int = 16
    max_new_tokens: int = 200


@dataclass(frozen=True)
class ReportRow:
    """One image's outcome: a report, or the reason why there is none.

    Args:
        image: path of the file.
        report: text; None where the image could not be read.
        model: name of the checkpoint.
        error: why the image could not be read; None where it could.
    """

    image: str
    report: str | None
    model: str
    error: str | None = None

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, and the images of folders in the order of their names.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a folder holds no images.
    """
    found = []
    for path in paths:
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise ValueError(f"folder {path} holds no images ({', '.join(SUFFIXES)})")
            found += inside
        else:
            raise FileNotFoundError(f"no image or folder at {path}")
    return found


def read_images(
    pipeline: UniXPipeline, paths: Sequence[Path], options: ReadingOptions
) -> Iterator[ReportRow]:
    """Reports in the order of the paths; an unreadable image gives a row with its reason."""
    for start in range(0, len(paths), options.batch_size):
        rows: dict[Path, ReportRow] = {}
        readable = []
        for path in paths[start : start + options.batch_size]:
            try:
                readable.append((path, load_xray(path).pixels))
            except (ValueError, OSError) as error:
                rows[path] = ReportRow(str(path), None, pipeline.model_id, str(error))
        if readable:
            output = pipeline.describe(
                [pixels for _, pixels in readable],
                options.prompt,
                indication=options.indication,
                max_new_tokens=options.max_new_tokens,
            )
            for (path, _), text in zip(readable, output.reports, strict=True):
                rows[path] = ReportRow(str(path), text, pipeline.model_id)
        yield from (rows[path] for path in paths[start : start + options.batch_size])
