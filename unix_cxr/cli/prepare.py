"""`unix-cxr data prepare`: a corpus as shards that training reads in any order."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from unix_cxr.cli.data import Column, Kind, Setting, Source, counter, data_app, pairs, typed
from unix_cxr.cli.options import AsJson, Device
from unix_cxr.cli.terminal import tell_outcome


@data_app.command()
def prepare(
    source: Source,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder to make.")],
    size: Annotated[int, typer.Option(help="Side of the square images in pixels.")] = 512,
    bits: Annotated[int, typer.Option(help="8 or 16 bits per pixel.")] = 8,
    text: Annotated[
        str, typer.Option(help="Preset of the report cleaner: unix, conservative, or as-is.")
    ] = "unix",
    section: Annotated[str, typer.Option(help="text, findings or impression.")] = "text",
    require_text: Annotated[
        bool, typer.Option("--require-text", help="Leave out studies without a text.")
    ] = False,
    salt: Annotated[
        str | None,
        typer.Option(help="Your own text; draws splits by patient where the source has none."),
    ] = None,
    latents: Annotated[
        Path | None, typer.Option(help="Pipeline folder whose latents' moments are cached.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Pipeline folder whose vision features are cached.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that decode and clean.")] = 1,
    on_bad: Annotated[
        Literal["raise", "count"], typer.Option(help="Stop at a bad row or image, or list it.")
    ] = "raise",
    kind: Kind = None,
    column: Column = None,
    option: Setting = None,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Write a corpus as parquet shards: images, cleaned texts, labels; by request latents too.

    The same command goes on where a killed one stopped, and ends with the same bytes.
    """
    from json import dumps

    from unix_cxr.cli.options import resolve_device
    from unix_cxr.data.sources import open_source
    from unix_cxr.preparation.prepare import prepare as prepare_source
    from unix_cxr.preparation.settings import parse_settings

    settings = parse_settings(
        {
            "image_size": size,
            "image_bits": bits,
            "text": text,
            "section": section,
            "require_text": require_text,
            "salt": salt,
            "latents": None if latents is None else str(latents),
            "features": None if features is None else str(features),
            "on_bad": on_bad,
        }
    )
    options = typed(pairs("--option", option))
    if column:
        options["columns"] = pairs("--column", column)
    opened = open_source(source, kind=kind, on_bad_row=on_bad, **options)
    made = prepare_source(
        opened,
        out,
        settings,
        workers=workers,
        device=resolve_device(device),
        progress=None if json else counter("studies", every=1),
    )
    manifest = made.manifest
    if json:
        values = {"rows": manifest.rows, "shards": len(manifest.shards)}
        typer.echo(dumps({**values, "left_out": manifest.left_out, "written": [str(out)]}))
        return
    tell_outcome(f"{manifest.rows:,} studies in {len(manifest.shards)} shards in {out}")
    for reason, count in manifest.left_out.items():
        typer.echo(f"  {count:,} left out: {reason}")
