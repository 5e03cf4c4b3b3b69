"""The control: X-rays drawn from texts about phantoms, read by an oracle that knows the truth.

The counting is that of `unix_cxr.evaluation.phantom_controls`; here it gets intervals.

Axes: n X-rays, s statistics per X-ray, k kinds of findings, c counts.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.data.phantom import KINDS, SIDED, Statements, measure, parse
from unix_cxr.evaluation.corpus_metric import CorpusMetric, Resampling
from unix_cxr.evaluation.imaging.image_sets import ImageSet
from unix_cxr.evaluation.phantom_controls import COUNTS, film_counts
from unix_cxr.evaluation.results import MetricResult

ORACLE_SIDE: Final = 128


def f1_of_sums(sums: Float[Tensor, "r 3"]) -> Float[Tensor, " r"]:
    """F1 from true positives, false positives and false negatives; NaN where there are none."""
    hits, false_alarms, misses = sums.unbind(dim=1)
    score: Tensor = 2 * hits / (2 * hits + false_alarms + misses)
    return score


def share_of_sums(sums: Float[Tensor, "r 2"]) -> Float[Tensor, " r"]:
    """Part over whole; NaN where the whole is 0."""
    return sums[:, 0] / sums[:, 1]


def about_phantoms(images: ImageSet) -> bool:
    """Whether every X-ray's text is one about a phantom, and at least one states a finding."""
    stated = [parse(one.text) for one in images if one.text.strip()]
    if len(stated) < len(images) or any(one.unknown or _repeats(one) for one in stated):
        return False
    return any(one.present for one in stated)


def measure_phantom_control(images: ImageSet, resampling: Resampling) -> list[MetricResult]:
    """Does a drawn phantom show what its text states, on the side that it states?

    A kind that a text does not state shall not be there: texts about phantoms state all that is.

    Args:
        images: drawn by a model that learned phantoms, with their texts.
        resampling: the bootstrap.

    Returns:
        `oracle/f1` over all kinds, `oracle/f1/KIND` for each that occurs, and `oracle/side`: of all
        stated findings with a side, the share that is drawn on that side. One that the oracle does
        not find counts as the wrong side, which the signature says.

    Raises:
        ValueError: a text states nothing that phantoms have, or a kind twice.
    """
    wanted = [_findings(one.text, one.id) for one in images]
    seen = [measure(_film(one.load())) for one in images]
    counts = film_counts([list(one.present) for one in wanted], seen).double()
    facts = {"oracle": "unix_cxr.data.phantom", "size": ORACLE_SIDE}
    f1 = {kind: _f1_statistics(counts[:, [row]]) for row, kind in enumerate(KINDS)}
    metrics = [("oracle/f1", _f1_statistics(counts))]
    metrics += [(f"oracle/f1/{kind}", rows) for kind, rows in f1.items() if rows.any()]
    results = [
        CorpusMetric(name, f1_of_sums, facts=facts, comparable=False).measure(
            rows, images.ids, images.groups, resampling
        )
        for name, rows in metrics
    ]
    sides = _side_statistics(counts)
    if sides[:, 1].any():
        side = CorpusMetric(
            "oracle/side",
            share_of_sums,
            facts=facts | {"not_found": "wrong side"},
            comparable=False,
        )
        results.append(side.measure(sides, images.ids, images.groups, resampling))
    return results


def _column(counts: Float[Tensor, "n k c"], name: str) -> Float[Tensor, "n k"]:
    column: Tensor = counts[:, :, COUNTS.index(name)]
    return column


def _f1_statistics(counts: Float[Tensor, "n k c"]) -> Float[Tensor, "n 3"]:
    """True positives, false positives and false negatives of these kinds together."""
    hits, alarms = _column(counts, "found"), _column(counts, "imagined")
    misses = _column(counts, "present") - hits
    return torch.stack([hits.sum(1), alarms.sum(1), misses.sum(1)], dim=1)


def _side_statistics(counts: Float[Tensor, "n k c"]) -> Float[Tensor, "n 2"]:
    """Findings on the stated side, and all that were stated, of kinds that have a side."""
    sided = counts[:, [KINDS.index(kind) for kind in SIDED]]
    columns = (_column(sided, "side_right"), _column(sided, "present"))
    return torch.stack([column.sum(dim=1) for column in columns], dim=1)


def _film(image: Float[Tensor, "1 h w"]) -> Float[Tensor, "h w"]:
    """A square film; the oracle shrinks it itself."""
    from unix_cxr.functional.images import resize_and_pad

    return resize_and_pad(image[None], max(image.shape[-2:]))[0, 0].clamp(0, 1)


def _findings(text: str, identity: str) -> Statements:
    found = parse(text)
    if found.unknown:
        raise ValueError(
            f"{identity}: {found.unknown[0]!r} is no sentence about phantoms; the control takes "
            "X-rays that were drawn from texts of unix_cxr.data.phantom"
        )
    if _repeats(found):
        raise ValueError(
            f"{identity}: {text!r} states a kind of finding twice; a phantom has each once"
        )
    return found


def _repeats(found: Statements) -> bool:
    return len({one.kind for one in found.present}) < len(found.present)
