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
from unix_cxr.functional.images import resize_and_pad

SIDE: Final = 128
INNER_SHARE: Final = 0.98
NEAR_SHARE: Final = 0.01
AT_MOST: Final = 1000
"""X-rays of each set among which repetitions are looked for."""


class LooksExtractor:
    """Sharpness and exposure as features, so that they are taken and kept with the others."""

    name = "looks"
    width = 4
    comparable = False

    def facts(self) -> Mapping[str, object]:
        """For cache keys."""
        return {"looks": "detail and tone, 1", "size": SIDE}

    @torch.inference_mode()
    def __call__(self, images: Sequence[Float[Tensor, "1 h w"]]) -> Float[Tensor, "b 4"]:
        """Detail in two bands of widths, mean grey and its spread."""
        squares = [resize_and_pad(image[None], SIDE).clamp(0, 1) for image in images]
        pixels = torch.cat(squares)
        return torch.cat([detail(pixels), tone(pixels)], dim=1)


def measure_looks(
    real: tuple[ImageSet, Float[Tensor, "n 4"]],
    drawn: tuple[ImageSet, Float[Tensor, "m 4"]],
    resampling: Resampling,
    search: CopySearch | None = None,
) -> list[MetricResult]:
    """Shares of drawn X-rays that look like real ones, each against the central 98 % of those.

    Args:
        real: X-rays that set the range, and what `LooksExtractor` sees in them.
        drawn: X-rays that are looked at, and the same of them.
        resampling: the bootstrap of the drawn ones; the range is held fixed.
        search: how hard repetitions are looked for.

    Returns:
        `sharpness/middle` (structures 4 to 8 pixels wide at 128), `sharpness/fine` (2 to 4),
        `tone`, and of at most 1,000 X-rays `repeated`: share whose nearest other drawn X-ray is as
        near as the nearest 1 % of real X-rays of two groups are.
    """
    columns = {"sharpness/middle": [0], "sharpness/fine": [1], "tone": [2, 3]}
    shares = {name: _inside(real[1][:, own], drawn[1][:, own]) for name, own in columns.items()}
    few, some = (images.first(AT_MOST, resampling.seed) for images, _ in (real, drawn))
    limit = weighted_quantile(_nearest_other(few, search), NEAR_SHARE, torch.ones(1, len(few)))
    repeated = (_nearest_other(some, search) <= limit).double()
    bounded: dict[str, object] = {"at_most": AT_MOST, "held_against": len(few)}
    return [
        *_results(shares, drawn[0], resampling, {}),
        *_results({"repeated": repeated}, some, resampling, bounded),
    ]


def _results(
    values: Mapping[str, Float[Tensor, " m"]],
    drawn: ImageSet,
    resampling: Resampling,
    facts: Mapping[str, object],
) -> list[MetricResult]:
    facts = {
        "size": SIDE,
        "resize": "pad to a square",
        "range": f"central {INNER_SHARE:.0%}",
        **facts,
    }
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


def _nearest_other(images: ImageSet, search: CopySearch | None) -> Float[Tensor, " k"]:
    """Distance by pixels to the nearest X-ray of another group."""
    numbers = group_numbers(images.groups)
    squares = load_squares(images, SIDE)
    found = CopyFinder(squares, search).nearest(squares, numbers[:, None] == numbers)
    return found.distances
