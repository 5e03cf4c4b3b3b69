"""What Janus cannot be converted from, and the message that says so."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import JanusForConditionalGeneration

from unix_cxr.convert.janus import JanusOptions, convert_janus
from unix_cxr.convert.janus_config import janus_normalisation
from unix_cxr.convert.janus_tokenizer import read_janus_tokenizer

from .janus import (
    SIDE,
    Files,
    change,
    converted,
    original_weights,
    refuse,
    tiny_janus,
    write_janus,
    write_json,
    write_tokenizer,
    write_weights,
)


def test_a_folder_that_is_none_or_has_no_configuration(source: Path) -> None:
    tokens = read_janus_tokenizer(source)
    with pytest.raises(FileNotFoundError, match=r"no folder at .*nowhere"):
        convert_janus(source / "nowhere", source / "x", tokens, JanusOptions())
    (source / "config.json").unlink()
    refuse(source, r"no config\.json in .*; give the whole folder", FileNotFoundError)
    (source / "config.json").write_text('{"model_type": "ja', encoding="utf-8")
    refuse(source, r"config\.json is damaged .*; copy or download it again")
    (source / "config.json").write_text("[1]", encoding="utf-8")
    refuse(source, r"config\.json is damaged \(no object, but list\); copy or download")


def test_another_kind_of_model(source: Path) -> None:
    change(source, model_type="llava")
    refuse(source, r"model of type 'llava', not of Janus \(types \['janus', 'multi_modality'\]\)")


def test_a_configuration_without_a_section(source: Path, layout: str) -> None:
    section = {"original": "language_config", "transformers": "text_config"}[layout]
    file = source / "config.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    del tree[section]
    write_json(file, tree)
    refuse(source, f"lacks '{section}'; it has")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu' where only 'silu'"),
        ({"attention_bias": True}, "attention_bias is True where only False"),
        ({"mlp_bias": True}, "mlp_bias is True where only False"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "'linear'",
        ),
        ({"hidden_size": "wide"}, r"config\.json says what LlamaConfig cannot hold"),
        ({"num_attention_heads": 7}, r"config\.json says what LlamaConfig cannot hold"),
    ],
)
def test_a_language_model_that_cannot_be_represented(
    source: Path, layout: str, values: dict[str, Any], message: str
) -> None:
    section = {"original": "language_config", "transformers": "text_config"}[layout]
    change(source, section, **values)
    refuse(source, message)


def test_a_vision_tower_that_cannot_be_represented(source: Path, layout: str) -> None:
    if layout == "transformers":
        change(source, "vision_config", use_qk_norm=True)
        refuse(source, "vision tower that is not Janus-Pro's: use_qk_norm is True where only False")
        change(source, "vision_config", use_qk_norm=False, depth=3)
        refuse(source, "depth is 3 where only 2")
        return
    params = {"model_name": "clip_base", "image_size": SIDE}
    change(source, "vision_config", params=params)
    refuse(source, r"the vision tower 'clip_base' is unknown, so its heads are too; known: \['sig")
    params["model_name"] = "siglip_large_patch16_384"
    change(source, "vision_config", params=params | {"select_layer": -2})
    refuse(source, "select_layer is -2 where only -1")
    change(source, "vision_config", params=params)
    change(source, "aligner_config", params={"depth": 1, "projector_type": "linear"})
    refuse(source, "projector_type is 'linear' where only 'mlp_gelu'.*; depth is 1")


def test_an_image_size_that_is_not_the_weights(source: Path, layout: str) -> None:
    if layout == "transformers":
        change(source, "vision_config", image_size=64)
    else:
        params = {"model_name": "siglip_large_patch16_384", "image_size": 64}
        change(source, "vision_config", params=params)
    refuse(source, r"is \[(1, )?9, 128\], config\.json wants \[16, 128\]")


@pytest.mark.parametrize("files", ["safetensors", "bin", "sharded safetensors", "sharded bin"])
def test_truncated_files(
    janus: JanusForConditionalGeneration, layout: str, files: Files, tmp_path: Path
) -> None:
    source = write_janus(tmp_path / "janus", janus, layout, files)
    end = files.split()[-1]
    file = sorted(source.glob(f"*.{end}"))[-1]
    whole = file.read_bytes()
    for size in (len(whole) - 100, len(whole) // 2, 5, 0):
        file.write_bytes(whole[:size])
        refuse(source, rf"{file.name} (is damaged|holds no|is a pickle)")


def test_shards_that_are_missing_or_of_another_version(
    janus: JanusForConditionalGeneration, layout: str, tmp_path: Path
) -> None:
    source = write_janus(tmp_path / "janus", janus, layout, "sharded safetensors")
    first, second = sorted(source.glob("model-*"))
    kept = second.read_bytes()
    second.unlink()
    refuse(source, rf"names {second.name}, which .* lacks; download the rest", FileNotFoundError)
    shutil.copy(first, second)
    refuse(source, rf"is both in {first.name} and in {second.name}")
    save_file({"stranger": torch.ones(1)}, second)
    refuse(source, r"promises \d+ weights that are not there, such as \S+ in model-00002")
    second.write_bytes(kept)
    index = source / "model.safetensors.index.json"
    write_json(index, {"weight_map": {"a": "../../etc/passwd"}})
    refuse(source, r"names the file '../../etc/passwd', which is not in its own folder")
    write_json(index, {})
    refuse(source, "has no 'weight_map'")
    index.write_text("{", encoding="utf-8")
    refuse(source, r"index\.json is damaged")
    index.unlink()
    refuse(source, r"no weights in .*: neither model\.safetensors nor", FileNotFoundError)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_with_code_is_refused_unopened(
    janus: JanusForConditionalGeneration, tmp_path: Path
) -> None:
    source = write_janus(tmp_path / "janus", janus, "original", "bin")
    trap = tmp_path / "trap"
    content = original_weights(janus.state_dict()) | {"x": Malicious(trap)}
    torch.save(content, source / "pytorch_model.bin")
    refuse(source, r"pytorch_model\.bin is a pickle that holds more than weights")
    assert not trap.exists()
    torch.save([1, 2], source / "pytorch_model.bin")
    refuse(source, r"pytorch_model\.bin holds no weights by name")


def test_safetensors_are_preferred(janus: JanusForConditionalGeneration, tmp_path: Path) -> None:
    source = write_janus(tmp_path / "janus", janus, "transformers")
    (source / "pytorch_model.bin").write_bytes(b"never opened")
    _, report = converted(source)
    assert "model.safetensors" in report.sources
    write_weights(source, janus.state_dict(), "sharded safetensors")
    (source / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "ours")
    _, report = converted(source)
    assert "model-00001-of-00002.safetensors" in report.sources


# -- the tokenizer -------------------------------------------------------------------------------


def refuse_tokenizer(source: Path, message: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match=message):
        read_janus_tokenizer(source)


def test_tokenizers_that_cannot_be_used(source: Path) -> None:
    named = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(source / "tokenizer_config.json", named | {"eos_token": "<stranger>"})
    refuse_tokenizer(source, r"names no eos_token that tokenizer\.json holds")
    (source / "tokenizer_config.json").unlink()
    refuse_tokenizer(source, "names no bos_token and no eos_token")
    (source / "tokenizer_config.json").write_text("{", encoding="utf-8")
    refuse_tokenizer(source, r"tokenizer_config\.json is damaged")
    text = (source / "tokenizer.json").read_text(encoding="utf-8")
    write_json(source / "tokenizer_config.json", named)
    (source / "tokenizer.json").write_text(text[: len(text) // 2], encoding="utf-8")
    refuse_tokenizer(source, r"tokenizer\.json is damaged .*; copy or download it again")
    write_json(source / "tokenizer.json", {"version": "1.0"})
    refuse_tokenizer(source, r"tokenizer\.json holds no tokenizer")
    (source / "tokenizer.json").unlink()
    refuse_tokenizer(source, r"no tokenizer\.json in .* with --tokenizer", FileNotFoundError)


def test_more_tokens_than_rows(janus: JanusForConditionalGeneration, tmp_path: Path) -> None:
    small = tiny_janus(vocab_size=281)
    source = write_janus(tmp_path / "janus", small, "transformers")
    refuse(source, r"needs 285 rows, 0 of them .* \(none\), but the table of embeddings has 281")
    write_tokenizer(source, image_tokens=False)
    refuse(source, r"needs 285 rows, 2 of them .*<begin_of_image>, <end_of_image>\), but the table")


def test_a_pad_token_that_the_tokenizer_lacks_is_not_added(source: Path) -> None:
    before = read_janus_tokenizer(source)
    write_json(source / "special_tokens_map.json", {"pad_token": "<pad of another>"})
    after = read_janus_tokenizer(source)
    assert (after.known, after.added) == (before.known, before.added)
    assert after.ids["pad_token_id"] == after.ids["eos_token_id"]


def test_the_pixels_of_the_source(source: Path) -> None:
    assert janus_normalisation(source) == (0.5, 0.5)
    file = source / "preprocessor_config.json"
    write_json(file, {"image_mean": [0.25] * 3, "image_std": [0.125] * 3})
    assert janus_normalisation(source) == (0.25, 0.125)
    write_json(file, {"image_mean": [0.48, 0.46, 0.41]})
    with pytest.raises(ValueError, match="normalises each channel by its own numbers"):
        janus_normalisation(source)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is damaged"):
        janus_normalisation(source)
    file.unlink()
    assert janus_normalisation(source) == (0.5, 0.5)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"query_key_norm \('two'\) must be one of \('ones', "):
        JanusOptions(query_key_norm="two")
    with pytest.raises(ValueError, match=r"dtype \('int8'\) must be one of \['float32', "):
        JanusOptions(dtype="int8")
