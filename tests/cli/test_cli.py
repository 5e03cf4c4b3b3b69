"""The command line as a user meets it: outcomes, JSON, files, and errors in one line."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.pipelines.conftest import build_pipeline
from unix_cxr.pipelines.marking import is_marked_synthetic

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., Outcome]:
    def call(*arguments: object) -> Outcome:
        from unix_cxr.cli import main

        monkeypatch.setattr(sys, "argv", ["unix-cxr", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def xrays(tmp_path) -> Path:
    folder = tmp_path / "xrays"
    folder.mkdir()
    generator = np.random.default_rng(3)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(generator.integers(0, 256, (40, 40), dtype=np.uint8)).save(folder / name)
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestGenerate:
    def test_one_prompt(self, run, model, tmp_path):
        out = tmp_path / "drawn"
        outcome = run("generate", "No pneumonia.", "--model", model, "--out", out, "--count", 2)
        assert outcome.status == 0
        assert outcome.out.startswith("2 drawn, 0 already there")
        files = sorted(out.glob("*.png"))
        assert len(files) == 2
        assert all(is_marked_synthetic(path) for path in files)

    def test_a_table_goes_on_where_it_stopped(self, run, model, tmp_path):
        table = tmp_path / "prompts.csv"
        table.write_text("id,prompt\np1,No pneumonia.\np2,Viral pneumonia.\n")
        out = tmp_path / "drawn"
        arguments = ("generate", "--prompts", table, "--model", model, "--out", out, "--json")
        first = json.loads(run(*arguments).out)
        assert (first["drawn"], first["kept"], first["network_calls"]) == (2, 0, 4)
        whole = (out / "p1-0.png").read_bytes()
        (out / "p2-0.png").write_bytes(b"cut off")
        with (out / "manifest.jsonl").open("a") as file:
            file.write('{"file": "p3')  # a run that was killed while it wrote
        second = json.loads(run(*arguments).out)
        assert (second["drawn"], second["kept"]) == (1, 1)
        assert (out / "p1-0.png").read_bytes() == whole
        assert is_marked_synthetic(out / "p2-0.png")

    def test_jsonl_and_manifest(self, run, model, tmp_path):
        table = tmp_path / "prompts.jsonl"
        table.write_text('{"id": "x", "prompt": "Viral pneumonia."}\n')
        out = tmp_path / "drawn"
        assert run("generate", "--prompts", table, "--model", model, "--out", out).status == 0
        (row,) = rows(out / "manifest.jsonl")
        assert row["prompt_id"] == "x"
        assert row["seed"] == 0
        assert len(row["sha256"]) == 64
        assert "prompt" not in row

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,text\na,b\n", r"line 2: ['prompt'] is missing or empty"),
            ("id,prompt\na,\n", r"line 2: ['prompt'] is missing or empty"),
            ("id,prompt\na,x\na,y\n", "id 'a' is in line 2 too"),
            ("id,prompt\n../a,x\n", "id '../a' cannot be a file name"),
            ("id,prompt\n", "holds no prompts"),
        ],
    )
    def test_bad_tables(self, run, model, tmp_path, text, message):
        table = tmp_path / "prompts.csv"
        table.write_text(text)
        outcome = run("generate", "--prompts", table, "--model", model, "--out", tmp_path / "o")
        assert outcome.status == 1
        assert outcome.err.startswith("error: ")
        assert message in outcome.err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "give either a prompt or --prompts FILE"),
            (("",), "prompt '' is empty"),
            (("x", "--guidance-scale", "nan"), "guidance scale (nan)"),
            (("x", "--steps", "0"), "num_inference_steps (0) must be at least 1"),
            (("x", "--solver", "deis"), "solver ('deis') must be one of ['euler', 'unipc']"),
            (("x", "--device", "tpu"), "device 'tpu' cannot be used here"),
            (("x", "--dtype", "int8"), "dtype ('int8') must be one of"),
        ],
    )
    def test_bad_arguments(self, run, model, tmp_path, arguments, message):
        outcome = run("generate", *arguments, "--model", model, "--out", tmp_path / "o")
        assert outcome.status == 1
        assert message in outcome.err

    def test_a_missing_model(self, run, tmp_path):
        outcome = run("generate", "x", "--model", tmp_path / "none", "--out", tmp_path)
        assert outcome.status == 1
        assert "no folder at" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "x", "--out", "a file"), "is a file"),
        (("report", "x", "--out", "a folder"), "is a directory"),
        (("clean", "x", "--out", "a folder"), "is a directory"),
        (("train", "run", "x.yaml", "--out", "a file"), "is a file"),
        (("train", "lora", "nano", "--data", "x", "--out", "a file"), "is a file"),
        (("data", "prepare", "x", "--out", "a file"), "is a file"),
        (("demo", "--out", "a file"), "is a file"),
        (("demo", "--image", "absent.png"), "does not exist"),
        (("generate", "x", "--model", "a file"), "a file is a file; give the folder of a pipeline"),
        (("generate", "x", "--model", "nan"), "no model 'nan': bundled is nano, a folder must be"),
        (("convert", "janus", "absent", "t", "--vae", "x"), "no folder at absent"),
    ],
)
def test_a_path_of_the_wrong_kind_is_told_before_any_work(
    run, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").write_text("x")
    (tmp_path / "a folder").mkdir()
    outcome = run(*arguments)
    assert outcome.status in {1, 2}
    assert message in " ".join(outcome.err.replace("│", " ").split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "a folder"]


@pytest.mark.parametrize("name", [None, "torch"])
def test_a_library_that_is_missing_is_one_line_where_we_say_what_to_install(run, monkeypatch, name):
    import unix_cxr.cli

    def fail() -> None:
        raise ImportError("reading parquet needs pyarrow: pip install it", name=name)

    monkeypatch.setattr(unix_cxr.cli, "app", fail)
    if name is None:
        assert run().err == "error: reading parquet needs pyarrow: pip install it\n"
    else:
        with pytest.raises(ImportError, match="pyarrow"):
            run()


class TestReport:
    def test_a_folder_and_what_cannot_be_read(self, run, model, xrays, tmp_path):
        (xrays / "c.png").write_bytes(b"not a picture")
        out = tmp_path / "reports.jsonl"
        outcome = run("report", xrays, "--model", model, "--out", out, "--max-new-tokens", 4)
        assert outcome.status == 0
        assert "2 reports in" in outcome.out
        assert "1 images unreadable" in outcome.out
        assert "c.png" in outcome.err
        written = rows(out)
        assert [Path(row["image"]).name for row in written] == ["a.png", "b.jpg", "c.png"]
        assert [row["error"] is None for row in written] == [True, True, False]

    def test_nothing_readable_is_a_failure(self, run, model, tmp_path):
        bad = tmp_path / "bad.png"
        bad.write_bytes(b"\0" * 100)
        assert run("report", bad, "--model", model).status == 1

    def test_paths_that_hold_nothing(self, run, model, tmp_path):
        assert "no image or folder at" in run("report", tmp_path / "x", "--model", model).err
        (tmp_path / "empty").mkdir()
        assert "holds no images" in run("report", tmp_path / "empty", "--model", model).err


class TestVerifyAndConvert:
    def test_verify(self, run):
        outcome = run("verify", GOLDEN / "B")
        assert outcome.status == 0
        assert "95 of 95 outputs checked, 95 within tolerance, worst" in outcome.out
        tree = json.loads(run("verify", GOLDEN / "B", "--json").out)
        assert tree["passed"] is True
        assert len(tree["checks"]) == 95

    def test_verify_fails_on_another_weight(self, run, tmp_path):
        from safetensors.torch import load_file, save_file

        folder = Path(shutil.copytree(GOLDEN / "B", tmp_path / "B"))
        weights = load_file(folder / "model.safetensors")
        weights["llm2vae.bias"] += 1e-3
        save_file(weights, folder / "model.safetensors")
        outcome = run("verify", folder)
        assert outcome.status == 1
        assert "FAILED" in outcome.out

    def test_there_and_back_again(self, run, tmp_path):
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        outcome = run("convert", "unix-release", GOLDEN / "A", ours, "--model-only")
        assert outcome.status == 0
        assert "0 missing" in outcome.out
        assert "attention pooling" in outcome.out
        assert (ours / "conversion.json").is_file()
        assert run("convert", "to-unix-release", ours, theirs).status == 0
        original = (GOLDEN / "A" / "model.safetensors").read_bytes()
        assert (theirs / "model.safetensors").read_bytes() == original

    def test_what_is_missing_is_said(self, run, tmp_path):
        outcome = run("convert", "unix-release", GOLDEN / "A", tmp_path / "x")
        assert "give --tokenizer DIR and --vae PATH, or --model-only" in outcome.err
        assert run("convert", "unix-release", tmp_path, tmp_path / "x", "--model-only").status == 1

    @pytest.mark.parametrize("direction", ["unix-release", "to-unix-release"])
    def test_a_folder_in_use_is_left_alone(self, run, tmp_path, direction):
        (tmp_path / "kept").touch()
        only = ["--model-only"] if direction == "unix-release" else []
        outcome = run("convert", direction, GOLDEN / "A", tmp_path, *only)
        assert outcome.status == 1
        assert "exists and is not empty; give a new folder" in outcome.err
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_doctor_tells_versions_and_devices(run):
    tree = json.loads(run("doctor", "--json").out)
    assert tree["required"]["torch"]
    assert tree["devices"][0]["name"] == "cpu"
    assert "float32" in tree["devices"][0]["dtypes"]


def test_demo_is_one_self_contained_page(run, model, xrays, tmp_path):
    out = tmp_path / "demo"
    outcome = run(
        "demo", "--model", model, "--out", out, "--image", xrays / "a.png", "--images-per-text", 1
    )
    assert outcome.status == 0
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "http://" not in page
    assert "https://" not in page
    assert "Synthetic" in page
    assert str(out / "index.html") in outcome.out


def test_help_answers_at_once_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['unix-cxr', '--help']\n"
        "from unix_cxr.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout
    assert time.perf_counter() - started < 60  # the median of many runs is a benchmark's business
