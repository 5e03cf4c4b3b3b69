"""Are drawn X-rays different from each other, and from the training X-rays?

Axes: n X-rays, f features, p pairs, r replicates, s side.
"""

from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unix_cxr.evaluation.corpus_metric import Resampling, mean_metric, mean_statistics
from unix_cxr.evaluation.imaging.image_sets import ImageSet
from unix_cxr.evaluation.results import MetricResult
from unix_cxr.functional.images import resize_and_pad

MS_SSIM_SIDE: Final = 192
"""Five scales with windows of 11 pixels need more than 160."""

_MEMORISED: Final = 0.1
_TINY: Final = 1e-14
_CELLS: Final = 1 << 22


def vendi_score(
    features: Float[Tensor, "n f"], weights: Float[Tensor, "r n"] | None = None
) -> Float[Tensor, " r"]:
    """How many entirely different X-rays there are as good as (arXiv:2210.02410, eq. 2).

    The exponential of the entropy of the eigenvalues of K / n, with the cosine of features as K;
    1 where all are copies, n where all are orthogonal. Those eigenvalues are the ones of the
    features' f × f second moment, so it costs no n × n matrix.

    Raises:
        ValueError: no X-rays, a feature vector of zeros, or features that are not finite.
    """
    if not len(features) or not torch.isfinite(features).all():
        raise ValueError(f"a Vendi score needs finite features of X-rays, got {len(features)}")
    norms = features.double().norm(dim=1, keepdim=True)
    if (norms == 0).any():
        raise ValueError(
            f"{int((norms == 0).sum())} feature vectors are zero; the cosine does not exist"
        )
    units = features.double() / norms
    rows = torch.ones(1, len(features)) if weights is None else weights
    scores = []
    for row in rows.double():
        there = row > 0
        scaled = (row[there] / row.sum()).sqrt()[:, None] * units[there]
        small = scaled.T @ scaled if len(scaled) > scaled.shape[1] else scaled @ scaled.T
        values = torch.linalg.eigvalsh(small).clamp_min(0)
        scores.append(torch.exp(torch.special.entr(values).sum()))
    return torch.stack(scores)


def random_pairs(count: int, pairs: int, seed: int = 0) -> Int[Tensor, "p 2"]:
    """Different pairs of different rows, at most as many as there are.

    Raises:
        ValueError: fewer than two rows.
    """
    if count <= 1:
        raise ValueError(f"{count} X-rays make no pair; give at least 2")
    every = count * (count - 1) // 2
    generator = torch.Generator().manual_seed(seed)
    if every <= 4 * pairs:
        rows = torch.combinations(torch.arange(count))
        return rows[torch.randperm(len(rows), generator=generator)[:pairs]]
    drawn: set[tuple[int, int]] = set()
    while len(drawn) < pairs:
        first, second = torch.randint(count, (2,), generator=generator).tolist()
        if first != second:
            drawn.add((min(first, second), max(first, second)))
    return torch.tensor(sorted(drawn))


def ms_ssim_of_pairs(images: ImageSet, pairs: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
    """MS-SSIM (Wang 2003, doi:10.1109/ACSSC.2003.1292216) of pairs; 1 for copies.

    Images are read a pair at a time, padded to squares of 192 pixels.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    values = []
    for first, second in pairs.tolist():
        a, b = (
            resize_and_pad(images.images[row].load()[None], MS_SSIM_SIDE).clamp(0, 1)
            for row in (first, second)
        )
        likeness = multiscale_structural_similarity_index_measure(
            a, b, data_range=1.0, normalize="relu"
        )
        values.append(float(likeness))
    return torch.tensor(values, dtype=torch.float64)


def measure_ms_ssim(
    real: ImageSet, drawn: ImageSet, pairs: int, resampling: Resampling
) -> list[MetricResult]:
    """`ms_ssim` of random pairs of drawn X-rays, and `ms_ssim_real` of real ones.

    Raises:
        ValueError: a set of one X-ray, or one that cannot be read.
    """
    results = []
    for name, images in (("ms_ssim", drawn), ("ms_ssim_real", real)):
        chosen = random_pairs(len(images), pairs, resampling.seed)
        values = ms_ssim_of_pairs(images, chosen)
        facts = {"size": MS_SSIM_SIDE, "resize": "pad to a square", "pairs": len(chosen)}
        metric = mean_metric(name, higher_is_better=None, facts=facts)
        ids = [f"{images.ids[first]} & {images.ids[second]}" for first, second in chosen.tolist()]
        groups = [images.groups[first] for first in chosen[:, 0].tolist()]
        by_unit = replace(resampling, unit=images.unit)
        results.append(metric.measure(mean_statistics(values), ids, groups, by_unit))
    return results


def memorisation_informed_fd(train: Float[Tensor, "n f"], drawn: Float[Tensor, "m f"]) -> float:
    """FD over the mean cosine distance to the nearest training X-ray (arXiv:2106.03062).

    The distance counts only below 0.1, so a generator that copies is punished and one that does not
    is left alone. It is the mean over drawn X-rays, as in the paper; torchmetrics takes it over
    what it calls real, where copies of a part of `train` would go unpunished. Memory does not grow
    with n × m.
    """
    from unix_cxr.evaluation.imaging.frechet import frechet_distance

    fd = frechet_distance(drawn, train)
    targets = _directions(train)
    rows = max(1, _CELLS // len(targets))
    alike = [(part @ targets.T).abs().amax(1) for part in torch.split(_directions(drawn), rows)]
    apart = 1 - float(torch.cat(alike).mean())
    return fd / (apart + _TINY) if apart < _MEMORISED else fd


def _directions(points: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
    doubles = points.double()
    directions: Tensor = doubles / doubles.norm(dim=1, keepdim=True).clamp_min(_TINY)
    return directions
