"""The recorded cheats: every one is caught, honest X-rays are not, and the guide shows the run."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from unix_cxr.evaluation.results import Interval, MetricResult

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results/evaluation_cheats.json"
GUIDE = ROOT / "docs/guides/evaluation.md"


@pytest.fixture(scope="module")
def bench():
    folder = ROOT / "benchmarks"
    spec = importlib.util.spec_from_file_location("bench", folder / "bench_evaluation.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)  # where a script finds its neighbours
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tree():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_recorded_run_let_no_cheat_through(bench, tree):
    caught = {name: one["caught_by"] for name, one in tree["sets"].items()}
    assert set(bench.TELLING) <= set(caught)
    assert tree["let_through"] == bench.let_through(caught) == []
    assert caught["unseen"] == []
    # other honest X-rays may only differ where neither end is the good one
    assert set(caught["unseen (others)"]) <= {"vendi", "ms_ssim"}
    for name, metric in (
        ("fixed", "coverage"),
        ("fixed", "recall"),
        ("copies", "near_train/pixels"),
        ("copies_mirrored", "near_train/pixels"),
        ("copies_halves", "near_train/halves"),
        ("ten_jittered", "repeated"),
        ("unseen_blurred_1", "sharpness/middle"),
        ("unseen_faded", "tone"),
        ("unseen_swapped", "auroc/label_agreement"),
        ("unseen_swapped", "auroc/use/drawn"),
    ):
        assert metric in caught[name], (name, metric)
    # without the halves a collage would be as near as honest X-rays come
    assert "near_train/pixels" not in caught["copies_halves"]


def test_what_only_flags_that_take_honest_xrays_for_cheats_catch_is_let_through(bench):
    caught = {bench.HONEST: [], bench.CONTROL: ["ms_ssim"], "copies": ["ms_ssim"], "noise": ["kd"]}
    assert bench.let_through(caught) == ["copies"]


def test_the_guide_shows_the_recorded_run(bench, tree):
    assert bench.table(tree) in GUIDE.read_text(encoding="utf-8")


def result(value, low, high, *, better=True):
    interval = Interval(low, high, "made up")
    return MetricResult("fd", value, interval, 5, None, "", False, better)


def test_a_set_is_caught_where_both_intervals_say_so(bench):
    honest = result(0.9, 0.8, 1.0)

    def caught(found):
        return bench.catching({"fd": honest}, {"fd": found}) == ["fd"]

    assert caught(result(0.5, 0.4, 0.6))
    assert not caught(result(0.75, 0.5, 0.95))  # its own interval holds the honest value
    assert not caught(result(0.85, 0.84, 0.86))  # lies in the honest interval
    assert not caught(result(1.2, 1.1, 1.3))  # on the good side
    turned = {"fd": replace(honest, higher_is_better=False)}
    assert bench.catching(turned, {"fd": result(1.2, 1.1, 1.3)}) == ["fd"]
    either = {"fd": replace(honest, higher_is_better=None)}
    assert bench.catching(either, {"fd": result(1.2, 1.1, 1.3)}) == ["fd"]
