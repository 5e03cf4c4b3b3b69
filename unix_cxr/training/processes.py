"""One process, or several that train together: torchrun starts them, accelerate finds them."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unix_cxr.training import sharding


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Args:
        rank: number of this one.
        count: number of all.
        device: where this one computes.
        sharded: whether each holds a part of what is trained (FSDP2) and not the whole of it.
    """

    rank: int
    count: int
    device: torch.device
    sharded: bool = False

    @classmethod
    def find(cls, device: torch.device) -> "Processes":
        """This process alone, or the group that torchrun has started (`WORLD_SIZE` above 1).

        Raises:
            ValueError: accelerate was told to shard in a way that is not supported.
        """
        sharded = sharding.asked_for()
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(0, 1, device)
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        device = torch.device(state.device)
        return cls(state.process_index, state.num_processes, device, sharded)

    @property
    def first(self) -> bool:
        """Whether this one writes files and logs."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose `forward` must be called so that gradients are averaged.

        Sharded, it is a copy, and its parameters are the ones that learn.
        """
        if self.count == 1:
            return module
        if self.sharded:
            return sharding.sharded_copy(module, self.device, self.count)
        places = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=places, find_unused_parameters=True)

    def quietly(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Gradients wait inside the block until the last micro-batch averages them."""
        if self.sharded:
            return sharding.passing(module, last=last)
        wrapped: Any = module
        return nullcontext() if last or self.count == 1 else wrapped.no_sync()

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes; `values` is changed."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until every process has come here."""
        if self.count > 1:
            torch.distributed.barrier()

    def any(self, *, flag: bool) -> bool:
        """Whether the flag is up in one of the processes."""
        if self.count == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)))
