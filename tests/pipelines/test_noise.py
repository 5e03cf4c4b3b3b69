"""Generators and their devices, as diffusers treats them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from unix_cxr.pipelines.noise import draw_noise, generators_of
from unix_cxr.pipelines.pipeline import UniXPipeline

SHAPE = (4, 8, 8)
CPU, CUDA, META = (torch.device(name) for name in ("cpu", "cuda:1", "meta"))


class Elsewhere(torch.Generator):
    """A generator that says it is on a device which is not here."""

    place = CUDA

    @property
    def device(self) -> torch.device:  # type: ignore[override]  # only read
        return self.place


class OnMeta(Elsewhere):
    place = META


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_generator_on_the_cpu_gives_what_diffusers_draws() -> None:
    ours = draw_noise(SHAPE, seeded(1, 2), CPU)
    assert torch.equal(ours, randn_tensor((2, *SHAPE), seeded(1, 2), CPU))
    one = torch.Generator().manual_seed(1)
    in_turn = draw_noise(SHAPE, generators_of(3, None, one), CPU)
    assert torch.equal(in_turn, randn_tensor((3, *SHAPE), seeded(1)[0], CPU))


def test_noise_is_drawn_where_the_generator_is_and_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[torch.device, torch.Generator]] = []
    randn = torch.randn

    def noted(shape: Sequence[int], *, generator: torch.Generator, device: torch.device) -> Any:
        drawn.append((device, generator))
        return randn(shape, generator=generator, device=device)

    monkeypatch.setattr(torch, "randn", noted)
    (cpu,), meta = seeded(1), OnMeta()
    assert draw_noise(SHAPE, [cpu], META).device == META
    assert draw_noise(SHAPE, [cpu, meta], META).shape == (2, *SHAPE)
    assert drawn == [(CPU, cpu), (CPU, cpu), (META, meta)]


@pytest.mark.parametrize("place", [CPU, META])
def test_a_generator_on_another_device_is_refused_with_both_names(place: torch.device) -> None:
    message = rf"generator on cuda:1 cannot draw for a model on {place}; .*\.to\('cuda:1'\)"
    with pytest.raises(ValueError, match=message):
        draw_noise(SHAPE, [*seeded(1), Elsewhere()], place)
    with pytest.raises(
        ValueError, match=r"Cannot generate a .* tensor from a generator of type cu"
    ):
        randn_tensor((1, *SHAPE), Elsewhere(), place)


def test_the_kind_of_device_decides_and_not_its_number() -> None:
    with pytest.raises((AssertionError, RuntimeError), match=r"(?i)cuda"):  # torch's own, of CUDA
        draw_noise(SHAPE, [Elsewhere()], torch.device("cuda:0"))


@pytest.mark.parametrize(
    ("seed", "generator", "error", "message"),
    [
        (None, seeded(1), ValueError, "1 generators for 2 images; give one, or one each"),
        (None, 7, TypeError, r"generator \(7\) must be a torch.Generator, .* as seed"),
        (None, [7, 8], TypeError, r"generator \(\[7, 8\]\) must be a torch.Generator"),
        (1.5, None, TypeError, r"seed \(1\.5\) must be a whole number"),
        ([1, 2.5], None, TypeError, r"seed \(2\.5\) must be a whole number"),
        ("12", None, TypeError, r"seed \('1'\) must be a whole number"),
        ([1, -1], None, ValueError, r"seed \(-1\) must be between 0 and"),
        (2**63 - 1, None, ValueError, r"seed \(9223372036854775808\) must be between 0"),
        (1, seeded(1), ValueError, "both seed and generator are given"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_generator_or_seed_is_named(
    seed: Any, generator: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        generators_of(2, seed, generator)


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_are_seeds() -> None:
    number: Any = np.int64(5)
    assert [one.initial_seed() for one in generators_of(2, number, None)] == [5, 6]


def test_the_pipeline_refuses_it_before_anything_is_computed(
    pipeline: UniXPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.model, "encode", lambda *_: pytest.fail("too late"))
    with pytest.raises(ValueError, match=r"generator on cuda:1 cannot draw for a model on cpu; "):
        pipeline(["a", "b"], generator=[*seeded(1), Elsewhere()])


def test_a_generator_per_image_draws_what_each_draws_alone(pipeline: UniXPipeline) -> None:
    together = pipeline(["No pneumonia.", "Edema."], generator=seeded(8, 3), output_type="latent")
    alone = pipeline("Edema.", seed=3, output_type="latent")
    assert together.seeds == [8, 3]
    assert float((together.images[1:] - alone.images).abs().max()) < 2e-5  # sums in another order
