"""The phantom's physics, masks, conventions and seeds."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tolerances import assert_close
from unix_cxr.data.phantom import (
    BUSY,
    COUNTS,
    EXTENTS,
    KINDS,
    SIDED,
    ZONED,
    PhantomFinding,
    PhantomSource,
    compatible,
    phantom_studies,
    render,
    render_batch,
    sample_finding,
    sample_phantom,
)
from unix_cxr.data.phantom.bodies import (
    Ellipsoid,
    attenuated,
    bezier,
    distance_to_curve,
    magnification,
    tube_path,
)
from unix_cxr.data.phantom.chest import columns_of, detector, heart_of, lungs_of
from unix_cxr.data.phantom.rendering import _optical_depth
from unix_cxr.data.readers.base import StudySource
from unix_cxr.data.studies import Study

SEEDS = range(40)


def _plane(half: float, count: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    line = (torch.arange(count, dtype=torch.float64) + 0.5) * (2 * half / count) - half
    return line[None, None, :], line[None, :, None], 2 * half / count


def test_line_integrals_of_an_ellipsoid_sum_to_its_volume():
    x, y, pixel = _plane(6, 600)
    path = Ellipsoid(0.3, -0.5, 4.0, 2.5, 1.7, 0.6).path(x, y)
    volume = 4 / 3 * math.pi * 4.0 * 2.5 * 1.7
    assert float(path.sum()) * pixel**2 == pytest.approx(volume, rel=1e-3)


def test_light_behind_a_sphere_follows_beer_and_lambert():
    x, y, pixel = _plane(3, 800)
    mu, radius = 0.19, 3.0
    light = attenuated(mu * Ellipsoid(0.0, 0.0, radius, radius, radius).path(x, y))
    # ∫ exp(-2 μ √(R² - r²)) 2π r dr over the disc, with s = √(R² - r²)
    k = 2 * mu * radius
    behind = 2 * math.pi * radius**2 * (1 - (1 + k) * math.exp(-k)) / k**2
    outside = (6.0**2) - math.pi * radius**2
    assert float(light.sum()) * pixel**2 == pytest.approx(behind + outside, rel=1e-4)
    assert float(light.min()) == pytest.approx(math.exp(-k), rel=1e-4)


def test_tube_and_curve_agree_with_a_straight_cylinder():
    x, y, _ = _plane(2, 50)
    x, y = x.expand(1, 50, 50).float(), y.expand(1, 50, 50).float()
    here = torch.zeros(1, 1, 1)
    line = bezier([(here, here - 9), (here, here - 3), (here, here + 3), (here, here + 9)])
    distance = distance_to_curve(x, y, line)
    torch.testing.assert_close(distance, x.abs(), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        tube_path(distance, 1.0), 2 * (1 - x.square()).clamp_min(0).sqrt(), atol=1e-4, rtol=0
    )


def test_a_body_far_from_the_detector_is_magnified():
    assert magnification(100, 0) == 1
    assert magnification(100, 50) == 2


def test_the_heart_is_wider_on_an_ap_film():
    """The same person: against the lungs the heart grows when it lies far from the detector."""

    def shown_ratio(view):
        phantom = sample_phantom(7, [], view=view)
        numbers = columns_of([replace(phantom, anatomy=sample_phantom(7, []).anatomy)])
        grid = detector(numbers, 512)
        front, lungs = grid.at(numbers["zoom_heart"]), lungs_of(numbers, grid)
        heart = (heart_of(numbers).level(front.x, front.y) < 1).any(1).sum()
        chest = (lungs.level < 1).any(1).sum()
        return float(heart / chest)

    assert shown_ratio("AP") > 1.05 * shown_ratio("PA")


@pytest.mark.parametrize("size", [64, 96, 128])
def test_a_film_depends_on_its_own_phantom_alone(size):
    phantoms = [sample_phantom(seed) for seed in range(19)]
    together = render_batch(phantoms, size)
    alone = torch.cat([render_batch([phantom], size) for phantom in phantoms])
    assert torch.equal(together, alone)
    assert together.dtype == torch.float32
    assert together.shape == (19, size, size)
    assert together.min() >= 0
    assert together.max() <= 1


def golden_phantoms():
    """Two with findings at random, and one of each kind."""
    of_kind = [sample_phantom(30 + n, [sample_finding(n, kind)]) for n, kind in enumerate(KINDS)]
    return [sample_phantom(21), sample_phantom(22), *of_kind]


def test_films_stay_those_that_the_oracle_was_trained_on():
    """Every fourth pixel of every fourth row, recorded when the oracle was trained."""
    golden = load_file(Path(__file__).with_name("phantom_films.safetensors"))["films"]
    assert_close("phantom.films", render_batch(golden_phantoms(), 128)[:, 2::4, 2::4], golden)


def test_equal_seeds_give_equal_phantoms_and_others_differ():
    assert sample_phantom(3) == sample_phantom(3)
    assert len({sample_phantom(seed).anatomy for seed in SEEDS}) == len(SEEDS)
    first, second = render_batch([sample_phantom(1, []), sample_phantom(2, [])], 64)
    assert (first - second).abs().mean() > 0.02


def test_the_patients_left_is_on_the_viewers_right():
    for kind in SIDED:
        for side in ("left", "right"):
            phantom = sample_phantom(11, [sample_finding(5, kind, side)])
            mask = render(phantom, 128).masks[kind]
            columns = np.argwhere(mask)[:, 1] - 63.5
            # a line or lead crosses to the superior vena cava; where it enters tells its side
            edge = columns[np.abs(columns).argmax()] if kind == "line" else columns.mean()
            assert (edge > 0) == (side == "left"), (kind, side)


def test_the_normal_heart_points_to_the_patients_left():
    film = render_batch([sample_phantom(seed, [], view="PA") for seed in range(16)], 128).mean(0)
    low = film[70:88]
    assert low[:, 68:88].mean() > low[:, 40:60].mean() + 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_where_the_finding_changes_the_rays(kind):
    """With and without: the optical depth changes in the mask, and more there than elsewhere."""
    findings = [sample_finding(seed, kind) for seed in range(6)]
    having = [sample_phantom(seed, [f]) for seed, f in enumerate(findings)]
    lacking = [sample_phantom(seed, []) for seed in range(6)]
    numbers = columns_of(having)
    depth, masks = _optical_depth(having, numbers, detector(numbers, 128))
    before, _ = _optical_depth(lacking, columns_of(lacking), detector(numbers, 128))
    change = (depth - before).abs()
    for row in range(6):
        mask = masks[kind][row]
        assert mask.any()
        assert change[row][mask].mean() > 2 * change[row][~mask].mean()
    for other in set(KINDS) - {kind}:
        assert not masks[other].any()


def test_masks_labels_sides_and_text_agree():
    phantoms = [sample_phantom(seed) for seed in SEEDS]
    for phantom, study in zip(phantoms, phantom_studies(phantoms, 64), strict=True):
        kinds = {finding.kind for finding in phantom.findings}
        assert set(study.masks) == kinds == set(study.sides) == set(study.severity)
        assert all(mask.any() for mask in study.masks.values())
        assert {said.kind for said in study.statements.present} == kinds
        assert not study.statements.absent & kinds
        assert {said.kind: said.side for said in study.statements.present} == study.sides
        assert {said.kind: said.severity for said in study.statements.present} == study.severity
        assert bool(study.labels - {"No Finding"}) == bool(kinds)


def test_larger_sizes_give_larger_masks():
    for kind in ("effusion", "pneumothorax", "consolidation", "hernia", "cardiomegaly", "nodule"):
        sizes = EXTENTS[kind].lowest, EXTENTS[kind].highest
        drawn = sample_finding(1, kind)
        areas = [
            render(
                sample_phantom(
                    4, [replace(drawn, size=size, severity=EXTENTS[kind].severity(size))]
                ),
                128,
            )
            .masks[kind]
            .sum()
            for size in sizes
        ]
        assert areas[0] < areas[1], kind


def test_findings_that_hide_each_other_are_refused():
    effusion = sample_finding(0, "effusion", "left")
    with pytest.raises(ValueError, match="would hide each other"):
        sample_phantom(0, [effusion, sample_finding(0, "consolidation", "left")])
    assert compatible(effusion, sample_finding(0, "consolidation", "right"))
    for seed in range(300):
        found = sample_phantom(seed).findings
        assert all(compatible(a, b) for a in found for b in found if a is not b)


def test_impossible_findings_are_errors():
    with pytest.raises(ValueError, match=r"side \(''\) of effusion must be one of"):
        PhantomFinding("effusion", "", "small", 4.0)
    with pytest.raises(ValueError, match=r"side \('left'\) of edema must be one of"):
        PhantomFinding("edema", "left", "mild", 0.35)
    with pytest.raises(ValueError, match="severity \\('huge'\\) of effusion must be one of"):
        sample_finding(0, "effusion", severity="huge")
    with pytest.raises(ValueError, match=r"size \(9\.0\) of small effusion must be"):
        PhantomFinding("effusion", "left", "small", 9.0)
    with pytest.raises(ValueError, match="zone \\(''\\) of nodule"):
        PhantomFinding("nodule", "left", "", 2.5)
    with pytest.raises(ValueError, match="kind \\('cyst'\\) must be one of"):
        PhantomFinding("cyst", "left", "small", 2.5)
    with pytest.raises(ValueError, match="two numbers in"):
        PhantomFinding("effusion", "left", "small", 4.0, place=(0.5, 2.0))
    with pytest.raises(ValueError, match="given twice"):
        replace(sample_phantom(0), findings=(sample_finding(0, "tube"),) * 2)
    with pytest.raises(ValueError, match=r"seed \(-1\) must not be negative"):
        sample_phantom(-1)
    with pytest.raises(ValueError, match=r"counts \(\[0.5, 0.4\]\) must be chances that sum to 1"):
        sample_phantom(0, counts=(0.5, 0.4))
    with pytest.raises(ValueError, match=r"size \(8\) must be 32 to 1024"):
        render_batch([sample_phantom(0)], 8)
    with pytest.raises(ValueError, match="no phantoms"):
        render_batch([], 64)


def test_every_kind_zone_and_side_is_drawn():
    found = [f for seed in range(1500) for f in sample_phantom(seed).findings]
    assert {f.kind for f in found} == set(KINDS)
    assert {(f.kind, f.side) for f in found if f.side} == {
        (k, s) for k in SIDED for s in ("left", "right")
    }
    assert {(f.kind, f.zone) for f in found if f.zone} == {
        (k, z) for k in ZONED for z in ("upper", "mid", "lower")
    }
    assert {(f.kind, f.severity) for f in found} == {
        (k, s) for k in KINDS for s in EXTENTS[k].ranges
    }


def test_busy_phantoms_have_more_findings_and_the_same_bodies():
    usual, busy = ([sample_phantom(s, counts=c) for s in range(400)] for c in (COUNTS, BUSY))
    assert {len(p.findings) for p in usual} == {0, 1, 2, 3}
    assert {len(p.findings) for p in busy} == {0, 1, 2, 3, 4, 5}
    assert [p.anatomy for p in busy] == [p.anatomy for p in usual]
    assert [sample_phantom(p.seed) for p in usual] == usual
    mean = sum(len(p.findings) for p in busy) / len(busy)
    expected = sum(count * chance for count, chance in enumerate(BUSY))
    assert abs(mean - expected) < 0.2  # standard error .075
    found = [p.findings for p in busy]
    assert all(compatible(a, b) for one in found for a in one for b in one if a is not b)


class TestSource:
    def test_it_gives_valid_studies_that_can_be_read_again(self):
        source = PhantomSource(20, 64, seed=100)
        assert isinstance(source, StudySource)
        first, again = list(source), list(source)
        assert len(first) == len(source) == 20
        assert len({study.patient_id for study in first}) == 20
        for study, same in zip(first, again, strict=True):
            assert isinstance(study, Study)
            assert isinstance(study.image, np.ndarray)
            assert study.image.dtype == np.uint8
            assert np.array_equal(study.image, same.image)
            assert (study.findings, study.split) == (same.findings, same.split)
            assert not study.labels & study.negative

    def test_a_longer_source_keeps_the_studies_of_a_shorter_one(self):
        short, long = PhantomSource(5, 64, seed=40), PhantomSource(24, 64, seed=32)
        shared = list(long)[8:13]
        for ours, theirs in zip(short, shared, strict=True):
            assert ours.patient_id == theirs.patient_id
            assert ours.split == theirs.split
            assert np.array_equal(ours.image, theirs.image)

    @pytest.mark.slow
    def test_any_number_of_processes_gives_the_same_studies(self):
        alone, together = (PhantomSource(100, 32, seed=9, workers=n) for n in (1, 2))
        for ours, theirs in zip(alone, together, strict=True):
            assert np.array_equal(ours.image, theirs.image)
            assert replace(ours, image=b"x") == replace(theirs, image=b"x")
        assert next(iter(together)).study_id == "phantom-9"  # and the processes end

    def test_splits_have_their_shares(self):
        source = PhantomSource(1, 64, splits={"train": 0.5, "dev": 0.3, "val": 0.2})
        drawn = [source.split_of(seed) for seed in range(4000)]
        assert drawn.count("train") / 4000 == pytest.approx(0.5, abs=0.03)
        assert drawn.count("val") / 4000 == pytest.approx(0.2, abs=0.03)

    def test_one_device_denied_is_not_all_devices_denied(self):
        for study in PhantomSource(64, 32):
            if "Support Devices" in study.negative:
                words = ("endotracheal tube", "venous line", "pacemaker")
                assert all(word in study.findings for word in words)

    def test_bad_settings_are_errors(self):
        with pytest.raises(ValueError, match=r"count \(0\)"):
            PhantomSource(0, 64)
        with pytest.raises(ValueError, match=r"size \(7\)"):
            PhantomSource(1, 7)
        with pytest.raises(ValueError, match=r"workers \(0\)"):
            PhantomSource(1, 64, workers=0)
        with pytest.raises(ValueError, match="must not be negative"):
            PhantomSource(1, 64, seed=-3)
        with pytest.raises(ValueError, match=r"splits \['exam'\] are unknown"):
            PhantomSource(1, 64, splits={"exam": 1.0})
        with pytest.raises(ValueError, match="must be shares that sum to 1"):
            PhantomSource(1, 64, splits={"train": 0.5})
