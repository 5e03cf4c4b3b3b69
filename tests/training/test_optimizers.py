"""Muon moves the layers' matrices and AdamW the rest; together they stop and go on exactly."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import make_tiny_model
from unix_cxr.training.batches import generator_of
from unix_cxr.training.checkpoints import checkpoints, load_checkpoint
from unix_cxr.training.loop import Trainer
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.optimizers import MuonWithAdamW, is_matrix, make_optimizer
from unix_cxr.training.schedule import learning_rate_factor

from .toys import Line, Points, PointSource, settings, trainer


class Layered(Line):
    """Layers of matrices between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict(  # type: ignore[assignment]
            {
                "embedding": nn.Linear(3, 8),
                "layers": nn.ModuleList(nn.Linear(8, 8) for _ in range(2)),
                "head": nn.Linear(8, 1),
            }
        )
        with torch.no_grad():
            for number, parameter in enumerate(self.model.parameters()):
                shape = parameter.shape
                parameter.copy_(0.5 * torch.randn(shape, generator=generator_of(7, number)))

    def forward(self, batch: Points) -> dict[str, LossTerm]:
        parts: Any = self.model
        x = parts["embedding"](batch.x)
        for layer in parts["layers"]:
            x = x + torch.nn.functional.gelu(layer(x))
        return {"error": LossTerm.of((parts["head"](x)[:, 0].float() - batch.y).square())}


class StoppedError(Exception):
    """Stands for a power cut."""


class StoppingSource(PointSource):
    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop

    def batch(self, step: int) -> Points:
        if step == self.stop:
            raise StoppedError
        return super().batch(step)


def layered(folder: Path, source: Any = None, **changes: Any) -> Trainer:
    return Trainer(
        Layered(),
        source or PointSource(),
        settings(**({"optimizer": "muon", "momentum": 0.9} | changes)),
        folder,
        recipe="{}",
        device=torch.device("cpu"),
    )


def learned(of: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in of.learning.items()}


def test_adamw_takes_what_the_stage_says(tmp_path: Path) -> None:
    chosen = trainer(tmp_path, adam_eps=1e-15, betas=(0.8, 0.7), weight_decay=0.3).optimizer
    assert type(chosen) is torch.optim.AdamW
    group = chosen.param_groups[0]
    assert (group["eps"], group["betas"], group["weight_decay"]) == (1e-15, (0.8, 0.7), 0.3)


def test_the_matrices_of_layers_are_muons_and_nothing_else() -> None:
    names = {name for name, p in make_tiny_model().named_parameters() if is_matrix(name, p)}
    assert "generation.layers.1.mlp.down_proj.weight" in names
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names
    assert "vision.encoder.layers.0.mlp.fc1.weight" in names
    for part in ("embed", "head", "norm", "bias", "connector", "time"):
        assert not any(part in name for name in names), part
    assert all(name.endswith(".weight") for name in names)


def test_one_step_is_that_of_both_optimizers_alone(tmp_path: Path) -> None:
    one = layered(tmp_path, weight_decay=0.1, adam_eps=1e-6)
    twin = {name: nn.Parameter(value.clone()) for name, value in learned(one).items()}
    muon = torch.optim.Muon(
        [p for name, p in twin.items() if "layers" in name and "weight" in name],
        lr=1e-3,
        weight_decay=0.1,
        momentum=0.9,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [p for name, p in twin.items() if not ("layers" in name and "weight" in name)],
        lr=1e-3,
        weight_decay=0.1,
        betas=(0.9, 0.95),
        eps=1e-6,
    )
    for step in range(3):
        for number, (name, parameter) in enumerate(one.learning.items()):
            gradient = torch.randn(parameter.shape, generator=generator_of(step, number))
            parameter.grad, twin[name].grad = gradient, gradient.clone()
        for optimizer in (one.optimizer, muon, adamw):
            optimizer.step()
    for name, value in learned(one).items():
        assert torch.equal(value, twin[name].detach()), name


def test_a_step_of_muon_is_orthogonal_and_of_the_size_of_adamws() -> None:
    weight = nn.Parameter(torch.zeros(64, 16))
    weight.grad = torch.randn(weight.shape, generator=generator_of(3))
    chosen = MuonWithAdamW([weight], [], settings(learning_rate=0.5, weight_decay=0.0))
    chosen.step()
    # arXiv:2502.16982: 0.2 sqrt(larger side) times a matrix whose singular values are about 1
    singular = torch.linalg.svdvals(weight.detach()) / (0.5 * 0.2 * 64**0.5)
    assert 0.5 < float(singular.min()) <= float(singular.max()) < 1.5
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.5 * 0.2, rel=0.3)


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_stopped_run_of_muon_ends_with_the_same_bits(tmp_path: Path, stop: int) -> None:
    whole = layered(tmp_path / "whole")
    losses = whole.run()
    with pytest.raises(StoppedError):
        layered(tmp_path / "stopped", StoppingSource(stop)).run()
    again = layered(tmp_path / "stopped")
    assert again.run() == losses
    for name, value in learned(whole).items():
        assert torch.equal(value, again.learning[name].detach()), name


def test_a_checkpoint_holds_the_state_of_both(tmp_path: Path) -> None:
    layered(tmp_path).run()
    kept = load_checkpoint(checkpoints(tmp_path)[-1]).optimizer
    assert {name.rsplit("/", 1)[1] for name in kept if "layers.0.weight" in name} == {
        "momentum_buffer"
    }
    for name in ("head.weight", "layers.0.bias", "embedding.weight"):
        entries = {key.rsplit("/", 1)[1] for key in kept if f".{name}/" in key}
        assert entries == {"exp_avg", "exp_avg_sq", "step"}


def test_its_state_survives_torchs_own_way_too(tmp_path: Path) -> None:
    first, second = layered(tmp_path / "a"), layered(tmp_path / "b")

    def take(of: Trainer, step: int) -> None:
        for number, parameter in enumerate(of.learning.values()):
            parameter.grad = torch.randn(parameter.shape, generator=generator_of(step, number))
        of.optimizer.step()

    take(first, 0)
    for name, parameter in second.learning.items():
        parameter.data.copy_(first.learning[name].data)
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    take(first, 1)
    take(second, 1)
    for name, value in learned(first).items():
        assert torch.equal(value, second.learning[name].detach()), name


def test_the_schedule_reaches_both(tmp_path: Path) -> None:
    one = layered(tmp_path, warmup_steps=3, schedule="cosine")
    seen: list[list[float]] = []
    step = one.optimizer.step

    def remember(*arguments: Any) -> Any:
        seen.append([group["lr"] for group in one.optimizer.param_groups])
        return step(*arguments)

    one.optimizer.step = remember  # type: ignore[method-assign]
    one.run()
    expected = [1e-3 * learning_rate_factor(number, one.stage) for number in range(8)]
    assert seen == [[rate, rate] for rate in expected]


def test_muon_learns(tmp_path: Path) -> None:
    one = layered(tmp_path, learning_rate=0.02, steps=40)
    before = one.validate()["dev_error"]
    assert one.run()["dev_error"] < 0.5 * before


def test_muon_without_a_matrix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no weight matrix of a layer learns.*optimizer: adamw"):
        layered(tmp_path, trains=["model.head.*"])
    only = layered(tmp_path, trains=["model.layers.*.weight"])
    assert len(only.optimizer.param_groups) == 1


def test_a_closure_is_refused() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    chosen = make_optimizer({"a.layers.0.weight": weight}, settings(optimizer="muon"))
    with pytest.raises(ValueError, match="takes no closure"):
        chosen.step(lambda: 0.0)
