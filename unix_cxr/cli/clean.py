"""`unix-cxr clean`: reports in, cleaned JSONL and an audit out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unix_cxr.cli.terminal import tell_count, tell_error, tell_outcome

if TYPE_CHECKING:
    from unix_cxr.reports.config import CleanerConfig
    from unix_cxr.reports.corpus import CorpusOptions
    from unix_cxr.reports.rewriting import RewritingCleaner


def clean(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT…",
            help="JSONL, CSV, TSV, parquet, a folder of .txt, a MIMIC-CXR tree, Open-i XML.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Cleaned JSONL, one line per report.")
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write this HTML page, and JSON beside it."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="unix (default) or conservative.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with every option.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    id_column: Annotated[str, typer.Option(help="Field that holds the id.")] = "id",
    text_column: Annotated[str, typer.Option(help="Field that holds the report.")] = "text",
    findings_column: Annotated[
        str | None, typer.Option(help="Field with the findings, in the place of --text-column.")
    ] = None,
    impression_column: Annotated[
        str | None, typer.Option(help="Field with the impression, in the place of --text-column.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="jsonl, csv, tsv, parquet, txt, mimic or openi.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of the input's text.")] = "utf-8",
    explain: Annotated[
        str | None, typer.Option(metavar="ID", help="Tell how this one report is cleaned.")
    ] = None,
    dedup: Annotated[
        bool, typer.Option("--dedup", help="INPUT is cleaned JSONL: drop duplicates, keep the map.")
    ] = False,
    dedup_threshold: Annotated[
        float, typer.Option(help="Least similarity of a near duplicate; 1: exact only.")
    ] = 0.9,
    llm_endpoint: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible URL; the reports' text is sent there. Off by default."
        ),
    ] = None,
    llm_model: Annotated[
        str | None, typer.Option(help="Model at the endpoint, or a local folder without one.")
    ] = None,
    llm_cache: Annotated[
        Path | None, typer.Option(help="Answers by content hash; default OUT.answers.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Clean chest X-ray reports: deterministic, audited, resumable. It is no de-identifier.

    A killed run goes on where it stopped when the same command is given again.
    """
    from unix_cxr.reports.corpus import CorpusOptions
    from unix_cxr.reports.readers import Columns

    try:
        settings = _settings(config, preset)
        _check(inputs, out, explain, dedup=dedup, overwrite=overwrite)
        options = CorpusOptions(
            inputs=tuple(inputs),
            out=out or Path("unused"),
            config=settings,
            columns=Columns(id_column, text_column, findings_column, impression_column),
            file_format=format,
            encoding=encoding,
            workers=workers,
            overwrite=overwrite,
            rewriter=f"{llm_endpoint or ''} {llm_model or ''}".strip(),
        )
        if explain is not None:
            _explain(options, explain)
        elif dedup:
            _dedup(options, dedup_threshold, as_json=json)
        else:
            cleaner = _rewriting(options, llm_endpoint, llm_model, llm_cache)
            _clean(options, audit, cleaner, as_json=json)
    except (ValueError, TypeError, KeyError, OSError, ImportError) as error:
        tell_error(ValueError(error.args[0]) if isinstance(error, KeyError) else error)
        raise typer.Exit(1) from error


def _settings(config: Path | None, preset: str | None) -> "CleanerConfig":
    from unix_cxr.reports.config import CleanerConfig

    if config is not None and preset is not None:
        raise ValueError("give --preset or --config, not both; a config names its own preset")
    if config is not None:
        return CleanerConfig.from_yaml(config)
    return CleanerConfig.parse({"preset": preset or "unix"})


def _check(
    inputs: list[Path], out: Path | None, explain: str | None, *, dedup: bool, overwrite: bool
) -> None:
    if out is None and explain is None:
        raise ValueError("--out is needed (or --explain ID)")
    if out is not None and any(out.resolve() == path.resolve() for path in inputs):
        raise ValueError(f"--out {out} is also an input; name another file")
    if dedup and len(inputs) != 1:
        raise ValueError(f"--dedup takes one cleaned JSONL file, got {len(inputs)}")
    if dedup and not inputs[0].is_file():
        raise FileNotFoundError(f"no file {inputs[0]}; --dedup takes what `clean --out` wrote")
    if dedup and out is not None and out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; remove it or pass --overwrite")


def _rewriting(
    options: "CorpusOptions", endpoint: str | None, model: str | None, cache: Path | None
) -> "RewritingCleaner | None":
    """The rules with a language model behind them, where the user names one."""
    if endpoint is None and model is None:
        return None
    if model is None:
        raise ValueError("--llm-endpoint needs --llm-model, the model's name there")
    from os import environ

    from unix_cxr.pipelines.rewriters import EndpointRewriter, TransformersRewriter
    from unix_cxr.reports.cleaner import ReportCleaner
    from unix_cxr.reports.rewriting import ResponseCache, RewritingCleaner

    rewriter: EndpointRewriter | TransformersRewriter
    if endpoint is not None:
        rewriter = EndpointRewriter(endpoint, model, api_key=environ.get("UNIX_CXR_LLM_KEY"))
    else:
        rewriter = TransformersRewriter.from_pretrained(model)
    store = ResponseCache(cache or options.out.with_name(options.out.name + ".answers"))
    return RewritingCleaner(ReportCleaner(config=options.config), rewriter, cache=store)


def _clean(
    options: "CorpusOptions",
    audit: Path | None,
    cleaner: "RewritingCleaner | None",
    *,
    as_json: bool,
) -> None:
    from json import dumps

    from unix_cxr.reports.audit import audit_values, write_audit
    from unix_cxr.reports.corpus import clean_corpus

    def tell(done: int) -> None:
        tell_count(f"{done:,} reports")

    statistics = clean_corpus(options, None if as_json else tell, cleaner)
    written = [options.out]
    if audit is not None:
        written.extend(write_audit(audit, statistics, options.config))
    if as_json:
        values = audit_values(statistics, options.config)
        keys = ("reports", "status", "reasons", "rules", "categories", "masked", "guarded")
        chosen = {key: values[key] for key in keys}
        typer.echo(dumps({**chosen, "written": [str(path) for path in written]}))
        return
    status = statistics.status
    tell_outcome(
        f"{statistics.reports:,} reports = {status['clean']:,} clean + "
        f"{status['empty']:,} empty + {status['quarantined']:,} quarantined"
    )
    if not statistics.reports:
        typer.echo(
            f"warning: no report is in {', '.join(str(path) for path in options.inputs)}", err=True
        )
    for reason, count in statistics.reasons.most_common(8):
        typer.echo(f"  {count:,} {reason}")
    if statistics.guarded:
        typer.echo(f"  {statistics.guarded.total():,} objections of the guard (cut less or not)")
    typer.echo("wrote " + ", ".join(str(path) for path in written))


def _dedup(options: "CorpusOptions", threshold: float, *, as_json: bool) -> None:
    from dataclasses import asdict
    from json import dumps

    from unix_cxr.reports.dedup import deduplicate

    counts = deduplicate(options.inputs[0], options.out, threshold=threshold)
    if as_json:
        typer.echo(dumps(asdict(counts)))
        return
    typer.echo(
        f"{counts.read:,} lines = {counts.kept:,} kept + {counts.exact:,} exact and "
        f"{counts.near:,} near duplicates + {counts.without_text:,} without text"
    )
    typer.echo(f"wrote {options.out}, {options.out}.map.jsonl")


def _explain(options: "CorpusOptions", report_id: str) -> None:
    from unix_cxr.reports.cleaner import ReportCleaner
    from unix_cxr.reports.corpus import find_report
    from unix_cxr.reports.explain import explain

    text = find_report(options, report_id)
    for line in explain(ReportCleaner(config=options.config), text):
        typer.echo(line)
