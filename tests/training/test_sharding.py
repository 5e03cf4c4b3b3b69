"""An objective under FSDP2 on two CPU processes; the trainer itself refuses to be sharded."""

from pathlib import Path

import pytest
import torch

from tests.processes import run_processes, starter
from unix_cxr.training.processes import Processes

ROOT = Path(__file__).parents[2]
SHARDED = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from tests.conftest import make_tiny_model
from unix_cxr.training.batches import CaptionedLatentBatch, Share, take
from unix_cxr.training.generation import GenerationObjective

dist.init_process_group("gloo")
model = make_tiny_model().train()
objective = GenerationObjective(model, 1.0)
generator = torch.Generator().manual_seed(0)
latents, noise = torch.randn(2, 4, 4, 4, 4, generator=generator)
ids = torch.randint(5, 50, (4, 7), generator=generator)
times = torch.rand(4, generator=generator)
batch = CaptionedLatentBatch(latents, noise, times, ids, ids > 0)
count = latents.numel()
(objective(batch)["velocity"].total / count).backward()
whole = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
norm = torch.nn.utils.get_total_norm(list(whole.values()))
objective.zero_grad()
fully_shard(objective, mesh=init_device_mesh("cpu", (2,)), reshard_after_forward=False)
# the gradients of the processes are averaged: twice a process's part of the sum
part = take(batch, Share(dist.get_rank(), 2))
(2 * objective(part)["velocity"].total / count).backward()
shards = {name: p.grad for name, p in objective.named_parameters() if name in whole}
worst = max(float((shards[name].full_tensor() - g).abs().max()) for name, g in whole.items())
sharded = torch.nn.utils.get_total_norm(list(shards.values())).full_tensor()
if dist.get_rank() == 0:
    print("worst", worst, float((sharded - norm).abs()), len(whole))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_sharded_objective_has_the_gradients_of_one_process(tmp_path: Path) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED, encoding="utf-8")
    ran = run_processes([*starter(2), str(script)], PYTHONPATH=str(ROOT))
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("worst")]
    _, worst, norm, count = line.split()
    assert float(worst) < 1e-5  # measured: 8.3e-7, of gradients up to 23
    assert float(norm) < 1e-4
    assert int(count) > 50


def test_a_start_with_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"FSDP is not supported; start with torchrun, or with"):
        Processes.find(torch.device("cpu"))


def test_the_config_of_accelerate_is_one_that_it_reads() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "recipes" / "accelerate" / "ddp.yaml"))
    assert config.distributed_type == "MULTI_GPU"
    assert config.mixed_precision == "no", "the recipe says the precision"
