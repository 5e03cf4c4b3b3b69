"""Saving and loading: equal bytes, strict, safetensors only, one clear error each."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from tests.conftest import make_tiny_config, make_tiny_model
from unix_cxr import UniXConfig, UniXModel


@pytest.fixture
def folder(tiny_model: Any, tmp_path: Path) -> Path:
    tiny_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        if isinstance(value, dict):
            tree[key] |= value
        else:
            tree[key] = value
    path.write_text(json.dumps(tree), encoding="utf-8")


@pytest.mark.parametrize("load", [UniXModel, AutoModel, AutoModelForImageTextToText])
def test_what_was_saved_is_loaded(tiny_model: Any, folder: Path, load: Any) -> None:
    loaded = load.from_pretrained(folder)
    assert isinstance(loaded, UniXModel)
    assert not loaded.training
    ours, theirs = loaded.state_dict(), tiny_model.state_dict()
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def test_a_changed_position_table_is_loaded_not_recomputed(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model.generation.embedding.positions.add_(0.25)
    tiny_model.save_pretrained(tmp_path)
    loaded = UniXModel.from_pretrained(tmp_path)
    assert torch.equal(
        loaded.generation.embedding.positions, tiny_model.generation.embedding.positions
    )


def test_config_round_trip(tiny_config: Any, tmp_path: Path) -> None:
    tiny_config.sampling = {"num_inference_steps": 9}
    tiny_config.save_pretrained(tmp_path)
    for loaded in (UniXConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(loaded, UniXConfig)
        ignored = {"transformers_version", "_name_or_path"}
        ours = {k: v for k, v in loaded.to_dict().items() if k not in ignored}
        theirs = {k: v for k, v in tiny_config.to_dict().items() if k not in ignored}
        assert ours == theirs


def test_bfloat16_round_trip(tmp_path: Path) -> None:
    model = make_tiny_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = UniXModel.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert all(
        torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items()
    )
    assert UniXModel.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_processor_round_trip(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from unix_cxr import UniXProcessor

    words = ["clear", "lungs", "<pad>", "<begin_of_image>", "<end_of_image>", "<bos>", "<eos>"]
    inner = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>")
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    processor = UniXProcessor(tokenizer, image_size=32, image_tokens=4)
    processor.save_pretrained(tmp_path)
    make_tiny_config().save_pretrained(tmp_path)
    for loaded in (
        UniXProcessor.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path),
    ):
        assert isinstance(loaded, UniXProcessor)
        assert (loaded.image_size, loaded.image_tokens) == (32, 4)
        assert loaded.text_ids("clear lungs") == processor.text_ids("clear lungs") == [5, 0, 1, 6]


# -- refusals


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model folder at .*nowhere"):
        UniXModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no model folder at \./nowhere"):
        UniXModel.from_pretrained("./nowhere")


def test_a_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json in .*model"):
        UniXModel.from_pretrained(folder)


@pytest.mark.parametrize("load", [UniXModel, AutoModel])
def test_a_folder_without_weights(folder: Path, load: Any) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights in .*: model\.safetensors is missing"):
        load.from_pretrained(folder)


@pytest.mark.parametrize("load", [UniXModel, AutoModel])
def test_a_pickle_is_refused(tiny_model: Any, folder: Path, load: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only as a pickle \(pytorch_model\.bin\)"):
        load.from_pretrained(folder)


def test_asking_for_a_pickle_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="use_safetensors=False asks for a pickle"):
        UniXModel.from_pretrained(folder, use_safetensors=False)


def test_a_missing_weight_is_an_error(folder: Path) -> None:
    name = "generation.layers.1.mlp.up_proj.weight"
    edit_weights(folder, lambda weights: weights.pop(name))
    with pytest.raises(ValueError, match=rf"weights of another config: {name} is missing"):
        UniXModel.from_pretrained(folder)


def test_an_unknown_weight_is_an_error(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update(stranger=torch.zeros(1)))
    with pytest.raises(ValueError, match="weights of another config: stranger is unknown"):
        UniXModel.from_pretrained(folder)


def test_weights_of_another_size_are_an_error(folder: Path) -> None:
    edit_config(folder, latent_channels=5)
    with pytest.raises(
        ValueError, match=r"projection\.weight is \[32, 4\], the config wants \[32, 5\]"
    ):
        UniXModel.from_pretrained(folder)


def test_more_layers_than_weights_are_an_error(folder: Path) -> None:
    edit_config(folder, text_config={"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3})
    with pytest.raises(ValueError, match=r"generation\.layers\.2\S+ is missing.*; and \d+ more"):
        UniXModel.from_pretrained(folder)


def test_a_damaged_file_is_an_error(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"the weights of .* are damaged"):
        UniXModel.from_pretrained(folder)


def test_loading_info_is_still_given(folder: Path) -> None:
    model, info = UniXModel.from_pretrained(folder, output_loading_info=True)  # type: ignore[misc]
    assert isinstance(model, UniXModel)
    assert not info["missing_keys"]


def test_weights_in_several_files(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = UniXModel.from_pretrained(tmp_path)
    assert all(
        torch.equal(loaded.state_dict()[name], value)
        for name, value in tiny_model.state_dict().items()
    )
    shutil.rmtree(tmp_path)


# -- the configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"latent_chanels": 4},
            r"unknown configuration keys \['latent_chanels'\]; known keys: .*latent_channels",
        ),
        ({"text_config": {"hiden_size": 3}}, r"unknown keys \['hiden_size'\] in text_config"),
        ({"vision_config": {"depth": 3}}, r"unknown keys \['depth'\] in vision_config"),
        (
            {"begin_image_token_id": 64},
            r"begin_image_token_id \(64\) must be below vocab_size \(64\)",
        ),
        ({"text_config": {"attention_bias": False}}, "attention_bias must be true"),
        ({"vision_config": {"vision_use_head": True}}, "vision_use_head must be false"),
    ],
)
def test_a_wrong_config_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message):
        UniXConfig.from_pretrained(folder)


def test_heads_must_divide() -> None:
    config = make_tiny_config()
    config.text_config.num_key_value_heads = 3
    with pytest.raises(ValueError, match=r"heads \(4\) must be divisible by kv_heads \(3\)"):
        UniXModel(config)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"activation \('relu'\) must be one of"):
        UniXModel(make_tiny_config(connector_activation="relu"))
