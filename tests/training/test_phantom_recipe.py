"""recipes/phantom.yaml: from nothing to a model that draws what is asked for and reads it back."""

from pathlib import Path

import pytest
import torch

from unix_cxr.data.phantom import Phantom, render_batch, reports_of
from unix_cxr.evaluation.phantom_controls import fresh_phantoms, score_drawn, score_written
from unix_cxr.pipelines.pipeline import UniXPipeline
from unix_cxr.training.recipe import RecipeRun, run_recipe
from unix_cxr.training.settings import load_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "phantom.yaml"
SIDE, F1 = 0.75, 0.8
FEW = [
    "data.root=phantom:60:busy",
    *(f"stages.{name}.steps=2" for name in ("autoencoder", "vision", "joint")),
    *(f"stages.{name}.warmup_steps=1" for name in ("autoencoder", "vision", "joint")),
    "stages.vision.batch_size=6",
    "stages.vision.objective.least=2",
    "stages.joint.batch_size=6",
]


def findings(phantom: Phantom) -> str:
    return reports_of(phantom)[0]


def test_its_stages_fit_together(tmp_path: Path) -> None:
    run = RecipeRun(load_recipe(RECIPE), tmp_path, torch.device("cpu"))
    run.check()
    assert [stage.objective.kind for stage in run.recipe.stages] == [
        "autoencoder",
        "vision",
        "joint",
    ]


@pytest.mark.slow
def test_it_runs_from_phantoms_to_a_pipeline(tmp_path: Path) -> None:
    summary = run_recipe(load_recipe(RECIPE, FEW), tmp_path)
    assert [result.name for result in summary.results] == ["autoencoder", "vision", "joint"]
    assert summary.random_parts == ()
    pipeline = UniXPipeline.from_pretrained(tmp_path / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    [phantom] = fresh_phantoms(1)
    drawn = pipeline(findings(phantom), seed=0, num_inference_steps=2, output_type="pt").images
    assert tuple(drawn.shape[-2:]) == (64, 64)
    assert len(pipeline.describe([drawn[0, 0].clamp(0, 1).numpy()], max_new_tokens=3).reports) == 1


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_it_draws_the_side_that_is_asked_for_and_writes_what_is_there(tmp_path: Path) -> None:
    run_recipe(load_recipe(RECIPE), tmp_path)
    pipeline = UniXPipeline.from_pretrained(tmp_path / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    phantoms = fresh_phantoms(200)
    films = torch.as_tensor(render_batch(phantoms, 64))
    drawn, written = [], []
    for first in range(0, len(phantoms), 50):
        part = phantoms[first : first + 50]
        output = pipeline(
            [findings(phantom) for phantom in part],
            seed=[phantom.seed for phantom in part],
            output_type="pt",
        )
        drawn.append(output.images[:, 0].clamp(0, 1))
        own = [film.numpy() for film in films[first : first + 50]]
        written += pipeline.describe(own, max_new_tokens=120).reports
    pictures = torch.cat(drawn)
    asked = score_drawn(phantoms, pictures)
    exchanged = score_drawn(phantoms, pictures.roll(1, 0))
    # a little below what one run reached, which stands in docs/design/0210
    assert asked.side_accuracy > SIDE
    assert asked.side_accuracy > 3 * exchanged.side_accuracy
    assert score_written(phantoms, written).micro_f1 > F1
