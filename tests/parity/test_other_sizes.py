"""Nothing about A and B is built in: a folder of other sizes, recorded from our own model."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import GOLDEN
from unix_cxr.convert.replay_model import replay_model
from unix_cxr.convert.unix_release import release_config, weights_to_release
from unix_cxr.convert.verify import verify
from unix_cxr.models.unix import UniXModel

IDS = {"bos_token_id": 7, "eos_token_id": 3, "start_of_image": 90, "end_of_image": 11}
IMAGE = 48
IMAGE_TOKENS = 9
ROWS, COLUMNS = 2, 3  # latent tokens; with patches of 2 that is 4x6 latents of 8 channels
FEATURES = 4 * 8


def other_config() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((GOLDEN / "A" / "config.json").read_text(encoding="utf-8"))
    tree["llm_config"] |= {
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "vocab_size": 96,
        "rope_theta": 5000.0,
        "rms_norm_eps": 1e-5,
    }
    tree["vit_config"] |= {
        "hidden_size": 32,
        "image_size": IMAGE,
        "intermediate_size": 40,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
    }
    tree |= {"latent_patch_size": 2, "max_latent_size": 5, "timestep_shift": 1.7}
    tree["vae_config"] |= {"z_channels": 8}
    tree["special_token_ids"] = IDS
    return tree


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def ids(*values: int) -> Tensor:
    return torch.tensor(values)


@dataclass
class PackedSequence:
    """Samples one behind the other, as the published training code packs them."""

    text_ids: list[int] = field(default_factory=list)
    text_places: list[int] = field(default_factory=list)
    vit: list[int] = field(default_factory=list)
    latent: list[int] = field(default_factory=list)
    normals: list[float] = field(default_factory=list)
    supervised: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    place: int = 0

    def text(self, *tokens: int, loss: bool = False) -> None:
        whole = [IDS["bos_token_id"], *tokens, IDS["eos_token_id"]]
        places = range(self.place, self.place + len(whole))
        if loss:
            self.supervised.extend(places[:-1])
            self.labels.extend(whole[1:])
        self.text_ids.extend(whole)
        self.text_places.extend(places)
        self.place += len(whole)

    def image(self) -> None:
        self.vit.extend(self._block(IMAGE_TOKENS))

    def latents(self, count: int, normal: float) -> None:
        self.latent.extend(self._block(count))
        self.normals.extend([normal] * count)

    def end_sample(self) -> None:
        self.samples.append(self.place - sum(self.samples))

    def _block(self, count: int) -> range:
        first = self.place + 1
        self.text_ids.extend([IDS["start_of_image"], IDS["end_of_image"]])
        self.text_places.extend([self.place, first + count])
        self.place = first + count + 1
        return range(first, first + count)


def packed_step(generator: torch.Generator) -> dict[str, Tensor]:
    """Caption, noise | image, question, answer | clean latents, caption, noise."""
    packed = PackedSequence()
    packed.text(20, 21, 22, 23)
    packed.latents(ROWS * COLUMNS, 0.3)
    packed.end_sample()
    packed.image()
    packed.text(30, 31)
    packed.text(40, 41, 42, loss=True)
    packed.end_sample()
    packed.latents(2 * 2, float("-inf"))
    packed.text(50)
    packed.latents(ROWS * COLUMNS, -0.4)
    packed.end_sample()
    sizes = [(2, 3), (2, 2), (2, 3)]
    padded = torch.zeros(3, 8, 4, 6)
    for number, (rows, columns) in enumerate(sizes):
        padded[number, :, : rows * 2, : columns * 2] = draw(generator, 8, rows * 2, columns * 2)
    return {
        "train.packed_text_ids": ids(*packed.text_ids),
        "train.packed_text_indexes": ids(*packed.text_places),
        "train.packed_vit_token_indexes": ids(*packed.vit),
        "train.packed_vae_token_indexes": ids(*packed.latent),
        "train.packed_timesteps": torch.tensor(packed.normals),
        "train.ce_loss_indexes": ids(*packed.supervised),
        "train.packed_label_ids": ids(*packed.labels),
        "train.sample_lens": ids(*packed.samples),
        "train.latent_shapes": torch.tensor(sizes),
        "train.padded_latent": padded,
        "train.noise": draw(generator, len(packed.latent), FEATURES),
        "train.timestep_normals": torch.tensor([0.3, -0.4]),
        "train.vit_image0": draw(generator, 3, IMAGE, IMAGE),
    }


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    given = {
        "und.image": draw(generator, 3, IMAGE, IMAGE),
        "und.prompt_ids": ids(15, 16),
        "und.tf_ids": ids(20, 30, 40, 50),
        "gen.prompt_ids": ids(15, 18, 19, 60, 61),
        "gen.noise": draw(generator, ROWS * COLUMNS, FEATURES),
        "gen.x_mid": draw(generator, ROWS * COLUMNS, FEATURES),
        "gen.latent_hw": ids(ROWS, COLUMNS),
        "edit.vae_latent": draw(generator, 1, 8, 4, 4),
        "edit.vit_image": draw(generator, 3, IMAGE, IMAGE),
        "edit.prompt_ids": ids(15),
        "edit.noise": draw(generator, ROWS * COLUMNS, FEATURES),
        "aux.latent_p2": draw(generator, 8, 4, 6),
        "aux.t": torch.tensor([0.0, 0.2, 1.0]),
    }
    return given | packed_step(generator)


WANTED = (
    "gen.v.t0.6",
    "gen.v_uncond.t0.6",
    "gen.v_cfg.channel.t0.6",
    "gen.v_cfg2.global_min0.9.t0.6",
    "gen.loop.n6.shift2.5.final",
    "gen.loop.n6.shift2.5.demo.final",
    "edit.v.t0.6",
    "edit.v_cfg2.text_channel.t0.6",
    "edit.loop.n4.shift1.0.final",
)
"""Outputs whose very name says what to do: other times, counts and shifts than A's and B's."""


def record(folder: Path) -> Mapping[str, Tensor]:
    """A golden folder of other sizes, filled by our model."""
    tree = other_config()
    model = UniXModel(release_config(tree))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not (name.startswith("language_model") and name.endswith("o_proj.bias")):
                parameter.add_(0.2 * draw(generator, *parameter.shape))
    weights = weights_to_release(model.state_dict())
    names = {"grad_norm_names": [name for name in weights if name != "latent_pos_embed.pos_embed"]}
    given = inputs(generator)
    placeholders = {name: torch.zeros(1) for name in WANTED} | {
        "und.greedy.logits": torch.zeros(5, 96),
        "train.grad.llm2vae.bias": torch.zeros(1),
        "train.grad.vit_model.vision_tower.blocks.0.attn.qkv.weight": torch.zeros(1),
    }
    outputs = replay_model(weights, tree, given | placeholders, names)
    manifest: dict[str, Any] = {name: {"kind": "input"} for name in given}
    manifest |= {name: {"kind": "output", "compare": "absolute", "atol": 2e-5} for name in outputs}
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    everything = {k: v.detach().clone().contiguous() for k, v in (given | outputs).items()}
    save_file(everything, folder / "golden.safetensors")
    for name, content in (("config", tree), ("manifest", manifest), ("grad_names", names)):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return outputs


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Tensor]]:
    folder = tmp_path_factory.mktemp("other") / "C"
    return folder, record(folder)


def test_a_folder_of_other_sizes_verifies(recorded: tuple[Path, Mapping[str, Tensor]]) -> None:
    folder, outputs = recorded
    verification = verify(folder)
    assert verification.passed, verification.summary()
    count = len(outputs)
    assert verification.summary().startswith(
        f"{count} of {count} outputs checked, {count} within tolerance, worst"
    )
    assert set(WANTED) < set(outputs)
    assert outputs["gen.v.t0.6"].shape == (ROWS * COLUMNS, FEATURES)
    assert outputs["und.greedy.logits"].shape == (5, 96)
    assert "edit.after_text.k3" in outputs
    assert outputs["train.ce"].shape == (4,)
    assert outputs["train.mse"].shape == (2 * ROWS * COLUMNS, FEATURES)


def test_its_defects_are_noticed(
    recorded: tuple[Path, Mapping[str, Tensor]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(recorded[0], tmp_path / "C"))
    weights = load_file(folder / "model.safetensors")
    weights["language_model.model.layers.3.self_attn.v_proj_moe_gen.bias"] += 0.01
    save_file(weights, folder / "model.safetensors")
    assert not verify(folder).passed


def test_weights_of_another_config_are_refused(
    recorded: tuple[Path, Mapping[str, Tensor]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(recorded[0], tmp_path / "C"))
    tree = other_config()
    tree["llm_config"]["intermediate_size"] = 64
    (folder / "config.json").write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(ValueError, match=r"weights of another config: .*config\.json wants"):
        verify(folder)
