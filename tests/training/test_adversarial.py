"""The autoencoder's critic: what teaches whom, how strongly, and what is left of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from unix_cxr.models.autoencoder import build_autoencoder
from unix_cxr.training.adversarial import AdversarialObjective, patch_critic
from unix_cxr.training.autoencoder import AutoencoderObjective
from unix_cxr.training.batches import ImageBatch, Share, generator_of, take
from unix_cxr.training.checkpoints import checkpoints, load_checkpoint
from unix_cxr.training.losses import weighted_sum
from unix_cxr.training.objective_settings import AdversarialSettings
from unix_cxr.training.recipe import run_recipe
from unix_cxr.training.settings import Recipe

from .conftest import stage

MakeRecipe = Callable[..., Recipe]
WEIGHTS = {"l1": 1.0, "kl": 1e-4, "structure": 1.0}
WIDTH = 8
SIDE = 32


def objective_of(weight: float = 0.5) -> AdversarialObjective:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = build_autoencoder(
            channels=[4, 4, 8],
            layers_per_block=1,
            latent_channels=2,
            image_channels=1,
            norm_groups=2,
            sample_size=SIDE,
        )
    return AdversarialObjective(
        vae, WEIGHTS, AdversarialSettings(weight=weight, width=WIDTH), seed=0
    )


def batch_of(samples: int) -> ImageBatch:
    generator = generator_of(1)
    images = torch.rand(samples, 1, SIDE, SIDE, generator=generator)
    return ImageBatch(images, torch.randn(samples, 2, SIDE // 4, SIDE // 4, generator=generator))


def learned_by(objective: AdversarialObjective, name: str) -> set[str]:
    """Parts of the objective that a term sends a gradient into."""
    white = ImageBatch(torch.ones(2, 1, SIDE, SIDE), batch_of(2).noise)
    objective(white)[name].total.backward()
    return {
        ".".join(parameter.split(".")[:2])
        for parameter, value in objective.named_parameters()
        if value.grad is not None and value.grad.any()
    }


def gradient_of(critic: nn.Sequential, real: Tensor, made: Tensor) -> Tensor:
    """Of the adversarial term at a reconstruction."""
    objective = objective_of()
    objective.critic = critic
    made = made.clone().requires_grad_()
    terms = objective.losses(real, made)
    (gradient,) = torch.autograd.grad(terms["adversarial"].total, made)
    return gradient


def critic_of_brightness(scale: float = 1.0) -> nn.Sequential:
    """Scores patches of 4 x 4 pixels from -8 (black) to 8 (white)."""
    convolution = nn.Conv2d(1, 1, 4, stride=4)
    with torch.no_grad():
        convolution.weight.fill_(scale)
        convolution.bias.fill_(-8 * scale)  # type: ignore[union-attr]  # it has one
    return nn.Sequential(convolution)


def telling_objective() -> AdversarialObjective:
    """Its critic tells bright images from reconstructions, each as far as it can."""
    objective = objective_of()
    objective.critic = critic_of_brightness(0.05)
    return objective


def bright_batch(samples: int) -> ImageBatch:
    batch = batch_of(samples)
    return ImageBatch(0.7 + 0.3 * batch.images, batch.noise)


def gradient_is_felt(objective: AdversarialObjective, batch: ImageBatch) -> bool:
    """Whether the critic moves the decoder; a random one cannot tell and would not."""
    (weight,) = torch.autograd.grad(
        objective(batch)["adversarial"].total, [objective.vae.decoder.conv_out.weight]
    )
    return bool(weight.any())


# -- the losses --------------------------------------------------------------------------------


def test_the_autoencoders_own_losses_stay_what_they_are() -> None:
    objective, batch = objective_of(), batch_of(3)
    terms = objective(batch)
    plain = AutoencoderObjective(objective.vae, WEIGHTS)(batch)
    for name, term in plain.items():
        assert torch.equal(terms[name].total, term.total)
    assert set(terms) == {*plain, "adversarial", "critic"}
    assert objective.counts(batch) == {name: term.count for name, term in terms.items()}
    assert objective.weights == {**WEIGHTS, "adversarial": 0.5, "critic": 1.0}


def test_the_values_are_the_mean_score_and_the_hinges() -> None:
    objective = objective_of()
    generator = generator_of(2)
    real, made = torch.randn(2, 3, 1, SIDE, SIDE, generator=generator)
    with torch.no_grad():
        terms = objective.losses(real, made)
        scores = objective.critic(made)
        hinges = (1 - objective.critic(real)).clamp_min(0), (1 + scores).clamp_min(0)
    assert float(terms["adversarial"].mean) == pytest.approx(-float(scores.mean()), rel=1e-4)
    assert float(terms["critic"].mean) == pytest.approx(float(torch.cat(hinges).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("critic", {"critic"}), ("adversarial", {"vae"})],
)
def test_the_critic_learns_from_its_own_loss_alone(name: str, expected: set[str]) -> None:
    objective = objective_of()
    objective.critic = critic_of_brightness(0.05)  # neither sure nor at a loss
    taught = learned_by(objective, name)
    assert {part.split(".")[0] for part in taught} == expected
    if "vae" in expected:
        assert {"vae.encoder", "vae.decoder"} <= taught


@pytest.mark.parametrize("scale", [0.5, 1.0, 1e3])
def test_a_critic_that_is_sure_pulls_as_strongly_as_an_absolute_error(scale: float) -> None:
    white, black = torch.ones(3, 1, SIDE, SIDE), torch.zeros(3, 1, SIDE, SIDE)
    gradient = gradient_of(critic_of_brightness(scale), white, black)
    torch.testing.assert_close(gradient, -torch.ones_like(gradient))  # |x - 1| has the same at 0


def test_a_critic_that_cannot_tell_pulls_at_nothing() -> None:
    white, black = torch.ones(3, 1, SIDE, SIDE), torch.zeros(3, 1, SIDE, SIDE)
    assert not gradient_of(
        critic_of_brightness(), black, white
    ).any()  # it takes them for each other
    assert not gradient_of(critic_of_brightness(), white, white).any()


def test_each_image_is_pulled_at_as_far_as_it_is_told() -> None:
    critic = critic_of_brightness(0.1)
    real, made = torch.rand(2, 4, 1, SIDE, SIDE, generator=generator_of(3))
    real = 0.5 + real / torch.arange(2, 6).view(4, 1, 1, 1)
    with torch.no_grad():
        hinges = ((1 - critic(real)).clamp_min(0) + (1 + critic(made)).clamp_min(0)) / 2
    expected = 1 - hinges.mean(dim=(1, 2, 3))
    assert ((expected > 0) & (expected < 1)).all()
    strength = gradient_of(critic, real, made).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(strength, expected)


def test_parts_of_a_batch_add_up() -> None:
    objective, batch = telling_objective(), bright_batch(5)
    assert gradient_is_felt(objective, batch)

    def gradients(parts: list[ImageBatch]) -> list[Tensor]:
        objective.zero_grad()
        for part in parts:
            weighted_sum(objective(part), objective.weights, objective.counts(batch)).backward()
        return [value.grad.clone() for value in objective.parameters() if value.grad is not None]

    whole = gradients([batch])
    parts = gradients([take(batch, Share(index, 2)) for index in range(2)])
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_it_is_measured_without_gradients_too() -> None:
    objective, batch = objective_of(), batch_of(2)
    with torch.no_grad():
        measured = objective(batch)
    learning = objective(batch)
    for name, term in learning.items():
        torch.testing.assert_close(measured[name].total, term.total.detach())


def test_a_critic_begins_as_its_seed_says() -> None:
    critics = []
    for seed, other in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(other)
        settings = AdversarialSettings(width=WIDTH)
        critics.append(AdversarialObjective(objective_of().vae, WEIGHTS, settings, seed).critic)
    first, again, another = (critic.state_dict()["0.weight"] for critic in critics)
    assert torch.equal(first, again)
    assert not torch.equal(first, another)


# -- in a stage --------------------------------------------------------------------------------


def with_critic(make_recipe: MakeRecipe, **changes: Any) -> Recipe:
    name = "autoencoder"
    content = stage(name, name, ["vae.*"], objective={"adversarial": {"width": WIDTH}}, **changes)
    return make_recipe(stages=[content])


def test_a_critic_learns_with_the_stage_and_is_thrown_away(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = with_critic(make_recipe)
    run_recipe(recipe, tmp_path / "run")
    (folder,) = checkpoints(tmp_path / "run" / "autoencoder")[-1:]
    kept = load_checkpoint(folder)
    critics = {name: value for name, value in kept.weights.items() if name.startswith("critic.")}
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        begun = patch_critic(1, WIDTH).state_dict(prefix="critic.")
    assert critics.keys() == begun.keys()
    assert all(not torch.equal(value, begun[name]) for name, value in critics.items())
    (exported,) = (tmp_path / "run" / "autoencoder" / "vae").glob("*.safetensors")
    assert not any("critic" in name for name in load_file(exported))


def test_a_stage_with_a_critic_goes_on_bit_for_bit(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    recipe = with_critic(make_recipe, steps=6, precision="bfloat16", schedule="constant")
    run_recipe(recipe, whole)
    run_recipe(recipe, cut)
    newest = checkpoints(cut / "autoencoder")[-1]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    for left in (cut / "autoencoder" / "vae").iterdir():
        left.unlink()
    (cut / "autoencoder" / "vae").rmdir()
    run_recipe(recipe, cut)
    ends = [load_checkpoint(checkpoints(run / "autoencoder")[-1]).weights for run in (whole, cut)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"weight": 0}, "weight"), ({"width": 12}, "width"), ({"weigth": 1.0}, "weigth")],
)
def test_wrong_settings_are_named(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        AdversarialSettings.model_validate(settings)
