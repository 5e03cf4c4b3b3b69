"""What the pages of reports, images and models show."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from markupsafe import Markup

from unix_cxr.evaluation.contact_sheet import Row, contact_sheet
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet
from unix_cxr.evaluation.imaging.suite import CEILING, ImageEvaluation
from unix_cxr.evaluation.page.charts import Point, curve_chart
from unix_cxr.evaluation.page.pages import (
    Picture,
    Section,
    Table,
    bars_of,
    data_uri,
    result_rows,
)
from unix_cxr.evaluation.reading.understanding import Understanding
from unix_cxr.evaluation.results import MetricResult
from unix_cxr.evaluation.run_folders import Run
from unix_cxr.evaluation.text.suite import NOT_STATED, ReportEvaluation
from unix_cxr.functional.images import resize_and_pad
from unix_cxr.reports.labeler import NEGATIVE, POSITIVE, UNCERTAIN

_TILE: Final = 112
_SHOWN: Final = 8
_TEXTS: Final = 5
_STATES: Final = (POSITIVE, UNCERTAIN, NEGATIVE, NOT_STATED)


def report_run(evaluation: ReportEvaluation, reference: str, prediction: str) -> Run:
    """An evaluation of written reports, ready to be written; the two are names of tables."""
    return Run(
        kind="reports",
        title=f"Reports: {prediction} against {reference}",
        protocol=evaluation.protocol,
        results=evaluation.results,
        skipped=evaluation.skipped,
        sections=tuple(report_sections(evaluation)),
        settings={
            "reference": reference,
            "prediction": prediction,
            "n": len(evaluation.pairs.ids),
        },
    )


def image_run(evaluation: ImageEvaluation) -> Run:
    """An evaluation of drawn X-rays, ready to be written."""
    compared = evaluation.comparison
    return Run(
        kind="images",
        title=f"Drawn X-rays: {compared.drawn.name} against {compared.real.name}",
        protocol=evaluation.protocol,
        results=evaluation.results,
        skipped=evaluation.skipped,
        sections=tuple(image_sections(evaluation)),
        settings={
            "real": compared.real.name,
            "drawn": compared.drawn.name,
            "train": None if compared.train is None else compared.train.name,
            "notes": list(evaluation.notes),
        },
    )


def report_sections(evaluation: ReportEvaluation) -> list[Section]:
    """Overlap, findings with bars and confusion, best and worst reports."""
    results = evaluation.results
    labels = [result for result in results if "f1" in result.name.split("/")[0]]
    single = [result for result in labels if result.name.startswith("f1/")]
    other = [result for result in results if result not in labels]
    bars = [result for result in single if result.name.endswith("uncertain_positive")]
    charts = (bars_of("F1 of each finding, uncertain as positive", bars),) if bars else ()
    return [
        Section(
            "Words",
            "How much of the reference's wording is in the prediction, on a scale of 0 to 1.",
            result_rows(other),
        ),
        Section(
            "Findings",
            f"Do both texts state the same? Labels by {evaluation.confusion.labeler}.",
            result_rows([result for result in labels if result not in single]),
            charts,
        ),
        Section("Confusion by finding", _confusion_about(), tables=(_confusion(evaluation),)),
        _texts(evaluation),
    ]


def _confusion_about() -> str:
    return (
        "Reference, then prediction; + present, ? uncertain, - denied, · not stated. Only pairs "
        "that occur."
    )


def _confusion(evaluation: ReportEvaluation) -> Table:
    marks = dict(zip(_STATES, ("+", "?", "-", "·"), strict=True))
    pairs = [(a, b) for a in _STATES for b in _STATES]
    counts = evaluation.confusion.counts
    used = [pair for pair in pairs if any(found.get(pair) for found in counts.values())]
    heads = ("finding", *(f"{marks[a]} → {marks[b]}" for a, b in used))
    rows = tuple(
        (name, *(str(found.get(pair, 0) or "") for pair in used)) for name, found in counts.items()
    )
    return Table(heads, rows)


def _texts(evaluation: ReportEvaluation) -> Section:
    scored = next((one for one in evaluation.results if one.name == "rouge_l"), None)
    scored = scored or next((one for one in evaluation.results if one.name == "chrf"), None)
    if scored is None or scored.per_sample is None:
        return Section("Best and worst reports", "No overlap was measured.")
    values = dict(zip(scored.per_sample.ids, scored.per_sample.values, strict=True))
    pairs = evaluation.pairs
    texts = {
        identity: (true, written)
        for identity, true, written in zip(
            pairs.ids, pairs.references, pairs.predictions, strict=True
        )
    }
    order = sorted(values, key=lambda identity: values[identity], reverse=True)
    tables = tuple(
        Table(
            (f"{kind}: {scored.name}", "reference", "prediction"),
            tuple((f"{values[one]:.3f}\n{one}", *texts[one]) for one in chosen),
        )
        for kind, chosen in (("best", order[:_TEXTS]), ("worst", order[::-1][:_TEXTS]))
    )
    return Section("Best and worst reports", tables=tables)


_GROUPS: Final = (
    ("Fidelity", ("fd", "kd", "precision", "recall", "density", "coverage", "mifid"), "Are drawn "
     "X-rays like real ones? FD grows when samples are few: read it with its curve."),
    ("Variety", ("vendi", "vendi_real", "ms_ssim", "ms_ssim_real"), "Are drawn X-rays as "
     "different from each other as real ones are? Compare each with its _real."),
    ("Looks", ("sharpness", "tone", "repeated"), "What networks look past: shares within the "
     "central range of real X-rays, and drawn X-rays that repeat each other."),
    ("Control", ("oracle",), "Phantoms read by an oracle: is there what the text states?"),
    ("Privacy", ("near_train", "nearest_ratio", "nearest_ratio_real"), "How many drawn X-rays "
     "come nearer to the training X-rays than unseen real ones do?"),
    ("Alignment", ("alignment",), "Does a drawn X-ray fit its own text better than another?"),
)  # fmt: skip


def image_sections(evaluation: ImageEvaluation) -> list[Section]:
    """Fidelity with FD against N, variety, privacy with pairs, use, labels, contact sheets."""
    ceilings = {
        result.name.removesuffix(CEILING): result
        for result in evaluation.results
        if result.name.endswith(CEILING)
    }
    left = [result for result in evaluation.results if not result.name.endswith(CEILING)]
    sections = []
    for title, names, about in _GROUPS:
        mine = [
            result
            for result in left
            if result.name in names or (result.name.split("/")[0] in names and title != "Fidelity")
        ]
        left = [result for result in left if result not in mine]
        if mine:
            charts = (_curve(evaluation),) if title == "Fidelity" else ()
            pictures, tables = _close_pairs(evaluation) if title == "Privacy" else ((), ())
            rows = result_rows(mine, ceilings)
            sections.append(Section(title, about, rows, charts, pictures, tables))
    sections += _finding_sections(left, ceilings)
    sections.append(_contact_sheets(evaluation))
    if evaluation.notes:
        lines = tuple((note,) for note in evaluation.notes)
        sections.append(Section("Notes", tables=(Table(("",), lines),)))
    return sections


def _finding_sections(
    results: Sequence[MetricResult], ceilings: Mapping[str, MetricResult]
) -> list[Section]:
    """Areas of probes first, then fidelity by finding, then what plug-ins gave."""
    areas = [one for one in results if one.name.startswith(("auroc/", "auprc/"))]
    by_finding = [one for one in results if one not in areas and "/" in one.name]
    other = [one for one in results if one not in areas and one not in by_finding]
    sections = []
    if areas:
        about = (
            "Probes on frozen features: label_agreement learned from real X-rays and looks at "
            "drawn ones; use learned from real, drawn or both and is tested on real ones, and so "
            "do whole networks (use_network). metrics.json has the AUPRC too."
        )
        shown = [one for one in areas if one.name.startswith("auroc/")]
        sections.append(Section("Labels and use", about, result_rows(shown, ceilings)))
    if by_finding:
        coverage = [one for one in by_finding if one.name.startswith("coverage/")]
        charts = (bars_of("Coverage of each finding", coverage),) if coverage else ()
        sections.append(Section("By finding", "", result_rows(by_finding, ceilings), charts))
    if other:
        sections.append(Section("Other metrics", "", result_rows(other, ceilings)))
    return sections


def understanding_section(understanding: Understanding) -> Section:
    """Probes, and how they hold when a part of the X-ray is hidden."""
    points = [
        Point(
            ratio,
            result.value,
            None if result.interval is None else result.interval.low,
            None if result.interval is None else result.interval.high,
        )
        for ratio, result in understanding.curve.items()
    ]
    axes = ("share of the X-ray that is hidden", "mean AUROC")
    charts = (curve_chart("AUROC under masking", points, axes),) if len(points) > 1 else ()
    about = (
        "Linear probes on the model's features, trained on whole X-rays, tested on masked ones: "
        f"{', '.join(understanding.labels)}."
    )
    return Section("Understanding", about, result_rows(understanding.results), charts)


def _curve(evaluation: ImageEvaluation) -> Markup:
    curve = evaluation.curve
    points = [Point(n, value) for n, value in zip(curve.sizes, curve.values, strict=True)]
    axes = (f"X-rays per set; for infinitely many about {curve.limit:.3g}", "FD")
    return curve_chart("FD against the number of X-rays", points, axes)


def _close_pairs(evaluation: ImageEvaluation) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    privacy, train = evaluation.privacy, evaluation.comparison.train
    if privacy is None or train is None:
        return (), ()
    pairs = privacy.closest
    drawn_rows = {one.id: one for one in evaluation.comparison.drawn}
    train_rows = {one.id: one for one in train}
    shown = pairs[:_SHOWN]
    sheet = contact_sheet(
        [
            Row("drawn (synthetic)", _tiles([drawn_rows[pair.drawn] for pair in shown])),
            Row("nearest training X-ray (real)", _tiles([train_rows[p.train] for p in shown])),
        ],
        tile=_TILE,
    )
    table = Table(
        ("drawn", "training", "1 - correlation", "SSIM", "nearer than the threshold"),
        tuple(
            (
                pair.drawn,
                pair.train,
                f"{pair.pixels:.3f}",
                f"{pair.ssim:.3f}",
                "yes" if pair.near else "",
            )
            for pair in pairs
        ),
    )
    about = "The closest pairs of drawn and training X-rays, nearest first"
    return (Picture(data_uri(sheet), about),), (table,)


def _contact_sheets(evaluation: ImageEvaluation) -> Section:
    order = evaluation.distances.argsort().tolist()
    drawn = evaluation.comparison.drawn
    sheet = contact_sheet(
        [
            Row("drawn: nearest to a real X-ray by features", _of(drawn, order[:_SHOWN])),
            Row("drawn: farthest from every real X-ray", _of(drawn, order[::-1][:_SHOWN])),
            Row("real, the first ones", _of(evaluation.comparison.real, range(_SHOWN))),
        ],
        tile=_TILE,
    )
    picture = Picture(data_uri(sheet), "Drawn X-rays nearest to and farthest from real ones")
    return Section("Contact sheets", "Best, worst, and real ones beside them.", pictures=(picture,))


def _of(images: ImageSet, rows: Sequence[int]) -> torch.Tensor:
    return _tiles([images.images[row] for row in rows if row < len(images)])


def _tiles(images: Sequence[ImageFile]) -> torch.Tensor:
    return torch.cat([resize_and_pad(one.load()[None], _TILE).clamp(0, 1) for one in images])
