"""Root-mean-square norm that is always computed in float32. Axes: d width."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """RMS norm (arXiv:1910.07467) in float32, whatever the number type around it."""

    def forward(self, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """Normalise the last axis; the result has the type of `x`."""
        normed = F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps)
        return normed.to(x.dtype)
