"""What a small vision tower sees with: convolutions where SigLIP has one cut into patches.

Axes: b batch, c channels, h and w pixels, v width of the features, rows and columns of patches.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Surroundings(nn.Module):
    """Adds to every position what a convolution of 3 x 3 sees around it.

    Args:
        channels: of what is given and returned.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The maps and what was seen around."""
        around: Tensor = self.conv(F.gelu(self.norm(maps)))
        return maps + around


class VisionStem(nn.Module):
    """Convolutions of 4 x 4 that each halve the picture, until a position is a patch.

    A tower that learns from scratch on few films finds thin things (a tube, a broken rib) far later
    with one linear map per patch. After arXiv:2106.14881.

    Args:
        channels: of all halvings but the last; patches are 2 ** (their number + 1) pixels.
        width: of the features.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        into = 3
        for out in channels:
            halving = nn.Conv2d(into, out, 4, stride=2, padding=1)
            self.layers.extend([halving, Surroundings(out), nn.GroupNorm(1, out), nn.GELU()])
            into = out
        self.last = nn.Conv2d(into, width, 4, stride=2, padding=1)

    @property
    def weight(self) -> Tensor:
        """Of the last convolution; SigLIP reads its dtype."""
        return self.last.weight

    def forward(self, pixel_values: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b v rows columns"]:
        """Features of every patch."""
        features: Tensor = self.last(self.layers(pixel_values))
        return features

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights that keep the scale of what they are given; biases of 0."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.GroupNorm):
                layer.reset_parameters()
