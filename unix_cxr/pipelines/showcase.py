"""One self-contained page that shows what a model draws and writes."""

import base64
import io
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from jinja2 import Environment, Template
from PIL import Image

from unix_cxr import __version__
from unix_cxr.data.pixels import load_xray
from unix_cxr.files import write_text
from unix_cxr.pipelines.bundled import BUNDLED
from unix_cxr.pipelines.pipeline import UniXPipeline

DEMO_TEXTS: Final = (
    "AP chest radiograph of a child. Clear lungs, no pneumonia.",
    "AP chest radiograph of a child. Bacterial pneumonia.",
    "AP chest radiograph of a child. Viral pneumonia.",
    "PA chest radiograph of an adult man. No finding.",
    "AP chest radiograph of an adult man. COVID-19 pneumonia. Intensive care patient.",
)
"""Texts in the wording that nano learned."""

EXAMPLE: Final = "example.png"


@dataclass(frozen=True)
class Showcase:
    """What was written.

    Args:
        path: of the page.
        reported: the image that a report was written for.
        report: that report.
    """

    path: Path
    reported: str
    report: str


def make_showcase(
    pipeline: UniXPipeline,
    folder: Path,
    *,
    image: Path | None,
    images_per_text: int,
    first_seed: int,
) -> Showcase:
    """Draw the demo's texts, describe an image, and write `folder/index.html`.

    Raises:
        FileNotFoundError: there is no such image.
        ValueError: the image cannot be read.
    """
    source = BUNDLED["nano"] / EXAMPLE if image is None else image
    reported = "a drawn example" if image is None else str(image)
    pixels = load_xray(source).pixels
    texts = list(DEMO_TEXTS)
    seeds = list(range(first_seed, first_seed + images_per_text)) * len(texts)
    drawn = pipeline(texts, num_images_per_prompt=images_per_text, seed=seeds)
    drawn.save(folder / "drawn", with_prompt=True)
    report = pipeline.describe(pixels).reports[0]
    rows = [
        {
            "text": text,
            "images": [
                {"data": _data_uri(drawn.images[index]), "seed": drawn.seeds[index]}
                for index in range(row * images_per_text, (row + 1) * images_per_text)
            ],
        }
        for row, text in enumerate(texts)
    ]
    page = _template().render(
        version=__version__,
        model=pipeline.model_id,
        network_calls=drawn.network_calls,
        rows=rows,
        reported=reported,
        synthetic=image is None,
        picture=_data_uri(Image.fromarray((pixels * 255).round().astype("uint8"))),
        report=report,
    )
    path = folder / "index.html"
    write_text(path, page)
    return Showcase(path, reported, report)


def _template() -> Template:
    source = files("unix_cxr.pipelines").joinpath("showcase.html").read_text(encoding="utf-8")
    return Environment(autoescape=True).from_string(source)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("L").save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
