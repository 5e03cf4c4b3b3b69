"""The CompVis autoencoder: safetensors and `.ckpt`, flat and nested; never a pickle with code."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import GOLDEN
from unix_cxr.convert.compvis import (
    autoencoder_from_compvis,
    load_compvis,
    load_compvis_config,
)
from unix_cxr.models.autoencoder import build_autoencoder, decode, encode, normalise_latents

VAE = GOLDEN / "vae"


def weights() -> dict[str, Tensor]:
    return load_file(VAE / "model.safetensors")


def config() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((VAE / "config.json").read_text(encoding="utf-8"))
    return tree


@pytest.mark.parametrize("nested", [True, False])
def test_a_ckpt_gives_the_same_weights(nested: bool, tmp_path: Path) -> None:
    stored = weights() | {"loss.discriminator.main.0.weight": torch.zeros(2)}
    tree: dict[str, Any] = (
        {"state_dict": stored, "epoch": 3, "global_step": 7} if nested else stored
    )
    torch.save(tree, tmp_path / "kl-f16d16.ckpt")
    loaded = load_compvis(tmp_path / "kl-f16d16.ckpt")
    assert {name for name in loaded if not name.startswith("loss.")} == set(weights())
    vae, report = autoencoder_from_compvis(loaded, config())
    assert report.dropped == {"loss.discriminator.main.0.weight": "part of the training loss"}
    assert len(report.mapped) == len(weights())
    expected, _ = autoencoder_from_compvis(weights(), config())
    for name, value in expected.state_dict().items():
        assert torch.equal(vae.state_dict()[name], value), name


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_unopened(how: str, tmp_path: Path) -> None:
    trap, file = tmp_path / "trap", tmp_path / "kl.ckpt"
    tree = {"state_dict": weights(), "callbacks": Malicious(trap)}
    if how == "torch":
        torch.save(tree, file)
    else:
        file.write_bytes(pickle.dumps({"callbacks": Malicious(trap)}, protocol=2))
    with pytest.raises(ValueError, match=r"kl\.ckpt is a pickle that holds more than weights"):
        load_compvis(file)
    assert not trap.exists()


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no autoencoder at"):
        load_compvis(tmp_path / "none.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="holds no weights by name"):
        load_compvis(tmp_path / "list.ckpt")
    torch.save(weights(), tmp_path / "half.ckpt")
    whole = (tmp_path / "half.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no checkpoint, or a damaged one"):
        load_compvis(tmp_path / "half.ckpt")
    (tmp_path / "empty.ckpt").touch()
    with pytest.raises(ValueError, match="is no checkpoint, or a damaged one"):
        load_compvis(tmp_path / "empty.ckpt")


@pytest.mark.parametrize("name", ["config.yaml", "kl-f16d16.yaml", "weights.yaml", "config.json"])
def test_the_config_beside_the_weights(name: str, tmp_path: Path) -> None:
    """CompVis keeps the sizes deep in a YAML tree; the tree as it is will do."""
    tree = {"model": {"params": {"embed_dim": 16, "ddconfig": config()["ddconfig"]}}}
    text = json.dumps(tree) if name.endswith("json") else yaml.safe_dump(tree)
    (tmp_path / name).write_text(text, encoding="utf-8")
    shutil.copy(VAE / "model.safetensors", tmp_path / "weights.safetensors")
    loaded = load_compvis_config(tmp_path / "weights.safetensors")
    vae, _ = autoencoder_from_compvis(load_compvis(tmp_path / "weights.safetensors"), loaded)
    assert vae.config["scaling_factor"] == 0.238092
    assert vae.config["shift_factor"] == -0.201906


def test_no_config_beside_the_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.yaml beside"):
        load_compvis_config(tmp_path / "weights.ckpt")


def refuse(given: dict[str, Tensor], tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        autoencoder_from_compvis(given, tree)


def test_keys_must_fit() -> None:
    refuse(weights() | {"stranger": torch.zeros(1)}, config(), r"unknown keys \['stranger'\]")
    less = weights()
    del less["decoder.conv_out.bias"]
    refuse(less, config(), r"missing \['decoder\.conv_out\.bias'\]")


def test_shapes_must_fit_even_with_as_many_numbers() -> None:
    turned = weights()
    name = "encoder.down.4.block.0.conv1.weight"
    turned[name] = turned[name].flatten(2).mT.contiguous()
    refuse(turned, config(), "an autoencoder of another config: encoder")


def test_other_layouts_are_refused() -> None:
    tree = config()
    tree["ddconfig"] = tree["ddconfig"] | {"ch_mult": [1, 2, 4]}
    refuse(weights(), tree, r"ch_mult \[1, 2, 4\] shrinks 4 times; the kl-f16 layout shrinks 16")
    refuse(weights(), {"model": {}}, r"has no 'ddconfig'; it has \['model'\]")


# -- our own autoencoder in the same layout


def test_build_autoencoder_is_checked() -> None:
    sizes: dict[str, Any] = {
        "layers_per_block": 1,
        "latent_channels": 4,
        "image_channels": 1,
        "norm_groups": 4,
        "sample_size": 32,
    }
    with pytest.raises(ValueError, match=r"channels \(\[8, 8\]\) must name 3 to 5 levels"):
        build_autoencoder(channels=(8, 8), **sizes)
    with pytest.raises(ValueError, match=r"widths \[6\] must be divisible by norm_groups \(4\)"):
        build_autoencoder(channels=(8, 8, 6, 8, 8), **sizes)
    vae = build_autoencoder(channels=(4, 4, 4, 8, 8), **sizes).eval()
    images = torch.rand(2, 1, 32, 48)
    with torch.no_grad():
        latents = encode(images, vae)
        assert latents.shape == (2, 4, 2, 3)
        assert decode(latents, vae).shape == images.shape
        again = [encode(images, vae, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*again)
    assert not torch.equal(again[0], latents)


def test_normalisation_is_the_published_one() -> None:
    vae, _ = autoencoder_from_compvis(weights(), config())
    z = torch.randn(1, 16, 2, 2)
    torch.testing.assert_close(normalise_latents(z, vae), 0.238092 * (z + 0.201906))
