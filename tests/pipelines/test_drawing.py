"""Drawing: equal to itself however it is batched, counted, seeded, and safe from bad input."""

import copy
import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unix_cxr.functional.flow import time_grid
from unix_cxr.models.context import Text
from unix_cxr.models.sampling import SamplingDefaults, unipc_scheduler
from unix_cxr.pipelines.marking import SOURCE_TYPE, is_marked_synthetic
from unix_cxr.pipelines.pipeline import UniXPipeline

PROMPTS = ["No pneumonia.", "AP chest radiograph of a child. Bacterial pneumonia.", "Edema."]
ROUNDING = 2e-5  # measured 3e-6: sums in another order


def latents(pipeline: UniXPipeline, *args, **kwargs):
    return pipeline(*args, output_type="latent", **kwargs).images


def test_a_batch_equals_singles(pipeline):
    together = latents(pipeline, PROMPTS, seed=[5, 6, 7])
    alone = torch.cat(
        [latents(pipeline, text, seed=seed) for text, seed in zip(PROMPTS, (5, 6, 7), strict=True)]
    )
    assert (together - alone).abs().max() < ROUNDING
    assert (together[0] - together[1]).abs().max() > 0.01


def test_images_of_a_prompt_share_its_context(pipeline, monkeypatch):
    calls = []
    encode = pipeline.model.encode
    monkeypatch.setattr(
        pipeline.model, "encode", lambda *a, **k: calls.append(1) or encode(*a, **k)
    )
    drawn = pipeline(PROMPTS, num_images_per_prompt=3, seed=0)
    assert len(calls) == 1
    assert drawn.seeds == list(range(9))
    assert drawn.prompts == [text for text in PROMPTS for _ in range(3)]


def test_a_seed_gives_the_same_image_again_and_another_seed_another(pipeline):
    first, again, other = (
        pipeline(PROMPTS[0], seed=seed, output_type="np").images for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_generator_stands_for_its_seed(pipeline):
    by_seed = latents(pipeline, PROMPTS[0], seed=11)
    by_generator = pipeline(
        PROMPTS[0], generator=torch.Generator().manual_seed(11), output_type="latent"
    )
    assert torch.equal(by_seed, by_generator.images)
    assert by_generator.seeds == [11]


def test_without_a_seed_the_drawn_one_is_told_and_repeats(pipeline):
    drawn = pipeline(PROMPTS[0], output_type="latent")
    assert torch.equal(drawn.images, latents(pipeline, PROMPTS[0], seed=drawn.seeds))


@pytest.mark.parametrize(("steps", "solver"), [(1, "euler"), (5, "euler"), (8, "unipc")])
def test_network_calls_are_steps_and_counted_where_they_happen(
    pipeline, monkeypatch, steps, solver
):
    if solver == "unipc":
        pipeline.scheduler = unipc_scheduler(pipeline.defaults.shift)
    batches = []
    denoise = pipeline.model.denoise

    def counting(x, t, context, **kwargs):
        batches.append(len(x))
        return denoise(x, t, context, **kwargs)

    monkeypatch.setattr(pipeline.model, "denoise", counting)
    drawn = pipeline(PROMPTS[0], num_images_per_prompt=2, num_inference_steps=steps, seed=0)
    assert drawn.network_calls == steps == len(batches)
    grid = pipeline.scheduler.sigmas[:-1].tolist()
    expected = [4 if 0.4 < np.float32(t) <= 1 else 2 for t in grid]
    assert batches == expected  # both halves inside the interval, the conditional one outside


def test_no_guidance_never_runs_the_unconditional_half(pipeline, monkeypatch):
    sizes = []
    denoise = pipeline.model.denoise
    monkeypatch.setattr(
        pipeline.model, "denoise", lambda x, *a, **k: sizes.append(len(x)) or denoise(x, *a, **k)
    )
    pipeline(PROMPTS[0], guidance_scale=1.0, seed=0)
    assert set(sizes) == {1}


def test_euler_is_the_published_loop(pipeline):
    """Against the loop written out: x <- x - v dt over the shifted grid."""
    drawn = latents(pipeline, PROMPTS[1], seed=2, num_inference_steps=6, guidance_scale=1.0)
    caption = pipeline.processor.captions([PROMPTS[1]])
    with torch.no_grad():
        context = pipeline.model.encode([Text(caption.ids, caption.real)])
        x = torch.randn((1, 4, 2, 2), generator=torch.Generator().manual_seed(2))
        grid = time_grid(7, pipeline.defaults.shift)
        for now, then in itertools.pairwise(grid):
            x = x - pipeline.model.denoise(x, now[None], context) * (now - then)
    assert (drawn - x).abs().max() < ROUNDING


def test_a_negative_prompt_takes_the_place_of_the_empty_context(pipeline):
    plain = latents(pipeline, PROMPTS[0], seed=0)
    pushed = latents(pipeline, PROMPTS[0], seed=0, negative_prompt="Edema.")
    cancelled = latents(pipeline, PROMPTS[0], seed=0, negative_prompt=PROMPTS[0])
    unguided = latents(pipeline, PROMPTS[0], seed=0, guidance_scale=1.0)
    assert (plain - pushed).abs().max() > 1e-3
    assert (cancelled - unguided).abs().max() < ROUNDING  # u = v, so u + s (v - u) = v


def test_a_callback_sees_every_step_and_may_replace_the_latents(pipeline):
    seen = []

    def stop_at_zero(_, step, t, tensors):
        seen.append((step, t))
        return {"latents": torch.zeros_like(tensors["latents"])}

    result = latents(pipeline, PROMPTS[0], seed=0, callback_on_step_end=stop_at_zero)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert seen[0][1] == 1.0
    assert not result.any()


def test_what_is_not_given_comes_from_the_checkpoint(pipeline):
    stored = pipeline.defaults
    assert stored.num_inference_steps == 4
    explicit = latents(
        pipeline,
        PROMPTS[0],
        seed=0,
        num_inference_steps=4,
        guidance_scale=2.0,
        guidance_interval=(0.4, 1.0),
        guidance_renorm="global",
        height=32,
        width=32,
    )
    assert torch.equal(latents(pipeline, PROMPTS[0], seed=0), explicit)
    wrong = copy.deepcopy(pipeline.model.config)
    wrong.sampling = {"steps": 3}
    with pytest.raises(ValueError, match=r"unknown sampling keys \['steps'\]"):
        SamplingDefaults.of(wrong)


def test_output_types(pipeline):
    images = pipeline(PROMPTS[0], seed=0).images
    assert images[0].mode == "L"
    assert images[0].size == (32, 32)
    array = pipeline(PROMPTS[0], seed=0, output_type="np").images
    tensor = pipeline(PROMPTS[0], seed=0, output_type="pt").images
    assert array.shape == (1, 32, 32)
    assert tensor.shape == (1, 1, 32, 32)
    assert np.abs(np.asarray(images[0]) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6
    assert isinstance(pipeline(PROMPTS[0], seed=0, return_dict=False), tuple)


def test_saved_and_loaded_it_draws_the_same(pipeline, pipeline_folder):
    loaded = UniXPipeline.from_pretrained(pipeline_folder)
    assert torch.equal(latents(loaded, PROMPTS, seed=0), latents(pipeline, PROMPTS, seed=0))
    assert loaded.defaults == pipeline.defaults
    assert loaded.model_id == pipeline_folder.name
    files = [path.suffix for path in pipeline_folder.rglob("*") if path.is_file()]
    assert set(files) <= {".json", ".safetensors"}


def test_files_are_marked_synthetic_and_keep_the_prompt_to_themselves(pipeline, tmp_path):
    prompt = "AP chest radiograph of Mr. Smith. No pneumonia."
    paths = pipeline(prompt, seed=9, num_images_per_prompt=2).save(tmp_path)
    for path in paths:
        assert is_marked_synthetic(path)
        assert b"Smith" not in path.read_bytes()
        assert "Smith" not in path.name
        with Image.open(path) as image:
            assert image.info["Synthetic"].startswith("yes")
            assert SOURCE_TYPE in image.info["XML:com.adobe.xmp"]
            facts = json.loads(image.info["unix_cxr"])
        assert facts["seed"] in {9, 10}
        assert facts["network_calls"] == 4
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [9, 10]
    told = pipeline(prompt, seed=9).save(tmp_path / "told", with_prompt=True)
    assert b"Smith" in told[0].read_bytes()


def test_an_unmarked_picture_is_not_taken_for_a_marked_one(tmp_path):
    Image.new("L", (20, 20)).save(tmp_path / "plain.png")
    assert not is_marked_synthetic(tmp_path / "plain.png")


def test_a_prompt_of_unknown_findings_warns(pipeline, caplog):
    with caplog.at_level(logging.WARNING):
        pipeline("Large left pleural effusion. Pneumonia.", seed=0)
    assert "Pleural Effusion" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        pipeline("Bacterial pneumonia. No pleural effusion.", seed=0)
    assert not caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, r"prompt '' is empty"),
        ({"prompt": []}, "there is no prompt"),
        ({"prompt": "x" * 20_000}, r"20,000 characters exceeds the limit of 10,000"),
        ({"guidance_scale": float("nan")}, r"guidance scale \(nan\) must be a finite number"),
        ({"guidance_scale": -1.0}, r"guidance scale \(-1.0\)"),
        ({"guidance_interval": (0.9, 0.1)}, r"guidance interval \(0.9, 0.1\)"),
        ({"num_inference_steps": 0}, r"num_inference_steps \(0\) must be at least 1"),
        ({"seed": 1, "generator": torch.Generator()}, "both seed and generator are given"),
        ({"seed": [1, 2]}, "2 seeds for 1 images"),
        ({"seed": -3}, r"seed \(-3\) must be between"),
        ({"height": 100}, r"height \(100\) must be a positive multiple of 16"),
        ({"width": 1024}, r"width \(1024\) exceeds what this checkpoint draws, 64 pixels"),
        ({"num_images_per_prompt": 0}, r"num_images_per_prompt \(0\) must be at least 1"),
        ({"output_type": "gif"}, r"output_type \('gif'\)"),
        ({"latents": torch.zeros(1, 4, 3, 3)}, r"latents \[1, 4, 3, 3\] must be \[1, 4, 2, 2\]"),
    ],
)
def test_bad_arguments_name_the_value_and_the_remedy(pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**({"prompt": PROMPTS[0]} | arguments))


class TestFolders:
    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no folder at"):
            UniXPipeline.from_pretrained(tmp_path / "nothing")

    def test_empty(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no pipeline"):
            UniXPipeline.from_pretrained(tmp_path)

    @pytest.fixture
    def copy(self, pipeline_folder: Path, tmp_path: Path) -> Path:
        import shutil

        return Path(shutil.copytree(pipeline_folder, tmp_path / "copy"))

    def test_without_weights(self, copy):
        (copy / "model" / "model.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match="no weights"):
            UniXPipeline.from_pretrained(copy)

    def test_a_pickle_in_place_of_safetensors(self, copy):
        weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
        with pytest.raises(ValueError, match="holds only pickles"):
            UniXPipeline.from_pretrained(copy)

    def test_without_tokenizer(self, copy):
        (copy / "processor" / "tokenizer.json").unlink()
        with pytest.raises(FileNotFoundError, match="no tokenizer in"):
            UniXPipeline.from_pretrained(copy)

    def test_weights_of_another_config(self, copy):
        path = copy / "model" / "config.json"
        tree = json.loads(path.read_text())
        tree["text_config"]["intermediate_size"] = 64
        path.write_text(json.dumps(tree))
        with pytest.raises(ValueError, match="weights"):
            UniXPipeline.from_pretrained(copy)
