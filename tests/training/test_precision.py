"""How a stage computes: the loss's scale, checkpointing, compiling, and what a CPU cannot do."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tolerances import assert_close
from unix_cxr.training import standing as standing_module
from unix_cxr.training.losses import weighted_sum
from unix_cxr.training.precision import LossScale, check_computing, computing, prepare
from unix_cxr.training.recipe import RecipeRun
from unix_cxr.training.settings import Recipe, StageSettings

from .conftest import UNDERSTANDING
from .toys import PointSource, settings, trainer, weights

MakeRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")


@pytest.fixture
def float16_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What float16 does to a step can be seen on a CPU too, where users are kept from it."""
    monkeypatch.setattr(standing_module, "check_computing", lambda *_: None)


# -- what cannot be done is refused --------------------------------------------------------------


def test_float16_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'toy': precision float16 needs a CUDA device, not cpu"):
        trainer(tmp_path, precision="float16")


def test_a_recipe_that_this_machine_cannot_compute_is_refused_before_anything_is_trained(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(generation={"precision": "float16"})
    run = RecipeRun(recipe, tmp_path, CPU)
    with pytest.raises(ValueError, match="'generation': precision float16 needs a CUDA device"):
        run.plan([stage.name for stage in recipe.stages])


def test_compile_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"finds no 'no-such-compiler'; install g\+\+, name"):
        check_computing(settings(compile=True), CPU)
    check_computing(settings(), CPU)


# -- the scale of the loss -----------------------------------------------------------------------


def test_the_scale_halves_after_an_overflow_and_doubles_after_2000_steps() -> None:
    scale = LossScale.of(settings(precision="float16"))
    assert scale.value == 65536
    for _ in range(1999):
        scale.passed()
    assert (scale.value, scale.steps) == (65536, 1999)
    scale.passed()
    assert (scale.value, scale.steps) == (131072, 0)
    scale.passed()
    assert scale.gives_way()
    assert (scale.value, scale.steps) == (65536, 0)


def test_a_scale_that_cannot_shrink_further_is_not_to_blame() -> None:
    scale = LossScale(2.0)
    assert not scale.gives_way()
    assert scale.value == 2.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_other_precisions_are_not_scaled(precision: str) -> None:
    scale = LossScale.of(settings(precision=precision))
    loss = torch.tensor(3.0)
    assert scale.up(loss) is loss
    scale.passed()
    assert scale == LossScale(1.0, 0)
    assert not scale.gives_way()


@pytest.mark.parametrize("accumulation", [1, 4])
def test_scaling_changes_no_bit_of_what_is_learned(tmp_path: Path, accumulation: int) -> None:
    plain = trainer(tmp_path / "plain", accumulation=accumulation)
    scaled = trainer(tmp_path / "scaled", accumulation=accumulation)
    scaled.scale = LossScale(65536.0)
    plain.run()
    scaled.run()
    assert scaled.scale == LossScale(65536.0, 8)
    for name, value in weights(plain).items():
        assert torch.equal(value, weights(scaled)[name]), name


@pytest.mark.usefixtures("float16_anywhere")
def test_float16_learns(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []
    one = trainer(tmp_path, precision="float16", learning_rate=0.02)
    linear: Any = one.objective.model[0]  # type: ignore[index]
    linear.register_forward_hook(lambda *parts: seen.append(parts[-1].dtype))
    before = one.validate()["dev_error"]
    assert one.run()["dev_error"] < before
    assert set(seen) == {torch.float16}
    assert {value.dtype for value in one.learning.values()} == {torch.float32}


class _Overflowing(nn.Module):
    """Stands for float16: a gradient is infinite until the loss is scaled by little enough."""

    def __init__(self, inner: nn.Module, largest: float) -> None:
        super().__init__()
        self.inner, self.largest = inner, largest

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        limit = self.largest
        out.register_hook(
            lambda grad: grad * torch.where(grad.abs().max() > limit, float("inf"), 1.0)
        )
        return out


def test_an_overflow_takes_no_step_and_tries_a_smaller_scale(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    one.scale = LossScale(65536.0)
    layers: Any = one.objective.model
    layers[3] = _Overflowing(layers[3], 30_000.0)
    before = weights(one)
    first = one._step(PointSource().batch(0))
    assert first.keys() == {"error"}
    assert one.scale.value == 32768
    assert all(torch.equal(value, before[name]) for name, value in weights(one).items())
    while one.scale.value > 4 and "norm" not in one._step(PointSource().batch(one.step)):
        pass
    assert not all(torch.equal(value, before[name]) for name, value in weights(one).items())


def test_an_overflow_at_the_smallest_scale_stops_the_run(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    tmp_path.mkdir(exist_ok=True)
    one.scale = LossScale(2.0)
    layers: Any = one.objective.model
    layers[3] = _Overflowing(layers[3], 0.0)
    with pytest.raises(FloatingPointError, match="gradients are not finite"):
        one._step(PointSource().batch(0))


def test_the_scale_goes_on_where_it_stood(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    one.scale = LossScale(512.0)
    one.run()
    again = trainer(tmp_path)
    assert again.restore()
    assert again.scale == LossScale(512.0, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_float16_on_a_gpu_learns_what_float32_does(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:  # pragma: no cover
    losses = {}
    for precision in ("float32", "float16"):
        recipe = make_recipe(understanding={"precision": precision, "steps": 20})
        run = RecipeRun(recipe, tmp_path / precision, torch.device("cuda"))
        losses[precision] = run.run_stage(recipe.stage("understanding"))["dev_cross_entropy"]
    assert losses["float16"] == pytest.approx(losses["float32"], rel=0.02)


# -- checkpointing -------------------------------------------------------------------------------


def _pass(run: RecipeRun, stage: StageSettings, few: Any) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradients, and the bytes that autograd keeps between forward and backward."""
    task = run.task(stage, few)
    objective: Any = task.objective.train()
    prepare(objective, stage, CPU)
    kept = 0

    def pack(value: Tensor) -> Tensor:
        nonlocal kept
        kept += value.nbytes
        return value

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value),
        computing(stage, CPU),
    ):
        loss = weighted_sum(objective(task.source.batch(0)), objective.weights)
    objective.zero_grad()
    loss.backward()
    gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients, kept


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["autoencoder", "understanding", "generation"])
def test_checkpointing_changes_memory_and_no_gradient(
    make_recipe: MakeRecipe, tmp_path: Path, name: str, precision: str
) -> None:
    # joint, so that every branch is in the graph
    joint = {"trains": [*UNDERSTANDING, "model.generation.*"]}
    recipe = make_recipe(
        understanding={"precision": precision},
        autoencoder={"precision": precision},
        generation=joint | {"precision": precision, "freezes": ["model.vision.*"]},
    )
    run = RecipeRun(recipe, tmp_path, CPU)
    stage = recipe.stage(name)
    if name == "generation":
        changed = stage.objective.model_copy(update={"understanding_gradient": 1.0})
        stage = stage.model_copy(update={"objective": changed})
        torch.nn.init.normal_(run.model.generation.velocity_head.weight, std=0.1)
    few = run.data.few(8)
    plain_loss, plain, plain_bytes = _pass(run, stage, few)
    saving = stage.model_copy(update={"activation_checkpointing": True})
    loss, gradients, kept = _pass(run, saving, few)
    assert loss == plain_loss
    assert gradients.keys() == plain.keys()
    for key, gradient in plain.items():
        assert_close("checkpointing.gradient", gradients[key], gradient)
    assert kept < 0.8 * plain_bytes
    assert _pass(run, stage, few)[2] == plain_bytes, "the next stage begins without"


def test_checkpointing_may_change_on_the_way(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """As accumulation may: it is not part of what is learned."""
    from unix_cxr.training.identity import changed_keys

    before, now = (
        make_recipe(generation={"activation_checkpointing": value}) for value in (False, True)
    )
    stored, present = before.model_dump_json(), now.model_dump_json()
    assert changed_keys(stored, present, now.stage("generation")) == []


# -- compiling -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_objective_learns_what_a_plain_one_does(tmp_path: Path) -> None:
    plain, compiled = trainer(tmp_path / "plain"), trainer(tmp_path / "compiled", compile=True)
    plain.run()
    compiled.run()
    assert compiled.objective._compiled_call_impl is not None
    for name, value in weights(plain).items():
        assert_close("compile.weights", weights(compiled)[name], value)
