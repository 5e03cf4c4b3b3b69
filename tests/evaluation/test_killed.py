"""`unix-cxr evaluate model` is killed while it measures, and goes on where it was."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.evaluation.phantoms import phantoms
from tests.pipelines.conftest import build_pipeline
from unix_cxr.evaluation.contact_sheet import to_pil
from unix_cxr.evaluation.row_store import RowStore

PATIENCE = 400


def write_data(folder):
    """24 X-rays to learn from and 14 to be measured on, half of them with pneumonia."""
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "split", "subset", "view", "labels", "patient_id", "sex", "age"])
        for split, count in (("train", 24), ("dev", 14)):
            xrays = phantoms(count, split)
            for row, image in enumerate(xrays.images):
                name = f"{split}{row}.png"
                to_pil(image).save(folder / name)
                label = "Bacterial Pneumonia" if xrays.pneumonia[row] else "Normal"
                table.writerow([name, split, "made", "AP", label, f"{split}{row}", "", ""])


def started(model, data, out):
    command = [sys.executable, "-m", "unix_cxr", "evaluate", "model", str(model)]
    command += ["--data", str(data), "--split", "dev", "--out", str(out), "--device", "cpu"]
    command += ["--steps", "2", "--batch-size", "4", "--max-new-tokens", "6"]
    command += ["--replicates", "20", "--heavy-replicates", "3"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process):
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said[-4000:]


def kept(out):
    """When everything that is kept was written: drawn X-rays, reports, features, scores."""
    paths = [out / "predictions.jsonl", *(out / "drawn").glob("*.png")]
    paths += (out / "cache").rglob("*.safetensors")
    return {path.relative_to(out): path.stat().st_mtime_ns for path in paths}


def rows_of(out):
    """What each folder of the cache holds; nothing is there twice."""
    found: dict[str, list[str]] = {}
    for path in (out / "cache").rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found.setdefault(path.parent.name, []).extend(json.loads(file.metadata()["images"]))
    assert all(len(set(rows)) == len(rows) for rows in found.values())
    return {folder: set(rows) for folder, rows in found.items()}


def cache_files(out):
    return set((out / "cache").rglob("*.safetensors"))


def kill_when(process, out, before, count):
    """SIGKILL as soon as the cache has `count` files more than `before`."""
    until = time.monotonic() + PATIENCE
    while len(cache_files(out) - before) < count:
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_measured_goes_on(tmp_path):
    model, data = tmp_path / "model", tmp_path / "data"
    build_pipeline().save_pretrained(model)
    write_data(data)
    finish(started(model, data, tmp_path / "whole"))
    wanted = (tmp_path / "whole/metrics.json").read_text(encoding="utf-8")
    assert len(json.loads(wanted)["metrics"]) > 60

    out = tmp_path / "killed"
    before: dict[Path, int] = {}
    for count in (1, 4, 4):  # X-rays' features, scores of texts, probes of masked X-rays
        there = cache_files(out)
        process = started(model, data, out)
        kill_when(process, out, there, count)
        assert not (out / "metrics.json").exists()
        now = kept(out)
        assert before.items() <= now.items()  # what was there was not made again
        assert len(now) > len(before)
        before = now
    finish(started(model, data, out))
    assert before.items() <= kept(out).items()
    assert (out / "metrics.json").read_text(encoding="utf-8") == wanted
    assert rows_of(out) == rows_of(tmp_path / "whole")


def test_rows_are_written_when_they_are_many_or_old(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr("unix_cxr.evaluation.row_store._ROWS", 3)
    clock = [0.0]
    monkeypatch.setattr("unix_cxr.evaluation.row_store.time.monotonic", lambda: clock[0])
    store = RowStore(tmp_path, {"by": "x"})
    rows = {str(n): torch.tensor([float(n)]) for n in range(5)}

    def files():
        return sorted(tmp_path.rglob("*.safetensors"))

    store.keep({one: rows[one] for one in "01"})
    assert not files()
    assert set(store.known("014")) == {"0", "1"}
    store.keep({"2": rows["2"]})
    assert len(files()) == 1
    clock[0] = 11.0
    store.keep({"3": rows["3"]})
    assert len(files()) == 2
    with store:
        store.keep({"4": rows["4"]})
    assert len(files()) == 3
    again = RowStore(tmp_path, {"by": "x"}).known(rows)
    assert {one: float(row) for one, row in again.items()} == {str(n): n for n in range(5)}
    assert not RowStore(tmp_path, {"by": "y"}).known(rows)
