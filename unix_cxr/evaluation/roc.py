"""Area under the ROC curve, exact under ties and for weighted samples.

Axes: n samples, r replicates.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def auc(
    scores: Float[Tensor, " n"],
    positive: Bool[Tensor, " n"],
    weights: Float[Tensor, "r n"] | None = None,
) -> Float[Tensor, ""] | Float[Tensor, " r"]:
    """Probability that a positive scores above a negative, ties counting one half.

    The Mann-Whitney statistic (Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747). With
    `weights`, one area per row: a row holds how often each sample was drawn by the bootstrap. A
    row in which a class has no weight gives NaN.

    Raises:
        ValueError: a class is absent, or a score is not finite.
    """
    if not torch.isfinite(scores).all():
        raise ValueError(
            f"{int((~torch.isfinite(scores)).sum())} of {len(scores)} scores are NaN or infinite"
        )
    if positive.all() or not positive.any():
        raise ValueError(
            f"an AUC needs both classes, got {int(positive.sum())} positives among {len(positive)}"
        )
    rows = torch.ones(1, len(scores)) if weights is None else weights
    rows = rows.double()
    values, places = torch.unique(scores, return_inverse=True)  # ascending
    empty = torch.zeros(len(rows), len(values), dtype=torch.float64)
    hits = empty.index_add(1, places, rows * positive)
    misses = empty.index_add(1, places, rows * ~positive)
    below = misses.cumsum(dim=1) - misses
    area = (hits * (below + 0.5 * misses)).sum(dim=1) / (hits.sum(dim=1) * misses.sum(dim=1))
    return area[0] if weights is None else area
