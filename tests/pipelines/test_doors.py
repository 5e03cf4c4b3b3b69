"""What reaches the model: texts that name special tokens, sizes, stale images, offloading."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import make_tiny_config
from unix_cxr import Text, UniXModel, UniXPipeline
from unix_cxr.models.config import UniXConfig
from unix_cxr.pipelines.batch import DrawingOptions, PromptRow, draw_table, read_prompts

from .conftest import SIDE, build_pipeline


@pytest.fixture(scope="module")
def pipeline() -> UniXPipeline:
    return build_pipeline()


def xray() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)


@pytest.mark.parametrize("name", ["<begin_of_image>", "<end_of_image>", "<|eos|>", "<|pad|>"])
def test_a_text_that_names_a_special_token_is_text(pipeline: UniXPipeline, name: str) -> None:
    processor = pipeline.processor
    special = set(processor.tokenizer.all_special_ids)
    ids = processor.text_ids(f"no {name} seen")
    assert not special & set(ids[1:-1])
    assert processor.tokenizer.decode(ids[1:-1]) == f"no {name} seen"
    assert pipeline.describe(xray(), f"{name} what?", max_new_tokens=2).reports
    assert np.isfinite(pipeline.score(xray(), f"Clear lungs. {name}")[0])
    # ordinary texts are as before
    plain = processor.tokenizer.encode("Clear lungs.", add_special_tokens=False)
    assert processor.text_ids("Clear lungs.")[1:-1] == plain


def test_placeholders_without_an_image_are_an_error(pipeline: UniXPipeline) -> None:
    processor = pipeline.processor
    ids = torch.tensor([[*processor.image_block(), *processor.text_ids("Clear.")]])
    with pytest.raises(ValueError, match="have 4 placeholders of image tokens, and there are no"):
        pipeline.model(input_ids=ids)


def test_a_side_is_a_multiple_of_a_tokens(pipeline: UniXPipeline) -> None:
    whole: Any = pipeline
    model = UniXModel(UniXConfig(**pipeline.model.config.to_dict() | {"latent_patch_size": 2}))
    wide = type(pipeline)(model.eval(), whole.vae, pipeline.processor, whole.scheduler)
    wide.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match=r"height \(48\) must be a positive multiple of 32"):
        wide("Clear.", height=48, width=64, num_inference_steps=1)
    drawn: Any = wide("Clear.", height=32, width=64, num_inference_steps=1, seed=0)
    assert drawn.images[0].size == (64, 32)


def test_an_image_of_another_prompt_or_model_is_drawn_again(tmp_path: Path) -> None:
    pipeline = build_pipeline()
    pipeline.model_id = "first"
    options = DrawingOptions(steps=1)

    def draw(prompt: str) -> tuple[int, int]:
        table = draw_table(pipeline, [PromptRow("a", prompt)], tmp_path, options)
        return table.drawn, table.kept

    assert draw("Clear lungs.") == (1, 0)
    assert draw("Clear lungs.") == (0, 1)
    before = (tmp_path / "a-0.png").read_bytes()
    assert draw("A large pleural effusion.") == (1, 0)
    assert (tmp_path / "a-0.png").read_bytes() != before
    assert draw("A large pleural effusion.") == (0, 1)
    pipeline.model_id = "second"
    assert draw("A large pleural effusion.") == (1, 0)
    rows = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(row)["model"] for row in rows] == ["second"]  # one image, one row


def test_half_a_row_of_the_manifest_spoils_no_other(tmp_path: Path) -> None:
    pipeline = build_pipeline()
    prompts = [PromptRow("a", "Clear lungs."), PromptRow("b", "A large pleural effusion.")]
    options = DrawingOptions(steps=1, batch_size=1)
    draw_table(pipeline, prompts, tmp_path, options)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-30])  # killed while it wrote
    assert draw_table(pipeline, prompts, tmp_path, options).drawn == 1
    rows = [json.loads(row) for row in manifest.read_text().splitlines()]
    assert [row["prompt_id"] for row in rows] == ["a", "b"]
    assert draw_table(pipeline, prompts, tmp_path, options).kept == 2


def test_a_table_of_prompts_loses_nothing_in_silence(tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text('id,prompt\na,"Clear lungs.\nb,A large pleural effusion.\n')
    with pytest.raises(ValueError, match=r"prompts.csv, line 2: .*a quote is opened and not"):
        read_prompts(table)
    table.write_text("id,prompt\na,Clear lungs, no effusion.\n")
    with pytest.raises(ValueError, match=r"prompts.csv, line 2: "):
        read_prompts(table)


def test_offloaded_weights_are_fetched_before_encode_and_denoise() -> None:
    """accelerate hangs its hook on `forward`, which neither calls."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    fetched = []

    class Fetching(ModelHook):  # type: ignore[misc]  # accelerate is untyped
        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            fetched.append(type(module).__name__)
            return args, kwargs

    model = UniXModel(make_tiny_config()).eval()
    add_hook_to_module(model, Fetching())
    with torch.no_grad():
        context = model.encode([Text(torch.tensor([[1, 2, 3]]))])
        assert fetched == ["UniXModel"]
        model.denoise(torch.randn(1, 4, 2, 2), torch.ones(1), context)
        assert fetched == ["UniXModel"] * 2
