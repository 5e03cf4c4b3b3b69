"""When a generation stage learns: distributions against closed forms, weights that add up."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from unix_cxr.functional.flow import (
    cosmap_weights,
    interpolate,
    min_snr_weights,
    mode_times,
    shift_time,
    velocity,
)
from unix_cxr.training.batches import CaptionedLatentBatch, Share, generator_of, take
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.objective_settings import GenerationObjectiveSettings, TimesSettings
from unix_cxr.training.recipe import RecipeRun
from unix_cxr.training.settings import Recipe, load_recipe, parse_recipe
from unix_cxr.training.times import sample_times, weighting_of

from .conftest import tree

MakeRecipe = Callable[..., Recipe]
MANY = 200_000


def normal_cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def cdf(t: float, settings: TimesSettings) -> float:
    """Share of times up to t, by the change of variables."""
    unshifted = t / (settings.shift - (settings.shift - 1) * t)
    if settings.kind == "uniform":
        return unshifted
    if settings.kind == "logit_normal":
        logit = math.log(unshifted / (1 - unshifted))
        return normal_cdf((logit - settings.mean) / settings.std)
    low, high = 0.0, 1.0  # the mode's times fall with u: bisection
    for _ in range(60):
        u = (low + high) / 2
        time = 1 - u - settings.scale * (math.cos(math.pi / 2 * u) ** 2 - 1 + u)
        low, high = (u, high) if time > unshifted else (low, u)
    return 1 - (low + high) / 2


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mean": -0.8, "std": 0.8},
        {"mean": 0.5, "std": 1.4, "shift": 3.0},
        {"kind": "uniform"},
        {"kind": "uniform", "shift": 2.5},
        {"kind": "mode", "scale": 1.29},
        {"kind": "mode", "scale": -0.7, "shift": 0.5},
    ],
)
def test_times_follow_their_distribution(values: dict[str, Any], *, stratified: bool) -> None:
    settings = TimesSettings(**values, stratified=stratified)
    times = sample_times(MANY, settings, generator_of(0))
    assert times.dtype == torch.float32
    assert 0 < float(times.min()) < float(times.max()) < 1
    # a share of n draws strays by sqrt(p (1 - p) / n) < 0.0012; of strata hardly at all
    limit = 2e-5 if stratified else 0.005
    for t in (0.03, 0.2, 0.5, 0.7, 0.95):
        assert float((times <= t).double().mean()) == pytest.approx(cdf(t, settings), abs=limit)


def test_the_published_times_are_what_they_were() -> None:
    """Recipes of before `times` train on the same draws, bit for bit."""
    normals = torch.randn(9, generator=generator_of(4))
    for shift in (1.0, 3.0):
        drawn = sample_times(9, TimesSettings(shift=shift), generator_of(4))
        assert torch.equal(drawn, shift_time(torch.sigmoid(normals), shift))


@given(st.integers(1, 40), st.integers(0, 10_000))
def test_each_stratum_has_one_sample(count: int, seed: int) -> None:
    settings = TimesSettings(kind="uniform", stratified=True)
    times = sample_times(count, settings, generator_of(seed)).double()
    assert sorted(((1 - times) * count).clamp(max=count - 1e-9).floor().int().tolist()) == list(
        range(count)
    )


def test_strata_are_dealt_at_random_and_lower_the_variance() -> None:
    settings = {name: TimesSettings(stratified=name) for name in (False, True)}
    spread = {}
    for name, chosen in settings.items():
        draws = torch.stack([sample_times(16, chosen, generator_of(step)) for step in range(400)])
        spread[name] = float(draws.mean(dim=1).std())
        if name:  # no place of the batch is an early one
            assert float(draws.mean(dim=0).std()) < 0.05
    assert spread[True] < 0.25 * spread[False]


@pytest.mark.parametrize("scale", [-1.2, 1.8])
def test_a_scale_that_runs_backwards_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale \(.*\) must lie between -1 and 1\.7519"):
        mode_times(torch.tensor([0.5]), scale)


# -- weights -----------------------------------------------------------------------------------


def test_min_snr_weighs_the_error_of_the_data() -> None:
    """min(SNR, gamma) |x0 - x0'|², where x0' is what a wrong velocity tells of the data."""
    generator = generator_of(3)
    data, noise, wrong = (torch.randn(64, 5, generator=generator).double() for _ in range(3))
    t = torch.linspace(0.01, 0.99, 64, dtype=torch.float64)
    told = interpolate(data, noise, t) - t[:, None] * wrong
    snr = ((1 - t) / t).square()
    for gamma in (1.0, 5.0):
        expected = snr.clamp(max=gamma) * (told - data).square().sum(dim=1)
        errors = (wrong - velocity(data, noise)).square().sum(dim=1)
        torch.testing.assert_close(min_snr_weights(t, gamma) * errors, expected)
    assert torch.equal(min_snr_weights(torch.tensor([0.0, 1.0]), 5.0), torch.zeros(2))


def test_cosmap_weights_are_a_density_of_the_cosine_schedules_times() -> None:
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    assert float(torch.trapezoid(cosmap_weights(t), t)) == pytest.approx(1, abs=1e-9)
    # arXiv:2403.03206: t = 1 - 1 / (tan(pi u / 2) + 1) of uniform u
    u = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    times = 1 - 1 / (torch.tan(math.pi / 2 * u) + 1)
    shares = [float(torch.trapezoid(cosmap_weights(p), p)) for p in (t[t <= x] for x in times)]
    assert shares == pytest.approx(u.tolist(), abs=2e-5)


class Constant(nn.Module):
    """Stands for a model whose velocity is one number everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(0.3))

    def encode(self, segments: object) -> None:
        return None

    def denoise(self, noisy: Tensor, *_: object, **__: object) -> Tensor:
        return self.value.expand(noisy.shape)


def batch_of(samples: int) -> CaptionedLatentBatch:
    generator = generator_of(8)
    return CaptionedLatentBatch(
        latents=torch.randn(samples, 2, 3, 3, generator=generator),
        noise=torch.randn(samples, 2, 3, 3, generator=generator),
        times=torch.rand(samples, generator=generator),
        caption_ids=torch.zeros(samples, 1, dtype=torch.long),
        caption_mask=torch.ones(samples, 1, dtype=torch.bool),
    )


def settings_of(**values: Any) -> GenerationObjectiveSettings:
    basis = {"caption_dropout": 0.0, "understanding_gradient": 1.0, "augmented_copies": 1}
    return GenerationObjectiveSettings.model_validate({"kind": "generation"} | basis | values)


@pytest.mark.parametrize("weighting", ["min_snr", "cosmap"])
def test_weighted_parts_of_a_batch_add_up(unchecked: None, weighting: str) -> None:
    model: Any = Constant()
    objective = GenerationObjective(model, 1.0, weighting_of(settings_of(weighting=weighting)))
    batch = batch_of(7)
    whole = objective(batch)
    assert objective.counts(batch) == {name: term.count for name, term in whole.items()}
    weigh = {"min_snr": lambda t: min_snr_weights(t, 5.0), "cosmap": cosmap_weights}[weighting]
    errors = (0.3 - (batch.noise - batch.latents)).square().flatten(1).sum(dim=1)
    expected = float((weigh(batch.times) * errors).sum())
    assert float(whole["weighted_velocity"].total.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(whole["velocity"].total) == pytest.approx(float(errors.sum()), rel=1e-5)
    parts: list[dict[str, LossTerm]] = [objective(take(batch, Share(i, 3))) for i in range(3)]
    for name, term in whole.items():
        added = parts[0][name] + parts[1][name] + parts[2][name]
        assert added.count == term.count
        torch.testing.assert_close(added.total, term.total)
    # the plain error is told and never learned from
    assert not whole["velocity"].total.requires_grad
    assert objective.weights == {"velocity": 0.0, "weighted_velocity": 1.0}


def test_without_a_weighting_the_plain_error_is_minimised(unchecked: None) -> None:
    model: Any = Constant()
    objective = GenerationObjective(model, 1.0, weighting_of(settings_of()))
    assert objective.weights == {"velocity": 1.0}
    terms = objective(batch_of(2))
    assert list(terms) == ["velocity"]
    assert terms["velocity"].total.requires_grad


# -- recipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "uniform", "mean": 1.0}, r"mean \(1\.0\) is of kind logit_normal, not of unif"),
        ({"scale": 1.0}, r"scale \(1\.0\) is of kind mode, not of logit_normal"),
        ({"kind": "mode", "scale": 2.0}, "less than or equal to 1.75"),
        ({"kind": "beta"}, "'logit_normal', 'uniform' or 'mode'"),
        ({"std": 0.0}, "greater than 0"),
    ],
)
def test_times_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TimesSettings(**values)


def test_the_shift_of_old_recipes_is_read() -> None:
    assert settings_of(timestep_shift=2.0) == settings_of(times={"shift": 2.0})
    with pytest.raises(ValidationError, match=r"timestep_shift is times\.shift; give one"):
        settings_of(timestep_shift=2.0, times={"kind": "uniform"})
    with pytest.raises(ValidationError, match="greater than 0"):
        settings_of(timestep_shift=0.0)


def test_overrides_reach_settings_that_a_recipe_leaves_out(tmp_path: Path) -> None:
    import yaml

    content = tree(tmp_path)
    del content["stages"][2]["objective"]["timestep_shift"]
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    key = "stages.generation.objective"
    recipe = load_recipe(file, [f"{key}.times.kind=uniform", f"{key}.weighting=min_snr"])
    chosen: Any = recipe.stage("generation").objective
    assert (chosen.times.kind, chosen.weighting) == ("uniform", "min_snr")
    with pytest.raises(ValueError, match=r"times\.mode: unknown key; known keys here: \['kind', '"):
        load_recipe(file, [f"{key}.times.mode=1"])
    with pytest.raises(ValueError, match=r"unknown key 'time'; known keys here: \['augmented_c"):
        load_recipe(file, [f"{key}.time.kind=uniform"])


def test_validation_draws_the_same_times_whatever_training_draws(
    make_recipe: MakeRecipe, films: Path, tmp_path: Path
) -> None:
    content = tree(films)
    del content["stages"][2]["objective"]["timestep_shift"]
    drawn = []
    for times in ({}, {"kind": "uniform", "shift": 3.0, "stratified": True}):
        content["stages"][2]["objective"]["times"] = times
        run = RecipeRun(parse_recipe(content, "tiny"), tmp_path, torch.device("cpu"))
        source: Any = run.task(run.recipe.stages[2], run.data).source
        drawn.append((source.batch(0).times, source.validation()[0].times))
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
