"""What the plan says a step costs, held against counting, measuring, and a formula."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unix_cxr.training.batches import to_device
from unix_cxr.training.costs import LiveBytes, MemoryEstimate, StageCosts, tokens_by_branch
from unix_cxr.training.estimates import with_costs
from unix_cxr.training.losses import weighted_sum
from unix_cxr.training.plan import LEFT_OUT, ParameterCount, StagePlan, plan_lines
from unix_cxr.training.precision import computing
from unix_cxr.training.recipe import RecipeRun, run_recipe
from unix_cxr.training.settings import Recipe
from unix_cxr.training.stages import select_learning

from .conftest import tree

MakeRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")
STAGES = ("autoencoder", "understanding", "generation")


def costs_of(recipe: Recipe, folder: Path, stage: str) -> tuple[RecipeRun, StageCosts]:
    run = RecipeRun(recipe, folder, CPU)
    plan = [entry for entry in run.plan(list(STAGES)) if entry.name == stage]
    (entry,) = with_costs(run, plan)
    assert entry.costs is not None
    return run, entry.costs


# -- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGES)
def test_operations_are_those_that_torch_counts_over_the_whole_batch(
    make_recipe: MakeRecipe, tmp_path: Path, name: str
) -> None:
    # bfloat16, in which a CPU's attention is made of products that torch's counter sees
    recipe = make_recipe(**{name: {"precision": "bfloat16", "accumulation": 2}})
    run, costs = costs_of(recipe, tmp_path, name)
    stage = recipe.stage(name)
    task = run.task(stage, run.data.few(16))
    objective: Any = task.objective
    select_learning(objective, stage.trains, stage.freezes)
    with FlopCounterMode(display=False) as counter, computing(stage, CPU):
        weighted_sum(objective(to_device(task.source.batch(0), CPU)), objective.weights).backward()
    assert costs.flop == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_operations_of_joint_drawing_are_those_of_the_formula(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    objective = tree(tmp_path)["stages"][2]["objective"] | {"understanding_gradient": 1.0}
    trains = ["model.language_model.model.*", "model.generation.*"]
    recipe = make_recipe(
        model={"kv_heads": 2}, generation={"trains": trains, "objective": objective}
    )
    run, costs = costs_of(recipe, tmp_path, "generation")
    batch: Any = run.task(recipe.stage("generation"), run.data.few(16)).source.batch(0)
    samples, words = batch.caption_ids.shape
    latents = batch.latents.shape[-2] * batch.latents.shape[-1]
    width, layers = recipe.model.hidden_size, recipe.model.layers
    square, mlp = 2 * width**2, 3 * 2 * width * recipe.model.intermediate_size
    attention, block = 4 * width, latents + 2
    # a linear layer costs three times its forward pass: itself, its weight's and its input's
    # gradient. What the last layer makes of the context's and of BOI's and EOI's states is unread.
    context = 3 * words * (4 * square + mlp) * (layers - 1) + words * (8 * square + mlp)
    boundary = 3 * 2 * (4 * square + mlp) * (layers - 1) + 2 * (3 * 3 * square + square + mlp)
    drawn = 3 * latents * (4 * square + mlp) * layers
    ends = (2 + 3) * latents * 2 * width * recipe.autoencoder.latent_channels
    time = 2 * 2 * 256 * width + 3 * square
    # attention's gradient is five products where attention is two
    attended = 3.5 * attention * (words**2 * (layers - 1) + block * (block + words) * layers)
    attended += attention * words**2
    assert costs.flop == samples * (context + boundary + drawn + ends + time + attended)


def test_a_frozen_branch_costs_less(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    objective = tree(tmp_path)["stages"][2]["objective"]
    joint = objective | {"understanding_gradient": 1.0}
    trains = ["model.language_model.model.*", "model.generation.*"]
    _, frozen = costs_of(make_recipe(), tmp_path, "generation")
    _, unfrozen = costs_of(
        make_recipe(generation={"objective": joint, "trains": trains}), tmp_path, "generation"
    )
    assert frozen.flop < 0.7 * unfrozen.flop
    assert frozen.memory.optimizer < unfrozen.memory.optimizer


def test_tokens_are_told_by_branch(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run, costs = costs_of(make_recipe(), tmp_path, "generation")
    task = run.task(make_recipe().stage("generation"), run.data.few(16))
    batch: Any = task.source.batch(0)
    assert costs.tokens == {"understanding": batch.caption_ids.numel() + 4 * 2, "generation": 4 * 4}
    _, reading = costs_of(make_recipe(), tmp_path, "understanding")
    assert reading.tokens["vision"] == 4 * 4
    assert costs_of(make_recipe(), tmp_path, "autoencoder")[1].tokens == {}
    assert tokens_by_branch(batch, nn.Linear(1, 1)) == {}


# -- memory --------------------------------------------------------------------------------------


def test_live_bytes_are_those_of_tensors_that_live() -> None:
    given = torch.ones(1000)
    with LiveBytes() as live:
        once = given * 2
        twice = once + once
        view = twice[:10]
        assert live.live == 8000
        del once
        assert live.live == 4000
        del twice
        assert live.live == 4000, "the view keeps its storage"
        del view
        assert live.live == 0
        given.t().mul_(1.0)
    assert live.peak == 8000


def test_live_bytes_see_what_the_gradient_keeps() -> None:
    weight = nn.Parameter(torch.ones(64, 64))
    x = torch.ones(256, 64)
    with LiveBytes() as live:
        out = F.gelu(F.gelu(x @ weight) @ weight).sum()
        before = live.live
        out.backward()
    assert before == pytest.approx(3 * 4 * 256 * 64, rel=0.01), "two products and one gelu"
    del out
    assert live.live == weight.nbytes, "the gradient"


MEASURED = """
import json, sys, torch
from pathlib import Path
from unix_cxr.training.loop import Trainer
from unix_cxr.training.estimates import with_costs
from unix_cxr.training.recipe import RecipeRun
from unix_cxr.training.settings import parse_recipe


def resident(kind):
    (line,) = [row for row in Path("/proc/self/status").open() if row.startswith(kind)]
    return 1024 * int(line.split()[1])


recipe = parse_recipe(json.loads(Path(sys.argv[1]).read_text()), "")
name, estimate = sys.argv[2], sys.argv[3] == "estimate"
run = RecipeRun(recipe, Path(sys.argv[1]).parent / "run", torch.device("cpu"))
plan = [e for e in run.plan([s.name for s in recipe.stages]) if e.name == name]
if estimate:
    memory = with_costs(run, plan)[0].costs.memory
    print(json.dumps(memory.total - memory.weights))
else:
    stage = recipe.stage(name)
    task = run.task(stage, run.data.few(16))
    trainer = Trainer(task.objective, task.source, stage, run.folder, recipe="", device=run.device)
    batch = task.source.batch(0)
    few = RecipeRun(recipe, run.folder, run.device)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak: it may lie in what was before
    for _ in range(3):
        trainer._step(batch)
    print(resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", STAGES)
def test_memory_is_what_the_process_takes(
    films: Path, tmp_path: Path, name: str, *, checkpointing: bool
) -> None:
    """Within a third, of sizes at which the tensors outweigh everything else."""
    import json

    content = tree(films)
    content["model"] |= {
        "hidden_size": 256,
        "intermediate_size": 704,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 64,
        "layers": 6,
        "vision_hidden_size": 256,
        "vision_intermediate_size": 704,
        "vision_layers": 4,
        "vision_heads": 4,
    }
    content["autoencoder"] |= {"channels": [32, 32, 32, 32, 64], "norm_groups": 8}
    for stage in content["stages"]:
        stage |= {"batch_size": 96, "activation_checkpointing": checkpointing}
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    found = {}
    for what in ("estimate", "measure"):
        # glibc keeps freed memory in a way of its own; large blocks go back at once like this
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", MEASURED, str(file), name, what],
            check=True,
            env=environment,
            capture_output=True,
            timeout=900,
        )
        found[what] = int(ran.stdout.split()[-1])
    assert 0.75 < found["measure"] / found["estimate"] < 1.33, found


def test_optimizer_and_average_have_the_size_that_they_say(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    _, costs = costs_of(make_recipe(generation={"ema_decay": 0.99}), tmp_path, "generation")
    memory = costs.memory
    assert memory.optimizer == 2 * memory.gradients
    assert memory.average == memory.gradients
    _, muon = costs_of(
        make_recipe(
            generation={
                "optimizer": "muon",
                "trains": ["model.generation.layers.*.mlp.*_proj.*"],
                "allow_random": True,
            }
        ),
        tmp_path,
        "generation",
    )
    assert muon.memory.optimizer == muon.memory.gradients


# -- a look leaves nothing behind -----------------------------------------------------------------


def test_a_look_disturbs_nothing(make_recipe: MakeRecipe, films: Path, tmp_path: Path) -> None:
    run = RecipeRun(make_recipe(), tmp_path / "run", CPU)
    before = {
        name: value.clone() for n in (run.vae, run.model) for name, value in n.state_dict().items()
    }
    flags = {n: p.requires_grad for n, p in run.model.named_parameters()}
    state = torch.get_rng_state()
    plan = with_costs(run, run.plan(list(STAGES)))
    assert all(entry.costs for entry in plan)
    assert torch.equal(torch.get_rng_state(), state)
    for network in (run.vae, run.model):
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert all(p.grad is None for p in network.parameters())
    assert flags == {n: p.requires_grad for n, p in run.model.named_parameters()}
    assert not (tmp_path / "run").exists()


def test_a_run_with_costs_learns_the_same_bits(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    kept = []
    for costs in (False, True):
        folder = tmp_path / str(costs)
        summary = run_recipe(make_recipe(), folder, costs=costs)
        assert all((entry.costs is not None) == costs for entry in summary.plan)
        kept.append(load_file(folder / "pipeline" / "model" / "model.safetensors"))
    assert all(torch.equal(value, kept[1][name]) for name, value in kept[0].items())


def test_stages_that_take_no_step_cost_nothing(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run_recipe(make_recipe(), tmp_path, stages=["autoencoder"])
    summary = run_recipe(make_recipe(), tmp_path, stages=["autoencoder"], costs=True)
    assert [entry.steps_left for entry in summary.plan] == [0, 0, 0]
    assert [entry.costs for entry in summary.plan] == [None] * 3


# -- what is printed -----------------------------------------------------------------------------


def _entry(state: str = "begins", **changes: Any) -> StagePlan:
    memory = MemoryEstimate(
        weights=2**30, gradients=2**20, optimizer=2**21, average=0, activations=2**28
    )
    values: dict[str, Any] = {
        "tokens": {"understanding": 1234, "generation": 256},
        "flop": 12_340_000_000,
        "memory": memory,
        "memory_there": 2**31,
        "step_seconds": 0.5,
        "data_seconds": 0.01,
        "seconds": 5400.0,
        "gemm_flops": 1e11,
        "timed_samples": 4,
    }
    none = ParameterCount(0, 0)
    return StagePlan(
        "draw", "generation", state, 10_800, 4, none, none, StageCosts(**(values | changes))
    )


def test_the_plan_says_tokens_operations_memory_and_time() -> None:
    text = "\n".join(plan_lines([_entry()]))
    for part in ("understanding 1,234, generation 256", "12.3 G", "1.25 GiB", "0.5", "1 h 30 min"):
        assert part in text
    assert "weights 1 GiB, gradients 1 MiB, optimizer 2 MiB, activations 256 MiB; of 2 GiB" in text
    assert "average" not in text
    assert "MORE THAN THERE IS" not in text
    assert "100 GFLOP/s" in text


def test_the_plan_warns_of_what_does_not_fit() -> None:
    text = "\n".join(plan_lines([_entry(memory_there=2**30)]))
    assert "of 1 GiB; MORE THAN THERE IS: raise accumulation" in text


@pytest.mark.parametrize(
    ("state", "left"), [("begins", 10_800), ("goes on at step 800", 10_000), (LEFT_OUT, 0)]
)
def test_steps_that_are_left(state: str, left: int) -> None:
    assert _entry(state).steps_left == left
