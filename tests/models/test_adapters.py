"""LoRA through peft: the block calls the understanding modules, so adapters act everywhere."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import make_tiny_config, make_tiny_model
from tests.tolerances import assert_close
from unix_cxr.models.adapter_base import base_fingerprint, base_state, plain_model
from unix_cxr.models.adapter_files import BASE, CONFIG, WEIGHTS, load_adapter, save_adapter
from unix_cxr.models.adapters import (
    TARGETS,
    AdapterSettings,
    active_adapters,
    adapter_names,
    adapter_parameters,
    adapter_weights,
    add_adapter,
    disable_adapters,
    merge_adapters,
    merged_adapters,
    set_adapters,
    unmerge_adapters,
)
from unix_cxr.models.context import Image, Text
from unix_cxr.models.unix import UniXModel

IDS = torch.tensor([[62, 5, 6, 63]])
KINDS = {
    "plain": {},
    "rslora": {"rslora": True, "alpha": 3.0},
    "dora": {"dora": True},
    "saved": {"modules_to_save": ("generation.velocity_head",)},
}


def drawn(model: Any, caption: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    latents, times = torch.randn(1, 4, 3, 3, generator=generator), torch.tensor([0.4])
    with torch.no_grad():
        context = model.encode([Text(IDS)]) if caption else model.empty_context(1)
        return model.denoise(latents, times, context)


def read(model: Any) -> Tensor:
    """Logits of a report after an X-ray."""
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    ids = torch.tensor([[60, 59, 59, 59, 59, 61, 62, 5, 6, 63]])
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels).logits


def teach(model: Any, name: str, seed: int = 0) -> None:
    """Give a fresh adapter weights as if it had learned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in adapter_parameters(model, name).items():
            if "lora_A" not in key:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def adapted(name: str = "one", **settings: Any) -> Any:
    model = make_tiny_model()
    add_adapter(model, AdapterSettings(**{"rank": 2} | settings), name)
    teach(model, name)
    return model


# -- presets -------------------------------------------------------------------------------------


def linear_names(model: torch.nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]


def published_model() -> UniXModel:
    """The published sizes, without memory: only the names matter."""
    config = make_tiny_config(
        text_config={
            "vocab_size": 102400,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": 128,
            "attention_bias": True,
        },
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 16,
            "vision_use_head": False,
        },
        max_latent_size=32,
        latent_channels=16,
    )
    with torch.device("meta"):
        return UniXModel(config)


def nano_model() -> UniXModel:
    from transformers import AutoConfig

    from unix_cxr.pipelines.bundled import BUNDLED

    with torch.device("meta"):
        return UniXModel(AutoConfig.from_pretrained(BUNDLED["nano"] / "model"))


@pytest.mark.parametrize("make", [make_tiny_model, nano_model, published_model])
def test_presets_hit_every_layer_of_their_branch_and_nothing_else(
    make: Callable[[], UniXModel],
) -> None:
    model = make()
    names = linear_names(model)
    hit = {p: {n for n in names if re.fullmatch(regex, n)} for p, regex in TARGETS.items()}
    layers = len(model.language_model.model.layers)
    assert len(hit["gen"]) == 7 * layers
    assert len(hit["und"]) == 7 * layers + 6 * len(model.vision.encoder.layers) + 2
    assert hit["both"] == hit["und"] | hit["gen"]
    assert not hit["und"] & hit["gen"]
    assert all(name.startswith("generation.layers.") for name in hit["gen"])
    assert not any(name.startswith("generation") for name in hit["und"])
    # what is left: the head of each branch, and what makes tokens of latents and times
    left = set(names) - hit["both"]
    assert {name.split(".")[0] for name in left} == {"language_model", "generation"}
    assert "language_model.lm_head" in left


def test_a_list_of_endings_would_hit_the_other_branch(tiny_model: Any) -> None:
    """Why presets are regular expressions: this is what peft makes of a list."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), tiny_model)
    parts = {name.split(".")[0] for name in adapter_parameters(tiny_model, "default")}
    assert parts == {"language_model", "vision", "generation"}


@pytest.mark.parametrize(
    ("preset", "parts"),
    [
        ("gen", {"generation"}),
        ("und", {"vision", "connector", "language_model"}),
        ("both", {"vision", "connector", "language_model", "generation"}),
    ],
)
def test_only_the_adapter_learns(tiny_model: Any, preset: Any, parts: set[str]) -> None:
    parameters = add_adapter(tiny_model, AdapterSettings(preset, rank=2), "one")
    learning = {name for name, p in tiny_model.named_parameters() if p.requires_grad}
    assert learning == set(parameters)
    assert {name.split(".")[0] for name in learning} == parts


# -- what adapters do ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_does_nothing(tiny_model: Any, kind: str) -> None:
    before = read(tiny_model), drawn(tiny_model)
    settings = {"preset": "both", "rank": 2} | KINDS[kind]
    add_adapter(tiny_model, AdapterSettings(**settings), "one")
    assert torch.equal(read(tiny_model), before[0])
    assert torch.equal(drawn(tiny_model), before[1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_the_generation_branch_leaves_reports_alone(
    tiny_model: Any, kind: str
) -> None:
    report, picture = read(tiny_model), drawn(tiny_model)
    model = adapted(preset="gen", **KINDS[kind])
    assert torch.equal(read(model), report)
    assert float((drawn(model) - picture).abs().max()) > 1e-3


def test_an_adapter_of_the_understanding_branch_acts_on_reading_and_drawing(
    tiny_model: Any,
) -> None:
    report, picture, plain = read(tiny_model), drawn(tiny_model), drawn(tiny_model, caption=False)
    model = adapted(preset="und")
    assert float((read(model) - report).abs().max()) > 1e-3
    assert float((drawn(model) - picture).abs().max()) > 1e-3
    # without any caption too: BOI and EOI run through the adapted layers
    assert float((drawn(model, caption=False) - plain).abs().max()) > 1e-3


def test_clean_images_in_a_context_see_adapters_of_both_branches(tiny_model: Any) -> None:
    def context(model: Any) -> Tensor:
        with torch.no_grad():
            return model.encode([Image(torch.ones(1, 3, 32, 32)), Text(IDS)]).hidden

    before = context(tiny_model)
    assert torch.equal(context(adapted(preset="gen")), before)
    assert not torch.equal(context(adapted(preset="und")), before)


def test_gradients_reach_the_adapter_and_nothing_else(tiny_model: Any) -> None:
    parameters = add_adapter(tiny_model, AdapterSettings("both", rank=2), "one")
    teach(tiny_model, "one")
    context = tiny_model.encode([Text(IDS)])
    latents = torch.randn(1, 4, 3, 3)
    tiny_model.denoise(latents, torch.tensor([0.4]), context).square().mean().backward()
    learned = {name for name, p in tiny_model.named_parameters() if p.grad is not None}
    assert learned <= set(parameters)
    assert {name.split(".")[0] for name in learned} == {"language_model", "generation"}


def test_scales_are_what_the_papers_say() -> None:
    """alpha / r, and alpha / √r: the adapter adds scale · B A x."""
    for rslora, scale in ((False, 3 / 4), (True, 3 / 2)):
        model = make_tiny_model()
        add_adapter(model, AdapterSettings("gen", rank=4, alpha=3.0, rslora=rslora), "one")
        layer = model.generation.layers[0].attention.q_proj
        torch.nn.init.normal_(layer.lora_B["one"].weight)
        x = torch.randn(2, 32)
        added = x @ layer.lora_A["one"].weight.T @ layer.lora_B["one"].weight.T
        torch.testing.assert_close(layer(x), layer.base_layer(x) + scale * added)


def test_dropout_acts_in_training_only() -> None:
    model = adapted(preset="gen", dropout=0.5)
    assert torch.equal(drawn(model), drawn(model))
    model.train()
    assert not torch.equal(drawn(model), drawn(model))


# -- stacking, switching, merging ----------------------------------------------------------------


@pytest.fixture
def stacked() -> Any:
    model = adapted("a", preset="gen")
    add_adapter(model, AdapterSettings("both", rank=3), "b")
    teach(model, "b", seed=1)
    return model


def test_adapters_switch_by_name(stacked: Any, tiny_model: Any) -> None:
    plain, alone = drawn(tiny_model), drawn(adapted("a", preset="gen"))
    assert adapter_names(stacked) == ["a", "b"]
    assert active_adapters(stacked) == ["b"]
    set_adapters(stacked, ["a"])
    assert torch.equal(drawn(stacked), alone)
    disable_adapters(stacked)
    assert torch.equal(drawn(stacked), plain)
    assert active_adapters(stacked) == []
    set_adapters(stacked, ["a"])
    assert torch.equal(drawn(stacked), alone)
    assert not any(p.requires_grad for p in stacked.parameters())


def test_a_stack_adds_up_with_its_weights(stacked: Any) -> None:
    set_adapters(stacked, ["a", "b"], [0.5, -1.0])
    assert adapter_weights(stacked) == {"a": 0.5, "b": -1.0}
    layer = stacked.generation.layers[0].attention.q_proj
    x = torch.randn(2, 32)
    deltas = {name: layer.get_delta_weight(name) for name in ("a", "b")}  # with their weights
    expected = layer.base_layer(x) + x @ (deltas["a"] + deltas["b"]).T
    torch.testing.assert_close(layer(x), expected)
    set_adapters(stacked, ["a"])
    assert adapter_weights(stacked) == {"a": 1.0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["gen", "both"])
def test_merging_keeps_the_output_and_unmerging_the_bits(preset: Any, kind: str) -> None:
    model = adapted(preset=preset, **KINDS[kind])
    weights = {name: value.clone() for name, value in base_state(model).items()}
    beside = read(model), drawn(model)
    kept = merge_adapters(model)
    assert merged_adapters(model) == ["one"]
    assert_close("adapters.merged", read(model), beside[0])
    assert_close("adapters.merged", drawn(model), beside[1])
    assert_close("adapters.merged", drawn(plain_model(model)), drawn(model))
    changed = [n for n, v in base_state(model).items() if not torch.equal(v, weights[n])]
    assert changed
    unmerge_adapters(model, kept)
    for name, value in base_state(model).items():
        assert torch.equal(value, weights[name]), name
    assert torch.equal(read(model), beside[0])
    assert torch.equal(drawn(model), beside[1])


def test_a_stack_merges_as_it_acts(stacked: Any) -> None:
    set_adapters(stacked, ["a", "b"], [0.5, 2.0])
    beside = drawn(stacked)
    kept = merge_adapters(stacked)
    assert_close("adapters.merged", drawn(stacked), beside)
    unmerge_adapters(stacked, kept)
    assert torch.equal(drawn(stacked), beside)


def test_while_merged_nothing_else_may_change(stacked: Any, tmp_path: Path) -> None:
    merge_adapters(stacked)
    for change in (
        lambda: set_adapters(stacked, ["a"]),
        lambda: disable_adapters(stacked),
        lambda: merge_adapters(stacked),
        lambda: add_adapter(stacked, AdapterSettings(), "c"),
        lambda: base_fingerprint(stacked),
        lambda: save_adapter(stacked, tmp_path / "x", "a"),
    ):
        with pytest.raises(ValueError, match=r"adapters \['b'\] are merged .* unmerge them first"):
            change()


def test_adapters_that_cannot_be_merged_together_say_so(stacked: Any) -> None:
    add_adapter(stacked, AdapterSettings("gen", rank=2, dora=True), "d")
    set_adapters(stacked, ["a", "d"])
    with pytest.raises(ValueError, match="one has DoRA"):
        merge_adapters(stacked)
    disable_adapters(stacked)
    with pytest.raises(ValueError, match="no adapter is active"):
        merge_adapters(stacked)


def test_a_broken_adapter_is_not_merged_and_leaves_the_weights_alone() -> None:
    model = adapted(preset="gen")
    weights = {name: value.clone() for name, value in base_state(model).items()}
    with torch.no_grad():
        model.generation.layers[1].mlp.up_proj.lora_B["one"].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="seems to be broken"):
        merge_adapters(model)
    assert not merged_adapters(model)
    assert all(torch.equal(value, weights[name]) for name, value in base_state(model).items())


def test_modules_to_save_switch_too(tiny_model: Any) -> None:
    head = ("generation.velocity_head",)
    model = adapted("a", preset="gen", modules_to_save=head)
    with_head = drawn(model)
    add_adapter(model, AdapterSettings("gen", rank=2), "b")
    fresh = drawn(model)
    assert torch.equal(fresh, drawn(tiny_model))  # b has no head of its own
    set_adapters(model, ["a", "b"])
    assert torch.equal(drawn(model), with_head)
    with pytest.raises(ValueError, match=r"generation.velocity_head of its own.* weight must be 1"):
        set_adapters(model, ["a"], [0.5])
    add_adapter(model, AdapterSettings("gen", rank=2, modules_to_save=head), "c")
    with pytest.raises(ValueError, match="do not add up"):
        set_adapters(model, ["a", "c"])


def test_the_plain_model_is_saved_and_loaded_as_any_other(tmp_path: Path) -> None:
    model = adapted(preset="both", modules_to_save=("generation.velocity_head",))
    with pytest.raises(ValueError, match="active and not merged: merge_adapters"):
        plain_model(model)
    kept = merge_adapters(model)
    plain = plain_model(model)
    plain.save_pretrained(tmp_path)
    again = UniXModel.from_pretrained(tmp_path).eval()
    for name, value in plain.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert_close("adapters.merged", drawn(again), drawn(model))
    unmerge_adapters(model, kept)
    disable_adapters(model)
    assert torch.equal(drawn(plain_model(model)), drawn(make_tiny_model()))


# -- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_comes_back_from_its_folder(tmp_path: Path, kind: str) -> None:
    model = adapted(preset="both", **KINDS[kind])
    save_adapter(model, tmp_path / "a", "one", base="tiny")
    assert {file.suffix for file in (tmp_path / "a").iterdir()} == {".json", ".safetensors"}
    again = make_tiny_model()
    load_adapter(again, tmp_path / "a", "icu")
    assert adapter_names(again) == active_adapters(again) == ["icu"]
    assert torch.equal(read(again), read(model))
    assert torch.equal(drawn(again), drawn(model))


def test_peft_reads_our_folder_and_we_read_its(tmp_path: Path) -> None:
    from peft import PeftModel

    model = adapted(preset="both")
    save_adapter(model, tmp_path / "ours", "one")
    theirs = PeftModel.from_pretrained(make_tiny_model(), str(tmp_path / "ours"))
    assert torch.equal(drawn(theirs.base_model.model), drawn(model))
    theirs.save_pretrained(str(tmp_path / "theirs"), save_embedding_layers=False)
    again = make_tiny_model()
    load_adapter(again, tmp_path / "theirs", "back")
    assert torch.equal(drawn(again), drawn(model))


def test_another_base_of_the_same_sizes_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_adapter(adapted(), tmp_path, "one", base="tiny")
    other = make_tiny_model()
    load_adapter(other, tmp_path, "same")
    assert not caplog.records
    other = make_tiny_model()
    with torch.no_grad():
        other.language_model.model.norm.weight[0] += 0.1
    load_adapter(other, tmp_path, "one")
    assert "was trained on other weights (tiny)" in caplog.text
    (tmp_path / BASE).unlink()
    load_adapter(make_tiny_model(), tmp_path, "one")
    assert "does not say which model" in caplog.text


def test_the_base_is_the_same_in_half_precision(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_adapter(adapted(), tmp_path, "one")
    half = make_tiny_model().to(torch.bfloat16)
    load_adapter(half, tmp_path, "one")
    assert not caplog.records
    types = {p.dtype for p in adapter_parameters(half, "one").values()}
    assert types == {torch.bfloat16}


def test_an_adapter_of_other_sizes_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    save_adapter(adapted(), tmp_path, "one")
    other = make_tiny_model(layers=3)
    before = list(other.state_dict())
    with pytest.raises(ValueError, match="num_hidden_layers is 3 here and 2 there"):
        load_adapter(other, tmp_path, "one")
    (tmp_path / BASE).unlink()  # its shapes tell too
    with pytest.raises(ValueError, match=r"another model, or damaged: missing .*layers\.2"):
        load_adapter(other, tmp_path, "one")
    assert list(other.state_dict()) == before
    assert not adapter_names(other)


def change_config(folder: Path, **values: Any) -> None:
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(content | values), encoding="utf-8")


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights.pop(next(iter(weights)))
    save_file(weights, folder / WEIGHTS)


def only_a_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def not_finite(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    next(iter(weights.values()))[0] = float("inf")
    save_file(weights, folder / WEIGHTS)


BROKEN: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "gone": (shutil.rmtree, FileNotFoundError, "no adapter folder"),
    "no config": (lambda f: (f / CONFIG).unlink(), FileNotFoundError, "train lora` writes one"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), FileNotFoundError, WEIGHTS),
    "pickle": (only_a_pickle, ValueError, "only as a pickle .adapter_model.bin.*never opened"),
    "cut off": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:100]),
        ValueError,
        "damaged or no safetensors",
    ),
    "config cut off": (lambda f: (f / CONFIG).write_text("{"), ValueError, "damaged"),
    "base cut off": (lambda f: (f / BASE).write_text("{"), ValueError, "damaged"),
    "lost": (lose_a_weight, ValueError, "missing .*1, 0, 0 in all"),
    "not finite": (not_finite, ValueError, "not finite"),
    "no LoRA": (
        lambda f: change_config(f, peft_type="IA3", target_modules=[], feedforward_modules=[]),
        ValueError,
        "only LoRA adapters",
    ),
    "changes the base": (
        lambda f: change_config(f, init_lora_weights="pissa"),
        ValueError,
        "init_lora_weights 'pissa', which changes the base model",
    ),
    "trains biases": (lambda f: change_config(f, bias="all"), ValueError, "bias 'all'"),
    "other layers": (
        lambda f: change_config(f, target_modules="decoder.*"),
        ValueError,
        "another kind of model",
    ),
}


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused(tmp_path: Path, tiny_model: Any, name: str) -> None:
    folder = tmp_path / "adapter"
    save_adapter(adapted(), folder, "one")
    breaking, kind, message = BROKEN[name]
    breaking(folder)
    with pytest.raises(kind, match=message):
        load_adapter(tiny_model, folder, "one")
    assert not adapter_names(tiny_model)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "vision"}, r"preset \('vision'\) must be one of"),
        ({"rank": 0}, r"rank \(0\) must be at least 1"),
        ({"alpha": 0.0}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterSettings(**values)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("velocity_head", "is unknown; the model has"),
        ("language_model.lm_head", "outside the branch of preset 'gen'"),
        ("generation.layers.0", "which the adapter adapts"),
    ],
)
def test_modules_to_save_must_be_of_the_branch(tiny_model: Any, module: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_adapter(tiny_model, AdapterSettings("gen", modules_to_save=(module,)), "one")


@pytest.mark.parametrize("name", ["", "a.b", "keys", "1st", "two words"])
def test_names_that_cannot_be_one(tiny_model: Any, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be used"):
        add_adapter(tiny_model, AdapterSettings(), name)


@pytest.mark.usefixtures("unchecked")
def test_wrong_choices_are_refused(stacked: Any) -> None:
    with pytest.raises(ValueError, match=r"\['c'\] are unknown; the model carries \['a', 'b'\]"):
        set_adapters(stacked, ["c"])
    with pytest.raises(ValueError, match="named twice"):
        set_adapters(stacked, ["a", "a"])
    with pytest.raises(ValueError, match="1 weights for 2 adapters"):
        set_adapters(stacked, ["a", "b"], [1.0])
    with pytest.raises(ValueError, match="must be finite"):
        set_adapters(stacked, ["a"], [float("nan")])
    with pytest.raises(TypeError, match=r"such as \['a'\]"):
        set_adapters(stacked, "a")
    with pytest.raises(ValueError, match="already"):
        add_adapter(stacked, AdapterSettings(), "a")
    with pytest.raises(ValueError, match="'c' is unknown"):
        save_adapter(stacked, "nowhere", "c")
    assert active_adapters(stacked) == ["b"]
