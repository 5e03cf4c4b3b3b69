"""What the commands of `unix-cxr evaluate` share: options, and what is made of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from unix_cxr.cli.options import load_pipeline, resolve_device

if TYPE_CHECKING:
    from unix_cxr.evaluation.imaging.extractors import FeatureExtractor
    from unix_cxr.evaluation.imaging.image_sets import ImageSet
    from unix_cxr.evaluation.reading.alignment import ImageTextScorer
    from unix_cxr.evaluation.reading.use_network import NetworkTraining
    from unix_cxr.evaluation.run_folders import Run
    from unix_cxr.evaluation.text.label_scores import ReportLabeler

Protocol = Annotated[
    str, typer.Option(help="strict (default), chexgenbench or unix-paper: how it is measured.")
]
OnMissing = Annotated[
    Literal["skip", "raise"],
    typer.Option(help="skip lists metrics whose packages or weights are missing; raise stops."),
]
Out = Annotated[
    Path, typer.Option(file_okay=False, help="Folder of the run; the same call goes on in it.")
]
Replicates = Annotated[int, typer.Option(min=0, help="Bootstrap replicates; 0: no intervals.")]
Heavy = Annotated[int, typer.Option(min=0, help="Replicates of FD, KD and Vendi.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the bootstrap and of every random choice.")]
Subset = Annotated[
    list[str] | None, typer.Option(help="Collection of the real X-rays; repeatable.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many X-rays of each set.")]
Batch = Annotated[int, typer.Option(min=1, help="X-rays at once.")]
Extractor = Annotated[
    str | None,
    typer.Option(
        help="rad-dino=FOLDER (any DINOv2 of transformers), classifier=FOLDER, or a model whose "
        "vision tower looks; default nano."
    ),
]
Opening = Annotated[
    str,
    typer.Option(
        metavar="TEXT",
        help="Comes before each statement of zero-shot classification: how the model's reports "
        "begin. Bare statements by default.",
    ),
]
CheXbert = Annotated[
    Path | None, typer.Option(help="CheXbert's weights; the rule labeler where not given.")
]
CheXbertTokenizer = Annotated[
    Path | None, typer.Option(help="Folder of bert-base-uncased's tokenizer.")
]
UseNetwork = Annotated[
    bool,
    typer.Option(
        "--use-network", help="Train whole networks on real, drawn and both, and test them on real."
    ),
]
UseSteps = Annotated[int, typer.Option(min=1, help="Steps of each network of --use-network.")]
Ceiling = Annotated[
    Literal["fidelity", "all"],
    typer.Option(help="Which numbers real training X-rays get in the place of drawn ones."),
]


def open_set(
    source: str,
    split: str | None,
    subsets: Sequence[str] | None,
    limit: int | None,
    seed: int,
) -> "ImageSet":
    """The X-rays of a source, at most so many."""
    from unix_cxr.evaluation.imaging.image_sets import open_images

    return open_images(source, split=split, subsets=subsets).first(limit, seed)


def network_training(steps: int, seed: int, *, wanted: bool) -> "NetworkTraining | None":
    """How networks learn where they shall."""
    from unix_cxr.evaluation.reading.use_network import NetworkTraining

    return NetworkTraining(steps=steps, seed=seed) if wanted else None


def finish(out: Path, run: "Run", *, as_json: bool) -> None:
    """Write a run and say what was found; the first process alone does."""
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


def report_labeler(weights: Path | None, tokenizer: Path | None) -> "ReportLabeler | None":
    """CheXbert where its weights are given.

    Raises:
        ValueError: one of the two is missing.
    """
    if weights is None and tokenizer is None:
        return None
    if weights is None or tokenizer is None:
        raise ValueError("--chexbert FILE and --chexbert-tokenizer FOLDER are given together")
    from unix_cxr.evaluation.text.chexbert import CheXbertLabeler

    return CheXbertLabeler(weights, tokenizer)


def feature_extractor(spec: str | None, device: str) -> "FeatureExtractor":
    """`KIND=FOLDER`, or a model by name; nano where nothing is given."""
    from unix_cxr.evaluation.classifier import XrayClassifier
    from unix_cxr.evaluation.imaging.extractors import (
        ClassifierExtractor,
        Dinov2Extractor,
        VisionTowerExtractor,
    )

    kind, equals, folder = ("nano" if spec is None else spec).partition("=")
    if not kind or (equals and not folder):
        raise ValueError(
            f"--extractor ({spec!r}) must be rad-dino=FOLDER, classifier=FOLDER or a model"
        )
    if not equals:
        return VisionTowerExtractor(load_pipeline(kind, device, "float32"))
    if kind == "classifier":
        return ClassifierExtractor(XrayClassifier.from_pretrained(folder))
    return Dinov2Extractor(folder, name=kind, device=resolve_device(device))


def image_text_scorer(spec: str | None, device: str) -> "ImageTextScorer | None":
    """`likelihood=MODEL`, or the folder of a dual encoder."""
    if spec is None:
        return None
    from unix_cxr.evaluation.reading.alignment import DualEncoderScorer, LikelihoodScorer

    kind, equals, name = spec.partition("=")
    if equals and kind == "likelihood":
        return LikelihoodScorer(load_pipeline(name, device, "float32"))
    return DualEncoderScorer(spec)
