"""The best step by a metric: kept, found again after a stop, exported and said."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from unix_cxr.training.best import BestKeeper, known_metrics
from unix_cxr.training.checkpoints import checkpoints, load_checkpoint

from .test_loop import StoppedError, StoppingSource, assert_same
from .toys import Points, PointSource, settings, trainer, weights

BEST = {
    "keep_best": "dev_error",
    "validate_every": 2,
    "steps": 10,
    "learning_rate": 0.1,
    "betas": [0.2, 0.5],
    "schedule": "constant",
    "clip_norm": 1e9,
}


class Turning(PointSource):
    """Points that are turned round from step 5 on, so that the dev loss falls and rises again."""

    def batch(self, step: int) -> Points:
        points = super().batch(step)
        return points if step < 5 or step >= 10_000 else Points(points.x, -20 * points.y)


class StoppingTurning(Turning, StoppingSource):
    """The same until the power is cut."""


def best_rows(folder: Path) -> dict[int, float]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return {row["step"]: row["dev_error"] for row in found if "dev_error" in row}


def test_the_best_step_is_exported_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = trainer(tmp_path, Turning(), **BEST)
    with caplog.at_level("INFO"):
        losses = one.run()
    values = best_rows(tmp_path)
    best = min(values, key=lambda step: values[step])
    assert best not in {2, 10}
    assert losses == {"dev_error": values[best]}
    assert one.validate()["dev_error"] == pytest.approx(values[best], rel=1e-6)
    assert one.exported == {
        "exported": "best",
        "exported_step": best,
        "metric": "dev_error",
        "value": values[best],
    }
    assert f"dev_error was best at step {best}" in caplog.text
    assert [path.name for path in tmp_path.glob("best-*")] == [f"best-{best:08d}"]
    kept = load_file(tmp_path / f"best-{best:08d}" / "weights.safetensors")
    assert_same(kept, weights(one))
    last = load_checkpoint(checkpoints(tmp_path)[-1])
    assert not all(torch.equal(kept[name], value) for name, value in last.weights.items())


def test_without_it_the_last_step_is_exported(tmp_path: Path) -> None:
    one = trainer(tmp_path, Turning(), **(BEST | {"keep_best": None}))
    one.run()
    assert one.exported == {"exported": "last", "exported_step": 10}
    assert not list(tmp_path.glob("best-*"))


@pytest.mark.parametrize("decay", [None, 0.5])
@pytest.mark.parametrize("stop", [3, 5, 7, 9])
def test_the_best_step_survives_a_stop(tmp_path: Path, stop: int, decay: float | None) -> None:
    changes = BEST | {"ema_decay": decay, "checkpoint_every": 3}
    whole = trainer(tmp_path / "whole", Turning(), **changes)
    losses = whole.run()
    with pytest.raises(StoppedError):
        trainer(tmp_path / "cut", StoppingTurning(stop), **changes).run()
    again = trainer(tmp_path / "cut", Turning(), **changes)
    assert again.run() == losses
    assert again.exported == whole.exported
    assert_same(weights(whole), weights(again))


def test_a_best_step_that_no_checkpoint_knows_is_found_again(tmp_path: Path) -> None:
    """Killed between the best step and the next checkpoint: the older best must still be there."""
    changes = BEST | {"checkpoint_every": 3, "keep_checkpoints": 1}
    with pytest.raises(StoppedError):
        trainer(tmp_path, StoppingTurning(4), **changes).run()
    assert [path.name for path in sorted(tmp_path.glob("best-*"))] == [
        "best-00000002",
        "best-00000004",
    ]
    again = trainer(tmp_path, Turning(), **changes)
    assert again.restore()
    assert again.best.best is not None
    assert again.best.best.step == 2
    assert_same(again.best.load(), load_file(tmp_path / "best-00000002" / "weights.safetensors"))


def test_an_older_checkpoint_still_has_its_best_step(tmp_path: Path) -> None:
    """The newest checkpoint calls step 4 the best and is damaged; the one before it says step 2."""
    changes = BEST | {"checkpoint_every": 3}
    with pytest.raises(StoppedError):
        trainer(tmp_path, StoppingTurning(7), **changes).run()
    (checkpoints(tmp_path)[-1] / "weights.safetensors").write_bytes(b"")
    again = trainer(tmp_path, Turning(), **changes)
    assert again.restore()
    assert again.best.best is not None
    assert (again.step, again.best.best.step) == (3, 2)
    assert again.best.load().keys() == again.learning.keys()
    again.run()
    assert [path.name for path in tmp_path.glob("best-*")] == ["best-00000004"]


def test_a_finished_stage_exports_its_best_step_again(tmp_path: Path) -> None:
    first = trainer(tmp_path, Turning(), **BEST)
    losses = first.run()
    again = trainer(tmp_path, Turning(), **BEST)
    assert again.run() == losses
    assert_same(weights(first), weights(again))


def test_a_damaged_best_step_is_not_exported(tmp_path: Path) -> None:
    trainer(tmp_path, Turning(), **BEST).run()
    file = next(tmp_path.glob("best-*")) / "weights.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"best step is missing or damaged \(its checksum.*null"):
        trainer(tmp_path, Turning(), **BEST).run()
    shutil.rmtree(file.parent)
    with pytest.raises(ValueError, match=r"best step is missing or damaged .*keep_best: null"):
        trainer(tmp_path, Turning(), **BEST).run()
    trainer(tmp_path, Turning(), **(BEST | {"keep_best": None})).run()


def test_an_unknown_metric_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"keep_best 'dev_velocity' is no metric that it measures; it measures "
        r"\['dev_error'\] \(dev_fd and dev_report_f1 where its key measure asks",
    ):
        trainer(tmp_path, keep_best="dev_velocity")


@pytest.mark.parametrize(
    ("values", "best"),
    [([3.0, 1.0, 1.0, 2.0], 1), ([math.nan, 5.0, math.nan], 1), ([math.nan], None)],
)
def test_less_is_better_but_for_f1(tmp_path: Path, values: list[float], best: int | None) -> None:
    stage: dict[str, Any] = {"measure": {"fd": 2, "reports": 2, "every": 1}}
    for metric, sign in (("dev_fd", 1), ("dev_report_f1", -1)):
        one = settings(keep_best=metric, **stage)
        assert known_metrics(one, ["a", "b"]) == {
            "dev_a": False,
            "dev_b": False,
            "dev_loss": False,
            "dev_fd": False,
            "dev_report_f1": True,
        }
        keeper = BestKeeper(tmp_path, one, ["a"])
        for step, value in enumerate(values):
            measured = {metric: sign * value}
            if keeper.is_better(measured):
                keeper.take(step, measured, {"w": torch.tensor(value)}, writes=False)
        assert (None if keeper.best is None else keeper.best.step) == best


def test_another_metric_forgets_the_best_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = BestKeeper(tmp_path, settings(keep_best="dev_error"), ["error"])
    keeper.restore({"metric": "dev_other", "value": 1.0, "step": 2, "losses": {}})
    assert keeper.best is None
    assert "knows the best step by dev_other; the best by dev_error is looked for" in caplog.text
