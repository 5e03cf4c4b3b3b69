"""What networks look past: sharpness and exposure, and X-rays that repeat each other.

Axes: n X-rays, m drawn X-rays, v values per X-ray, h rows, w columns.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.evaluation.appearance import detail, tone
from unix_cxr.evaluation.bootstrap import weighted_quantile
from unix_cxr.evaluation.copies import CopyFinder, CopySearch
from unix_cxr.evaluation.corpus_metric import Resampling, mean_metric, mean_statistics
from unix_cxr.evaluation.imaging.image_sets import ImageSet
from unix_cxr.evaluation.imaging.memorised import load_squares
from unix_cxr.evaluation.results import MetricResult
from unix_cxr.evaluation.xrays import group_numbers

SIDE: Final = 128
INNER_SHARE: Final = 0.98
NEAR_SHARE: Final = 0.01


def measure_looks(
    real: ImageSet, drawn: ImageSet, resampling: Resampling, search: CopySearch | None = None
) -> list[MetricResult]:
    """Shares of drawn X-rays that look like real ones, each against the central 98 % of those.

    Args:
        real: X-rays that set the range.
        drawn: X-rays that are looked at.
        resampling: the bootstrap of the drawn ones; the range is held fixed.
        search: how hard repetitions are looked for.

    Returns:
        `sharpness/middle` (structures 4 to 8 pixels wide at 128), `sharpness/fine` (2 to 4),
        `tone`, and `repeated`: share whose nearest other drawn X-ray is as near as the nearest 1 %
        of real X-rays of two groups are.
    """
    true, made = load_squares(real, SIDE), load_squares(drawn, SIDE)
    looks = {
        "sharpness/middle": (detail(true)[:, :1], detail(made)[:, :1]),
        "sharpness/fine": (detail(true)[:, 1:], detail(made)[:, 1:]),
        "tone": (tone(true), tone(made)),
    }
    values = {name: _inside(*both) for name, both in looks.items()}
    limit = weighted_quantile(
        _nearest_other(real, true, search), NEAR_SHARE, torch.ones(1, len(real))
    )
    values["repeated"] = (_nearest_other(drawn, made, search) <= limit).double()
    return _results(values, drawn, resampling)


def _results(
    values: Mapping[str, Float[Tensor, " m"]], drawn: ImageSet, resampling: Resampling
) -> list[MetricResult]:
    facts = {"size": SIDE, "resize": "pad to a square", "range": f"central {INNER_SHARE:.0%}"}
    by_image = replace(resampling, unit=drawn.unit)
    return [
        mean_metric(
            name, higher_is_better=name != "repeated", facts=facts, comparable=False
        ).measure(mean_statistics(found), drawn.ids, drawn.groups, by_image)
        for name, found in values.items()
    ]


def _inside(real: Float[Tensor, "n v"], drawn: Float[Tensor, "m v"]) -> Float[Tensor, " m"]:
    tail = (1 - INNER_SHARE) / 2
    plain = torch.ones(1, len(real))
    inside = torch.ones(len(drawn), dtype=torch.bool)
    for mine, theirs in zip(drawn.T, real.T, strict=True):
        low, high = (weighted_quantile(theirs, share, plain) for share in (tail, 1 - tail))
        inside &= (mine >= low) & (mine <= high)
    return inside.double()


def _nearest_other(
    images: ImageSet, squares: Float[Tensor, "n 1 h w"], search: CopySearch | None
) -> Float[Tensor, " n"]:
    """Distance by pixels to the nearest X-ray of another group."""
    groups = group_numbers(images.groups)
    finder = CopyFinder(squares, search)
    return finder.nearest(squares, groups[:, None] == groups).distances
