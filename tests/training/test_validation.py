"""Looking at a stage: losses by time, and nothing of the training is disturbed by it."""

import functools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unix_cxr.training.batches import generator_of
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.processes import Processes
from unix_cxr.training.validation import Watching, by_time, dev_losses, rows_of, undisturbed

from .test_loop import StoppedError, StoppingSource, assert_same, rows
from .toys import Line, PointSource, settings, weights
from .toys import trainer as plain_trainer

ALONE = Processes(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class Timed:
    values: Tensor
    times: Tensor


def squares(batch: Timed) -> dict[str, LossTerm]:
    return {
        "velocity": LossTerm.of(batch.values.square()),
        "other": LossTerm.of(batch.values.abs()),
    }


def timed_batches() -> list[Timed]:
    times = torch.tensor([[0.0, 0.1, 0.35], [0.39999, 0.4, 1.0]])
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    return [Timed(*pair) for pair in zip(values, times, strict=True)]


def test_losses_by_time_are_the_means_of_their_samples() -> None:
    found = dev_losses(squares, timed_batches(), {"velocity": 1.0, "other": 0.5}, ALONE)
    assert found.by_time == {
        "dev_velocity_t0.0-0.2": pytest.approx((1 + 4) / 2),
        "dev_velocity_t0.2-0.4": pytest.approx((9 + 16) / 2),
        "dev_velocity_t0.4-0.6": pytest.approx(25),
        "dev_velocity_t0.8-1.0": pytest.approx(36),
    }
    assert found.means == {
        "dev_velocity": pytest.approx(91 / 6),
        "dev_other": pytest.approx(21 / 6),
        "dev_loss": pytest.approx(91 / 6 + 0.5 * 21 / 6),
    }


def test_parts_by_time_hold_every_sample_once() -> None:
    batch = Timed(torch.arange(50.0), torch.rand(50, generator=generator_of(3)))
    parts = dict(by_time(batch))
    assert sorted(float(v) for part in parts.values() for v in part.values) == list(range(50))
    for bucket, part in parts.items():
        assert ((part.times >= bucket / 5) & (part.times <= (bucket + 1) / 5)).all()
    without = PointSource().batch(0)
    assert [part for _, part in by_time(without)] == [without]
    assert rows_of(batch, torch.tensor([7])).values.tolist() == [7.0]


@dataclass(frozen=True)
class Half:
    """One of two processes whose sums are handed over in the place of being gathered."""

    rank: int
    count: int
    device: torch.device
    kept: list[Tensor]

    def sum(self, values: Tensor) -> Tensor:
        self.kept.append(values.clone())
        return torch.stack(self.kept).sum(dim=0)


def test_processes_together_validate_what_one_does() -> None:
    weighted = {"velocity": 1.0, "other": 0.5}
    whole = dev_losses(squares, timed_batches(), weighted, ALONE)
    kept: list[Tensor] = []
    seen: list[list[float]] = [[], []]

    def squares_seen(batch: Timed, rank: int) -> dict[str, LossTerm]:
        seen[rank] += batch.values.tolist()
        return squares(batch)

    for rank in range(2):
        half: Any = Half(rank, 2, torch.device("cpu"), kept)
        terms_of = functools.partial(squares_seen, rank=rank)
        found = dev_losses(terms_of, timed_batches(), weighted, half)
    assert found == whole
    assert [sorted(values) for values in seen] == [[1, 2, 3], [4, 5, 6]]  # each its share


def test_what_is_drawn_while_looking_leaves_no_trace() -> None:
    state, python = torch.get_rng_state(), random.getstate()
    with undisturbed(torch.device("cpu")):
        torch.manual_seed(5)
        random.seed(5)
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python


class Gambler:
    """An examiner that draws from every generator it finds, and measures what it is told."""

    def __init__(self, values: dict[int, float], folder: Path) -> None:
        self.values = values
        self.folder = folder
        self.seen: list[tuple[str, int]] = []
        self.step = 0

    def draw(self, step: int) -> Path:
        torch.rand(3)
        random.random()
        self.step = step
        self.seen.append(("drawn", step))
        return self.folder / "none.png"

    def measure(self) -> dict[str, float]:
        torch.randn(2)
        self.seen.append(("measured", self.step))
        return {"dev_fd": self.values.get(self.step, 9.0)}


class Random(Line):
    """Learns with noise of the process's own generator, so that a draw elsewhere would show."""

    def forward(self, batch: Any) -> dict[str, LossTerm]:
        if self.training:
            noise = torch.randn(len(batch.y))
            return {"error": LossTerm.of((self.model(batch.x)[:, 0] - batch.y + noise).square())}
        return super().forward(batch)


def watched(folder: Path, examiner: Any = None, source: Any = None, **changes: Any) -> Any:
    from unix_cxr.training.loop import Trainer

    return Trainer(
        Random(),
        source or PointSource(),
        settings(**changes),
        folder,
        recipe="{}",
        device=torch.device("cpu"),
        watching=Watching(examiner),
    )


DRAW = {"draw": {"count": 2, "every": 3}, "measure": {"fd": 2, "every": 3}}


def test_looking_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    gambler = Gambler({}, tmp_path)
    torch.manual_seed(11)
    blind = watched(tmp_path / "blind", validate_every=1000)
    blind.run()
    torch.manual_seed(11)
    seen = watched(tmp_path / "seen", gambler, validate_every=1, **DRAW)
    seen.run()
    assert_same(weights(blind), weights(seen))
    assert gambler.seen == [(kind, s) for s in (3, 6, 8) for kind in ("drawn", "measured")]
    assert [row["step"] for row in rows(tmp_path / "seen") if "dev_fd" in row] == [3, 6, 8]


def test_a_measure_that_is_not_due_with_a_validation_has_a_row_of_its_own(tmp_path: Path) -> None:
    watched(tmp_path, Gambler({}, tmp_path), validate_every=4, **DRAW).run()
    found = {row["step"]: set(row) for row in rows(tmp_path) if "norm" not in row}
    assert "dev_fd" in found[3]
    assert "dev_error" not in found[3]
    assert {"dev_error", "dev_fd"} <= found[8]


def test_the_average_is_what_is_drawn_and_measured(tmp_path: Path) -> None:
    one = plain_trainer(tmp_path, ema_decay=0.9, **DRAW)
    seen: list[dict[str, Tensor]] = []

    class Looking(Gambler):
        def measure(self) -> dict[str, float]:
            seen.append(weights(one))
            return super().measure()

    one.watching = Watching(Looking({}, tmp_path))
    one.run()
    assert_same(seen[-1], weights(one))  # the run ends with the average in the weights' place


def test_a_stopped_run_looks_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    values = {3: 4.0, 6: 2.0, 8: 3.0}
    changes = {"keep_best": "dev_fd", "validate_every": 3} | DRAW

    def line(folder: Path, source: Any = None) -> Any:
        one = plain_trainer(folder, source, **changes)
        one.watching = Watching(Gambler(values, folder))
        return one

    whole = line(tmp_path / "whole")
    losses = whole.run()
    with pytest.raises(StoppedError):
        line(tmp_path / "cut", StoppingSource(7)).run()
    again = line(tmp_path / "cut")
    assert again.run() == losses
    assert_same(weights(whole), weights(again))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_events_tell_what_befell_the_run(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        plain_trainer(tmp_path, StoppingSource(5)).run()
    with pytest.raises(FloatingPointError):
        plain_trainer(tmp_path, PointSource(broken=6)).run()
    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert [(e["event"], e["step"]) for e in events] == [
        ("begins", 0),
        ("resumes", 4),
        ("bad batch", 6),
        ("stops", 6),
    ]
    assert events[1]["torch"] == torch.__version__
    assert "loss terms are not finite" in events[3]["about"]
