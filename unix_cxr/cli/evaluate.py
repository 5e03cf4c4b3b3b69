"""`unix-cxr evaluate` and `unix-cxr compare`: numbers with signatures, and a page to read."""

from pathlib import Path
from typing import Annotated

import typer

from unix_cxr.cli.evaluate_options import (
    Batch,
    Ceiling,
    CheXbert,
    CheXbertTokenizer,
    Extractor,
    Heavy,
    Limit,
    OnMissing,
    Opening,
    Out,
    Protocol,
    Replicates,
    Seed,
    Subset,
    UseNetwork,
    UseSteps,
    feature_extractor,
    finish,
    image_text_scorer,
    network_training,
    open_set,
    report_labeler,
)
from unix_cxr.cli.options import AsJson, Device, DType, load_pipeline

evaluate_app = typer.Typer(
    help="Measure drawn X-rays, written reports, or a model: numbers with signatures.",
    no_args_is_help=True,
)


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
    from unix_cxr.evaluation.page.sections import report_run
    from unix_cxr.evaluation.plugins import installed_metrics
    from unix_cxr.evaluation.protocols import protocol_named
    from unix_cxr.evaluation.run_folders import require_parquet
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
            labeler=report_labeler(chexbert, chexbert_tokenizer),
            metrics=[*installed_metrics("reports"), *map(RadEvalMetric, radeval or [])],
            on_missing=on_missing,
        )
        finish(out, report_run(found, reference.name, prediction.name), as_json=json)


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
    subset: Subset = None,
    limit: Limit = None,
    per_finding: Annotated[
        bool, typer.Option("--per-finding", help="Fidelity for every label too.")
    ] = False,
    use_network: UseNetwork = False,
    use_steps: UseSteps = 300,
    ceiling: Ceiling = "fidelity",
    batch_size: Batch = 32,
    cache: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder of features; default OUT/cache."),
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
    from unix_cxr.evaluation.imaging.features import Extraction
    from unix_cxr.evaluation.imaging.suite import ImageOptions, Judges, evaluate_images
    from unix_cxr.evaluation.page.sections import image_run
    from unix_cxr.evaluation.protocols import protocol_named
    from unix_cxr.evaluation.run_folders import require_parquet

    require_parquet()
    options = ImageOptions(
        protocol=protocol_named(protocol),
        resampling=Resampling(replicates, seed),
        extraction=Extraction(batch_size, cache=cache or out / "cache"),
        heavy_replicates=heavy_replicates,
        per_finding=per_finding,
        use_network=network_training(use_steps, seed, wanted=use_network),
        ceiling=ceiling,
        on_missing=on_missing,
    )
    truth = open_set(real, real_split, subset, limit, seed)
    drawn = open_set(synthetic, None, None, limit, seed)
    learned = None if train is None else open_set(train, train_split, subset, limit, seed)
    judges = Judges(feature_extractor(extractor, device), image_text_scorer(scorer, device))
    with working_together():
        found = evaluate_images(truth, drawn, judges, train=learned, options=options)
        finish(out, image_run(found), as_json=json)


@evaluate_app.command()
def model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help='"nano", a folder, or a hub id.')],
    data: Annotated[str, typer.Option(help="X-rays with reports or labels, not trained on.")],
    out: Out,
    split: Annotated[str | None, typer.Option(help="Part of --data that is measured.")] = "val",
    train_split: Annotated[
        str | None, typer.Option(help="Part of --data that the model learned from.")
    ] = "train",
    subset: Subset = None,
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
    use_network: UseNetwork = False,
    use_steps: UseSteps = 300,
    ceiling: Ceiling = "fidelity",
    opening: Opening = "",
    batch_size: Batch = 16,
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
    from unix_cxr.evaluation.imaging.features import Extraction
    from unix_cxr.evaluation.imaging.suite import ImageOptions
    from unix_cxr.evaluation.model_run import ModelOptions, measure_model
    from unix_cxr.evaluation.protocols import protocol_named
    from unix_cxr.evaluation.run_folders import require_parquet
    from unix_cxr.pipelines.batch import DrawingOptions

    require_parquet()
    options = ModelOptions(
        images=ImageOptions(
            protocol=protocol_named(protocol),
            resampling=Resampling(replicates, seed),
            extraction=Extraction(batch_size, cache=out / "cache"),
            heavy_replicates=heavy_replicates,
            use_network=network_training(use_steps, seed, wanted=use_network),
            ceiling=ceiling,
            on_missing=on_missing,
        ),
        drawing=DrawingOptions(
            seed=seed, steps=steps, guidance_scale=guidance_scale, batch_size=batch_size
        ),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        opening=opening,
        extractor=None if extractor is None else feature_extractor(extractor, device),
        labeler=report_labeler(chexbert, chexbert_tokenizer),
    )
    truth = open_set(data, split, subset, limit, seed)
    learned = None
    if train_split is not None:
        learned = open_set(data, train_split, subset, train_limit, seed)
    pipeline = load_pipeline(name, device, dtype)
    with working_together():
        finish(out, measure_model(pipeline, truth, out, options, learned), as_json=json)


@evaluate_app.command()
def table(
    run: Annotated[Path, typer.Argument(help="Folder of a run of `unix-cxr evaluate`.")],
    metric: Annotated[
        list[str] | None, typer.Option(help="Such as fd or auroc/*; repeatable; the main ones.")
    ] = None,
) -> None:
    """Print the numbers of a run as a Markdown table, with the ceiling beside each."""
    from unix_cxr.evaluation.page.markdown import markdown_table

    typer.echo(markdown_table(run, metric))


def compare(
    run_a: Annotated[Path, typer.Argument(help="Folder of a run of `unix-cxr evaluate`.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of another run of the same kind.")],
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for comparison.json and page.")
    ] = None,
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
