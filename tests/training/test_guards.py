"""Micro-batches, the weights' average, spikes, signals, workers: none of them bends the result."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import run_processes, starter
from tests.tolerances import TOLERANCES, assert_close
from unix_cxr.training.averaging import WeightAverage
from unix_cxr.training.batches import Share, take
from unix_cxr.training.checkpoints import checkpoints, load_checkpoint
from unix_cxr.training.guards import RunStopped, SpikeGuard

from .test_loop import StoppedError, StoppingSource, assert_same, rows
from .toys import Points, PointSource, settings, trainer, weights


class Uneven(PointSource):
    """Batches of seven points, which no number of parts but 1 and 7 divides."""

    def batch(self, step: int) -> Points:
        parts = [super(Uneven, self).batch(step * 10 + part) for part in range(2)]
        x, y = (torch.cat([getattr(part, name) for part in parts])[:7] for name in "xy")
        return Points(x, y)


@pytest.mark.parametrize("accumulation", [2, 3, 7])
def test_micro_batches_change_nothing(tmp_path: Path, accumulation: int) -> None:
    whole = trainer(tmp_path / "whole", Uneven(), batch_size=7)
    parts = trainer(tmp_path / "parts", Uneven(), batch_size=7, accumulation=accumulation)
    assert_close("parts.losses", _tensor(parts.run()), _tensor(whole.run()))
    for name, value in weights(whole).items():
        assert_close("parts.weights", weights(parts)[name], value)


def _tensor(losses: dict[str, float]) -> torch.Tensor:
    return torch.tensor([losses[name] for name in sorted(losses)])


def test_parts_of_a_batch_are_the_whole() -> None:
    batch = Uneven().batch(0)
    parts = [take(batch, Share(index, 3)) for index in range(3)]
    assert sorted(float(y) for part in parts for y in part.y) == sorted(batch.y.tolist())
    assert take(batch, Share()) is batch
    with pytest.raises(ValueError, match="part 3 of 3"):
        Share(3, 3)


def test_a_batch_smaller_than_its_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size \(4\) must be at least 5: accumul"):
        trainer(tmp_path, batch_size=4, accumulation=5)


def test_the_average_is_the_sum_of_all_weights_it_has_seen() -> None:
    parameter = torch.nn.Parameter(torch.tensor([4.0]))
    average = WeightAverage({"p": parameter}, decay=0.5)
    expected = 4.0
    for step, value in enumerate([1.0, -3.0, 7.0, 2.5, 0.0], start=1):
        parameter.data.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert float(average.values["p"]) == pytest.approx(expected, rel=1e-6)
    with average.applied():
        assert parameter.item() == pytest.approx(expected, rel=1e-6)
    assert parameter.item() == 0.0


def test_the_average_is_validated_and_kept_and_survives_a_stop(tmp_path: Path) -> None:
    plain, whole = trainer(tmp_path / "plain"), trainer(tmp_path / "whole", ema_decay=0.9)
    assert plain.run() != whole.run()
    state = load_checkpoint(checkpoints(tmp_path / "whole")[-1])
    assert_same(dict(state.weights), weights(plain))  # the average does not touch the training
    assert_same(dict(state.average), weights(whole))
    assert whole.validate() == whole.validate()
    with pytest.raises(StoppedError):
        trainer(tmp_path / "stopped", StoppingSource(5), ema_decay=0.9).run()
    again = trainer(tmp_path / "stopped", ema_decay=0.9)
    again.run()
    assert_same(weights(whole), weights(again))


def test_a_spike_is_told_only_after_the_loss_has_settled() -> None:
    guard = SpikeGuard(factor=3.0)
    early = [*(1.0,) * 10, 100.0, *(1.0,) * 39]
    assert not any(guard.spikes(loss) for loss in early)  # 50 losses, and one is large
    assert guard.spikes(100.0)
    guard = SpikeGuard(factor=3.0)
    assert not any(guard.spikes(1.0) for _ in range(60))
    assert guard.spikes(3.1)
    assert not guard.spikes(2.9)
    assert guard.mean == pytest.approx(1 + 0.02 * 1.9)
    assert not SpikeGuard(factor=None).spikes(math.inf)


class Spiking(PointSource):
    def batch(self, step: int) -> Points:
        points = super().batch(step)
        return Points(points.x, points.y * (100 if step == 55 else 1))


def test_a_spike_is_skipped_and_counted(tmp_path: Path) -> None:
    changes = {"steps": 60, "log_every": 1, "spike_factor": 20.0}
    one = trainer(tmp_path / "run", Spiking(), **changes)
    one.run()
    assert [row["step"] for row in rows(tmp_path / "run") if row.get("skipped")] == [56]
    with pytest.raises(StoppedError):
        trainer(tmp_path / "cut", CutSpiking(58), **changes).run()
    again = trainer(tmp_path / "cut", Spiking(), **changes)
    again.run()
    assert_same(weights(one), weights(again))


def test_a_skipped_step_leaves_the_average_as_it_is(tmp_path: Path) -> None:
    changes = {"spike_factor": 20.0, "ema_decay": 0.9, "checkpoint_every": 1, "keep_checkpoints": 9}
    trainer(tmp_path, Spiking(), steps=58, **changes).run()
    averages = {
        int(at.name.split("-")[1]): load_checkpoint(at).average for at in checkpoints(tmp_path)
    }
    for name, value in averages[55].items():
        assert torch.equal(averages[56][name], value)  # the step that is skipped
        assert not torch.equal(averages[57][name], value)


class CutSpiking(Spiking):
    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop

    def batch(self, step: int) -> Points:
        if step == self.stop:
            raise StoppedError
        return super().batch(step)


def test_a_spike_can_stop_the_run_before_its_step(tmp_path: Path) -> None:
    one = trainer(tmp_path, Spiking(), steps=60, spike_factor=20.0, on_spike="stop")
    with pytest.raises(FloatingPointError, match=r"before step 55 .* 20\.0 times its running mean"):
        one.run()
    assert one.step == 55
    assert load_file(tmp_path / "bad-batch-00000055.safetensors").keys() == {"x", "y"}


def test_the_batch_of_a_loss_that_is_not_finite_is_kept(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        trainer(tmp_path, PointSource(broken=5)).run()
    kept = load_file(tmp_path / "bad-batch-00000005.safetensors")
    assert torch.isnan(kept["y"]).all()
    assert torch.equal(kept["x"], PointSource().batch(5).x)


class Signalling(PointSource):
    def batch(self, step: int) -> Points:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step)


def test_a_signal_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run()
    before = signal.getsignal(signal.SIGTERM)
    one = trainer(tmp_path / "run", Signalling(), checkpoint_every=1000)
    with pytest.raises(RunStopped, match=r"SIGTERM: stage 'toy' stands at step 4 of 8"):
        one.run()
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoints(tmp_path / "run")[-1].name == "step-00000004"
    again = trainer(tmp_path / "run", checkpoint_every=1000)
    again.run()
    assert_same(weights(whole), weights(again))


def test_workers_make_the_same_batches(tmp_path: Path) -> None:
    alone, helped = trainer(tmp_path / "alone"), trainer(tmp_path / "helped", workers=1)
    assert helped.run() == alone.run()
    assert_same(weights(alone), weights(helped))


class Dying(PointSource):
    def batch(self, step: int) -> Points:
        if step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(step)


def test_a_dead_worker_is_told(tmp_path: Path) -> None:
    one = trainer(tmp_path / "run", Dying(), workers=1, checkpoint_every=2)
    with pytest.raises(ChildProcessError, match=r"stage 'toy': .*worker.*newest checkpoint"):
        one.run()
    again = trainer(tmp_path / "run", checkpoint_every=2)
    again.run()
    whole = trainer(tmp_path / "whole")
    whole.run()
    assert_same(weights(whole), weights(again))


class Unreadable(PointSource):
    def batch(self, step: int) -> Points:
        if step == 5:
            raise ValueError("film 7 is corrupt")
        return super().batch(step)


def test_a_sample_that_cannot_be_read_is_told_and_the_state_is_saved(tmp_path: Path) -> None:
    one = trainer(tmp_path, Unreadable(), checkpoint_every=1000)
    with pytest.raises(ValueError, match=r"before step 5 .*cannot be made: film 7 is corrupt"):
        one.run()
    assert checkpoints(tmp_path)[-1].name == "step-00000005"


class OneOfTwo:
    """The first of two processes; the other raises its flag at one moment."""

    rank, count, first, sharded = 0, 1, True, False
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.flags = iter([False] * 100)
        self.waited = 0

    def any(self, *, flag: bool) -> bool:
        return flag or next(self.flags)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def wait(self) -> None:
        self.waited += 1

    def quietly(self, *_: Any, **__: Any) -> Any:
        return contextlib.nullcontext()


def test_a_sample_that_only_another_process_cannot_read_stops_this_one_too(tmp_path: Path) -> None:
    one = trainer(tmp_path, checkpoint_every=1000)
    processes = OneOfTwo()
    one.processes = processes  # type: ignore[assignment]
    # before each step a flag for the batch, one for the losses, and after it one for signals
    processes.flags = iter([False] * 9 + [True])
    with pytest.raises(OSError, match=r"before step 3 .*another process says which sample"):
        one.run()
    assert checkpoints(tmp_path)[-1].name == "step-00000003"
    assert processes.waited == 1


_KILLED = """
import sys
from pathlib import Path
import torch
from tests.training.toys import PointSource, trainer
from unix_cxr.training.speed import gemm_peak
gemm_peak(torch.device("cpu"), "float32")  # now, so that the kills come while steps are taken
one = trainer(Path(sys.argv[1]), steps=150, checkpoint_every=3, log_every=1, ema_decay=0.9)
print("started", flush=True)
one.run()
"""


def _killed_until_done(folder: Path, delays: list[float]) -> int:
    """Run the toy stage, kill it after each delay, then let it end; returns how often it died."""
    died = 0
    for delay in [*delays, None]:
        process = subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(folder)], stdout=subprocess.PIPE
        )
        if process.stdout is None:
            raise OSError("the process has no output")
        process.stdout.readline()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            died += 1
        process.stdout.close()
    return died


@pytest.mark.parametrize(
    "delays",
    [
        pytest.param([0.05, 0.21, 0.4], id="3"),
        pytest.param([0.03 + 0.037 * k for k in range(20)], id="20", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    tmp_path: Path, delays: list[float]
) -> None:
    whole = trainer(tmp_path / "whole", steps=150, checkpoint_every=3, log_every=1, ema_decay=0.9)
    whole.run()
    died = _killed_until_done(tmp_path / "killed", delays)
    assert died >= 1
    last = load_checkpoint(checkpoints(tmp_path / "killed")[-1])
    assert_same(dict(last.average), weights(whole))
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    content = json.loads((checkpoints(tmp_path / "killed")[-1] / "state.json").read_text())
    assert content["step"] == 150


_DISTRIBUTED = """
import json, sys
from pathlib import Path
from tests.training.test_guards import Uneven
from tests.training.toys import trainer, weights
import tests.training.toys as toys
if sys.argv[2] == "unwrapped":
    toys.Trainer._terms = (lambda old: lambda self, objective, batch:
        old(self, self.objective, batch))(toys.Trainer._terms)
one = trainer(Path(sys.argv[1]), Uneven(), batch_size=7, accumulation=2, ema_decay=0.9)
losses = one.run()
if one.processes.first:
    values = {name: value.tolist() for name, value in weights(one).items()}
    (Path(sys.argv[1]) / "end.json").write_text(json.dumps([losses, values, one.processes.count]))
"""


def _two_processes(folder: Path, how: str) -> Any:
    run_twice(folder, _DISTRIBUTED, how)
    return json.loads((folder / "end.json").read_text(encoding="utf-8"))


def run_twice(folder: Path, script: str, *arguments: str) -> None:
    """Run a script under torchrun in two processes; the folder is its first argument."""
    folder.mkdir()
    (folder / "train.py").write_text(script, encoding="utf-8")
    command = [*starter(2), str(folder / "train.py"), str(folder), *arguments]
    run_processes(command, PYTHONPATH=str(Path(__file__).parents[2]))


_UNREADABLE = """
import os, sys
from pathlib import Path
from tests.training.test_guards import Unreadable
from tests.training.toys import PointSource, trainer
source = Unreadable() if int(os.environ["RANK"]) == int(sys.argv[2]) else PointSource()
try:
    trainer(Path(sys.argv[1]), source, checkpoint_every=1000).run()
except (ValueError, OSError) as error:
    told = f"{type(error).__name__}: {error}"
    (Path(sys.argv[1]) / f"told-{os.environ['RANK']}.txt").write_text(told)
"""


@pytest.mark.slow
@pytest.mark.parametrize("blind", [0, 1])
def test_all_processes_stop_when_one_cannot_read_a_sample(tmp_path: Path, blind: int) -> None:
    run_twice(tmp_path / "run", _UNREADABLE, str(blind))
    told = [(tmp_path / "run" / f"told-{rank}.txt").read_text() for rank in range(2)]
    assert told[blind].startswith("ValueError: stage 'toy' stops before step 5")
    assert "film 7 is corrupt" in told[blind]
    assert told[1 - blind].startswith("OSError: stage 'toy' stops before step 5")
    assert "another process says which sample" in told[1 - blind]
    assert checkpoints(tmp_path / "run")[-1].name == "step-00000005"


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    alone = trainer(tmp_path / "alone", Uneven(), batch_size=7, ema_decay=0.9)
    losses = alone.run()
    found, together, count = _two_processes(tmp_path / "two", "wrapped")
    assert count == 2
    assert_close("parts.losses", _tensor(found), _tensor(losses))
    for name, value in weights(alone).items():
        assert_close("parts.weights", torch.tensor(together[name]), value)


def test_gradients_that_bypass_the_wrapped_objective_are_noticed(tmp_path: Path) -> None:
    alone = trainer(tmp_path / "alone", Uneven(), batch_size=7, ema_decay=0.9)
    alone.run()
    _, together, _ = _two_processes(tmp_path / "two", "unwrapped")
    furthest = max(
        float((torch.tensor(together[k]) - v).abs().max()) for k, v in weights(alone).items()
    )
    assert furthest > 10 * TOLERANCES["parts.weights"].limit


def test_only_known_actions_on_a_spike() -> None:
    with pytest.raises(ValueError, match="on_spike"):
        settings(on_spike="ignore")
