"""Adapters at inference: loaded, stacked, switched by name, merged, saved into the weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tolerances import assert_close
from unix_cxr.models.adapter_files import save_adapter
from unix_cxr.models.adapters import AdapterSettings, adapter_parameters, add_adapter
from unix_cxr.pipelines.pipeline import UniXPipeline

from .conftest import build_pipeline

PROMPT = "No pneumonia."


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters, "icu" of drawing and "clinic" of both branches."""
    root = tmp_path_factory.mktemp("adapters")
    model = build_pipeline().model
    for seed, (name, preset) in enumerate({"icu": "gen", "clinic": "both"}.items()):
        add_adapter(model, AdapterSettings(preset, rank=2), name)
        with torch.no_grad():
            for key, parameter in adapter_parameters(model, name).items():
                if "lora_B" in key:
                    generator = torch.Generator().manual_seed(seed)
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        save_adapter(model, root / name, name)
    return root


@pytest.fixture
def pipe() -> UniXPipeline:
    return build_pipeline()


def draw(pipe: UniXPipeline) -> Tensor:
    return torch.as_tensor(pipe(PROMPT, seed=3, output_type="pt").images)


def test_adapters_are_switched_by_name(pipe: UniXPipeline, folders: Path, xray: Path) -> None:
    plain, report = draw(pipe), pipe.score(xray, "Effusion.")
    pipe.load_adapter(folders / "icu")
    assert pipe.adapters == {"icu": 1.0}  # named after its folder
    alone = draw(pipe)
    assert not torch.equal(alone, plain)
    assert pipe.score(xray, "Effusion.") == report  # a gen adapter leaves reading alone
    pipe.load_adapter(folders / "clinic", name="c")
    assert pipe.adapters == {"icu": 0.0, "c": 1.0}
    assert pipe.score(xray, "Effusion.") != report
    pipe.set_adapters(["icu", "c"], weights=[1.0, 0.5])
    assert pipe.adapters == {"icu": 1.0, "c": 0.5}
    assert not torch.equal(draw(pipe), alone)
    pipe.set_adapters(["icu"])
    assert torch.equal(draw(pipe), alone)
    pipe.disable_adapters()
    assert pipe.adapters == {"icu": 0.0, "c": 0.0}
    assert torch.equal(draw(pipe), plain)


def test_merged_adapters_are_saved_into_the_weights(
    pipe: UniXPipeline, folders: Path, tmp_path: Path
) -> None:
    plain = draw(pipe)
    with pytest.raises(ValueError, match="nothing to put back"):
        pipe.unmerge_adapters()
    pipe.load_adapter(folders / "icu")
    beside = draw(pipe)
    with pytest.raises(ValueError, match=r"\['icu'\] are active and not merged"):
        pipe.save_pretrained(tmp_path / "unmerged")
    pipe.merge_adapters()
    assert_close("adapters.merged", draw(pipe), beside)
    with pytest.raises(ValueError, match="unmerge them first"):
        pipe.load_adapter(folders / "clinic")
    pipe.save_pretrained(tmp_path / "merged")
    again = UniXPipeline.from_pretrained(tmp_path / "merged")
    assert again.adapters == {}
    again.set_progress_bar_config(disable=True)
    assert_close("adapters.merged", draw(again), beside)
    pipe.unmerge_adapters()
    assert torch.equal(draw(pipe), beside)
    pipe.disable_adapters()
    pipe.save_pretrained(tmp_path / "plain")
    theirs = UniXPipeline.from_pretrained(tmp_path / "plain").model.state_dict()
    for name, value in build_pipeline().model.state_dict().items():
        assert torch.equal(theirs[name], value), name
    assert torch.equal(draw(pipe), plain)
