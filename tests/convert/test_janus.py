"""Janus to a model that training begins from: the same numbers, every key accounted for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import JanusForConditionalGeneration

from tests.tolerances import assert_close
from unix_cxr import Text, UniXConfig, UniXModel
from unix_cxr.convert.janus_tokenizer import read_janus_tokenizer
from unix_cxr.convert.unix_release import convert_model_back
from unix_cxr.files import sha256
from unix_cxr.modules.latent_embedding import position_table

from .janus import (
    SIDE,
    TOKENS,
    Files,
    change,
    convert,
    converted,
    refuse,
    tiny_janus,
    write_janus,
    write_tokenizer,
)

PLACEHOLDER = 7


# -- the same numbers --------------------------------------------------------------------------


def embedded(model: UniXModel, ids: Tensor, pixels: Tensor) -> Tensor:
    """Tokens in Janus' order: an image's stand among the text's, one position each."""
    tokens = model.get_input_embeddings()(ids)
    places = (ids == PLACEHOLDER)[..., None]
    joined: Tensor = tokens.masked_scatter(places, model.image_tokens(pixels))
    return joined


@torch.no_grad()
def hold_against(janus: JanusForConditionalGeneration, model: UniXModel) -> None:
    ids = torch.randint(10, 290, (2, 14))
    assert_close("janus.text", model(input_ids=ids).logits, janus(input_ids=ids).logits)
    image = torch.full((2, TOKENS), PLACEHOLDER)
    ids = torch.cat([ids[:, :4], image, ids[:, 4:]], dim=1)
    pixels = torch.randn(2, 3, SIDE, SIDE)
    theirs = janus(input_ids=ids, pixel_values=pixels).logits
    ours = model(inputs_embeds=embedded(model, ids, pixels)).logits
    assert_close("janus.image_and_text", ours, theirs)
    # other pixels, other logits: the image is not lost on the way
    other = model(inputs_embeds=embedded(model, ids, pixels.flip(-1))).logits
    assert float((other - ours).abs().max()) > 0.1


@pytest.mark.parametrize("files", ["safetensors", "bin", "sharded safetensors", "sharded bin"])
def test_it_computes_what_janus_computes(
    janus: JanusForConditionalGeneration, layout: str, files: Files, tmp_path: Path
) -> None:
    model, report = converted(
        write_janus(tmp_path / "janus", janus, layout, files), query_key_norm="none"
    )
    assert report.missing == []
    assert not any("q_norm" in name for name in model.state_dict())
    hold_against(janus, model)


def test_models_with_as_many_key_heads_as_heads_too(layout: str, tmp_path: Path) -> None:
    janus = tiny_janus(num_key_value_heads=4)
    model, _ = converted(write_janus(tmp_path / "janus", janus, layout), query_key_norm="none")
    hold_against(janus, model)


def test_generate_writes_what_janus_writes(
    janus: JanusForConditionalGeneration, source: Path
) -> None:
    model: Any = converted(source, query_key_norm="none")[0]
    ids = torch.randint(10, 290, (1, 6))
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0}
    options |= {"eos_token_id": None, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(model.generate(ids, **options), janus.generate(ids, **options))


def test_a_tied_head_is_the_table_of_embeddings(
    janus: JanusForConditionalGeneration, tmp_path: Path
) -> None:
    source = write_janus(tmp_path / "janus", janus, "transformers")
    theirs = load_file(source / "model.safetensors")
    del theirs["lm_head.weight"]
    save_file(theirs, source / "model.safetensors")
    refuse(source, r"missing: language_model\.lm_head\.weight")
    change(source, tie_word_embeddings=True)
    model, report = converted(source)
    head = model.language_model.lm_head.weight
    assert torch.equal(head, theirs["model.language_model.embed_tokens.weight"])
    assert (
        "language_model.lm_head.weight" in report.mapped["model.language_model.embed_tokens.weight"]
    )


# -- with norms of queries and keys, as published ------------------------------------------------


def test_the_published_layout_is_the_same_but_for_its_norms(
    janus: JanusForConditionalGeneration, source: Path
) -> None:
    """Without its norms, and with Janus' GELU, it computes what Janus does: nothing else is new."""
    model, _ = converted(source)
    config: Any = model.config
    assert config.query_key_norm
    assert config.connector_activation == "gelu_pytorch_tanh"
    layers: Any = model.language_model.model.layers
    for layer in layers:
        for name in ("q_norm", "k_norm"):
            norm = getattr(layer.self_attn, name)
            assert torch.equal(norm.weight, torch.ones_like(norm.weight))
            setattr(layer.self_attn, name, torch.nn.Identity())
    model.connector.activation = "gelu"
    hold_against(janus, model)


def test_matched_norms_begin_nearer(janus: JanusForConditionalGeneration, source: Path) -> None:
    """Their weights are the root mean square of the heads, found without any text."""
    ids = torch.randint(10, 290, (4, 24))
    with torch.no_grad():
        theirs = janus(input_ids=ids).logits
        errors = {}
        for choice in ("ones", "matched"):
            shutil.rmtree(source.parent / "ours", ignore_errors=True)
            model, _ = converted(source, query_key_norm=choice)
            errors[choice] = float((model(input_ids=ids).logits - theirs).square().mean())
    assert errors["matched"] < 0.7 * errors["ones"]


def test_matched_norms_are_the_length_of_heads(layout: str, tmp_path: Path) -> None:
    janus = tiny_janus()
    with torch.no_grad():
        janus.model.language_model.layers[1].input_layernorm.weight.mul_(2)  # gains count
    model, _ = converted(write_janus(tmp_path / "janus", janus, layout), query_key_norm="matched")
    layer: Any = model.language_model.model.layers[1]
    white = torch.randn(4000, 64) * layer.input_layernorm.weight
    heads = (white @ layer.self_attn.q_proj.weight.T).unflatten(-1, (4, 16))
    found = float(heads.detach().square().mean().sqrt())
    assert float(layer.self_attn.q_norm.weight[0].detach()) == pytest.approx(found, rel=0.02)


def test_neither_branch_normalises_queries_and_keys(source: Path, tmp_path: Path) -> None:
    exact = converted(source, query_key_norm="none")[0]
    model = UniXModel(UniXConfig(**exact.config.to_dict() | {"query_key_norm": True})).eval()
    told = model.load_state_dict(exact.state_dict(), strict=False)
    assert told.missing_keys
    assert all(name.endswith(("q_norm.weight", "k_norm.weight")) for name in told.missing_keys)
    caption, latents = Text(torch.randint(10, 280, (2, 5))), torch.randn(2, 2, 3, 4)
    torch.nn.init.normal_(model.generation.velocity_head.weight)
    exact.generation.velocity_head.weight.data.copy_(model.generation.velocity_head.weight)

    def velocity(one: UniXModel) -> Tensor:
        with torch.no_grad():
            found: Tensor = one.denoise(latents, torch.full((2,), 0.4), one.encode([caption]))
        return found

    assert float((velocity(model) - velocity(exact)).abs().max()) > 0.01
    for layer in [*model.language_model.model.layers, *model.generation.layers]:
        attention: Any = getattr(layer, "self_attn", None) or layer.attention
        attention.q_norm = attention.k_norm = torch.nn.Identity()
    assert torch.equal(velocity(model), velocity(exact))


def test_the_way_back_needs_norms(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "ones", shard_bytes=400_000)
    published = convert_model_back(tmp_path / "ones", tmp_path / "back")
    assert published == len(load_file(tmp_path / "back" / "model.safetensors"))
    convert(source, tmp_path / "none", query_key_norm="none")
    with pytest.raises(ValueError, match=r"no norms of queries and keys .* must have"):
        convert_model_back(tmp_path / "none", tmp_path / "x")


# -- what is new ---------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["ones", "matched", "none"])
def test_the_generation_branch_begins_as_a_copy(source: Path, choice: str) -> None:
    from unix_cxr.training.starting import copy_understanding

    model, _ = converted(source, query_key_norm=choice)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy_understanding(model)  # what the recipe does before it draws
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    text: Any = model.config.text_config
    assert torch.equal(before["generation.embedding.positions"], position_table(4, 64))
    assert not before["generation.velocity_head.weight"].any()
    drawn = before["generation.embedding.time.output.weight"]
    assert float(drawn.std()) == pytest.approx(text.initializer_range, rel=0.05)
    first = before["generation.embedding.time.input.weight"]
    assert not torch.equal(first[:, :64], drawn)


def test_a_seed_decides_what_is_drawn_and_nothing_else(source: Path, tmp_path: Path) -> None:
    files: dict[str, dict[str, Tensor]] = {}
    for seed in (0, 0, 1):
        target = tmp_path / f"seed{seed}-{len(files)}"
        convert(source, target, seed=seed)
        files[target.name] = load_file(target / "model.safetensors")
    one, again, other = files.values()
    assert all(torch.equal(one[name], again[name]) for name in one)
    changed = {name for name in one if not torch.equal(one[name], other[name])}
    assert changed == {
        "generation.embedding.projection.weight",
        "generation.embedding.time.input.weight",
        "generation.embedding.time.output.weight",
    }


def test_tokens_that_the_source_lacks_get_rows(
    janus: JanusForConditionalGeneration, tmp_path: Path
) -> None:
    source = write_janus(tmp_path / "janus", janus, "transformers")
    write_tokenizer(source, image_tokens=False)
    tokens = read_janus_tokenizer(source)
    assert tokens.added == ("<begin_of_image>", "<end_of_image>")
    model, report = converted(source)
    config: Any = model.config
    table, head = model.get_input_embeddings().weight, model.language_model.lm_head.weight
    rows = [config.begin_image_token_id, config.end_image_token_id]
    assert rows == [tokens.known, tokens.known + 1]
    for ours, name in ((table, "model.language_model.embed_tokens"), (head, "lm_head")):
        theirs = janus.state_dict()[f"{name}.weight"]
        kept = [row for row in range(300) if row not in rows]
        assert torch.equal(ours[kept], theirs[kept])
        assert float(ours[rows].detach().std()) == pytest.approx(float(theirs.std()), rel=0.2)
    assert not torch.equal(table[rows[0]], table[rows[1]])
    assert [name for name in report.created if "rows of" in name] == [
        "rows of the token <begin_of_image>",
        "rows of the token <end_of_image>",
    ]


def test_tokens_that_the_source_has_keep_their_rows(source: Path) -> None:
    model, report = converted(source)
    tokens = read_janus_tokenizer(source)
    config: Any = model.config
    assert tokens.added == ()
    assert not any("rows of" in name for name in report.created)
    vocabulary = tokens.tokenizer.get_vocab()
    assert config.begin_image_token_id == vocabulary["<begin_of_image>"]
    assert config.end_image_token_id == vocabulary["<end_of_image>"]
    assert config.pad_token_id == vocabulary[str(tokens.tokenizer.pad_token)]


# -- every key is accounted for ------------------------------------------------------------------


def test_the_report_has_every_key_and_every_parameter(source: Path, layout: str) -> None:
    model, report = converted(source)
    theirs = set(load_file(source / "model.safetensors"))
    assert set(report.mapped) | set(report.dropped) == theirs
    assert not set(report.mapped) & set(report.dropped)
    assert set(report.dropped.values()) <= {
        "Janus' own image generation",
        "attention pooling is stored but never run",
        "rotary frequencies follow from the configuration",
    }
    ours = [name for names in report.mapped.values() for name in names]
    assert sorted([*ours, *report.created]) == sorted(model.state_dict())
    assert sum(report.parameters.values()) == sum(v.numel() for v in model.state_dict().values())
    assert report.parameters["taken"] == sum(model.state_dict()[name].numel() for name in ours)
    assert f"{report.parameters['new']:,} parameters new" in report.summary()
    assert report.sources == {
        name: sha256(source / name)
        for name in ("config.json", "tokenizer.json", "model.safetensors")
    }
    dropped = {"original": "gen_embed.weight", "transformers": "model.generation_embeddings.weight"}
    assert dropped[layout] in report.dropped


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("mlp.fc1.bias", r"missing: vision\.encoder\.layers\.0\.mlp\.fc1\.bias"),
        ("self_attn.v_proj.weight", r"missing: language_model.*v_proj\.weight"),
        ("aligner", r"missing: connector\.input\.bias"),
        ("post_attention_layernorm", r"missing: language_model.*post_attention_layernorm"),
    ],
)
def test_a_missing_key_is_an_error(source: Path, gone: str, message: str) -> None:
    theirs = load_file(source / "model.safetensors")
    kept = {name: v for name, v in theirs.items() if gone not in name or name.startswith("gen_")}
    assert len(kept) < len(theirs)
    save_file(kept, source / "model.safetensors")
    refuse(source, message)


def test_an_unknown_key_and_another_shape_are_errors(source: Path, layout: str) -> None:
    theirs = load_file(source / "model.safetensors")
    save_file(theirs | {"language_model.lora.weight": torch.ones(1)}, source / "model.safetensors")
    refuse(source, f"no part of Janus in the layout of '{layout}': language_model.lora.weight")
    norm = (
        next(name for name in theirs if name.endswith("model.norm.weight"))
        if layout == ("original")
        else "model.language_model.norm.weight"
    )
    save_file(theirs | {norm: torch.ones(63)}, source / "model.safetensors")
    refuse(source, r"another config: .*norm\.weight is \[63\], config.json wants \[64\]")


def test_more_layers_than_the_configuration_says(source: Path, layout: str) -> None:
    theirs = load_file(source / "model.safetensors")
    more = {
        name.replace("layers.1.", "layers.2."): value.clone()
        for name, value in theirs.items()
        if "language_model" in name and "layers.1." in name
    }
    save_file(theirs | more, source / "model.safetensors")
    refuse(source, r"more layers than config\.json says: language_model\.model\.layers\.2\.")


def test_weights_that_are_not_finite(source: Path) -> None:
    theirs = load_file(source / "model.safetensors")
    name = next(name for name in theirs if name.endswith("1.mlp.down_proj.weight"))
    theirs[name][0, 0] = float("nan")
    save_file(theirs, source / "model.safetensors")
    refuse(source, r"layers\.1\.mlp\.down_proj\.weight is not finite everywhere; .* download it")


# -- number types and memory ---------------------------------------------------------------------


def test_number_types(janus: JanusForConditionalGeneration, tmp_path: Path) -> None:
    source = write_janus(tmp_path / "janus", janus, "transformers")
    halves = {name: v.bfloat16() for name, v in load_file(source / "model.safetensors").items()}
    save_file(halves, source / "model.safetensors")
    model, _ = converted(source)
    assert model.dtype == torch.bfloat16
    ours = load_file(tmp_path / "ours/model.safetensors")
    wide = [name for name, value in ours.items() if value.dtype != torch.bfloat16]
    assert wide == ["generation.embedding.positions"]
    shutil.rmtree(tmp_path / "ours")
    model, _ = converted(source, dtype="float32")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_no_more_than_a_shard_is_held(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import unix_cxr.convert.weight_files as module

    written: list[int] = []

    def watch(weights: dict[str, Tensor], path: Path, **options: Any) -> None:
        written.append(sum(value.nbytes for value in weights.values()))
        save_file(weights, path, **options)

    monkeypatch.setattr(module, "save_file", watch)
    convert(source, tmp_path / "ours", shard_bytes=400_000)
    assert len(written) == 6
    assert max(written) <= 400_000
    index = json.loads((tmp_path / "ours/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(written)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) == len(written)
    convert(source, tmp_path / "whole")
    assert [path.name for path in (tmp_path / "whole").glob("*.safetensors")] == [
        "model.safetensors"
    ]
    one = UniXModel.from_pretrained(tmp_path / "ours").state_dict()
    other = UniXModel.from_pretrained(tmp_path / "whole").state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
