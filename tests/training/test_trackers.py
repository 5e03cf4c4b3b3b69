"""Trackers get every row; what cannot be tracked is refused with the remedy."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from unix_cxr.training.runlog import CLOCKED
from unix_cxr.training.trackers import Trackers, check_trackers

from .toys import PointSource, settings, trainer


class MadeUp(GeneralTracker):
    """Remembers what it is told."""

    name = "made_up"
    requires_logging_directory = True
    main_process_only = True
    told: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, run_name: str, logging_dir: str) -> None:
        super().__init__()
        self.told.append(("made", (run_name, logging_dir)))

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        self.told.append(("started", None))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(("settings", values))

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.told.append(("row", {"step": step} | values))

    def finish(self) -> None:
        self.told.append(("finished", None))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "made_up", MadeUp)
    monkeypatch.setattr(MadeUp, "told", [])
    return MadeUp.told


def test_a_tracker_gets_every_row_of_the_log(tmp_path: Path, told: list[tuple[str, Any]]) -> None:
    trainer(tmp_path, trackers=["made_up"], log_every=3).run()
    kinds = [kind for kind, _ in told]
    assert kinds[:3] == ["made", "started", "settings"]
    assert kinds[-1] == "finished"
    assert told[0][1] == ("made_up", str(tmp_path))
    assert told[2][1]["learning_rate"] == 1e-3
    assert told[2][1]["objective.kind"] == "understanding"
    assert all(isinstance(value, bool | int | float | str) for value in told[2][1].values())
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [row for kind, row in told if kind == "row"] == [json.loads(line) for line in lines]


def test_a_tracker_is_closed_when_the_run_breaks(
    tmp_path: Path, told: list[tuple[str, Any]]
) -> None:
    with pytest.raises(FloatingPointError):
        trainer(tmp_path, PointSource(broken=3), trackers=["made_up"]).run()
    assert told[-1] == ("finished", None)


def test_numbers_that_are_not_finite_are_not_sent(
    tmp_path: Path, told: list[tuple[str, Any]]
) -> None:
    with Trackers(settings(trackers=["made_up"]), tmp_path) as trackers:
        trackers.log(3, {"good": 1.0, "bad": math.nan})
    assert ("row", {"step": 3, "good": 1.0}) in told


def test_processes_that_must_not_write_track_nothing(
    tmp_path: Path, told: list[tuple[str, Any]]
) -> None:
    with Trackers(settings(trackers=["made_up"]), tmp_path, writes=False) as trackers:
        trackers.log(3, {"good": 1.0})
    assert not told


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("tensorboard", r"pip install 'unix-cxr\[tensorboard\]'"), ("wandb", "pip install wandb")],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, remedy: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=rf"tracker '{name}' needs the package {name}: {remedy}"):
        trainer(tmp_path, trackers=[name])
    assert not list(tmp_path.iterdir())


def test_an_unknown_tracker_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no 'notebook'; it knows \['aim', .*'tensorboard'.*regi"):
        check_trackers(["notebook"])


def test_tensorboard_holds_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(tmp_path, trackers=["tensorboard"], log_every=2).run()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for key in ("error", "dev_error", "norm", "learning_rate"):
        assert key not in CLOCKED
        ours = [(row["step"], row[key]) for row in rows if key in row]
        theirs = [(scalar.step, scalar.value) for scalar in events.Scalars(key)]
        assert [step for step, _ in theirs] == [step for step, _ in ours]
        assert [value for _, value in theirs] == pytest.approx([value for _, value in ours])
