"""Several processes measure together what one would: each takes every k-th sample.

Axes: n samples, s values per sample.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

Item = TypeVar("Item")

_PATIENCE: Final = timedelta(days=2)
"""One process may write reports for long while the others wait."""


@contextmanager
def working_together() -> Iterator[None]:
    """Join the processes that `torchrun` started, for the time of the block.

    Without `torchrun`, or where the processes are joined already, nothing happens.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) <= 1
    if alone or torch.distributed.is_initialized():
        yield
        return
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def process_count() -> int:
    """Processes that work together; 1 without torch.distributed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def process_index() -> int:
    """Which of them this is, from 0."""
    return torch.distributed.get_rank() if process_count() > 1 else 0


def my_share(items: Sequence[Item]) -> list[Item]:
    """The items of this process: every k-th, so that all have the same work."""
    return list(items[process_index() :: process_count()])


def gather_rows(mine: Shaped[Tensor, "m ..."], total: int) -> Shaped[Tensor, "n ..."]:
    """All rows in their order, from the rows of every process's `my_share`.

    Each row was computed by one process alone, so the result is that of one process to the last
    bit.

    Raises:
        ValueError: the rows of all processes are not `total`.
    """
    count = process_count()
    if count == 1:
        parts: list[Tensor] = [mine]
    else:
        gathered: list[Tensor | None] = [None] * count
        torch.distributed.all_gather_object(gathered, mine)
        parts = [part for part in gathered if part is not None]
    if sum(map(len, parts)) != total:
        raise ValueError(f"{sum(map(len, parts))} rows were gathered for {total} samples")
    whole = torch.empty((total, *mine.shape[1:]), dtype=mine.dtype)
    for index, part in enumerate(parts):
        whole[index::count] = part
    return whole


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if process_count() > 1:
        torch.distributed.barrier()
