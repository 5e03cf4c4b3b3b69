"""`unix-cxr evaluate` and `unix-cxr compare`: numbers with signatures, and a page to read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unix_cxr.cli.options import AsJson, Device, DType, load_pipeline, resolve_device

if TYPE_CHECKING:
    from typing import Literal

    from unix_cxr.evaluation.corpus_metric import Resampling
    from unix_cxr.evaluation.imaging.extractors import FeatureExtractor
    from unix_cxr.evaluation.imaging.suite import ImageOptions
    from unix_cxr.evaluation.reading.alignment import ImageTextScorer
    from unix_cxr.evaluation.run_folders import Run
    from unix_cxr.evaluation.text.label_scores import ReportLabeler

evaluate_app = typer.Typer(
    help="Measure drawn X-rays, written reports, or a model: numbers with signatures.",
    no_args_is_help=True,
)

Protocol = Annotated[
    str, typer.Option(help="strict (default), chexgenbench or unix-paper: how it is measured.")
]
OnMissing = Annotated[
    str, typer.Option(help="skip lists metrics whose packages or weights are missing; raise stops.")
]
Out = Annotated[Path, typer.Option(help="Folder of the run; the same call goes on in it.")]
Replicates = Annotated[int, typer.Option(min=0, help="Bootstrap replicates; 0: no intervals.")]
Heavy = Annotated[int, typer.Option(min=0, help="Replicates of FD, KD and Vendi.")]
Seed = Annotated[int, typer.Option(help="Of the bootstrap and of every random choice.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many X-rays of each set.")]
Extractor = Annotated[
    str | None,
    typer.Option(
        help="rad-dino=FOLDER (any DINOv2 of transformers), classifier=FOLDER, or a model whose "
        "vision tower looks; default nano."
    ),
]
CheXbert = Annotated[
    Path | None, typer.Option(help="CheXbert's weights; the rule labeler where not given.")
]
CheXbertTokenizer = Annotated[
    Path | None, typer.Option(help="Folder of bert-base-uncased's tokenizer.")
]


@evaluate_app.command()
def reports(
    reference: Annotated[
        Path, typer.Option(help="True reports: JSONL, CSV, TSV or parquet with id and text.")
    ],
    prediction: Annotated[Path, typer.Option(help="Written reports with the same ids.")],
    out: Out,
    protocol: Protocol = "strict",
    id_column: Annotated[str | None, typer.Option(help="Field with the ids.")] = None,
    reference_column: Annotated[str | None, typer.Option(help="Field with the true texts.")] = None,
    prediction_column: Annotated[str | None, typer.Option(help="Field with the texts.")] = None,
    chexbert: CheXbert = None,
    chexbert_tokenizer: CheXbertTokenizer = None,
    radeval: Annotated[
        list[str] | None, typer.Option(help="Metric of RadEval, such as radgraph; repeatable.")
    ] = None,
    replicates: Replicates = 1000,
    seed: Seed = 0,
    on_missing: OnMissing = "skip",
    json: AsJson = False,
) -> None:
    """Measure written reports against true ones: words, findings, plug-ins."""
    from unix_cxr.evaluation.corpus_metric import Resampling
    from unix_cxr.evaluation.gathering import working_together
    from unix_cxr.evaluation.page.sections import report_sections
    from unix_cxr.evaluation.plugins import installed_metrics
    from unix_cxr.evaluation.protocols import protocol_named
    from unix_cxr.evaluation.run_folders import Run, require_parquet
    from unix_cxr.evaluation.text.radeval import RadEvalMetric
    from unix_cxr.evaluation.text.report_files import pair_reports, read_reports
    from unix_cxr.evaluation.text.suite import evaluate_report_pairs

    require_parquet()
    pairs = pair_reports(
        read_reports(reference, id_column, reference_column),
        read_reports(prediction, id_column, prediction_column),
        Resampling(replicates, seed),
    )
    with working_together():
        found = evaluate_report_pairs(
            pairs,
            protocol=protocol_named(protocol),
            labeler=_labeler(chexbert, chexbert_tokenizer),
            metrics=[*installed_metrics("reports"), *map(RadEvalMetric, radeval or [])],
            on_missing=_on_missing(on_missing),
        )
        run = Run(
            kind="reports",
            title=f"Reports: {prediction.name} against {reference.name}",
            protocol=found.protocol,
            results=found.results,
            skipped=found.skipped,
            sections=tuple(report_sections(found)),
            settings={
                "reference": reference.name,
                "prediction": prediction.name,
                "n": len(pairs.ids),
            },
        )
        _finish(out, run, as_json=json)


@evaluate_app.command()
def images(
    real: Annotated[str, typer.Option(help="Real X-rays that nobody trained on.")],
    synthetic: Annotated[str, typer.Option(help="Drawn X-rays, best with a manifest.jsonl.")],
    out: Out,
    train: Annotated[
        str | None, typer.Option(help="X-rays that the generator learned from: privacy, use.")
    ] = None,
    protocol: Protocol = "strict",
    extractor: Extractor = None,
    scorer: Annotated[
        str | None,
        typer.Option(help="likelihood=MODEL, or the folder of a CLIP or SigLIP: alignment."),
    ] = None,
    real_split: Annotated[str | None, typer.Option(help="Part of the table of --real.")] = None,
    train_split: Annotated[str | None, typer.Option(help="Part of the table of --train.")] = None,
    subset: Annotated[
        list[str] | None, typer.Option(help="Collection of --real and --train; repeatable.")
    ] = None,
    limit: Limit = None,
    per_finding: Annotated[
        bool, typer.Option("--per-finding", help="Fidelity for every label too.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="X-rays at once.")] = 32,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of features; default OUT/cache.")
    ] = None,
    replicates: Replicates = 1000,
    heavy_replicates: Heavy = 100,
    seed: Seed = 0,
    on_missing: OnMissing = "skip",
    device: Device = "cpu",
    json: AsJson = False,
) -> None:
    """Measure drawn X-rays against real ones: fidelity, variety, privacy, use, alignment.

    SRC is a folder of images, a folder with metadata.csv or manifest.jsonl, or KIND:PATH.
    """
    from unix_cxr.evaluation.corpus_metric import Resampling
    from unix_cxr.evaluation.gathering import working_together
    from unix_cxr.evaluation.imaging.image_sets import open_images
    from unix_cxr.evaluation.imaging.suite import Judges, evaluate_images
    from unix_cxr.evaluation.page.sections import image_sections
    from unix_cxr.evaluation.run_folders import Run, require_parquet

    require_parquet()
    options = _image_options(
        protocol,
        Resampling(replicates, seed),
        heavy_replicates,
        on_missing,
        cache or out / "cache",
        batch_size,
        per_finding=per_finding,
    )
    truth = open_images(real, split=real_split, subsets=subset).first(limit, seed)
    drawn = open_images(synthetic).first(limit, seed)
    learned = None
    if train is not None:
        learned = open_images(train, split=train_split, subsets=subset).first(limit, seed)
    judges = Judges(_extractor(extractor, device), _scorer(scorer, device))
    with working_together():
        found = evaluate_images(truth, drawn, judges, train=learned, options=options)
        run = Run(
            kind="images",
            title=f"Drawn X-rays: {drawn.name} against {truth.name}",
            protocol=found.protocol,
            results=found.results,
            skipped=found.skipped,
            sections=tuple(image_sections(found)),
            settings={
                "real": truth.name,
                "drawn": drawn.name,
                "train": None if learned is None else learned.name,
                "notes": list(found.notes),
            },
        )
        _finish(out, run, as_json=json)


@evaluate_app.command()
def model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help='"nano", a folder, or a hub id.')],
    data: Annotated[str, typer.Option(help="X-rays with reports or labels, not trained on.")],
    out: Out,
    split: Annotated[str | None, typer.Option(help="Part of --data that is measured.")] = "val",
    train_split: Annotated[
        str | None, typer.Option(help="Part of --data that the model learned from.")
    ] = "train",
    subset: Annotated[list[str] | None, typer.Option(help="Collection; repeatable.")] = None,
    limit: Limit = None,
    train_limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many X-rays of --train-split.")
    ] = None,
    protocol: Protocol = "strict",
    extractor: Extractor = None,
    chexbert: CheXbert = None,
    chexbert_tokenizer: CheXbertTokenizer = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Solver steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="1 switches guidance off.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="X-rays at once.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest report in tokens.")] = 200,
    replicates: Replicates = 1000,
    heavy_replicates: Heavy = 100,
    seed: Seed = 0,
    on_missing: OnMissing = "skip",
    device: Device = "auto",
    dtype: DType = "float32",
    json: AsJson = False,
) -> None:
    """Draw for every text, write for every X-ray, probe the features: one page for a model."""
    from unix_cxr.evaluation.corpus_metric import Resampling
    from unix_cxr.evaluation.gathering import working_together
    from unix_cxr.evaluation.imaging.image_sets import open_images
    from unix_cxr.evaluation.model_run import ModelOptions, measure_model
    from unix_cxr.evaluation.run_folders import require_parquet
    from unix_cxr.pipelines.batch import DrawingOptions

    require_parquet()
    pipeline = load_pipeline(name, device, dtype)
    truth = open_images(data, split=split, subsets=subset).first(limit, seed)
    learned = None
    if train_split is not None:
        learned = open_images(data, split=train_split, subsets=subset).first(train_limit, seed)
    options = ModelOptions(
        images=_image_options(
            protocol,
            Resampling(replicates, seed),
            heavy_replicates,
            on_missing,
            out / "cache",
            batch_size,
        ),
        drawing=DrawingOptions(
            seed=seed, steps=steps, guidance_scale=guidance_scale, batch_size=batch_size
        ),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        extractor=None if extractor is None else _extractor(extractor, device),
        labeler=_labeler(chexbert, chexbert_tokenizer),
    )
    with working_together():
        _finish(out, measure_model(pipeline, truth, out, options, learned), as_json=json)


def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of a run of `unix-cxr evaluate`.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of another run of the same kind.")],
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.json and page.")] = None,
    replicates: Annotated[int, typer.Option(min=1, help="Bootstrap and randomisations.")] = 1000,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Hold two runs against each other: A - B with interval and p value for every metric."""
    from json import dumps

    from unix_cxr.evaluation.compare_runs import compare_runs, write_comparison
    from unix_cxr.evaluation.corpus_metric import Resampling

    compared = compare_runs(run_a, run_b, Resampling(replicates, seed))
    written = [] if out is None else write_comparison(out, (str(run_a), str(run_b)), compared)
    if json:
        values = [one.as_dict() for one in compared]
        typer.echo(dumps({"metrics": values, "written": [str(path) for path in written]}))
        return
    for one in compared:
        if one.difference is None:
            typer.echo(f"{one.name}: {one.a:.4g} and {one.b:.4g}, not tested: {one.reason}")
            continue
        found = one.difference
        typer.echo(
            f"{one.name}: {one.a:.4g} - {one.b:.4g} = {found.value:.4g} "
            f"({found.interval.low:.4g} to {found.interval.high:.4g}), p = {found.p_value:.3g}"
        )
    if written:
        typer.echo("wrote " + ", ".join(str(path) for path in written))


def _finish(out: Path, run: "Run", *, as_json: bool) -> None:
    from json import dumps

    from unix_cxr.evaluation.gathering import process_index
    from unix_cxr.evaluation.run_folders import write_run

    if process_index() != 0:
        return
    written = [str(path) for path in write_run(out, run)]
    if as_json:
        values = {result.name: result.as_dict()["value"] for result in run.results}
        skipped = {one.metric: one.remedy for one in run.skipped}
        typer.echo(dumps({"metrics": values, "skipped": skipped, "written": written}))
        return
    for result in run.results:
        typer.echo(str(result))
        for warning in result.warnings:
            typer.secho(f"  {warning}", fg="yellow")
    for one in run.skipped:
        typer.secho(f"not measured: {one.metric}: {one.remedy}", fg="yellow", err=True)
    typer.echo("wrote " + ", ".join(written))


def _image_options(
    protocol: str,
    resampling: "Resampling",
    heavy_replicates: int,
    on_missing: str,
    cache: Path,
    batch_size: int,
    *,
    per_finding: bool = False,
) -> "ImageOptions":
    from unix_cxr.evaluation.imaging.features import Extraction
    from unix_cxr.evaluation.imaging.suite import ImageOptions
    from unix_cxr.evaluation.protocols import protocol_named

    return ImageOptions(
        protocol=protocol_named(protocol),
        resampling=resampling,
        extraction=Extraction(batch_size, cache=cache),
        heavy_replicates=heavy_replicates,
        per_finding=per_finding,
        on_missing=_on_missing(on_missing),
    )


def _on_missing(value: str) -> 'Literal["skip", "raise"]':
    if value == "skip":
        return "skip"
    if value == "raise":
        return "raise"
    raise ValueError(f"--on-missing ({value!r}) must be skip or raise")


def _labeler(weights: Path | None, tokenizer: Path | None) -> "ReportLabeler | None":
    if weights is None and tokenizer is None:
        return None
    if weights is None or tokenizer is None:
        raise ValueError("--chexbert FILE and --chexbert-tokenizer FOLDER are given together")
    from unix_cxr.evaluation.text.chexbert import CheXbertLabeler

    return CheXbertLabeler(weights, tokenizer)


def _extractor(spec: str | None, device: str) -> "FeatureExtractor":
    """`KIND=FOLDER`, or a model by name; nano where nothing is given."""
    from unix_cxr.evaluation.classifier import XrayClassifier
    from unix_cxr.evaluation.imaging.extractors import (
        ClassifierExtractor,
        Dinov2Extractor,
        VisionTowerExtractor,
    )

    kind, equals, folder = (spec or "nano").partition("=")
    if not equals:
        return VisionTowerExtractor(load_pipeline(kind, device, "float32"))
    if kind == "classifier":
        return ClassifierExtractor(XrayClassifier.from_pretrained(folder))
    return Dinov2Extractor(folder, name=kind, device=resolve_device(device))


def _scorer(spec: str | None, device: str) -> "ImageTextScorer | None":
    """`likelihood=MODEL`, or the folder of a dual encoder."""
    if spec is None:
        return None
    from unix_cxr.evaluation.reading.alignment import DualEncoderScorer, LikelihoodScorer

    kind, equals, name = spec.partition("=")
    if equals and kind == "likelihood":
        return LikelihoodScorer(load_pipeline(name, device, "float32"))
    return DualEncoderScorer(spec)
