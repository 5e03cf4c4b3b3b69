"""The flow: its derivative, its solver, its grid, held against closed forms and diffusers."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unix_cxr.functional.flow import (
    euler_step,
    interpolate,
    shift_time,
    time_grid,
    training_times,
    velocity,
)
from unix_cxr.models.sampling import euler_scheduler, sample, set_steps

times = st.floats(0.0, 1.0, width=32)
shifts = st.floats(0.1, 10.0)


def pair(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, 2, 2)
    return (
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(shape, generator=generator, dtype=torch.float64),
    )


@given(st.integers(0, 1000), times)
def test_velocity_is_the_derivative_of_the_path(seed: int, t: float) -> None:
    data, noise = pair(seed)
    _, derivative = torch.func.jvp(
        lambda time: interpolate(data, noise, time),
        (torch.full((2,), t, dtype=torch.float64),),
        (torch.ones(2, dtype=torch.float64),),
    )
    torch.testing.assert_close(derivative, velocity(data, noise), rtol=0, atol=1e-12)


@given(st.integers(0, 1000), times)
def test_a_time_per_sample(seed: int, t: float) -> None:
    data, noise = pair(seed)
    both = interpolate(data, noise, torch.tensor([0.0, t], dtype=torch.float64))
    torch.testing.assert_close(both[0], data[0])
    expected = (1 - t) * data[1] + t * noise[1]
    torch.testing.assert_close(both[1], expected)
    torch.testing.assert_close(interpolate(data, noise, torch.ones(2).double()), noise)


@given(st.integers(0, 1000), times, st.floats(0.0, 1.0))
def test_one_euler_step_is_exact_on_a_straight_path(seed: int, t: float, share: float) -> None:
    data, noise = pair(seed)
    start = torch.full((2,), t, dtype=torch.float64)
    dt = t * share
    stepped = euler_step(interpolate(data, noise, start), velocity(data, noise), dt)
    torch.testing.assert_close(stepped, interpolate(data, noise, start - dt), rtol=0, atol=1e-12)


def solve(steps: int) -> float:
    """Error of Euler on dx/dt = x from t = 1 down to 0, where x(0) = x(1) / e."""
    grid = time_grid(steps + 1, 1.0).double()
    x = torch.ones(1, 1, dtype=torch.float64)
    for now, after in pairwise(grid.tolist()):
        x = euler_step(x, x, now - after)
    return abs(float(x) - 1 / math.e)


def test_euler_is_of_first_order() -> None:
    ratios = [solve(n) / solve(2 * n) for n in (16, 32, 64)]
    assert all(1.9 < ratio < 2.1 for ratio in ratios)


@given(times, shifts)
def test_shift_has_the_inverse_shift(t: float, shift: float) -> None:
    time = torch.tensor(t, dtype=torch.float64)
    there_and_back = shift_time(shift_time(time, shift), 1 / shift)
    torch.testing.assert_close(there_and_back, time, rtol=0, atol=1e-12)


@given(st.lists(times, min_size=2, max_size=8, unique=True), shifts)
def test_shift_is_monotone_and_keeps_the_ends(values: list[float], shift: float) -> None:
    shifted = shift_time(torch.tensor(sorted(values), dtype=torch.float64), shift)
    assert bool((shifted.diff() >= 0).all())
    ends = shift_time(torch.tensor([0.0, 1.0]), shift)
    assert ends.tolist() == pytest.approx([0.0, 1.0])
    middle = float(shift_time(torch.tensor(0.5), shift))
    assert (middle > 0.5) == (shift > 1) or shift == 1  # towards noise


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan")])
def test_a_shift_must_be_positive(shift: float) -> None:
    with pytest.raises(ValueError, match=r"shift \(.*\) must be greater than 0"):
        shift_time(torch.tensor(0.5), shift)


@pytest.mark.parametrize("points", [-1, 0, 1])
def test_a_grid_needs_two_points(points: int) -> None:
    with pytest.raises(ValueError, match=rf"points \({points}\) must be at least 2"):
        time_grid(points, 1.0)


@given(st.integers(1, 60), shifts)
def test_the_grid_is_that_of_the_scheduler(steps: int, shift: float) -> None:
    scheduler = euler_scheduler(shift)
    set_steps(scheduler, steps)
    assert len(scheduler.timesteps) == steps
    torch.testing.assert_close(scheduler.sigmas, time_grid(steps + 1, shift), rtol=0, atol=3e-7)


def test_the_scheduler_is_diffusers_own() -> None:
    """The published 50 points at shift 3 are 49 steps of diffusers' Euler with the same sigmas."""
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(sigmas=torch.linspace(1, 0, 50)[:-1].tolist())
    assert len(theirs.timesteps) == 49
    torch.testing.assert_close(theirs.sigmas, time_grid(50, 3.0), rtol=0, atol=3e-7)


@given(st.integers(1, 20), shifts, st.integers(0, 100))
def test_sampling_is_a_loop_of_euler_steps(steps: int, shift: float, seed: int) -> None:
    _, noise = pair(seed)
    noise = noise.float()
    scheduler = euler_scheduler(shift)
    set_steps(scheduler, steps)
    seen: list[float] = []

    def field(x: Tensor, t: float) -> Tensor:
        seen.append(t)
        return torch.sin(x + t)

    ours = sample(field, noise, scheduler)
    grid, x = time_grid(steps + 1, shift), noise
    for now, after in pairwise(grid.tolist()):
        x = euler_step(x, torch.sin(x + now), now - after)
    assert len(seen) == steps
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)


def test_no_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"num_inference_steps \(0\) must be at least 1"):
        set_steps(euler_scheduler(1.0), 0)


def test_training_times_are_logit_normal_and_shifted() -> None:
    normals = torch.tensor([0.0, 2.0, -2.0])
    expected = [3 * s / (1 + 2 * s) for s in (1 / (1 + math.exp(-n)) for n in (0.0, 2.0, -2.0))]
    assert training_times(normals, 3.0).tolist() == pytest.approx(expected)
