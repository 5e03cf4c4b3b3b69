"""Guidance against a loop over samples, tokens and channels, and its interval in float32."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unix_cxr.functional.guidance import Guidance, guide

RENORMS = ("global", "channel", "text_channel")


def norm(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values))


def factor(wanted: list[float], actual: list[float], lowest: float) -> float:
    return min(max(norm(wanted) / (norm(actual) + 1e-8), lowest), 1.0)


def oracle(v: list[Any], u: list[Any], m: list[Any] | None, guidance: Guidance) -> list[Any]:
    """One sample as nested lists of tokens and channels."""
    s, si, lowest = guidance.scale, guidance.image_scale, guidance.renorm_min
    w = [[b + s * (a - b) for a, b in zip(x, y, strict=True)] for x, y in zip(v, u, strict=True)]
    if guidance.renorm == "text_channel":
        w = [[factor(x, y, lowest) * c for c in y] for x, y in zip(v, w, strict=True)]
    if m is not None:
        w = [
            [b + si * (a - b) for a, b in zip(x, y, strict=True)] for x, y in zip(w, m, strict=True)
        ]
    if guidance.renorm == "channel":
        w = [[factor(x, y, lowest) * c for c in y] for x, y in zip(v, w, strict=True)]
    if guidance.renorm == "global":
        whole = factor([c for x in v for c in x], [c for x in w for c in x], lowest)
        w = [[whole * c for c in x] for x in w]
    return w


def draw(seed: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(count)]


guidances = st.builds(
    Guidance,
    scale=st.floats(1.01, 6.0),
    image_scale=st.floats(1.01, 3.0),
    renorm=st.sampled_from(RENORMS),
    renorm_min=st.floats(0.0, 1.0),
)


@given(st.integers(0, 500), guidances, st.booleans())
def test_guide_equals_a_loop(seed: int, guidance: Guidance, with_image: bool) -> None:
    v, u, m = draw(seed, 3)
    ours = guide(v, u, m if with_image else None, guidance)
    for sample in range(2):
        expected = oracle(
            v[sample].tolist(),
            u[sample].tolist(),
            m[sample].tolist() if with_image else None,
            guidance,
        )
        torch.testing.assert_close(
            ours[sample], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10
        )


@given(st.integers(0, 500), st.floats(1.01, 6.0))
def test_renorm_never_lengthens(seed: int, scale: float) -> None:
    v, u = draw(seed, 2)
    for renorm, axes in (("global", (1, 2)), ("channel", (2,))):
        guided = guide(v, u, None, Guidance(scale=scale, renorm=renorm))  # type: ignore[arg-type]
        lengths = torch.linalg.vector_norm(guided, dim=axes)
        plain = u + scale * (v - u)
        shortest = torch.minimum(
            torch.linalg.vector_norm(v, dim=axes), torch.linalg.vector_norm(plain, dim=axes)
        )
        torch.testing.assert_close(lengths, shortest, rtol=1e-6, atol=1e-9)


@given(st.integers(0, 500))
def test_a_lowest_factor_of_1_is_plain_guidance(seed: int) -> None:
    v, u = draw(seed, 2)
    for renorm in RENORMS:
        guided = guide(v, u, None, Guidance(scale=3.0, renorm=renorm, renorm_min=1.0))  # type: ignore[arg-type]
        torch.testing.assert_close(guided, u + 3.0 * (v - u))


def test_each_sample_has_its_own_norm() -> None:
    """The published batch shares one norm; here a loud neighbour changes nothing."""
    v, u = draw(3, 2)
    loud = torch.tensor([[[1.0]], [[100.0]]], dtype=torch.float64)
    quiet = guide(v, u, None, Guidance(scale=3.0))
    mixed = guide(v * loud, u * loud, None, Guidance(scale=3.0))
    torch.testing.assert_close(mixed[0], quiet[0])


def test_the_interval_is_compared_in_float32() -> None:
    """0.4 as float32 is 0.4000000059…: greater than 0.4 in double, not greater in float32."""
    t = float(np.float32(0.4))
    assert t > 0.4
    guidance = Guidance(interval=(0.4, 1.0))
    assert not guidance.acts_at(t)
    assert not guidance.acts_at(torch.tensor(0.4))
    assert guidance.acts_at(float(np.nextafter(np.float32(0.4), np.float32(1))))
    assert guidance.acts_at(1.0)
    assert not guidance.acts_at(0.0)


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_the_interval_is_open_below_and_closed_above(t: float, a: float, b: float) -> None:
    low, high = sorted((a, b))
    acts = Guidance(interval=(low, high)).acts_at(t)
    assert acts == bool(np.float32(low) < np.float32(t) <= np.float32(high))


def test_scale_1_switches_off_the_image_too() -> None:
    assert not Guidance(scale=1.0, image_scale=2.0).uses_text
    assert not Guidance(scale=1.0, image_scale=2.0).uses_image
    assert Guidance(scale=1.5, image_scale=2.0).uses_image
    assert not Guidance(scale=1.5, image_scale=1.0).uses_image


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": float("nan")}, r"guidance scale \(nan\) must be a finite number"),
        ({"scale": float("inf")}, r"guidance scale \(inf\) must be a finite number"),
        ({"image_scale": -1.0}, r"guidance image_scale \(-1.0\) must be a finite number"),
        ({"interval": (0.6, 0.4)}, r"interval \(0.6, 0.4\) must satisfy 0 <= low <= high <= 1"),
        ({"interval": (0.0, float("nan"))}, r"interval \(0.0, nan\) must satisfy"),
        ({"renorm": "loud"}, r"renorm \('loud'\) must be one of"),
        ({"renorm_min": 1.5}, r"renorm_min \(1.5\) must be between 0 and 1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_guidance_is_checked_when_made(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guidance(**values)
