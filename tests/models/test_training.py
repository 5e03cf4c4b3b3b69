"""Gradients: checkpointed, scaled, frozen, with other attention, in other precision."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.conftest import make_tiny_model
from tests.tolerances import assert_close, assert_relative
from unix_cxr.models.context import Image, Latents, Text


def text(*ids: int) -> Text:
    return Text(torch.tensor([ids, ids[::-1]]))


def given() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {
        "latents": torch.randn(2, 4, 3, 3, generator=generator),
        "target": torch.randn(2, 4, 3, 3, generator=generator),
        "clean": torch.randn(2, 4, 2, 2, generator=generator),
        "pixels": torch.randn(2, 3, 32, 32, generator=generator),
        "times": torch.tensor([0.3, 0.8]),
    }


def drawing_loss(model: Any, segments: list[Any], factor: float = 1.0) -> Tensor:
    values = given()
    context = model.encode(segments, understanding_gradient=factor)
    assert context.length > 0
    predicted = model.denoise(
        values["latents"], values["times"], context, understanding_gradient=factor
    )
    return F.mse_loss(predicted, values["target"])


def all_segments() -> list[Any]:
    values = given()
    return [Latents(values["clean"]), Image(values["pixels"]), text(62, 5, 6, 63)]


def reading_loss(model: Any) -> Tensor:
    ids = torch.tensor([[60, *[59] * 4, 61, 62, 5, 6, 63, 62, 7, 8, 63]] * 2)
    labels = ids.clone()
    labels[:, :11] = -100
    loss: Tensor = model(
        input_ids=ids, pixel_values=given()["pixels"], labels=labels, use_cache=False
    ).loss
    return loss


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
        for name, value in model.named_parameters()
    }


LOSSES: dict[str, Callable[[Any], Tensor]] = {
    "drawing": lambda model: drawing_loss(model, all_segments()),
    "reading": reading_loss,
}


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward."""
    total = 0

    def pack(value: Tensor) -> Tensor:
        nonlocal total
        total += value.numel() * value.element_size()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        run()
    return total


@pytest.mark.parametrize("which", LOSSES)
def test_checkpointing_changes_memory_and_nothing_else(tiny_model: Any, which: str) -> None:
    loss_of = LOSSES[which]
    tiny_model.train()
    plain = loss_of(tiny_model)
    expected = gradients(tiny_model, plain)
    plain_bytes = saved_bytes(lambda: loss_of(tiny_model))
    tiny_model.activation_checkpointing_enable()
    assert tiny_model.is_gradient_checkpointing
    checkpointed = loss_of(tiny_model)
    assert_close("checkpointing.loss", checkpointed, plain)
    ours = gradients(tiny_model, checkpointed)
    for name, gradient in expected.items():
        assert_close("checkpointing.gradient", ours[name], gradient)
    assert saved_bytes(lambda: loss_of(tiny_model)) < 0.8 * plain_bytes
    tiny_model.activation_checkpointing_disable()
    assert saved_bytes(lambda: loss_of(tiny_model)) == plain_bytes


def test_training_mode_computes_what_evaluation_does(tiny_model: Any) -> None:
    for loss_of in LOSSES.values():
        evaluated = loss_of(tiny_model.eval())
        assert torch.equal(loss_of(tiny_model.train()), evaluated)


@pytest.mark.parametrize("which", LOSSES)
def test_eager_attention_equals_sdpa(which: str) -> None:
    fused, eager = make_tiny_model(), make_tiny_model()
    eager.set_attn_implementation("eager")
    assert eager.language_model.config._attn_implementation == "eager"
    ours, theirs = LOSSES[which](eager), LOSSES[which](fused)
    assert_close("eager_equals_sdpa", ours, theirs)
    expected = gradients(fused, theirs)
    for name, gradient in gradients(eager, ours).items():
        assert_close("eager_equals_sdpa", gradient, expected[name])


@torch.no_grad()
def test_eager_attention_with_padding_equals_sdpa() -> None:
    fused, eager = make_tiny_model(), make_tiny_model()
    eager.set_attn_implementation("eager")
    values = given()
    mask = torch.tensor([[False, False, True, True], [True] * 4])
    segment = Text(torch.tensor([[59, 59, 62, 63], [62, 5, 6, 63]]), mask)
    velocities = [
        model.denoise(values["latents"], values["times"], model.encode([segment]))
        for model in (eager, fused)
    ]
    assert_close("eager_equals_sdpa", *velocities)


@torch.no_grad()
def test_bfloat16_runs_close_to_float32() -> None:
    exact, rounded = make_tiny_model(), make_tiny_model().to(torch.bfloat16)
    values = given()
    velocities, logits = [], []
    for model in (rounded, exact):
        segments = [Image(values["pixels"]), text(62, 5, 6, 63)]
        context = model.encode(segments)
        assert context.layers[0].keys.dtype == model.dtype
        velocity = model.denoise(values["latents"].to(model.dtype), values["times"], context)
        assert velocity.dtype == model.dtype
        velocities.append(velocity)
        ids = torch.tensor([[60, *[59] * 4, 61, 62, 5, 6, 63]] * 2)
        logits.append(model(input_ids=ids, pixel_values=values["pixels"]).logits)
    assert_relative("bfloat16.velocity", *velocities)
    assert_relative("bfloat16.logits", *logits)


@torch.no_grad()
@pytest.mark.parametrize("where", ["generation.final_norm", "language_model.model.norm"])
def test_norms_are_float32_inside(tiny_model: Any, where: str) -> None:
    """Rounded weights and inputs, but one rounding of the result, not one per operation."""
    norm = tiny_model.to(torch.bfloat16).get_submodule(where)
    x = torch.randn(4, 32).to(torch.bfloat16)
    wide = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-6)
    ours = norm(x).double() / norm.weight.double()
    assert (
        float(((ours - wide) / wide).abs().max()) < 2.1 * 2**-8
    )  # two roundings: values, then weights


# -- how strongly drawing teaches understanding


def understanding(grads: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: g for name, g in grads.items() if not name.startswith("generation.")}


def test_factor_0_leaves_understanding_without_gradient(tiny_model: Any) -> None:
    joint = gradients(tiny_model, drawing_loss(tiny_model, all_segments(), 1.0))
    frozen = gradients(tiny_model, drawing_loss(tiny_model, all_segments(), 0.0))
    assert all(not bool(g.any()) for g in understanding(frozen).values())
    assert sum(bool(g.any()) for g in understanding(joint).values()) > 50
    for name in ("generation.layers.0.attention.k_proj.weight", "generation.velocity_head.weight"):
        assert bool(frozen[name].any())


def test_clean_latents_keep_their_graph_when_frozen(tiny_model: Any) -> None:
    """Their keys are made by generation weights: freezing them too would change this gradient."""
    values = given()
    clean = values["clean"].requires_grad_()
    loss = drawing_loss(tiny_model, [Latents(clean), text(62, 5, 6, 63)], 0.0)
    (gradient,) = torch.autograd.grad(loss, clean)
    assert bool(gradient.any())


def test_the_loss_itself_does_not_depend_on_the_factor(tiny_model: Any) -> None:
    losses = [drawing_loss(tiny_model, all_segments(), f).item() for f in (0.0, 0.1, 1.0)]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-6)


def test_with_one_layer_the_gradient_is_proportional_to_the_factor() -> None:
    """With one layer nothing that was scaled is read again: 0.1 gives a tenth, exactly."""
    model = make_tiny_model(layers=1)
    segments = [text(62, 5, 6, 63)]
    whole = understanding(gradients(model, drawing_loss(model, segments, 1.0)))
    tenth = understanding(gradients(model, drawing_loss(model, segments, 0.1)))
    largest = max(float(g.abs().max()) for g in whole.values())
    assert largest > 0
    for name, gradient in whole.items():
        torch.testing.assert_close(tenth[name], 0.1 * gradient, rtol=0, atol=1e-6 * largest)


def test_with_more_layers_it_is_a_polynomial_without_constant() -> None:
    """BOI and EOI read scaled keys and offer scaled keys themselves, so a path through n layers of
    them carries the factor n times: f g1 + f² g2 with two layers. It vanishes at 0, is the joint
    gradient at 1, and is about proportional between."""
    model = make_tiny_model(layers=2)
    segments = [text(62, 5, 6, 63)]

    def at(factor: float) -> dict[str, Tensor]:
        return understanding(gradients(model, drawing_loss(model, segments, factor)))

    one, half, tenth = at(1.0), at(0.5), at(0.1)
    largest = max(float(g.abs().max()) for g in one.values())
    for name in one:
        second = 2 * one[name] - 4 * half[name]
        first = one[name] - second
        expected = 0.1 * first + 0.01 * second
        assert_close("gradient_scale.polynomial", tenth[name] / largest, expected / largest)
