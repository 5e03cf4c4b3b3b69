import pytest
import torch
from torch.nn import functional

from tests.tolerances import assert_close
from unix_cxr.evaluation.appearance import detail, tone
from unix_cxr.evaluation.cheats import CHANGES
from unix_cxr.evaluation.copies import CopyFinder, CopySearch, blur, layout, turn
from unix_cxr.evaluation.imaging import memorised
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet
from unix_cxr.evaluation.imaging.memorised import load_squares, nearest_by_pixels

from .phantoms import phantoms

# what leaves too little of made-up X-rays of 48 pixels; tests on real ones have them
TOO_FAR = {"copies_blended", "copies_halves", "copies_blurred_4", "copies_blurred_8"}


@pytest.fixture(scope="module")
def targets():
    return phantoms(24, "t").images


@pytest.fixture(scope="module")
def finder(targets):
    return CopyFinder(targets)


@pytest.fixture(scope="module")
def strangers(finder):
    """How near X-rays of other patients come."""
    return finder.nearest(phantoms(24, "s", seed=3).images).distances


def test_a_copy_is_at_distance_zero(finder, targets, strangers):
    found = finder.nearest(targets)
    assert found.rows.tolist() == list(range(24))
    assert found.distances.max() < 1e-5
    assert strangers.min() > 0.1


@pytest.mark.parametrize("name", [n for n in CHANGES if n not in TOO_FAR])
def test_a_hidden_copy_is_nearer_than_any_stranger(finder, targets, strangers, name):
    changed = CHANGES[name](targets, torch.Generator().manual_seed(0)).clamp(0, 1)
    found = finder.nearest(changed)
    assert (found.rows == torch.arange(24)).float().mean() > 0.9
    assert found.distances.median() < strangers.min()


def test_half_a_copy_is_found_by_its_half(finder, targets, strangers):
    halves = CHANGES["copies_halves"](targets, torch.Generator())
    strange = finder.nearest_half(phantoms(24, "s", seed=3).images)
    assert finder.nearest(halves).distances.median() > 0.5 * strangers.median()
    assert finder.nearest_half(halves).median() < 0.2 * strange.min()


def as_set(name, images):
    files = [ImageFile(f"{name}{n}", image[0].numpy(), str(n)) for n, image in enumerate(images)]
    return ImageSet(name, tuple(files))


def test_a_set_is_searched_by_whole_and_by_halves(finder, targets):
    halves = CHANGES["copies_halves"](targets, torch.Generator())
    some = torch.cat([halves[:5], phantoms(7, "s", seed=3).images])
    found = nearest_by_pixels(as_set("q", some), as_set("t", targets))
    squares, known = load_squares(as_set("q", some)), load_squares(as_set("t", targets))
    alone = CopyFinder(known)
    whole = alone.nearest(squares)
    assert torch.equal(found.distances, whole.distances)
    assert torch.equal(found.rows, whole.rows)
    assert torch.equal(found.halves, alone.nearest_half(squares))
    assert found.halves[:5].max() < found.halves[5:].min()
    assert found.halves[:5].median() < 0.2 * found.halves[5:].min()
    # the whole of a collage is no copy
    assert found.distances[:5].median() > 0.5 * found.distances[5:].median()


def test_many_targets_are_searched_in_blocks(monkeypatch, targets):
    queries, train = as_set("q", phantoms(9, "s", seed=3).images), as_set("t", targets)
    whole = nearest_by_pixels(queries, train)
    monkeypatch.setattr(memorised, "_BLOCK", 7)
    monkeypatch.setattr(memorised, "_QUERIES", 4)
    search = CopySearch(candidates=48)  # all of them, so that a block sees what the whole sees
    blocks = nearest_by_pixels(queries, train, search)
    monkeypatch.undo()
    all_at_once = nearest_by_pixels(queries, train, search)
    for mine, theirs in zip(blocks, all_at_once, strict=True):
        assert torch.allclose(mine.float(), theirs.float(), atol=1e-5)
    assert (whole.distances >= all_at_once.distances - 1e-5).all()


@pytest.mark.parametrize(
    ("height", "width", "sigma"), [(48, 48, 2.5), (30, 20, 10.0), (128, 96, 1.0)]
)
def test_blurring_by_matrices_is_the_convolution(height, width, sigma):
    images = torch.rand(3, 1, height, width, generator=torch.Generator().manual_seed(0))
    radius = min(int(4 * sigma) + 1, min(height, width) - 1)
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = functional.pad(images.double(), [radius] * 4, mode="reflect")
    rows = functional.conv2d(padded, kernel[None, None, :, None])
    assert_close(
        "blur.convolution", blur(images, sigma), functional.conv2d(rows, kernel[None, None, None])
    )
    with torch.inference_mode():
        blur(images, sigma)
    blur(images.requires_grad_(), sigma).sum().backward()


def test_what_is_excluded_is_not_found(finder, targets):
    own = torch.eye(24, dtype=torch.bool)
    found = finder.nearest(targets, own)
    assert (found.rows != torch.arange(24)).all()
    assert found.distances.min() > 0.1
    with pytest.raises(ValueError, match="no target left"):
        finder.nearest(targets, torch.ones(24, 24, dtype=torch.bool))


def test_alignment_equals_a_loop_over_shifts(targets):
    """Without warps, the Fourier form is the plain normalised correlation at the best shift."""
    search = CopySearch(degrees=(0.0,), scales=(1.0,), candidates=2)
    finder = CopyFinder(targets[:1], search)
    query = phantoms(1, "q", seed=4).images
    a, b = finder._pictures(query)[0], finder._pictures(targets[:1])[0]
    size, margin = search.size, search.margin
    inner = a[margin : size - margin, margin : size - margin]
    best = -1.0
    for picture in (b, finder._pictures(targets[:1].flip(-1))[0]):
        for down in range(2, 2 * margin - 1):
            for along in range(2, 2 * margin - 1):
                side = size - 2 * margin
                patch = picture[down : down + side, along : along + side]
                cosine = (inner * patch).sum() / (inner.norm() * patch.norm())
                best = max(best, cosine.item())
    assert finder.nearest(query).distances.item() == pytest.approx(1 - best, abs=1e-4)


def test_layout_is_a_unit_vector_without_exposure(targets):
    points = layout(targets)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(24))
    torch.testing.assert_close(layout(0.3 + 0.5 * targets), points, atol=1e-4, rtol=0)


def test_blur_keeps_the_mean_and_widens_a_point():
    image = torch.zeros(1, 1, 33, 33)
    image[..., 16, 16] = 1
    blurred = blur(image, 2.0)
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    # a Gaussian's peak is 1 / (2 π σ²)
    assert blurred.max().item() == pytest.approx(1 / (2 * torch.pi * 4), rel=0.01)
    assert blur(image, 0) is image


def test_a_turn_and_back_is_almost_nothing(targets):
    smooth = blur(targets, 2.0)
    back = turn(turn(smooth, 5.0, 1.05), -5.0, 1 / 1.05)
    inner = (slice(None), slice(None), slice(12, 36), slice(12, 36))
    assert (back - smooth)[inner].abs().mean() < 0.001
    assert (turn(smooth, 5.0, 1.05) - smooth)[inner].abs().mean() > 0.005


def test_detail_of_a_wave_is_where_its_length_says():
    columns = torch.arange(128)
    waves = torch.stack([torch.sin(2 * torch.pi * columns / length) for length in (16, 6, 3)])
    images = (0.5 + 0.3 * waves)[:, None, None, :].expand(3, 1, 128, 128).contiguous()
    coarse, middle, fine = detail(images).tolist()
    assert coarse[0] < -6
    assert coarse[1] < -6
    assert middle[0] > 6
    assert fine[1] > 6


def test_blur_lowers_detail_noise_raises_it_contrast_leaves_it(targets):
    plain = detail(targets)
    assert (detail(blur(targets, 1.0)) < plain).all()
    noisy = (targets + 0.05 * torch.randn(targets.shape, generator=torch.manual_seed(0))).clamp(
        0, 1
    )
    assert (detail(noisy)[:, 1] > plain[:, 1]).all()
    torch.testing.assert_close(detail(0.2 + 0.5 * targets), plain, atol=1e-2, rtol=0)


def test_tone_is_mean_and_spread():
    images = torch.tensor([0.0, 1.0]).repeat(8)[None, None, None].expand(1, 1, 16, 16).contiguous()
    assert tone(images)[0].tolist() == pytest.approx([0.5, 0.5], abs=1e-2)
