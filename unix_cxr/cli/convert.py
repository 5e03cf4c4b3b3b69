"""`unix-cxr convert`: other releases to ours and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unix_cxr.cli.options import AsJson

if TYPE_CHECKING:
    from unix_cxr.convert.unix_release import ConversionReport

convert_app = typer.Typer(
    help="Convert published checkpoints to this library's layout, and back.", no_args_is_help=True
)


@convert_app.command("unix-release")
def unix_release(
    source: Annotated[Path, typer.Argument(help="Published folder: config.json, safetensors.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; a pipeline, or a model alone.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer.")] = None,
    vae: Annotated[
        Path | None,
        typer.Option(
            help="kl-f16 autoencoder: a CompVis file (.ckpt or .safetensors) with its config "
            "beside it, or the folder of a diffusers AutoencoderKL."
        ),
    ] = None,
    model_only: Annotated[
        bool, typer.Option("--model-only", help="Convert the model without tokenizer and vae.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Convert the published UniX weights; every key is mapped, dropped with a reason or refused."""
    from unix_cxr.convert.unix_release import convert_model

    _refuse_used(target)
    if model_only:
        _tell(convert_model(source, target), target, json)
        return
    if tokenizer is None or vae is None:
        raise ValueError("give --tokenizer DIR and --vae PATH, or --model-only")
    _tell(_convert_whole(source, target, tokenizer, vae), target, json)


@convert_app.command("janus")
def janus(
    source: Annotated[Path, typer.Argument(help="Folder of Janus-Pro-1B, in either layout.")],
    target: Annotated[Path, typer.Argument(help="Folder to write: a pipeline to train from.")],
    vae: Annotated[
        Path, typer.Option(help="Folder of a diffusers AutoencoderKL, or a CompVis file.")
    ],
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the tokenizer, where it is not the source's.")
    ] = None,
    query_key_norm: Annotated[
        str, typer.Option(help="ones (as published), matched, or none (computes what Janus does).")
    ] = "ones",
    latent_channels: Annotated[int, typer.Option(min=1, help="Of the autoencoder.")] = 16,
    latent_patch_size: Annotated[int, typer.Option(min=1, help="Latents per token's side.")] = 1,
    max_latent_size: Annotated[int, typer.Option(min=1, help="Most tokens along a side.")] = 32,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; the source's by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the new weights.")] = 0,
    json: AsJson = False,
) -> None:
    """Make the folder that training begins from: Janus' understanding, a new generation branch."""
    from unix_cxr.convert.autoencoder_files import load_autoencoder
    from unix_cxr.convert.janus import JanusOptions, convert_janus, copy_licences
    from unix_cxr.convert.janus_config import janus_normalisation
    from unix_cxr.convert.janus_tokenizer import read_janus_tokenizer
    from unix_cxr.files import replacing_folder
    from unix_cxr.pipelines.converted import save_around

    _refuse_used(target)
    options = JanusOptions(
        query_key_norm=query_key_norm,
        latent_channels=latent_channels,
        latent_patch_size=latent_patch_size,
        max_latent_size=max_latent_size,
        dtype=dtype,
        seed=seed,
    )
    tokens = read_janus_tokenizer(tokenizer or source)
    autoencoder = load_autoencoder(vae, latent_channels)
    pixels = janus_normalisation(source) if options.exact else None
    with replacing_folder(target) as folder:
        report = convert_janus(source, folder / "model", tokens, options)
        save_around(folder, autoencoder, tokens.tokenizer, pixels)
        copy_licences(source, folder)
    _tell(report, target, json)


@convert_app.command("to-unix-release")
def to_unix_release(
    source: Annotated[Path, typer.Argument(help="Our model folder, or a pipeline's.")],
    target: Annotated[Path, typer.Argument(help="Folder to write.")],
    json: AsJson = False,
) -> None:
    """Write the published layout again; a converted release gives back its very bytes."""
    import json as json_module

    from unix_cxr.convert.unix_release import convert_model_back

    _refuse_used(target)
    inner = source / "model"
    count = convert_model_back(inner if inner.is_dir() else source, target)
    outcome = {"keys": count, "target": str(target)}
    typer.echo(json_module.dumps(outcome) if json else f"{count} keys written to {target}")


def _refuse_used(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not empty; give a new folder")


def _convert_whole(source: Path, target: Path, tokenizer: Path, vae: Path) -> "ConversionReport":
    """Model, autoencoder and tokenizer as one pipeline folder."""
    from unix_cxr.convert.autoencoder_files import load_published_autoencoder
    from unix_cxr.convert.unix_release import convert_model, read_release_config, release_config
    from unix_cxr.models.unix import UniXModel
    from unix_cxr.pipelines.converted import assemble, load_tokenizer

    channels = release_config(read_release_config(source)).latent_channels
    words = load_tokenizer(tokenizer)
    autoencoder, theirs = load_published_autoencoder(vae, channels)
    report = convert_model(source, target / "model")
    model = UniXModel.from_pretrained(target / "model", use_safetensors=True)
    assemble(model, autoencoder, words).save_pretrained(target)
    report.mapped |= {f"vae/{name}": names for name, names in theirs.mapped.items()}
    report.dropped |= {f"vae/{name}": why for name, why in theirs.dropped.items()}
    return report


def _tell(report: "ConversionReport", target: Path, json: bool) -> None:
    from unix_cxr.files import write_text

    report_file = target / "conversion.json"
    write_text(report_file, report.to_json())
    if json:
        typer.echo(report.to_json())
        return
    for why in dict.fromkeys(report.dropped.values()):
        names = [name for name, reason in report.dropped.items() if reason == why]
        shown = names[0] if len(names) == 1 else f"{len(names)} keys such as {names[0]}"
        typer.echo(f"dropped {shown}: {why}")
    typer.echo(f"{report.summary()}; every key in {report_file}")
