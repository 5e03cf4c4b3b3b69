"""Every output that was recorded from the published code, and defects that must be noticed."""

import json
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import GOLDEN
from unix_cxr.convert.verify import Check, Verification, compare, verify

FOLDERS = {"A": 95, "B": 95, "vae": 12}


def recorded_outputs() -> list[tuple[str, str]]:
    manifests = {
        name: json.loads((GOLDEN / name / "manifest.json").read_text(encoding="utf-8"))
        for name in FOLDERS
    }
    return [
        (folder, name)
        for folder, manifest in manifests.items()
        for name, entry in manifest.items()
        if entry["kind"] == "output"
    ]


@cache
def verified(folder: str) -> Verification:
    return verify(GOLDEN / folder)


@pytest.mark.parametrize(("folder", "output"), recorded_outputs())
def test_output_is_the_recorded_one(folder: str, output: str) -> None:
    (check,) = [check for check in verified(folder).checks if check.name == output]
    assert check.checked, f"nothing was computed for {output}"
    assert check.passed, f"error {check.error:.1e} exceeds {check.tolerance:.0e}"


@pytest.mark.parametrize(("folder", "count"), FOLDERS.items())
def test_summary_counts_every_output(folder: str, count: int) -> None:
    verification = verified(folder)
    assert verification.passed
    assert re.fullmatch(
        rf"{count} of {count} outputs checked, {count} within tolerance, worst \S+ [\d.e+-]+",
        verification.summary(),
    )
    tree = json.loads(verification.to_json())
    assert tree["passed"] is True
    assert len(tree["checks"]) == count


def copied(folder: str, target: Path) -> Path:
    shutil.copytree(GOLDEN / folder, target / folder)
    return target / folder


def change_weight(folder: Path, name: str, by: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[0] += by
    save_file(weights, folder / "model.safetensors")


CHANGED = (
    "language_model.model.layers.1.self_attn.k_norm.weight",
    "latent_pos_embed.pos_embed",
)
ALSO_CHANGED = (
    "language_model.model.layers.1.mlp_moe_gen.down_proj.weight",
    "vit_model.vision_tower.blocks.1.norm2.bias",
    "connector.layers.2.bias",
    "language_model.model.norm_moe_gen.weight",
    "time_embedder.mlp.0.bias",
)


@pytest.mark.parametrize(
    "name", [*CHANGED, *(pytest.param(name, marks=pytest.mark.slow) for name in ALSO_CHANGED)]
)
def test_a_changed_weight_is_noticed(name: str, tmp_path: Path) -> None:
    folder = copied("B", tmp_path)
    change_weight(folder, name, 0.01)
    verification = verify(folder)
    assert not verification.passed
    assert re.match(r"95 of 95 outputs checked, \d+ within", verification.summary())


def test_a_changed_autoencoder_is_noticed(tmp_path: Path) -> None:
    folder = copied("vae", tmp_path)
    change_weight(folder, "decoder.up.3.block.0.norm1.bias", 0.01)
    assert not verify(folder).passed


def test_an_output_without_record_is_unchecked(tmp_path: Path) -> None:
    folder = copied("vae", tmp_path)
    recorded = load_file(folder / "golden.safetensors")
    del recorded["enc.std"]
    save_file(recorded, folder / "golden.safetensors")
    verification = verify(folder)
    assert not verification.passed
    assert verification.summary().startswith("11 of 12 outputs checked, 11 within tolerance, worst")
    assert json.loads(verification.to_json())["checks"][-1]["error"] is not None


def test_an_output_that_nobody_computes_is_unchecked(tmp_path: Path) -> None:
    folder = copied("vae", tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["decode.colour"] = {"kind": "output", "compare": "exact"}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    verification = verify(folder)
    assert not verification.passed
    assert verification.summary().startswith("12 of 13 outputs checked, 12 within")


def test_a_group_without_inputs_is_unchecked(tmp_path: Path) -> None:
    folder = copied("A", tmp_path)
    recorded = load_file(folder / "golden.safetensors")
    save_file(
        {name: value for name, value in recorded.items() if name != "edit.prompt_ids"},
        folder / "golden.safetensors",
    )
    verification = verify(folder)
    unchecked = {check.name.split(".")[0] for check in verification.checks if not check.checked}
    assert unchecked == {"edit"}
    assert not verification.passed


def test_no_output_at_all_is_no_proof() -> None:
    empty = Verification("folder", ())
    assert not empty.passed
    assert empty.summary() == "0 of 0 outputs checked, 0 within tolerance, worst none"


@pytest.mark.parametrize("missing", ["config.json", "manifest.json", "golden.safetensors"])
def test_a_folder_without_one_of_its_files(missing: str, tmp_path: Path) -> None:
    folder = copied("vae", tmp_path)
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {missing} in"):
        verify(folder)


def check_of(how: str, recorded: list[float], ours: list[float] | None) -> Check:
    entry = {"kind": "output", "compare": how, "atol": 1e-3, "rtol": 1e-3}
    ours_tensor = None if ours is None else torch.tensor(ours)
    return compare("x", entry, torch.tensor(recorded), ours_tensor)


@pytest.mark.parametrize(
    ("how", "recorded", "ours", "passed", "checked"),
    [
        ("absolute", [1.0, 2.0], [1.0, 2.0005], True, True),
        ("absolute", [1.0, 2.0], [1.0, 2.002], False, True),
        ("relative", [100.0, 0.0], [100.05, 0.0], True, True),
        ("relative", [100.0, 0.0], [100.2, 0.0], False, True),
        ("relative", [100.0, 0.0], [100.0, 1e-9], False, True),  # a recorded 0 is exactly 0
        ("exact", [1.0, 2.0], [1.0, 2.0], True, True),
        ("exact", [1.0, 2.0], [1.0, 2.0000002], False, True),
        ("absolute", [1.0, 2.0], [1.0, float("nan")], False, False),
        ("absolute", [1.0, 2.0], [1.0], False, False),
        ("absolute", [1.0, 2.0], None, False, False),
    ],
)
def test_comparisons(
    how: str, recorded: list[float], ours: list[float] | None, passed: bool, checked: bool
) -> None:
    check = check_of(how, recorded, ours)
    assert (check.passed, check.checked) == (passed, checked)
