"""`unix-cxr convert janus`: one command from two downloads to where training begins."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import GOLDEN
from unix_cxr import UniXPipeline
from unix_cxr.cli import main
from unix_cxr.convert.autoencoder_files import load_autoencoder
from unix_cxr.convert.compvis import autoencoder_from_compvis, load_compvis
from unix_cxr.defaults import VISION_MEAN, VISION_STD

from .janus import SIDE, tiny_janus, write_janus, write_json, write_vae

Run = Callable[..., tuple[int, str, str]]
SIZES = ("--latent-channels", 2, "--max-latent-size", 4)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        command = ["unix-cxr", "convert", "janus", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_janus(tmp_path_factory.mktemp("source") / "janus", tiny_janus(), "original")


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vae(tmp_path_factory.mktemp("vae"))


def test_a_pipeline_comes_out(run: Run, source: Path, vae: Path, tmp_path: Path) -> None:
    target = tmp_path / "checkpoints" / "janus"
    status, out, _ = run(source, target, "--vae", vae, *SIZES)
    assert status == 0
    assert "dropped 4 keys such as gen_aligner.layers.0.weight: Janus' own image generation" in out
    assert f"every key in {target / 'conversion.json'}" in out
    assert (target / "LICENSE-MODEL").read_text() == "Terms of the weights.\n"
    assert set(json.loads((target / "conversion.json").read_text())["sources"]) == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }
    pipeline = UniXPipeline.from_pretrained(target)
    processor = pipeline.processor
    assert (processor.image_size, processor.image_tokens) == (SIDE, 9)
    assert (processor.image_mean, processor.image_std) == (VISION_MEAN, VISION_STD)
    pipeline.set_progress_bar_config(disable=True)
    xray = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    assert pipeline.describe(xray, max_new_tokens=3).reports
    drawn: Any = pipeline("A small effusion.", height=32, width=32, seed=0, num_inference_steps=2)
    assert drawn.images[0].size == (32, 32)


def test_its_outcome_for_machines(run: Run, source: Path, vae: Path, tmp_path: Path) -> None:
    options = ("--query-key-norm", "none", "--dtype", "bfloat16", "--seed", 3, "--json")
    status, out, _ = run(source, tmp_path / "exact", "--vae", vae, *SIZES, *options)
    assert status == 0
    tree = json.loads(out)
    assert tree["missing"] == []
    assert tree["created"]["generation.embedding.projection.weight"] == "drawn with seed 3"
    pipeline = UniXPipeline.from_pretrained(tmp_path / "exact", dtype=torch.bfloat16)
    # what computes as Janus does wants its pixels as Janus does
    assert (pipeline.processor.image_mean, pipeline.processor.image_std) == (0.5, 0.5)
    assert not pipeline.model.config.query_key_norm


def test_wrong_doors_say_what_to_do_and_write_nothing(
    run: Run, source: Path, vae: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"

    def refuse(message: str, *arguments: object) -> None:
        status, _, told = run(*arguments)
        assert status == 1
        assert message in told
        assert "Traceback" not in told
        assert not target.exists()

    refuse("no tokenizer.json in", tmp_path, target, "--vae", vae)
    refuse("no autoencoder at", source, target, "--vae", tmp_path / "nowhere")
    refuse("has 2 latent channels, the model is to draw 16", source, target, "--vae", vae)
    refuse("dtype ('int8') must be one of", source, target, "--vae", vae, "--dtype", "int8")
    wrong = ("--query-key-norm", "two")
    refuse("query_key_norm ('two') must be one of", source, target, "--vae", vae, *wrong)
    full = tmp_path / "full"
    full.mkdir()
    (full / "kept").touch()
    refuse("exists and is not empty; give a new folder", source, full, "--vae", vae, *SIZES)
    assert [path.name for path in full.iterdir()] == ["kept"]


def test_a_failure_halfway_leaves_nothing(run: Run, vae: Path, tmp_path: Path) -> None:
    source = write_janus(tmp_path / "janus", tiny_janus(), "original", "bin")
    theirs = torch.load(source / "pytorch_model.bin", weights_only=True)
    theirs["language_model.lm_head.weight"][5, 5] = float("inf")
    torch.save(theirs, source / "pytorch_model.bin")
    status, _, told = run(source, tmp_path / "out", "--vae", vae, *SIZES)
    assert status == 1
    assert "language_model.lm_head.weight is not finite everywhere" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["janus"]


# -- the autoencoder -----------------------------------------------------------------------------


def refuse_vae(path: Path, message: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match=message):
        load_autoencoder(path, 2)


def test_the_autoencoder_is_the_folders_own(vae: Path) -> None:
    from safetensors.torch import load_file

    loaded: Any = load_autoencoder(vae, 2)
    stored = load_file(vae / "diffusion_pytorch_model.safetensors")
    assert loaded.state_dict().keys() == stored.keys()
    assert all(torch.equal(value, stored[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training


def test_a_compvis_file_will_do() -> None:
    folder = GOLDEN / "vae"
    loaded: Any = load_autoencoder(folder / "model.safetensors", 16)
    tree = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    expected: Any = autoencoder_from_compvis(load_compvis(folder / "model.safetensors"), tree)[0]
    weights = expected.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(ValueError, match="has 16 latent channels, the model is to draw 4"):
        load_autoencoder(folder / "model.safetensors", 4)


def test_autoencoders_that_do_not_fit(tmp_path: Path) -> None:
    refuse_vae(tmp_path / "no", "no autoencoder at .*no: it has no config.json;", FileNotFoundError)
    (tmp_path / "pipeline" / "vae").mkdir(parents=True)
    refuse_vae(tmp_path / "pipeline", r"there is one in its folder vae", FileNotFoundError)
    folder = write_vae(tmp_path / "colour", image_channels=3)
    assert load_autoencoder(folder, 2)
    four = write_vae(tmp_path / "four", channels=4)
    refuse_vae(four, r"has 4 latent channels, the model is to draw 2; .* --latent-channels 4")
    config = folder / "config.json"
    tree = json.loads(config.read_text(encoding="utf-8"))
    write_json(config, tree | {"_class_name": "VQModel"})
    refuse_vae(folder, r"is of 'VQModel', not of an AutoencoderKL")
    write_json(config, tree | {"in_channels": 4})
    refuse_vae(folder, "takes images of 4 channels and gives 3")
    write_json(config, tree | {"block_out_channels": [4, 4, 4, 4, 16]})
    refuse_vae(folder, "damaged or not of its config")
    write_json(config, tree | {"layers_per_block": 2})
    refuse_vae(folder, r"is not of its config: .* is missing")
    config.write_text("{", encoding="utf-8")
    refuse_vae(folder, r"config\.json is damaged")


def test_autoencoders_that_are_damaged(tmp_path: Path) -> None:
    folder = write_vae(tmp_path / "vae")
    weights = folder / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    for size in (len(whole) - 10, len(whole) // 2, 3, 0):
        weights.write_bytes(whole[:size])
        refuse_vae(folder, "damaged or not of its config .*; copy or download it again")
    weights.unlink()
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    refuse_vae(folder, "has no weights as safetensors; other files are", FileNotFoundError)
