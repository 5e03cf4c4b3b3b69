"""`convert unix-release --vae`: a CompVis file or a diffusers folder, and nothing else."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.conftest import GOLDEN
from tests.convert.janus import write_json, write_vae
from unix_cxr.convert.autoencoder_files import load_published_autoencoder
from unix_cxr.convert.compvis import PUBLISHED_SCALE, PUBLISHED_SHIFT
from unix_cxr.pipelines.pipeline import UniXPipeline

CHANNELS = 16
FILE = GOLDEN / "vae" / "model.safetensors"
NAMES = {500: "<bos>", 501: "<eos>", 503: "<boi>", 510: "<eoi>"}


@pytest.fixture(scope="module")
def diffusers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CompVis file as diffusers keeps it, with the scale that diffusers writes unasked."""
    folder = tmp_path_factory.mktemp("vae") / "kl-f16"
    vae: Any = load_published_autoencoder(FILE, CHANNELS)[0]
    vae.register_to_config(scaling_factor=0.18215, shift_factor=None)
    vae.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(diffusers_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(diffusers_folder, tmp_path / "copied"))


def change(folder: Path, **changes: Any) -> None:
    tree = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", tree | changes)


def refuse(path: Path, message: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match=message):
        load_published_autoencoder(path, CHANNELS)


def test_a_folder_gives_what_the_file_gives(
    diffusers_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    by_file, _ = load_published_autoencoder(FILE, CHANNELS)
    assert not caplog.text
    by_folder, report = load_published_autoencoder(diffusers_folder, CHANNELS)
    theirs: Any = by_file
    ours: Any = by_folder
    assert list(report.mapped) == list(ours.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    said = ("scaling_factor", "shift_factor", "latent_channels", "norm_num_groups", "sample_size")
    assert [ours.config[name] for name in said] == [theirs.config[name] for name in said]
    assert "says no scale and shift of latents but diffusers' defaults; the pub" in caplog.text


@pytest.mark.parametrize("said", [(0.5, 0.1), (0.18215, 0.0), (PUBLISHED_SCALE, PUBLISHED_SHIFT)])
def test_a_scale_that_the_folder_says_stays(
    copied: Path, said: tuple[float, float], caplog: pytest.LogCaptureFixture
) -> None:
    change(copied, scaling_factor=said[0], shift_factor=said[1])
    vae: Any = load_published_autoencoder(copied, CHANNELS)[0]
    assert (vae.config.scaling_factor, vae.config.shift_factor) == said
    assert not caplog.text


def test_what_is_neither_is_named(copied: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "no", r"no autoencoder at .*no: it has no config\.json", FileNotFoundError)
    weights = copied / "diffusion_pytorch_model.safetensors"
    refuse(weights, r"holds the weights of a diffusers AutoencoderKL; give its folder, .*copied$")
    refuse(write_vae(tmp_path / "two"), "has 2 latent channels, the model is to draw 16; the publ")
    (tmp_path / "pipeline").mkdir()
    shutil.copytree(copied, tmp_path / "pipeline" / "vae")
    refuse(tmp_path / "pipeline", "there is one in its folder vae", FileNotFoundError)
    (tmp_path / "notes.txt").write_text("no weights", encoding="utf-8")
    refuse(tmp_path / "notes.txt", r"no config\.yaml beside .*notes\.txt", FileNotFoundError)
    change(copied, _class_name="VQModel")
    refuse(copied, "is of 'VQModel', not of an AutoencoderKL")


def test_a_folder_that_shrinks_less_is_refused(tmp_path: Path) -> None:
    from unix_cxr.models.autoencoder import build_autoencoder

    vae: Any = build_autoencoder(
        channels=(4, 4, 4, 8),
        layers_per_block=1,
        latent_channels=CHANNELS,
        image_channels=3,
        norm_groups=2,
        sample_size=64,
    )
    vae.save_pretrained(tmp_path / "f8")
    refuse(tmp_path / "f8", "shrinks 8 times, the published one 16 times; give a kl-f16")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"no weights", r"model\.safetensors is damaged or cut off .*; copy"),
        ("config.yaml", b"a: [1", r"config\.yaml is damaged \(.*\); copy or download"),
        ("config.yaml", b"- 1", r"config\.yaml is damaged \(no keys, but list\); copy"),
        ("config.json", b"{", r"config\.json is damaged \(.*\); copy or download"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    folder = Path(shutil.copytree(FILE.parent, tmp_path / "vae"))
    (folder / name).write_bytes(content)
    refuse(folder / "model.safetensors", message)


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    words = {NAMES.get(number, f"w{number}"): number for number in range(512)}
    library = Tokenizer(models.WordLevel(words, unk_token="w0"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.add_special_tokens(list(NAMES.values()))
    library.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<eos>"}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", kind | names)
    return folder


@pytest.fixture
def convert(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tokenizer: Path
) -> Callable[[Path, Path], str]:
    """Runs the command; gives what it says where it fails, and nothing where it does not."""

    def call(target: Path, vae: Path) -> str:
        from unix_cxr.cli import main

        words = ["convert", "unix-release", GOLDEN / "A", target, "--tokenizer", tokenizer]
        monkeypatch.setattr(sys, "argv", ["unix-cxr", *map(str, words), "--vae", str(vae)])
        try:
            main()
        except SystemExit as stop:
            if stop.code:
                return capsys.readouterr().err
        return ""

    return call


def test_the_command_takes_both(
    convert: Callable[[Path, Path], str], diffusers_folder: Path, tmp_path: Path
) -> None:
    vaes: list[Any] = []
    for name, vae in (("file", FILE), ("folder", diffusers_folder)):
        assert not convert(tmp_path / name, vae)
        pipeline = UniXPipeline.from_pretrained(tmp_path / name)
        assert pipeline.vae.config.scaling_factor == PUBLISHED_SCALE
        vaes.append(pipeline.vae)
        told = json.loads((tmp_path / name / "conversion.json").read_text(encoding="utf-8"))
        assert sum(key.startswith("vae/") for key in told["mapped"]) == len(vaes[0].state_dict())
    first, second = (vae.state_dict() for vae in vaes)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_command_writes_nothing_where_the_autoencoder_is_none(
    convert: Callable[[Path, Path], str], tmp_path: Path
) -> None:
    target = tmp_path / "target"
    assert "error: no autoencoder at" in convert(target, tmp_path / "absent")
    two = write_vae(tmp_path / "two")
    assert "2 latent channels, the model is to draw 16" in convert(target, two)
    assert not target.exists()
