"""The loop: it stops before a bad step, goes on where it stopped, and nothing disturbs it."""

import errno
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from unix_cxr.training import checkpoints as checkpoints_module
from unix_cxr.training.batches import BatchOrder, batch_indices, generator_of
from unix_cxr.training.checkpoints import checkpoints, load_checkpoint
from unix_cxr.training.loop import Trainer
from unix_cxr.training.runlog import CLOCKED
from unix_cxr.training.schedule import learning_rate_factor

from .toys import PointSource, settings, trainer, weights


class StoppedError(Exception):
    """Stands for a power cut."""


class StoppingSource(PointSource):
    """Cuts the power before the batch of a step is made."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop

    def batch(self, step: int) -> Any:
        if step == self.stop:
            raise StoppedError
        return super().batch(step)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    contents: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in CLOCKED} for row in contents]


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 7])
def test_a_stopped_run_ends_as_if_it_had_not_stopped(tmp_path: Path, stop: int) -> None:
    whole = trainer(tmp_path / "whole")
    losses = whole.run()
    with pytest.raises(StoppedError):
        trainer(tmp_path / "stopped", StoppingSource(stop)).run()
    again = trainer(tmp_path / "stopped")
    assert again.run() == losses
    assert_same(weights(whole), weights(again))
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


def test_a_finished_stage_takes_no_further_step(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    losses = first.run()
    before = rows(tmp_path)
    source = PointSource()
    again = trainer(tmp_path, source)
    assert again.run() == losses
    assert not [step for step in source.steps if step < again.stage.steps]
    assert_same(weights(first), weights(again))
    assert rows(tmp_path) == before


def test_validation_does_not_disturb_training(tmp_path: Path) -> None:
    often, seldom = (trainer(tmp_path / str(every), validate_every=every) for every in (1, 1000))
    for one in (often, seldom):
        one.run()
        assert one.objective.training
    assert_same(weights(often), weights(seldom))
    often.objective.eval()
    state = torch.get_rng_state()
    often.validate()
    assert not often.objective.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_draws_nothing_from_the_process_generator(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    state = torch.get_rng_state()
    one.run()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_log_has_a_row_per_step_and_the_validations(tmp_path: Path) -> None:
    trainer(tmp_path, log_every=3, validate_every=4).run()
    found = rows(tmp_path)
    assert [row["step"] for row in found if "error" in row] == [3, 6, 8]
    assert [row["step"] for row in found if "dev_error" in row] == [4, 8]
    assert all({"learning_rate", "norm"} <= set(row) for row in found if "error" in row)


def test_rows_of_steps_that_are_taken_again_are_dropped(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        trainer(tmp_path, StoppingSource(5)).run()
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 5, "err')  # the power went off while a row was written
    assert trainer(tmp_path).restore()
    assert max(row["step"] for row in rows(tmp_path)) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path, value: float) -> None:
    one = trainer(tmp_path, PointSource(broken=5, value=value))
    with pytest.raises(
        FloatingPointError,
        match=r"stage 'toy' stops before step 5 .*no step was taken.*loss terms are not finite",
    ):
        one.run()
    assert one.step == 5
    reference = trainer(tmp_path / "reference", StoppingSource(5))
    with pytest.raises(StoppedError):
        reference.run()
    assert_same(weights(one), weights(reference))
    assert checkpoints(tmp_path)[-1].name == "step-00000004"


def test_a_gradient_that_is_not_finite_stops_before_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trainer(tmp_path)
    bias = one.learning["model.3.bias"]
    bias.register_hook(lambda grad: grad * (float("nan") if one.step == 3 else 1))
    with pytest.raises(
        FloatingPointError,
        match=r"stops before step 3 .*gradients are not finite, of 1 parameters.*model\.3\.bias",
    ):
        one.run()
    assert one.step == 3
    assert all(torch.isfinite(value).all() for value in one.learning.values())
    assert all(value.grad is None for value in one.learning.values())


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    one = trainer(tmp_path, clip_norm=1e-3)
    seen: list[float] = []
    step = one.optimizer.step

    def remember(*arguments: Any, **named: Any) -> Any:
        grads = [parameter.grad for parameter in one.learning.values()]
        seen.append(float(torch.cat([g.flatten() for g in grads if g is not None]).norm()))
        return step(*arguments, **named)

    one.optimizer.step = remember  # type: ignore[method-assign]
    one.run()
    assert len(seen) == 8
    assert max(seen) <= 1e-3 * (1 + 1e-4)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError(
            'Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No '
            'space left on device" }'
        ),
    ],
)
@pytest.mark.parametrize("failing", ["weights", "optimizer"])
def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, failing: str
) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run()
    one = trainer(tmp_path / "run")
    save = checkpoints_module.save_file

    def save_until_full(tensors: dict[str, Tensor], file: Path) -> None:
        if one.step == 6 and failing in file.name:
            file.write_bytes(b"half a file")
            raise error
        save(tensors, file)

    monkeypatch.setattr(checkpoints_module, "save_file", save_until_full)
    with pytest.raises(
        OSError,
        match=r"no space left .* checkpoint .*step-00000006 \(the older checkpoint step-00000004 "
        r"is untouched\); free some space and run the same command again",
    ) as caught:
        one.run()
    assert caught.value.errno == errno.ENOSPC
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["events.jsonl", "log.jsonl", "step-00000002", "step-00000004"]
    monkeypatch.undo()
    again = trainer(tmp_path / "run")
    again.run()
    assert_same(weights(whole), weights(again))


def test_other_errors_of_safetensors_are_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise SafetensorError("something else")

    monkeypatch.setattr(checkpoints_module, "save_file", fail)
    with pytest.raises(SafetensorError, match="something else"):
        trainer(tmp_path).run()


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("weights.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("optimizer.safetensors", lambda data: data[: len(data) // 2]),
        ("state.json", lambda data: data[: len(data) // 2]),
        ("state.json", lambda _: b"[]"),
        ("state.json", lambda _: b"\xff\xfe"),
        ("weights.safetensors", None),
    ],
)
def test_a_damaged_newest_checkpoint_is_named_and_passed_over(
    tmp_path: Path, file: str, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trainer(tmp_path / "run")
    whole.run()
    path = checkpoints(tmp_path / "run")[-1] / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    again = trainer(tmp_path / "run")
    again.run()
    assert_same(weights(whole), weights(again))
    if file != "state.json" or damage is not None:
        assert f"step-00000008/{file} is damaged" in caplog.text
    assert re.search(r"going on from .*step-00000006", caplog.text)


def test_nothing_is_trained_anew_when_all_checkpoints_are_damaged(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    for path in checkpoints(tmp_path):
        (path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole: .*step-00000008/weights"):
        trainer(tmp_path).run()


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, trains=["model.0.*"]).run()
    with pytest.raises(ValueError, match=r"missing: \['model\.3\.bias', 'model\.3\.weight'\]"):
        trainer(tmp_path).run()


def test_a_parameter_that_broadcasts_is_of_another_shape(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    one = trainer(tmp_path)
    bias = torch.nn.Parameter(torch.zeros(8))
    one.learning["model.3.bias"] = bias
    with pytest.raises(ValueError, match=r"another shape: \['model\.3\.bias \[1\] instead of \[8"):
        one.restore()


def test_what_no_longer_learns_keeps_its_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = trainer(tmp_path)
    first.run()
    again = trainer(tmp_path, trains=["model.0.*"])
    before = again.objective.model[3].bias.detach().clone()  # type: ignore[index,union-attr]
    again.recipe = first.recipe
    assert again.restore()
    assert torch.equal(again.objective.model[3].bias, before)  # type: ignore[index,union-attr]
    assert_same(
        weights(again), {k: v for k, v in weights(first).items() if k.startswith("model.0")}
    )
    assert "2 parameters that do not learn any more" in caplog.text


def test_what_learns_but_is_never_reached_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = trainer(tmp_path)
    idle = torch.nn.Parameter(torch.zeros(2))
    one.learning["model.idle"] = idle
    one.optimizer.add_param_group({"params": [idle]})
    one.run()
    assert caplog.text.count("1 learning parameters get no gradient and stay as they are") == 1
    assert not idle.any()


def test_only_two_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer(tmp_path, checkpoint_every=1).run()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000007", "step-00000008"]


def test_a_checkpoint_holds_no_pickle_and_says_where_it_stands(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    path = checkpoints(tmp_path)[-1]
    assert sorted(file.name for file in path.iterdir()) == [
        "optimizer.safetensors",
        "state.json",
        "weights.safetensors",
    ]
    state = load_checkpoint(path)
    assert (state.step, state.recipe) == (8, "{}")
    assert set(state.optimizer) == {
        f"{name}/{entry}" for name in state.weights for entry in ("exp_avg", "exp_avg_sq", "step")
    }


def test_a_checkpoint_without_a_beginning_is_read(tmp_path: Path) -> None:
    """Checkpoints of before `started_from` stay loadable."""
    one = trainer(tmp_path)
    one.run()
    path = checkpoints(tmp_path)[-1] / "state.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["started_from"]
    path.write_text(json.dumps(content), encoding="utf-8")
    again = trainer(tmp_path)
    again.started_from = {"model": "anything"}
    assert again.restore()


def test_a_checkpoint_that_began_from_other_weights_is_refused(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    one.started_from = {"model": "these", "vae": "same"}
    one.run()
    again = trainer(tmp_path)
    again.started_from = {"model": "those", "vae": "same"}
    with pytest.raises(ValueError, match=r"began from other weights of model; go back .* remove"):
        again.run()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_precisions_learn_and_keep_float32_weights(tmp_path: Path, precision: str) -> None:
    one = trainer(tmp_path, precision=precision, learning_rate=0.02)
    before = one.validate()["dev_error"]
    assert one.run()["dev_error"] < before
    assert {value.dtype for value in one.learning.values()} == {torch.float32}


def test_bfloat16_is_really_used(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []
    one = trainer(tmp_path, precision="bfloat16")
    linear: Any = one.objective.model[0]  # type: ignore[index]
    linear.register_forward_hook(lambda *parts: seen.append(parts[-1].dtype))
    one.run()
    assert set(seen) == {torch.bfloat16}


def test_the_progress_bar_is_quiet_where_nobody_looks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer(tmp_path).run()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_the_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    cosine = settings(warmup_steps=4, schedule="cosine")
    factors = [learning_rate_factor(step, cosine) for step in range(9)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[8] == pytest.approx(0.01)
    assert all(a >= b for a, b in itertools.pairwise(factors[4:]))
    constant = settings(warmup_steps=0, schedule="constant")
    assert {learning_rate_factor(step, constant) for step in range(9)} == {1.0}


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own() -> None:
    chosen = torch.cat([batch_indices(10, 4, step, seed=0) for step in range(5)])
    for epoch in chosen.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(chosen[:10], chosen[10:])
    assert not torch.equal(batch_indices(10, 10, 0, seed=0), batch_indices(10, 10, 0, seed=1))


def test_batches_of_similar_length_still_see_every_sample_once() -> None:
    lengths = torch.randint(5, 60, (103,), generator=generator_of(4))
    plain = BatchOrder(103, 8, seed=0)
    bucketed = BatchOrder(103, 8, seed=0, lengths=lengths, window=6)
    chosen = torch.cat([bucketed.batch(step) for step in range(39)])
    for epoch in chosen[:309].split(103):
        assert sorted(epoch.tolist()) == list(range(103))
    assert not torch.equal(chosen[:103], chosen[103:206])

    def padding(order: BatchOrder) -> int:
        found = [lengths[order.batch(step)] for step in range(12)]
        return sum(int((batch.max() - batch).sum()) for batch in found)

    assert padding(bucketed) < 0.4 * padding(plain)
    fresh = BatchOrder(103, 8, seed=0, lengths=lengths, window=6)
    assert torch.equal(fresh.batch(30), bucketed.batch(30))


def test_generators_differ_by_any_number() -> None:
    drawn = {
        float(torch.rand((), generator=generator_of(*numbers)))
        for numbers in [(0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0)]
    }
    assert len(drawn) == 6


def test_a_pattern_of_the_stage_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'vae\.\*' matches no parameter"):
        Trainer(
            torch.nn.Linear(1, 1),
            PointSource(),
            settings(trains=["vae.*"]),
            tmp_path,
            recipe="",
            device=torch.device("cpu"),
        )
