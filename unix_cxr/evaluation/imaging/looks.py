"""What networks look past: sharpness and exposure, and X-rays that repeat each other.

Axes: n X-rays, m drawn X-rays, k X-rays that are kept, v values per X-ray,
h rows, w columns.
"""

from collections.abc import Mapping, Sequence
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
AT_MOST: Final = 1000
"""X-rays of each set among which repetitions are looked for."""

_BATCH: Final = 256


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
        `tone`, and of at most 1,000 X-rays `repeated`: share whose nearest other drawn X-ray is as
        near as the nearest 1 % of real X-rays of two groups are.
    """
    few, some = (images.first(AT_MOST, resampling.seed) for images in (real, drawn))
    (true, squares), (made, others) = _looks(real, few), _looks(drawn, some)
    columns = {"sharpness/middle": [0], "sharpness/fine": [1], "tone": [2, 3]}
    shares = {name: _inside(true[:, own], made[:, own]) for name, own in columns.items()}
    distances = _nearest_other(squares, few.groups, search)
    limit = weighted_quantile(distances, NEAR_SHARE, torch.ones(1, len(few)))
    repeated = (_nearest_other(others, some.groups, search) <= limit).double()
    return [
        *_results(shares, drawn, resampling),
        *_results({"repeated": repeated}, some, resampling),
    ]


def _looks(
    images: ImageSet, kept: ImageSet
) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "k 1 h w"]]:
    """Sharpness and exposure, a batch of pixels at a time, and the squares of the kept ones."""
    parts, squares = [], []
    wanted = set(kept.ids)
    for start in range(0, len(images), _BATCH):
        batch = images.take(range(start, min(start + _BATCH, len(images))))
        pixels = load_squares(batch, SIDE)
        parts.append(torch.cat([detail(pixels), tone(pixels)], dim=1))
        squares.append(pixels[[row for row, one in enumerate(batch.ids) if one in wanted]])
    return torch.cat(parts), torch.cat(squares)


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
    squares: Float[Tensor, "k 1 h w"], groups: Sequence[str], search: CopySearch | None
) -> Float[Tensor, " k"]:
    """Distance by pixels to the nearest X-ray of another group."""
    numbers = group_numbers(groups)
    finder = CopyFinder(squares, search)
    return finder.nearest(squares, numbers[:, None] == numbers).distances
