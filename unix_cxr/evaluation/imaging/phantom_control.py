"""The control: X-rays drawn from texts about phantoms, read by an oracle that knows the truth.

Axes: n X-rays, s statistics per X-ray.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.data.phantom.description import KINDS, SIDED, Kind
from unix_cxr.data.phantom.oracle import MeasuredFinding, measure
from unix_cxr.data.phantom.wording import Statements, parse
from unix_cxr.evaluation.corpus_metric import CorpusMetric, Resampling
from unix_cxr.evaluation.imaging.image_sets import ImageSet
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
    """Whether every X-ray's text is one about phantoms, and at least one states a finding."""
    stated = [parse(one.text) for one in images if one.text.strip()]
    if len(stated) < len(images) or any(one.unknown for one in stated):
        return False
    return any(one.present for one in stated)


def measure_phantom_control(images: ImageSet, resampling: Resampling) -> list[MetricResult]:
    """Does a drawn phantom show what its text states, on the side that it states?

    A kind that a text does not state shall not be there: texts about phantoms state all that is.

    Args:
        images: drawn by a model that learned phantoms, with their texts.
        resampling: the bootstrap.

    Returns:
        `oracle/f1` over all kinds, `oracle/f1/KIND` for each that occurs, and `oracle/side`: share
        of the findings found whose side is the stated one.

    Raises:
        ValueError: a text states nothing that phantoms have.
    """
    stated = [_stated(one.text, one.id) for one in images]
    measured = [measure(_film(one.load())) for one in images]
    rows = {kind: _counts(kind, stated, measured) for kind in KINDS}
    facts = {"oracle": "unix_cxr.data.phantom", "size": ORACLE_SIDE}
    metrics = [("oracle/f1", torch.stack(list(rows.values())).sum(dim=0))]
    metrics += [(f"oracle/f1/{kind}", counts) for kind, counts in rows.items() if counts.any()]
    results = [
        CorpusMetric(name, f1_of_sums, facts=facts, comparable=False).measure(
            counts, images.ids, images.groups, resampling
        )
        for name, counts in metrics
    ]
    sides = torch.tensor(
        [_sides(a, b) for a, b in zip(stated, measured, strict=True)], dtype=torch.float64
    )
    if sides[:, 1].any():
        side = CorpusMetric("oracle/side", share_of_sums, facts=facts, comparable=False)
        results.append(side.measure(sides, images.ids, images.groups, resampling))
    return results


def _film(image: Float[Tensor, "1 h w"]) -> Float[Tensor, "h w"]:
    """A square film; the oracle shrinks it itself."""
    from unix_cxr.functional.images import resize_and_pad

    return resize_and_pad(image[None], max(image.shape[-2:]))[0, 0].clamp(0, 1)


def _stated(text: str, identity: str) -> Statements:
    found = parse(text)
    if found.unknown:
        raise ValueError(
            f"{identity}: {found.unknown[0]!r} is no sentence about phantoms; the control takes "
            "X-rays that were drawn from texts of unix_cxr.data.phantom"
        )
    return found


def _counts(
    kind: Kind, stated: Sequence[Statements], measured: Sequence[Sequence[MeasuredFinding]]
) -> Float[Tensor, "n 3"]:
    rows = []
    for said, seen in zip(stated, measured, strict=True):
        wanted = any(one.kind == kind for one in said.present)
        found = any(one.kind == kind for one in seen)
        rows.append([wanted and found, found and not wanted, wanted and not found])
    return torch.tensor(rows, dtype=torch.float64)


def _sides(said: Statements, seen: Sequence[MeasuredFinding]) -> tuple[int, int]:
    """Findings on the stated side, and findings of a kind with sides that were found at all."""
    right = whole = 0
    for kind in SIDED:
        wanted = {one.side for one in said.present if one.kind == kind}
        found = {one.side for one in seen if one.kind == kind}
        if wanted and found:
            whole += 1
            right += wanted == found
    return right, whole
