"""Every way of training passes through shards unchanged, tried in a group of one process.

The parts are whole there, but all of FSDP2's machinery runs: hooks, gathering, sharing out.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tests.conftest import make_tiny_model
from tests.tolerances import assert_relative
from unix_cxr.models.adapters import AdapterSettings, add_adapter
from unix_cxr.training.contexts import CaptionContexts
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.losses import weighted_sum
from unix_cxr.training.optimizers import make_optimizer
from unix_cxr.training.precision import computing, prepare
from unix_cxr.training.sharding import (
    gather_into,
    gathered,
    part_like,
    passing,
    sharded_copy,
    whole,
)
from unix_cxr.training.stages import select_learning

from .test_adversarial import bright_batch, gradient_is_felt, telling_objective
from .test_alignment import batch_of, objective_of
from .toys import settings

CPU = torch.device("cpu")
DRAWING = ["model.generation.*"]


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def frozen() -> nn.Module:
    objective = GenerationObjective(make_tiny_model(), 0.0, contexts=CaptionContexts(1_000_000))
    select_learning(objective, DRAWING)
    return objective


def aligned() -> nn.Module:
    objective = objective_of()
    select_learning(objective, [*DRAWING, *objective.own_parts])
    return objective


def both() -> nn.Module:
    objective = GenerationObjective(make_tiny_model(), 0.5)
    select_learning(objective, [*DRAWING, "model.language_model.model.*"])
    return objective


def adapter() -> nn.Module:
    model = make_tiny_model()
    learning = add_adapter(model, AdapterSettings(preset="gen", rank=2))
    with torch.no_grad():  # a fresh one has a half of zeros, which teaches its other half nothing
        for parameter in learning.values():
            parameter.add_(0.1)
    return GenerationObjective(model, 0.0)


OBJECTIVES = (frozen, aligned, both, adapter)


def gradients(objective: Any, **changes: Any) -> dict[str, Tensor]:
    stage = settings(**changes)
    objective.train()
    with passing(objective, last=True):
        with computing(stage, CPU):
            terms = objective(batch_of(3))
        weighted_sum(terms, objective.weights).backward()
    return {n: whole(p.grad) for n, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("make", OBJECTIVES)
@pytest.mark.parametrize(
    "changes", [{}, {"activation_checkpointing": True}, {"precision": "bfloat16"}], ids=str
)
def test_gradients_are_those_of_the_whole(make: Any, changes: Any, unchecked: None) -> None:
    objective = make()
    prepare(objective, settings(**changes), CPU)
    sharded = sharded_copy(objective, CPU, 1)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    ours, plain = gradients(sharded, **changes), gradients(objective, **changes)
    assert ours.keys() == plain.keys()
    assert len(plain) > 4
    if make is aligned:  # three ways lead back into the states, and are added in another order
        low = "_bfloat16" if "precision" in changes else ""
        flat = [torch.cat([found[name].flatten() for name in plain]) for found in (ours, plain)]
        assert_relative(f"sharded.gradients{low}", *flat)
    else:
        assert all(torch.equal(ours[name], gradient) for name, gradient in plain.items())
    flags = {name: parameter.requires_grad for name, parameter in objective.named_parameters()}
    assert flags == {name: p.requires_grad for name, p in sharded.named_parameters()}


def test_a_critic_is_asked_in_shards_as_it_is_whole(unchecked: None) -> None:
    objective, batch = telling_objective(), bright_batch(3)
    assert gradient_is_felt(objective, batch)
    prepare(objective, settings(), CPU)
    sharded = sharded_copy(objective, CPU, 1)
    found = []
    for module in (objective, sharded):
        module.train()
        with passing(module, last=True):
            weighted_sum(module(batch), objective.weights).backward()
        grads = {name: p.grad for name, p in module.named_parameters()}
        found.append({name: whole(grad) for name, grad in grads.items() if grad is not None})
    plain, ours = found
    assert ours.keys() == plain.keys() == dict(objective.named_parameters()).keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_steps_have_the_same_bits_and_come_back(optimizer: str, unchecked: None) -> None:
    objective = both()
    before = {name: value.detach().clone() for name, value in objective.named_parameters()}
    sharded = sharded_copy(objective, CPU, 1)
    found = []
    for module in (objective, sharded):
        learning = {n: p for n, p in module.named_parameters() if p.requires_grad}
        moved = make_optimizer(learning, settings(optimizer=optimizer, learning_rate=0.01))
        for _ in range(2):
            moved.zero_grad()
            gradients(module)
            moved.step()
        found.append({name: value.detach().clone() for name, value in learning.items()})
    plain, ours = found
    assert any(not torch.equal(value, before[name]) for name, value in plain.items())
    target = make_tiny_model()
    own = {f"model.{name}": parameter for name, parameter in target.named_parameters()}
    gather_into({name: own[name] for name in ours}, ours)
    for name, value in plain.items():
        assert torch.equal(own[name], value), name


def test_parts_are_cut_from_wholes_and_gathered_again(unchecked: None) -> None:
    objective = both()
    sharded = sharded_copy(objective, CPU, 1)
    parts = {name: parameter.detach() for name, parameter in sharded.named_parameters()}
    wholes = gathered(parts, keeps=True)
    assert gathered(parts, keeps=False) == {}
    for name, parameter in objective.named_parameters():
        assert torch.equal(wholes[name], parameter)
        assert not isinstance(wholes[name], DTensor)
        cut = part_like(wholes[name], parts[name])
        assert isinstance(cut, DTensor)
        assert torch.equal(whole(cut), parameter)
        assert part_like(cut, wholes[name]) is cut
