"""A model measured whole: it draws, it writes, it is probed, and all lands on one page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from PIL import Image as PILImage
from tqdm.auto import tqdm

from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.gathering import my_share, process_index, wait_for_all
from unix_cxr.evaluation.imaging.extractors import (
    FeatureExtractor,
    VisionTowerExtractor,
    weights_hash,
)
from unix_cxr.evaluation.imaging.fidelity import require_enough
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet, refuse_overlap
from unix_cxr.evaluation.imaging.suite import ImageOptions, Judges, evaluate_images
from unix_cxr.evaluation.page.pages import Section, result_rows
from unix_cxr.evaluation.page.sections import (
    image_sections,
    report_sections,
    understanding_section,
)
from unix_cxr.evaluation.plugins import ReportPairs
from unix_cxr.evaluation.reading.alignment import LikelihoodScorer
from unix_cxr.evaluation.reading.probe import learnable
from unix_cxr.evaluation.reading.understanding import (
    MASKING_RATIOS,
    Statements,
    Understanding,
    check_opening,
    measure_probes,
    usual_statements,
    zero_shot,
)
from unix_cxr.evaluation.reading.use_network import shared_labels
from unix_cxr.evaluation.results import MetricResult, Skipped
from unix_cxr.evaluation.run_folders import Run
from unix_cxr.evaluation.text.label_scores import ReportLabeler
from unix_cxr.evaluation.text.suite import ReportEvaluation, evaluate_report_pairs
from unix_cxr.files import append_line, write_text
from unix_cxr.pipelines.batch import SOLVERS, DrawingOptions
from unix_cxr.pipelines.marking import prompt_hash, save_synthetic_png
from unix_cxr.pipelines.pipeline import UniXPipeline

Item = TypeVar("Item")

PREDICTIONS: Final = "predictions.jsonl"
DRAWN: Final = "drawn"


@dataclass(frozen=True)
class ModelOptions:
    """How a model is measured.

    Args:
        images: how drawn X-rays are measured.
        drawing: how they are drawn.
        batch_size: X-rays that are read at once.
        max_new_tokens: longest report.
        ratios: masking ratios of the probes.
        statements: of zero-shot classification, by label; the usual ones where a label has none.
        opening: comes before each of these statements; see `zero_shot`.
        extractor: of the features; the model's own vision tower where None.
        labeler: of reports; the rules where None.
    """

    images: ImageOptions
    drawing: DrawingOptions
    batch_size: int = 16
    max_new_tokens: int = 200
    ratios: Sequence[float] = MASKING_RATIOS
    statements: dict[str, Statements] | None = None
    opening: str = ""
    extractor: FeatureExtractor | None = None
    labeler: ReportLabeler | None = None

    def __post_init__(self) -> None:
        check_opening(self.opening)  # not after hours of drawing


def measure_model(
    pipeline: UniXPipeline,
    data: ImageSet,
    folder: Path,
    options: ModelOptions,
    train: ImageSet | None = None,
) -> Run:
    """Draw an X-ray for every text of `data`, write a report for every X-ray, measure both.

    What was drawn and written stays in `folder` and is not made again.

    Args:
        pipeline: of the model.
        data: X-rays with texts that the model has not learned from.
        folder: of the run.
        options: how.
        train: X-rays that it has learned from, for privacy, use, probes and the ceiling.

    Raises:
        ValueError: an X-ray of `data` has no text, there are too few, or `train` shares patients
            with `data`.
    """
    silent = [one.id for one in data if not one.text.strip()]
    if silent:
        raise ValueError(
            f"{len(silent)} of {len(data)} X-rays have no text to draw from or to hold a report "
            f"against (first: {silent[0]!r}); choose data with reports or with known labels"
        )
    require_enough(data.name, len(data), options.images.protocol)
    if train is not None:  # all of this before hours of drawing
        require_enough(train.name, len(train), options.images.protocol)
        refuse_overlap(train, data)
    if options.images.use_network is not None and train is not None:
        shared_labels(train, data, data)
    drawn = draw_texts(pipeline, data, folder, options.drawing)
    predictions = write_reports(pipeline, data, folder / PREDICTIONS, options)
    extractor = options.extractor or VisionTowerExtractor(pipeline)
    judges = Judges(extractor, LikelihoodScorer(pipeline))
    seen = evaluate_images(data, drawn, judges, train=train, options=options.images)
    written = _evaluate_written(data, predictions, options)
    understood, zero, absent = _understanding(pipeline, data, train, extractor, options)
    sections = [
        *image_sections(seen),
        *report_sections(written),
        *([understanding_section(understood)] if understood else []),
        *([_zero_section(zero, options.opening)] if zero else []),
    ]
    return Run(
        kind="model",
        title=f"{pipeline.model_id} on {data.name}",
        protocol=options.images.protocol,
        results=(
            *seen.results,
            *written.results,
            *(understood.results if understood else ()),
            *zero,
        ),
        skipped=(*seen.skipped, *written.skipped, *absent),
        sections=tuple(sections),
        settings={
            "model": pipeline.model_id,
            "data": data.name,
            "n": len(data),
            "notes": list(seen.notes),
        },
    )


def draw_texts(
    pipeline: UniXPipeline, data: ImageSet, folder: Path, drawing: DrawingOptions
) -> ImageSet:
    """One X-ray for the text of every X-ray of `data`, with its labels; each has its own seed.

    An X-ray that is there, drawn by these weights from the same text, seed and settings, is kept.
    Where one of a batch is missing the whole batch is drawn, because what stands beside it in a
    batch may change an X-ray by a grey level. Under several processes each draws its share.
    """
    pipeline.scheduler = SOLVERS[drawing.solver](pipeline.defaults.shift)
    settings = {
        "weights": weights_hash(pipeline.model),
        "solver": drawing.solver,
        "steps": drawing.steps or "default",
        "guidance_scale": drawing.guidance_scale or "default",
    }
    images = tuple(
        ImageFile(f"{row:06d}", folder / DRAWN / f"{row:06d}.png", f"{row:06d}", *_asked(one))
        for row, one in enumerate(data)
    )
    jobs = [
        (image, {"seed": drawing.seed + row, "prompt_sha256": prompt_hash(image.text), **settings})
        for row, image in enumerate(images)
    ]
    for batch in tqdm(_batches(my_share(jobs), drawing.batch_size), "drawing", disable=None):
        missing = [not _is_drawn(image, facts) for image, facts in batch]
        if not any(missing):
            continue
        drawn = pipeline(
            [image.text for image, _ in batch],
            num_inference_steps=drawing.steps,
            guidance_scale=drawing.guidance_scale,
            seed=[int(str(facts["seed"])) for _, facts in batch],
        )
        for row, (image, facts) in enumerate(batch):
            if missing[row]:
                path = Path(str(image.image))
                save_synthetic_png(drawn.images[row], path, drawn.facts(row) | facts)
    wait_for_all()
    return ImageSet(f"{pipeline.model_id}-drawn", images, "image")


def _batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _asked(one: ImageFile) -> tuple[frozenset[str], str]:
    return one.labels, one.text


def _is_drawn(image: ImageFile, facts: Mapping[str, object]) -> bool:
    """Whether the file is there and says that it was drawn so; files appear whole."""
    path = Path(str(image.image))
    if not path.is_file():
        return False
    with PILImage.open(path) as file:
        written = json.loads(file.info.get("unix_cxr", "{}"))
    return {name: written.get(name) for name in facts} == dict(facts)


def write_reports(
    pipeline: UniXPipeline, data: ImageSet, path: Path, options: ModelOptions
) -> dict[str, str]:
    """The model's report of every X-ray by id; those in the file are not written again.

    Reports of other weights or another length are removed from the file. Where one of a batch is
    missing the whole batch is written, as in `draw_texts`.
    """
    mark = f"{weights_hash(pipeline.model)}-{options.max_new_tokens}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if process_index() == 0:
        reports = _only_ours(path, mark)
        batches = _batches(data.images, options.batch_size)
        for batch in tqdm(batches, "writing reports", unit="batch", disable=None):
            missing = [one.id not in reports for one in batch]
            if not any(missing):
                continue
            texts = pipeline.describe(
                [one.image for one in batch], max_new_tokens=options.max_new_tokens
            ).reports
            for one, text, new in zip(batch, texts, missing, strict=True):
                if new:
                    row = {"id": one.id, "text": text, "by": mark}
                    append_line(path, json.dumps(row, ensure_ascii=False))
    wait_for_all()
    reports = {row["id"]: row["text"] for row in _rows_before(path)}
    return {one.id: reports[one.id] for one in data}


def _only_ours(path: Path, mark: str) -> dict[str, str]:
    """Reports that were written so; a file with others, or with a line cut off, is cleaned."""
    rows = _rows_before(path)
    ours = [row for row in rows if row.get("by") == mark]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ours)
    if path.is_file() and path.read_bytes() != text.encode():
        write_text(path, text)
    return {row["id"]: row["text"] for row in ours}


def _rows_before(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line of a run that was killed while it wrote
        if not isinstance(row, dict) or not {"id", "text"} <= set(row):
            raise ValueError(f"{path} holds {line[:80]!r}, no report of ours; use another folder")
        rows.append(row)
    return rows


def _evaluate_written(
    data: ImageSet, predictions: dict[str, str], options: ModelOptions
) -> ReportEvaluation:
    resampling = replace(options.images.resampling, unit=data.unit)
    pairs = ReportPairs(
        ids=data.ids,
        groups=data.groups,
        references=tuple(one.text for one in data),
        predictions=tuple(predictions[one.id] for one in data),
        resampling=resampling,
    )
    return evaluate_report_pairs(
        pairs,
        protocol=options.images.protocol,
        labeler=options.labeler,
        on_missing=options.images.on_missing,
    )


def _understanding(
    pipeline: UniXPipeline,
    data: ImageSet,
    train: ImageSet | None,
    extractor: FeatureExtractor,
    options: ModelOptions,
) -> tuple[Understanding | None, list[MetricResult], list[Skipped]]:
    labels = learnable([[one.labels for one in data]])
    resampling: Resampling = options.images.resampling
    absent, probes = [], None
    trainable = train is not None and learnable(
        [[one.labels for one in images] for images in (train, data)]
    )
    if train is not None and trainable:
        extraction = options.images.extraction
        probes = measure_probes(train, data, extractor, resampling, extraction, options.ratios)
    else:
        remedy = "give labelled X-rays to learn from (--train SRC), with both classes in both sets"
        absent.append(Skipped("probe", remedy))
    wordings = options.statements or {}
    statements = {label: wordings.get(label) or usual_statements(label) for label in labels}
    cache = options.images.extraction.cache
    zero = zero_shot(
        pipeline, data, statements, resampling, options.batch_size, cache, options.opening
    )
    return probes, zero, absent


def _zero_section(results: Sequence[MetricResult], opening: str) -> Section:
    after = f'after "{opening}"' if opening else "as the whole report"
    about = f"Which statement does the model find likelier {after}: the label, or its denial?"
    return Section("Zero-shot classification", about, result_rows(results))
