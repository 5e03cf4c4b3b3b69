"""Published checkpoints there and back: equal bytes, every key accounted for."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import GOLDEN
from unix_cxr import UniXModel
from unix_cxr.convert.key_table import SPELLINGS, UNIX_RULES, canonical, to_ours, to_theirs
from unix_cxr.convert.unix_release import (
    convert_model,
    convert_model_back,
    release_config,
    weights_from_release,
    weights_to_release,
)

Renaming = Callable[[str], str]


def published(folder: str = "B") -> dict[str, Tensor]:
    return load_file(GOLDEN / folder / "model.safetensors")


def release(target: Path, weights: Mapping[str, Tensor], folder: str = "B") -> Path:
    target.mkdir()
    shutil.copy(GOLDEN / folder / "config.json", target)
    save_file(dict(weights), target / "model.safetensors", metadata={"format": "pt", "made": "by"})
    return target


def raw(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Every tensor's dtype, shape and bytes."""
    values = load_file(path)
    return {
        name: (str(v.dtype), list(v.shape), v.contiguous().view(torch.uint8).numpy().tobytes())
        for name, v in values.items()
    }


SPELLED: dict[str, Renaming] = {
    "published": lambda name: name,
    "vision_model": lambda name: name.replace("vit_model.", "vision_model."),
    "fc1 and fc2": lambda name: name.replace("connector.layers.0", "connector.fc1").replace(
        "connector.layers.2", "connector.fc2"
    ),
    "aligner": lambda name: name.replace("connector.layers", "aligner.layers"),
    "aligner and vision_model": lambda name: name.replace("connector.", "aligner.").replace(
        "vit_model.", "vision_model."
    ),
}


@pytest.mark.parametrize("spelling", SPELLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back_equal_bytes(spelling: str, dtype: torch.dtype, tmp_path: Path) -> None:
    rename = SPELLED[spelling]
    theirs = {rename(name): value.to(dtype) for name, value in published().items()}
    theirs["language_model.model.repa_loss_fn.projectors.0.weight"] = torch.randn(3, 2).to(dtype)
    source = release(tmp_path / "release", theirs)
    report = convert_model(source, tmp_path / "ours")
    assert set(report.mapped) | set(report.dropped) == set(theirs)
    assert convert_model_back(tmp_path / "ours", tmp_path / "back") == len(theirs)
    back = tmp_path / "back" / "model.safetensors"
    assert raw(back) == raw(source / "model.safetensors")
    with safe_open(back, "pt") as file:
        assert file.metadata() == {"format": "pt", "made": "by"}
    assert json.loads(
        (tmp_path / "back" / "config.json").read_text(encoding="utf-8")
    ) == json.loads((source / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", ["A", "B"])
def test_the_converted_folder_holds_the_published_weights(folder: str, tmp_path: Path) -> None:
    source = release(tmp_path / "release", published(folder), folder)
    convert_model(source, tmp_path / "ours")
    model = UniXModel.from_pretrained(tmp_path / "ours")
    theirs = published(folder)
    table = theirs["latent_pos_embed.pos_embed"]
    assert torch.equal(model.generation.embedding.positions, table)
    for name, value in weights_to_release(model.state_dict()).items():
        assert torch.equal(value, theirs[name]), name


def test_bfloat16_stays_and_mixed_dtypes_stay(tmp_path: Path) -> None:
    theirs = {name: value.to(torch.bfloat16) for name, value in published().items()}
    theirs["latent_pos_embed.pos_embed"] = published()["latent_pos_embed.pos_embed"]
    convert_model(release(tmp_path / "release", theirs), tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    wide = [name for name, value in ours.items() if value.dtype != torch.bfloat16]
    assert wide == ["generation.embedding.positions"]
    assert UniXModel.from_pretrained(tmp_path / "ours").language_model.dtype == torch.bfloat16
    convert_model_back(tmp_path / "ours", tmp_path / "back")
    assert raw(tmp_path / "back" / "model.safetensors") == raw(
        tmp_path / "release" / "model.safetensors"
    )


def test_what_is_dropped_has_a_reason(tmp_path: Path) -> None:
    theirs = published() | {
        "gen_vision_model.encoder.conv_in.weight": torch.zeros(2),
        "language_model.model.repa_loss_fn.projectors.0.weight": torch.zeros(2),
    }
    report = convert_model(release(tmp_path / "release", theirs), tmp_path / "ours")
    reasons = report.dropped
    assert reasons["vit_pos_embed.pos_embed"].startswith("positions of vision tokens")
    assert reasons["gen_vision_model.encoder.conv_in.weight"] == "Janus' own image generation"
    assert "attention pooling" in reasons["vit_model.vision_tower.attn_pool.latent"]
    assert len(report.created) == 2
    assert all(name.endswith("o_proj.bias") for name in report.created)
    assert report.missing == []
    assert report.summary() == (
        f"{len(report.mapped)} keys mapped, {len(reasons)} dropped, 2 created, 0 missing"
    )
    assert json.loads(report.to_json())["dropped"] == reasons


def refuse(weights: Mapping[str, Tensor], message: str, folder: str = "B") -> None:
    tree = json.loads((GOLDEN / folder / "config.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=message):
        weights_from_release(weights, release_config(tree))


def test_an_unknown_key_is_an_error() -> None:
    refuse(
        published() | {"lora.weight": torch.zeros(1)}, "keys that are no part of UniX: lora.weight"
    )


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (r"vit_model\..*", r"weights that the release lacks: vision\."),
        (r".*layers\.1\.mlp_moe_gen.*", r"lacks: generation\.layers\.1\.mlp\.down_proj\.weight"),
        (r"latent_pos_embed\.pos_embed", r"lacks: generation\.embedding\.positions"),
    ],
)
def test_a_missing_key_is_an_error(gone: str, message: str) -> None:
    """The published loader takes such files without a word."""
    kept = {name: value for name, value in published().items() if not re.fullmatch(gone, name)}
    assert len(kept) < len(published())
    refuse(kept, message)


def test_two_spellings_of_one_key_are_an_error() -> None:
    twice = published() | {"connector.fc1.bias": published()["connector.layers.0.bias"]}
    refuse(twice, r"connector\.\S+ is in the file twice, in two spellings")


def test_weights_of_another_config_are_an_error() -> None:
    wrong = published() | {"llm2vae.bias": torch.zeros(5)}
    refuse(wrong, r"weights of another config: generation\.velocity_head\.bias is \[5\]")


def test_an_output_bias_that_learned_has_no_published_place() -> None:
    tree = json.loads((GOLDEN / "B" / "config.json").read_text(encoding="utf-8"))
    ours, _ = weights_from_release(published(), release_config(tree))
    ours["language_model.model.layers.0.self_attn.o_proj.bias"][0] = 0.5
    with pytest.raises(ValueError, match="is not 0, and the published layout has no place for it"):
        weights_to_release(ours)
    with pytest.raises(ValueError, match="stranger has no place in the published layout"):
        weights_to_release({"stranger": torch.zeros(1)})


def test_a_release_of_pickles_is_refused(tmp_path: Path) -> None:
    source = release(tmp_path / "release", published())
    (source / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in"):
        convert_model(source, tmp_path / "ours")
    torch.save(published(), source / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds only pickles \(\['pytorch_model.bin'\]\)"):
        convert_model(source, tmp_path / "ours")


def test_folders_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder at"):
        convert_model(tmp_path / "nowhere", tmp_path / "ours")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in"):
        convert_model_back(tmp_path, tmp_path / "back")
    source = release(tmp_path / "release", published())
    (source / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json in"):
        convert_model(source, tmp_path / "ours")


@pytest.mark.parametrize("section", ["llm_config", "vit_config"])
def test_a_config_without_a_section(section: str) -> None:
    tree = json.loads((GOLDEN / "A" / "config.json").read_text(encoding="utf-8"))
    del tree[section]
    with pytest.raises(ValueError, match=f"lacks '{section}'"):
        release_config(tree)


def test_published_ids_and_sampling_are_the_defaults() -> None:
    tree = json.loads((GOLDEN / "A" / "config.json").read_text(encoding="utf-8"))
    del tree["special_token_ids"]
    tree["llm_config"]["vocab_size"] = 102400
    config = release_config(tree)
    assert config.bos_token_id == 100000
    assert config.eos_token_id == 100001
    assert config.begin_image_token_id == 100003
    assert config.end_image_token_id == 100580
    assert config.sampling == {
        "num_inference_steps": 49,
        "shift": 3.0,
        "guidance_scale": 2.0,
        "guidance_interval": [0.4, 1.0],
        "guidance_renorm": "global",
    }


def test_the_key_table_has_an_inverse() -> None:
    """Every published name goes to one of ours and comes back; no rule shadows another."""
    for folder in ("A", "B"):
        for name in published(folder):
            ours = to_ours(name, UNIX_RULES)
            if ours is not None:
                assert to_theirs(ours, UNIX_RULES) == name
    names = {rule.theirs for rule in UNIX_RULES}
    assert len(names) == len({rule.ours for rule in UNIX_RULES}) == len(UNIX_RULES)
    for rule in SPELLINGS:
        spelled = rule.theirs.replace("{}", "0")
        assert canonical(spelled) != spelled
        assert canonical(canonical(spelled)) == canonical(spelled)
