import pytest
import torch

from unix_cxr.evaluation.neighbours import (
    kth_distances,
    nearest,
    nearest_distances,
    pairwise_distances,
    prdc,
    spread,
)


def naive_prdc(real, drawn, k):
    """Loops, straight from the definitions of arXiv:2002.09797."""

    def radius(points, row):
        return sorted(torch.dist(points[row], p).item() for i, p in enumerate(points) if i != row)[
            k - 1
        ]

    real_radii = [radius(real, i) for i in range(len(real))]
    drawn_radii = [radius(drawn, j) for j in range(len(drawn))]
    near = [[torch.dist(r, d).item() for d in drawn] for r in real]
    n, m = range(len(real)), range(len(drawn))
    return (
        sum(any(near[i][j] < real_radii[i] for i in n) for j in m) / len(drawn),
        sum(any(near[i][j] < drawn_radii[j] for j in m) for i in n) / len(real),
        sum(near[i][j] < real_radii[i] for i in n for j in m) / (k * len(drawn)),
        sum(any(near[i][j] < real_radii[i] for j in m) for i in n) / len(real),
    )


@pytest.fixture
def clouds():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(23, 4, generator=generator)
    return real, 0.7 * torch.randn(31, 4, generator=generator) + 0.4


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_prdc_equals_loops(clouds, k, chunk):
    samples = prdc(*clouds, k=k, chunk=chunk)
    values = [samples.precise, samples.recalled, samples.density, samples.covered]
    assert [v.mean().item() for v in values] == pytest.approx(naive_prdc(*clouds, k))


def test_the_same_points_are_covered_and_far_points_are_not(clouds):
    real, _ = clouds
    assert prdc(real, real).covered.mean() == 1
    assert prdc(real, real + 100).covered.mean() == 0
    assert prdc(real, real + 100).density.sum() == 0


def test_one_point_many_times_covers_next_to_nothing(clouds):
    real, _ = clouds
    samples = prdc(real, real[:1].expand(40, 4))
    assert samples.precise.mean() == 1  # precision is fooled ...
    assert samples.recalled.mean() == 0
    assert samples.covered.mean() < 0.5  # ... coverage is not


def test_prdc_refuses_what_it_cannot_compare(clouds):
    real, drawn = clouds
    with pytest.raises(ValueError, match=r"k \(23\) must be between 1 and .* \(22\)"):
        prdc(real, drawn, k=23)
    with pytest.raises(ValueError, match="real has 4 features, drawn 3"):
        prdc(real, drawn[:, :3])
    with pytest.raises(ValueError, match="features of drawn hold NaN"):
        prdc(real, torch.full_like(drawn, torch.nan))


def test_a_duplicate_is_another_point():
    points = torch.tensor([[0.0], [0.0], [3.0]])
    assert kth_distances(points, 1).tolist() == [0, 0, 3]


def test_nearest_distances_in_chunks(clouds):
    real, drawn = clouds
    expected = torch.stack([(real - d).norm(dim=1).min() for d in drawn])
    torch.testing.assert_close(nearest_distances(drawn, real, chunk=5), expected)
    assert nearest_distances(real, real).max() == 0  # no rounding between equal points


def test_spread_is_the_mean_over_pairs(clouds):
    _, drawn = clouds
    distances = pairwise_distances(drawn)
    pairs = [torch.dist(a, b) for i, a in enumerate(drawn) for b in drawn[:i]]
    assert spread(distances, torch.ones(1, 31)).item() == pytest.approx(
        torch.stack(pairs).mean().item(), rel=1e-5
    )
    weights = torch.zeros(1, 31)
    weights[0, [2, 5]] = torch.tensor([3.0, 1.0])
    assert spread(distances, weights).item() == pytest.approx(distances[2, 5].item(), rel=1e-5)


def test_ties_and_copies_are_decided_as_by_differences():
    """Points of a grid: most distances occur many times, and radii are among them."""
    generator = torch.Generator().manual_seed(4)
    real = torch.randint(5, (120, 3), generator=generator).float() / 3 + 1000
    drawn = torch.cat([real[:40], torch.randint(5, (70, 3), generator=generator) / 3 + 1000])
    samples = prdc(real, drawn, 3, chunk=17)
    apart = torch.cdist(drawn.double(), real.double(), compute_mode="donot_use_mm_for_euclid_dist")
    radii = []
    for points in (real.double(), drawn.double()):
        own = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
        radii.append(own.fill_diagonal_(torch.inf).kthvalue(3).values)
    inside = apart < radii[0]
    assert (apart == radii[0]).sum() > 100
    assert torch.equal(samples.density, inside.sum(1) / 3)
    assert torch.equal(samples.covered, inside.any(0).float())
    assert torch.equal(samples.recalled, (apart < radii[1][:, None]).any(0).float())


@pytest.mark.parametrize("chunk", [4, None])
def test_the_nearest_are_those_of_all_distances(clouds, chunk):
    real, drawn = clouds
    found = nearest(drawn, real, 4, chunk=chunk)
    wanted = torch.cdist(drawn.double(), real.double()).topk(4, largest=False)
    assert torch.equal(found.rows, wanted.indices)
    torch.testing.assert_close(found.distances, wanted.values)
    assert (nearest(real, real, 1, others=True, chunk=chunk).rows[:, 0] != torch.arange(23)).all()
    assert len(nearest(real, real, 22, others=True).rows[0].unique()) == 22
    with pytest.raises(ValueError, match=r"k \(23\) must be between 1 and .* \(22\)"):
        nearest(real, real, 23, others=True)
