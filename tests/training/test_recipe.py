"""`run_recipe`: what is finished is skipped, what one stage learns the next begins with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unix_cxr.training.loop import Trainer
from unix_cxr.training.plan import RunSummary
from unix_cxr.training.recipe import RecipeRun, run_recipe
from unix_cxr.training.runlog import CLOCKED
from unix_cxr.training.settings import Recipe, load_recipe
from unix_cxr.training.starting import fold_output_biases, load_model_weights

from .conftest import UNDERSTANDING, stage, write_films

MakeRecipe = Callable[..., Recipe]
STAGES = ("autoencoder", "understanding", "generation")
EXPORTS = {
    "autoencoder": "vae/diffusion_pytorch_model.safetensors",
    "understanding": "model/model.safetensors",
    "generation": "model/model.safetensors",
}


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, films: Path) -> Path:
    """A run of the tiny recipe; tests that change it copy it."""
    from unix_cxr.training.settings import parse_recipe

    from .conftest import tree

    folder = tmp_path_factory.mktemp("finished") / "run"
    run_recipe(parse_recipe(tree(films), "tiny"), folder)
    return folder


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "copied"))


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    return load_file(folder / name / EXPORTS[name])


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKED} for line in lines]


def states(summary: RunSummary) -> list[str]:
    return [entry.state for entry in summary.plan]


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("nothing must be trained here")

    monkeypatch.setattr(Trainer, "run", fail)


# -- the whole run ---------------------------------------------------------------------------


def test_a_run_leaves_a_folder_per_stage_and_a_pipeline(finished_run: Path) -> None:
    names = sorted(path.name for path in finished_run.iterdir())
    stages = ["autoencoder", "generation", "pipeline", "understanding"]
    assert names == sorted([*stages, "index.html", "run.json"])
    parts = {path.name for path in (finished_run / "pipeline").iterdir()}
    assert {"model", "vae", "processor", "scheduler", "model_index.json"} <= parts
    for name in STAGES:
        assert [row["step"] for row in rows(finished_run / name) if "norm" in row] == [1, 2, 3, 4]


def test_the_pipeline_holds_what_the_last_stages_learned(finished_run: Path) -> None:
    from unix_cxr import UniXPipeline

    pipeline = UniXPipeline.from_pretrained(finished_run / "pipeline")
    model, vae = weights(finished_run, "generation"), weights(finished_run, "autoencoder")
    assert all(torch.equal(value, model[k]) for k, value in pipeline.model.state_dict().items())
    assert all(torch.equal(value, vae[k]) for k, value in pipeline.vae.state_dict().items())
    drawn = pipeline("AP chest radiograph of a child.", seed=0, output_type="pt")
    assert tuple(drawn.images[0].shape[-2:]) == (32, 32)


def test_weights_flow_from_stage_to_stage_and_frozen_ones_stay(finished_run: Path) -> None:
    before, after = weights(finished_run, "understanding"), weights(finished_run, "generation")
    for name, value in before.items():
        same = torch.equal(value, after[name])
        frozen = not name.startswith("generation.") or name.endswith("embedding.positions")
        assert same or not frozen, name
    assert not torch.equal(
        before["generation.velocity_head.weight"], after["generation.velocity_head.weight"]
    )


def test_output_biases_stay_0_through_the_whole_run(finished_run: Path) -> None:
    biases = {
        name: value
        for name, value in weights(finished_run, "generation").items()
        if name.startswith("language_model") and name.endswith("o_proj.bias")
    }
    assert len(biases) == 2
    assert all(not value.any() for value in biases.values())


def test_the_autoencoders_scale_and_shift_are_those_of_its_latents(finished_run: Path) -> None:
    config = json.loads((finished_run / "autoencoder" / "vae" / "config.json").read_text("utf-8"))
    assert config["scaling_factor"] not in (0, 1)
    assert config["shift_factor"] != 0


# -- going on --------------------------------------------------------------------------------


def test_a_finished_run_is_loaded_not_trained(
    make_recipe: MakeRecipe,
    copied_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forbid_training(monkeypatch)
    before = load_file(copied_run / "pipeline" / "model" / "model.safetensors")
    shutil.rmtree(copied_run / "pipeline")
    with caplog.at_level("INFO"):
        summary = run_recipe(make_recipe(), copied_run)
    assert states(summary) == ["finished"] * 3
    assert all(result.skipped and result.losses for result in summary.results)
    assert "stage understanding is finished: its weights are loaded from" in caplog.text
    after = load_file(copied_run / "pipeline" / "model" / "model.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(("name", "step"), [("autoencoder", 1), *((name, 3) for name in STAGES)])
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(
    make_recipe: MakeRecipe,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    step: int,
) -> None:
    take = Trainer._step

    def take_until_stopped(self: Trainer, batch: Any) -> dict[str, float]:
        if (self.stage.name, self.step) == (name, step):
            raise KeyboardInterrupt
        return take(self, batch)

    monkeypatch.setattr(Trainer, "_step", take_until_stopped)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(make_recipe(), tmp_path)
    monkeypatch.undo()
    summary = run_recipe(make_recipe(), tmp_path)
    begun = "goes on at step 2" if step == 3 else "begins"
    assert summary.plan[STAGES.index(name)].state == begun
    for each in STAGES:
        ours, whole = weights(tmp_path, each), weights(finished_run, each)
        assert all(torch.equal(value, ours[key]) for key, value in whole.items()), each
        assert rows(tmp_path / each) == rows(finished_run / each)


def test_a_stage_that_only_lacks_its_export_takes_no_step(
    make_recipe: MakeRecipe, copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = weights(copied_run, "understanding")
    shutil.rmtree(copied_run / "understanding" / "model")
    monkeypatch.setattr(Trainer, "_step", lambda *_: pytest.fail("a step was taken"))
    summary = run_recipe(make_recipe(), copied_run)
    assert states(summary) == ["finished", "goes on at step 4", "finished"]
    after = weights(copied_run, "understanding")
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_changed_recipe_says_which_keys(make_recipe: MakeRecipe, copied_run: Path) -> None:
    changed = make_recipe(understanding={"learning_rate": 0.5, "batch_size": 2})
    with pytest.raises(
        ValueError,
        match=r"the recipe has changed since .*step-00000004: "
        r"stages\.understanding\.batch_size: 4 -> 2; "
        r"stages\.understanding\.learning_rate: 0\.001 -> 0\.5; go back .*another output folder",
    ):
        run_recipe(changed, copied_run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, r"seed: 3 -> 4"),
        ({"data": {"limit": 5}}, r"data\.limit: None -> 5"),
        ({"autoencoder": {"steps": 9}}, r"stages\.autoencoder\.steps: 4 -> 9"),
    ],
)
def test_a_change_that_reaches_the_weights_is_refused(
    make_recipe: MakeRecipe, copied_run: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_recipe(make_recipe(**changes), copied_run)


def test_what_does_not_reach_the_weights_may_change(
    make_recipe: MakeRecipe, copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_training(monkeypatch)
    changed = make_recipe(
        data={"root": str(write_films(tmp_path / "moved"))},
        sampling={"num_inference_steps": 3},
        generation={"log_every": 2, "checkpoint_every": 3, "validate_every": 4},
    )
    assert states(run_recipe(changed, copied_run)) == ["finished"] * 3
    config = json.loads((copied_run / "pipeline" / "model" / "config.json").read_text("utf-8"))
    assert config["sampling"]["num_inference_steps"] == 3


def test_a_constant_schedule_may_be_prolonged(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    one = make_recipe(stages=[stage("ae", "autoencoder", ["vae.*"], schedule="constant")])
    more = make_recipe(stages=[stage("ae", "autoencoder", ["vae.*"], schedule="constant", steps=6)])
    run_recipe(one, tmp_path / "prolonged")
    summary = run_recipe(more, tmp_path / "prolonged")
    assert summary.plan[0].state == "goes on at step 4"
    run_recipe(more, tmp_path / "whole")
    file = "ae/vae/diffusion_pytorch_model.safetensors"
    ours, whole = (load_file(tmp_path / run / file) for run in ("prolonged", "whole"))
    assert all(torch.equal(value, ours[name]) for name, value in whole.items())
    with pytest.raises(ValueError, match=r"step-00000006 stands beyond the 4 steps of stage 'ae'"):
        run_recipe(one, tmp_path / "prolonged")


def test_a_stage_on_other_weights_than_it_began_from_is_refused(
    make_recipe: MakeRecipe, copied_run: Path
) -> None:
    shutil.rmtree(copied_run / "autoencoder")
    changed = make_recipe(autoencoder={"learning_rate": 0.5})
    assert changed.stages[0].learning_rate == 0.5
    with pytest.raises(
        ValueError,
        match=r"stage 'generation' in .* is finished, but began from other weights of vae than "
        r"this run has; remove .*generation to train it anew",
    ):
        run_recipe(changed, copied_run)


# -- a choice of stages ----------------------------------------------------------------------


def test_one_stage_loads_the_finished_ones_before_it(
    make_recipe: MakeRecipe, copied_run: Path, finished_run: Path
) -> None:
    shutil.rmtree(copied_run / "generation")
    summary = run_recipe(make_recipe(), copied_run, stages=["generation"])
    assert states(summary) == ["finished", "finished", "begins"]
    ours, whole = weights(copied_run, "generation"), weights(finished_run, "generation")
    assert all(torch.equal(value, ours[name]) for name, value in whole.items())


def test_a_partial_run_exports_no_pipeline_and_says_why(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    summary = run_recipe(make_recipe(), tmp_path, stages=["autoencoder"])
    assert states(summary) == ["begins", "left out", "left out"]
    assert summary.pipeline is None
    assert not (tmp_path / "pipeline").exists()
    assert summary.random_parts == (
        "model.connector",
        "model.generation",
        "model.language_model",
        "model.vision",
    )
    assert "no pipeline: model.connector" in summary.text()


def test_unknown_stages_are_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no stage 'drawing'; it has \['autoencoder', 'und"):
        run_recipe(make_recipe(), tmp_path, stages=["drawing"])


@pytest.mark.parametrize(
    ("stages", "parts"),
    [
        (["generation"], r"model\.language_model, vae"),
        (["autoencoder", "generation"], r"model\.language_model\)"),
        (["understanding", "generation"], r"\(vae\)"),
    ],
)
def test_generation_on_frozen_random_weights_is_refused(
    make_recipe: MakeRecipe, tmp_path: Path, stages: list[str], parts: str
) -> None:
    with pytest.raises(
        ValueError,
        match=rf"'generation' reads \d+ frozen parameters that nothing has trained.*{parts}.*"
        r"--init-from.*allow_random: true",
    ):
        run_recipe(make_recipe(), tmp_path, stages=stages)
    assert not list(tmp_path.iterdir())


def test_random_weights_are_read_where_the_stage_allows_them(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(generation={"allow_random": True, "steps": 1})
    summary = run_recipe(recipe, tmp_path, stages=["generation"])
    assert summary.plan[2].frozen.new > 0
    assert summary.pipeline is not None


def test_joint_training_needs_no_trained_understanding_branch(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    joint = stage(
        "joint",
        "generation",
        ["model.generation.*", "model.language_model.model.*"],
        steps=2,
        objective={"understanding_gradient": 1.0},
    )
    recipe = make_recipe(stages=[stage("ae", "autoencoder", ["vae.*"], steps=1), joint])
    run_recipe(recipe, tmp_path)
    trained = load_file(tmp_path / "joint" / "model" / "model.safetensors")
    run = RecipeRun(recipe, tmp_path, torch.device("cpu"))
    moved = [k for k, v in run.model.state_dict().items() if not torch.equal(v, trained[k])]
    assert any(name.startswith("language_model.model.layers") for name in moved)
    assert not any(name.startswith("vision") or name.endswith("o_proj.bias") for name in moved)


def test_learning_what_gets_no_gradient_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(generation={"trains": ["model.generation.*", "model.language_model.*"]})
    with pytest.raises(
        ValueError,
        match=r"'generation' trains model\.language_model, but understanding_gradient is 0",
    ):
        run_recipe(recipe, tmp_path)


# -- beginning from a folder -----------------------------------------------------------------


def test_a_run_begins_from_a_pipeline(
    make_recipe: MakeRecipe, finished_run: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(
        stages=[stage("more", "generation", ["model.generation.*"], steps=1, learning_rate=1e-9)]
    )
    summary = run_recipe(recipe, tmp_path / "out", init_from=finished_run / "pipeline")
    assert summary.plan[0].learning.new == 0
    assert summary.plan[0].frozen.new == 0
    assert summary.pipeline == tmp_path / "out" / "pipeline"
    before = weights(finished_run, "generation")
    after = load_file(tmp_path / "out" / "more" / "model" / "model.safetensors")
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)


def test_half_precision_weights_are_cast(
    make_recipe: MakeRecipe, finished_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished_run / "pipeline", tmp_path / "half"))
    for file in (
        folder / "model" / "model.safetensors",
        folder / "vae" / "diffusion_pytorch_model.safetensors",
    ):
        tensors = {name: value.half() for name, value in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    run = RecipeRun(make_recipe(), tmp_path / "out", torch.device("cpu"))
    run.begin_from(folder)
    assert {value.dtype for value in run.model.parameters()} == {torch.float32}
    vae: Any = run.vae
    assert {value.dtype for value in vae.parameters()} == {torch.float32}
    assert not run.random_parts()
    full = weights(finished_run, "generation")
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, full[name].half().float())
    assert vae.config["scaling_factor"] != 1


def test_how_long_texts_may_be_decides_about_no_weight(
    make_recipe: MakeRecipe, finished_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished_run / "pipeline", tmp_path / "longer"))
    config = folder / "model" / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    content["text_config"]["max_position_embeddings"] = 16_384
    config.write_text(json.dumps(content), encoding="utf-8")
    longer = run_recipe(make_recipe(), tmp_path / "a", init_from=folder, dry_run=True)
    assert not longer.random_parts
    content["connector_activation"] = "gelu"
    config.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="connector_activation is 'gelu', the recipe says"):
        run_recipe(make_recipe(), tmp_path / "b", init_from=folder, dry_run=True)
    recipe = make_recipe(model={"connector_activation": "gelu"})
    assert not run_recipe(recipe, tmp_path / "c", init_from=folder, dry_run=True).random_parts


def test_a_run_begins_from_a_stages_folder(
    make_recipe: MakeRecipe, finished_run: Path, tmp_path: Path
) -> None:
    summary = run_recipe(
        make_recipe(), tmp_path, init_from=finished_run / "understanding", dry_run=True
    )
    assert summary.random_parts == ("vae",)
    assert [entry.learning.new > 0 for entry in summary.plan] == [True, False, False]


def _drop(name: str) -> Callable[[Path], None]:
    def drop(folder: Path) -> None:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return drop


def _pickle(folder: Path) -> None:
    file = folder / "model" / "model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))


def _truncate(folder: Path) -> None:
    file = folder / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _without_a_weight(folder: Path) -> None:
    file = folder / "model" / "model.safetensors"
    tensors = load_file(file)
    del tensors["connector.input.bias"]
    save_file(tensors | {"stranger": torch.zeros(1)}, file)


def _not_finite(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["quant_conv.bias"][0] = torch.nan
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (shutil.rmtree, FileNotFoundError, "has neither model/ nor vae/; give a pipeline folder"),
        (_drop("processor"), FileNotFoundError, r"has no tokenizer\.json; a model needs the token"),
        (_drop("model/model.safetensors"), FileNotFoundError, "model has no weights in safetens"),
        (_pickle, FileNotFoundError, r"pytorch_model\.bin is a pickle, which is never read"),
        (_truncate, ValueError, r"model\.safetensors is damaged or no safetensors file"),
        (
            _without_a_weight,
            ValueError,
            r"do not fit: missing \['connector\.input\.bias'\], unknown \['stranger'\]",
        ),
        (_not_finite, ValueError, r"vae are not finite: \['quant_conv\.bias'\]"),
    ],
)
def test_a_folder_that_cannot_be_begun_from_is_refused(
    make_recipe: MakeRecipe,
    finished_run: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    error: type[Exception],
    message: str,
) -> None:
    folder = Path(shutil.copytree(finished_run / "pipeline", tmp_path / "broken"))
    damage(folder)
    with pytest.raises(error, match=message):
        run_recipe(make_recipe(), tmp_path / "out", init_from=folder)
    assert not (tmp_path / "out").exists()


def test_output_biases_of_a_folder_are_refused_and_can_be_folded(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(model={"kv_heads": 2})
    run = RecipeRun(recipe, tmp_path, torch.device("cpu"))
    model = run.model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    inputs = run.processor(images=torch.rand(40, 30, generator=generator).numpy(), text="What?")
    with torch.no_grad():
        before = model(**inputs).logits
        model.save_pretrained(tmp_path / "biased")
        with pytest.raises(ValueError, match=r"o_proj\.bias; the published.* fold_output_biases"):
            load_model_weights(model, tmp_path / "biased")
        fold_output_biases(model)
        after = model(**inputs).logits
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path / "folded")
    load_model_weights(model, tmp_path / "folded")
    shared = RecipeRun(make_recipe(), tmp_path, torch.device("cpu")).model
    with torch.no_grad():
        for parameter in shared.language_model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    with pytest.raises(ValueError, match=r"cannot be folded into the values: .* left over"):
        fold_output_biases(shared)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"layers": 3}}, r"text_config\.num_hidden_layers is 2, the recipe says 3"),
        ({"model": {"vocabulary_size": 290}}, r"tokenizer has 300 tokens, more than .*\(290\)"),
        ({"model": {"vocabulary_size": 310}}, r"text_config\.vocab_size is 300, the recipe says 3"),
        (
            {"data": {"image_size": 64}, "model": {"max_latent_size": 4}},
            r"image_size is 32, the re",
        ),
        ({"networks": [4, 4, 4, 8, 8]}, r"block_out_channels is \[4, 4, 4, 4, 8\], the recipe say"),
    ],
)
def test_weights_of_another_configuration_are_refused(
    make_recipe: MakeRecipe,
    finished_run: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    channels = changes.pop("networks", None)
    recipe = make_recipe(**changes)
    if channels:
        autoencoder = recipe.autoencoder.model_copy(update={"channels": tuple(channels)})
        recipe = recipe.model_copy(update={"autoencoder": autoencoder})
    with pytest.raises(ValueError, match=message):
        run_recipe(recipe, tmp_path, init_from=finished_run / "pipeline")


# -- the plan --------------------------------------------------------------------------------


def test_a_dry_run_plans_and_writes_nothing(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    summary = run_recipe(make_recipe(), tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    assert summary.results == ()
    assert summary.pipeline is None
    assert states(summary) == ["begins"] * 3
    run = RecipeRun(make_recipe(), tmp_path, torch.device("cpu"))
    sizes = run.sizes()
    ae, und, gen = summary.plan
    assert ae.learning.new == sum(n for name, n in sizes.items() if name.startswith("vae."))
    assert und.learning.new + und.frozen.loaded == sum(
        n for name, n in sizes.items() if name.startswith(tuple(p[:-1] for p in UNDERSTANDING))
    )
    assert und.frozen.loaded == 2 * 16  # the output biases, which are 0 and stay 0
    assert gen.frozen.new == 0
    assert gen.learning.new == sum(n for k, n in sizes.items() if k.startswith("model.generation"))
    assert "begins" in summary.text()
    assert json.loads(json.dumps(summary.as_dict()))["plan"][0]["name"] == "autoencoder"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"image_size": 48}}, r"model\.max_latent_size \(2\) must be at least 3"),
        ({"model": {"vision_patch_size": 12}}, r"image_size \(32\) must be divisible by model\.vi"),
        ({"sampling": {"num_steps": 3}}, r"unknown sampling keys \['num_steps'\]; known keys"),
        ({"stages": [stage("a", "autoencoder", ["vae.*"])] * 2}, r"two stages are named \['a'\]"),
        ({"generation": {"trains": ["generation.*"]}}, r"'generation\.\*' matches no parameter"),
        ({"generation": {"freezes": ["vae.*"]}}, r"'vae\.\*' matches no parameter"),
        ({"data": {"subsets": ["another"]}}, r"has no rows of subset \['another'\]"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    make_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_recipe(make_recipe(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_data_are_refused_before_anything_is_written(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(data={"root": str(tmp_path / "absent")})
    with pytest.raises(FileNotFoundError, match=r"no table at .*nano-data\.md"):
        run_recipe(recipe, tmp_path / "out")
    no_dev = make_recipe(data={"root": str(write_films(tmp_path / "films", dev=0))})
    with pytest.raises(ValueError, match=r"has no studies in split 'dev'"):
        run_recipe(no_dev, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_building_networks_draws_nothing_from_the_process_generator(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    RecipeRun(make_recipe(), tmp_path, torch.device("cpu")).sizes()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("kind", STAGES)
def test_every_objective_runs_in_bfloat16(
    make_recipe: MakeRecipe, copied_run: Path, tmp_path: Path, kind: str
) -> None:
    recipe = make_recipe(**{name: {"precision": "bfloat16", "steps": 2} for name in STAGES})
    run = RecipeRun(recipe, tmp_path, torch.device("cpu"))
    run.begin_from(copied_run / "pipeline")
    losses = run.run_stage(recipe.stage(kind))
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    exported = weights(tmp_path, kind)
    assert {value.dtype for value in exported.values()} == {torch.float32}


def test_the_shipped_recipe_is_valid() -> None:
    path = Path(__file__).parents[2] / "recipes" / "nano.yaml"
    recipe = load_recipe(path, ["data.root=/xrays"])
    assert recipe.data.root == "/xrays"
    assert {entry.objective.kind for entry in recipe.stages} == {*STAGES, "vision"}


def test_a_page_that_cannot_be_written_ends_no_training(
    make_recipe: MakeRecipe, copied_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied_run / "run.json").write_text("{", encoding="utf-8")
    RecipeRun(make_recipe(), copied_run, torch.device("cpu")).show()
    assert "the run's page is not written" in caplog.text
