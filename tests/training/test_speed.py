"""Speed: arithmetic that is counted, tokens, the machine's peak, norms, and the clock's shares."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unix_cxr.training import progress as progress_module
from unix_cxr.training.batches import CaptionedLatentBatch, ImageBatch, ReportBatch
from unix_cxr.training.norms import gradient_norms
from unix_cxr.training.progress import Progress
from unix_cxr.training.runlog import CLOCKED
from unix_cxr.training.speed import ArithmeticCounter, gemm_peak, tokens_of

from .test_loop import assert_same
from .toys import PointSource, settings, trainer, weights

CPU = torch.device("cpu")


def test_arithmetic_is_counted_forward_and_backward() -> None:
    layer = nn.Linear(7, 5)
    x = torch.randn(3, 7, requires_grad=True)
    with ArithmeticCounter() as counter:
        layer(x).sum().backward()
    assert counter.total == 3 * (2 * 3 * 7 * 5)  # forward, the input's gradient, the weight's


def test_arithmetic_agrees_with_torchs_counter_where_that_counts() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 6)
    )
    x = torch.randn(2, 1, 8, 8)
    with FlopCounterMode(display=False) as theirs:
        network(x).square().sum().backward()
    network.zero_grad()
    with ArithmeticCounter() as ours:
        network(x).square().sum().backward()
    assert ours.total == theirs.get_total_flops() > 0


def test_attention_on_a_cpu_is_counted() -> None:
    query, key, value = (torch.randn(2, 3, n, 16, requires_grad=True) for n in (8, 12, 12))
    product = 2 * 2 * 3 * 8 * 12 * 16
    with ArithmeticCounter() as counter:
        out = F.scaled_dot_product_attention(query, key, value)
    assert counter.total == 2 * product
    with ArithmeticCounter() as counter:
        out.sum().backward()
    assert counter.total == 5 * product  # scores again, and four gradients


def test_the_peak_is_that_of_a_large_product() -> None:
    peak = gemm_peak(CPU, "float32")
    assert peak == gemm_peak(CPU, "float32")  # measured once
    assert 1e8 < peak < 1e15


def test_tokens_are_those_of_texts_images_and_latents() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    reading = ReportBatch(mask, mask, torch.zeros(2, 3, 4, 4), mask)
    assert tokens_of(reading, nn.Identity()) == 5
    latents = torch.zeros(2, 4, 8, 8)
    drawing = CaptionedLatentBatch(latents, latents, torch.ones(2), mask, mask.bool())
    assert tokens_of(drawing, nn.Identity()) == 5 + 2 * (64 + 2)

    class Patched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Identity()
            self.model.config = type("Config", (), {"latent_patch_size": 2})  # type: ignore[assignment]

    assert tokens_of(drawing, Patched()) == 5 + 2 * (16 + 2)
    images = ImageBatch(torch.zeros(2, 1, 8, 8), torch.zeros(2, 4, 4, 4))
    assert tokens_of(images, nn.Identity()) == 0
    assert tokens_of(PointSource().batch(0), nn.Identity()) == 0


def test_norms_of_parts_make_the_norm_of_all() -> None:
    gradients = {
        "model.vision.a": torch.tensor([3.0, 4.0]),
        "model.vision.b": torch.tensor([12.0]),
        "model.generation.c": torch.tensor([[84.0]]),
        "vae.d": torch.tensor([720.0 / 85 * 85]),
    }
    found = {name: float(value) for name, value in gradient_norms(gradients).items()}
    assert found["norm_vision"] == pytest.approx(13)
    assert found["norm_generation"] == pytest.approx(84)
    assert found["norm_vae"] == pytest.approx(720)
    whole = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
    assert found["norm"] == pytest.approx(float(whole))
    alone = gradient_norms({"model.vision.a": gradients["model.vision.a"]})
    assert {name: float(value) for name, value in alone.items()} == {"norm": 5.0}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def test_speeds_leave_out_what_is_no_training(clock: Clock) -> None:
    with Progress(settings(steps=10, batch_size=4), 2, shown=False, peak=1000.0) as progress:
        progress.arithmetic = 500
        for _ in range(4):
            with progress.waiting():
                clock.now += 0.25
            clock.now += 0.75
            progress.took({"error": 2.0}, tokens=30)
        with progress.aside():
            clock.now += 6.0  # a validation
        found = progress.row(6)
        assert found == {
            "error": 2.0,
            "samples_per_second": pytest.approx(4.0),
            "tokens_per_second": pytest.approx(30.0),
            "waiting_share": pytest.approx(0.25),
            "gemm_share": pytest.approx(0.5),
            "seconds_left": pytest.approx(4 * 10.0 / 4),  # validations come again, so they count
        }
        clock.now += 1.0
        progress.took({"error": 5.0}, tokens=30)
        assert progress.row(7)["error"] == 5.0  # a row begins anew


def test_the_log_says_how_fast_and_how_large(tmp_path: Path) -> None:
    import json

    trainer(tmp_path).run()
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    first: dict[str, Any] = json.loads(lines[0])
    assert CLOCKED - set(first) == {"tokens_per_second"}  # points are no tokens
    assert first["gemm_share"] > 0
    parts = [first["norm_0"], first["norm_3"]]
    assert first["norm"] == pytest.approx(sum(part**2 for part in parts) ** 0.5)


def test_counting_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = trainer(tmp_path / "counted")
    counted.run()
    plain = trainer(tmp_path / "plain")
    monkeypatch.setattr(plain, "_counted_step", lambda batch, _: plain._step(batch))
    plain.run()
    assert_same(weights(counted), weights(plain))
