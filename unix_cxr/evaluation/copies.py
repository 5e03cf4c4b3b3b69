"""How near an X-ray comes to being a copy of another, whatever was done to hide it.

Axes: q queries, n targets, m targets and their mirror images (2n), c candidates, h rows,
w columns, t shifts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Final, Literal, NamedTuple, get_args

import torch
from einops import rearrange
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor
from torch.nn import functional

from unix_cxr.evaluation.xrays import check_images

Part = Literal["whole", "left", "right"]
"""What of a query is looked for among the targets."""

_TINY: Final = 1e-9
_CHUNK: Final = 512
_ALIGNED: Final = 64


@dataclass(frozen=True)
class CopySearch:
    """How hard to look; the defaults were chosen on real X-rays (docs/guides/measuring.md).

    Args:
        coarse_size: side of the thumbnails by which candidates are found.
        coarse_shift: candidates are compared at shifts up to this many thumbnail pixels.
        candidates: targets per query that are aligned finely.
        size: side of the pictures that are aligned.
        margin: width of the border of a query that is not compared, so shifts have room.
        flatten: pictures lose what is broader than about this many pixels: any two chests share
            it, and contrast changes it.
        degrees: rotations that are tried.
        scales: magnifications that are tried.
    """

    coarse_size: int = 24
    coarse_shift: int = 2
    candidates: int = 8
    size: int = 48
    margin: int = 8
    flatten: float = 2.5
    degrees: tuple[float, ...] = (-6.0, -3.0, 0.0, 3.0, 6.0)
    scales: tuple[float, ...] = (0.95, 1.0, 1.05)


class Nearest(NamedTuple):
    """For each query: 1 - correlation with its nearest target (0 a copy), and which that is."""

    distances: Float[Tensor, " q"]
    rows: Int[Tensor, " q"]


class CopyFinder:
    """Finds each X-ray's nearest target up to shift, mirror, small rotation and zoom, and contrast.

    Two passes: thumbnails of all targets give candidates; each candidate is then aligned with the
    query by normalised cross-correlation of high-passed pictures (Lewis 1995, "Fast normalized
    cross-correlation"), over all shifts at once by the Fourier transform.
    """

    def __init__(self, targets: Float[Tensor, "n 1 h w"], search: CopySearch | None = None) -> None:
        check_images(targets)
        self.search = search or CopySearch()
        self.count = len(targets)
        made = [
            (thumbnails(both, self.search.coarse_size), self._pictures(both))
            for both in _with_mirrored(targets)
        ]
        self._thumbnails = torch.cat([small for small, _ in made])
        pictures = torch.cat([picture for _, picture in made])
        self._spectra: Complex[Tensor, "m h v"] = torch.fft.rfft2(pictures)
        self._energies: dict[Part, Float[Tensor, "m t"]] = {
            part: self._local_energies(pictures, part) for part in get_args(Part)
        }

    @torch.inference_mode()
    def nearest(
        self,
        queries: Float[Tensor, "q 1 h w"],
        excluded: Bool[Tensor, "q n"] | None = None,
        part: Part = "whole",
    ) -> Nearest:
        """Distance from each query to its nearest target.

        Args:
            queries: X-rays.
            excluded: True where a target must not be compared with a query, such as the query
                itself or another X-ray of its patient.
            part: what of the query is compared.

        Raises:
            ValueError: a query has no target left.
        """
        return self.nearest_of_parts(queries, (part,), excluded)[part]

    def nearest_half(self, queries: Float[Tensor, "q 1 h w"]) -> Float[Tensor, " q"]:
        """Distance of the half of each query, left or right, that is nearer to some target."""
        found = self.nearest_of_parts(queries, ("left", "right"))
        return torch.minimum(found["left"].distances, found["right"].distances)

    @torch.inference_mode()
    def nearest_of_parts(
        self,
        queries: Float[Tensor, "q 1 h w"],
        parts: Sequence[Part],
        excluded: Bool[Tensor, "q n"] | None = None,
    ) -> dict[Part, Nearest]:
        """What `nearest` gives for each part; each query is turned and flattened once for all.

        Args:
            queries: X-rays.
            parts: what of the queries is compared.
            excluded: see `nearest`.

        Raises:
            ValueError: a query has no target left.
        """
        check_images(queries)
        if excluded is None:
            excluded = torch.zeros(len(queries), self.count, dtype=torch.bool)
        if excluded.all(dim=1).any():
            raise ValueError("a query has no target left: all are excluded")
        chunks = zip(torch.split(queries, _CHUNK), torch.split(excluded, _CHUNK), strict=True)
        found = [self._nearest(some, barred, parts) for some, barred in chunks]
        return {
            part: Nearest(
                torch.cat([one[part].distances for one in found]),
                torch.cat([one[part].rows for one in found]),
            )
            for part in parts
        }

    def _nearest(
        self,
        queries: Float[Tensor, "q 1 h w"],
        excluded: Bool[Tensor, "q n"],
        parts: Sequence[Part],
    ) -> dict[Part, Nearest]:
        likeness = {
            part: self._coarse_likeness(queries, part).masked_fill(
                excluded.repeat(1, 2), -torch.inf
            )
            for part in parts
        }
        count = min(self.search.candidates, 2 * self.count)
        rows_of = {part: each.topk(count, dim=1).indices for part, each in likeness.items()}
        best = {part: torch.full(rows.shape, -1.0) for part, rows in rows_of.items()}
        poses = list(product(self.search.degrees, self.search.scales))
        for start in range(0, len(queries), _ALIGNED):
            some = slice(start, start + _ALIGNED)
            for degrees, scale in poses:
                turned = self._pictures(turn(queries[some], degrees, scale))
                for part in parts:
                    aligned = self._correlate(turned, rows_of[part][some], part)
                    best[part][some] = torch.maximum(best[part][some], aligned)
        found = {}
        for part, rows in rows_of.items():
            barred = likeness[part].gather(1, rows) == -torch.inf
            correlation, place = best[part].masked_fill(barred, -torch.inf).max(dim=1)
            nearest = rows.gather(1, place[:, None]).squeeze(1) % self.count
            found[part] = Nearest((1 - correlation).clamp_min(0), nearest)
        return found

    def _coarse_likeness(
        self, queries: Float[Tensor, "q 1 h w"], part: Part
    ) -> Float[Tensor, "q m"]:
        shift, size = self.search.coarse_shift, self.search.coarse_size
        side = size - 2 * shift
        left, right = _columns(part, 0, side)
        inner = thumbnails(queries, size)[..., shift : shift + side, shift + left : shift + right]
        wanted = _unit(inner)
        likeness = torch.full((len(queries), 2 * self.count), -1.0)
        for down in range(2 * shift + 1):
            for along in range(2 * shift + 1):
                moved = self._thumbnails[..., down : down + side, along + left : along + right]
                likeness = torch.maximum(likeness, wanted @ _unit(moved).T)
        return likeness

    def _correlate(
        self, pictures: Float[Tensor, "q h w"], candidates: Int[Tensor, "q c"], part: Part
    ) -> Float[Tensor, "q c"]:
        """Best normalised correlation of each picture's inner part with each of its candidates."""
        inner = pictures * self._inner(part)
        norms = inner.flatten(1).norm(dim=1)[:, None, None]
        spectra = torch.fft.rfft2(inner).conj()[:, None] * self._spectra[candidates]
        products = self._near_zero(torch.fft.irfft2(spectra, s=inner.shape[-2:]))
        scale = norms * self._energies[part][candidates].sqrt()
        best: Tensor = (products / scale.clamp_min(_TINY)).amax(dim=-1)
        return best

    def _pictures(self, images: Float[Tensor, "m 1 h w"]) -> Float[Tensor, "m h w"]:
        size = (self.search.size, self.search.size)
        small = functional.interpolate(
            images, size, mode="bilinear", antialias=True, align_corners=False
        )
        pictures: Tensor = rearrange(small - blur(small, self.search.flatten), "m 1 h w -> m h w")
        return pictures

    def _local_energies(self, pictures: Float[Tensor, "m h w"], part: Part) -> Float[Tensor, "m t"]:
        """Sum of squares of each target under the query's inner part, at each shift."""
        mask = torch.fft.rfft2(self._inner(part)).conj()
        size = (self.search.size, self.search.size)
        found = []
        for some in torch.split(pictures, _CHUNK):
            sums = torch.fft.irfft2(torch.fft.rfft2(some**2) * mask, s=size)
            found.append(self._near_zero(sums).clamp_min(0))
        return torch.cat(found)

    def _inner(self, part: Part) -> Float[Tensor, "h w"]:
        size, margin = self.search.size, self.search.margin
        left, right = _columns(part, margin, size - margin)
        mask = torch.zeros(size, size)
        mask[margin : size - margin, left:right] = 1
        return mask

    def _near_zero(self, shifts: Float[Tensor, "*a h w"]) -> Float[Tensor, "*a t"]:
        reach = self.search.margin - 2  # the last rows and columns feel the filters' border
        kept = torch.arange(-reach, reach + 1) % self.search.size
        near: Tensor = shifts[..., kept, :][..., kept].flatten(-2)
        return near


def _with_mirrored(images: Float[Tensor, "n 1 h w"]) -> Iterator[Float[Tensor, "m 1 h w"]]:
    """All images, then the mirror images of all, some at a time."""
    parts = torch.split(images, _CHUNK)
    yield from parts
    yield from (part.flip(-1) for part in parts)


def _columns(part: Part, first: int, last: int) -> tuple[int, int]:
    middle = (first + last) // 2
    return {"whole": (first, last), "left": (first, middle), "right": (middle, last)}[part]


def thumbnails(images: Float[Tensor, "m 1 h w"], size: int) -> Float[Tensor, "m 1 s s"]:
    """Small pictures without what is broader than a tenth of them: layout, not exposure."""
    small = functional.interpolate(
        images, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return small - blur(small, size / 10)


def layout(images: Float[Tensor, "m 1 h w"], size: int = 32) -> Float[Tensor, "m f"]:
    """Thumbnails as unit vectors: the pixel space in which drawn X-rays' spread is measured."""
    return _unit(thumbnails(images, size))


def blur(images: Float[Tensor, "m 1 h w"], sigma: float) -> Float[Tensor, "m 1 h w"]:
    """Gaussian blur by `sigma` pixels; the border is reflected. 0 leaves the images as they are.

    Rows and columns are products with a matrix: for small pictures several times faster than a
    convolution of one channel.
    """
    if sigma == 0:
        return images
    radius = min(int(4 * sigma) + 1, min(images.shape[-2:]) - 1)
    down, across = (_blurring(side, radius, sigma).to(images) for side in images.shape[-2:])
    return down @ images @ across.T


@cache
@torch.inference_mode(mode=False)
def _blurring(side: int, radius: int, sigma: float) -> Float[Tensor, "h h"]:
    """The matrix whose row i holds the weights of all pixels in the blurred pixel i."""
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    source = torch.arange(side)[:, None] + torch.arange(-radius, radius + 1)
    source = source.abs()
    source = (side - 1) - ((side - 1) - source).abs()  # what lies outside is reflected
    weights = (kernel / kernel.sum()).expand(side, -1)
    empty = torch.zeros(side, side, dtype=torch.float64)
    return empty.scatter_add_(1, source, weights)


def turn(
    images: Float[Tensor, "m 1 h w"], degrees: float, scale: float
) -> Float[Tensor, "m 1 h w"]:
    """Rotate by `degrees` and magnify by `scale` about the middle; the border is repeated."""
    if degrees == 0 and scale == 1:
        return images
    angle = torch.deg2rad(torch.tensor(degrees))
    across, along = torch.cos(angle) / scale, torch.sin(angle) / scale
    zero = torch.zeros(())
    affine = torch.stack([across, -along, zero, along, across, zero]).reshape(1, 2, 3)
    one = functional.affine_grid(affine, [1, *images.shape[1:]], align_corners=False)
    grid = one.expand(len(images), -1, -1, -1)
    turned: Tensor = functional.grid_sample(
        images, grid, padding_mode="border", align_corners=False
    )
    return turned


def _unit(pictures: Float[Tensor, "m 1 h w"]) -> Float[Tensor, "m f"]:
    flat: Tensor = rearrange(pictures, "m 1 h w -> m (h w)")
    flat = flat - flat.mean(dim=1, keepdim=True)
    unit: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp_min(_TINY)
    return unit
