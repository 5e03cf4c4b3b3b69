"""FSDP2: parameters, gradients and what is remembered of them lie in parts, one per process.

What is trained is a sharded copy of the objective. The objective itself stays whole: it is what is
validated, drawn with and exported, after the copy's weights were gathered into it. Whatever is
written is gathered first, so that files know nothing of processes.
"""

import copy
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from unix_cxr.modules.joint_block import JointBlock
from unix_cxr.training.settings import StageSettings

_LAYERS: Final = (JointBlock, SiglipEncoderLayer)
"""Gathered one at a time. The language model's are not: joint blocks call what is inside them."""
_TRUE: Final = frozenset({"1", "true", "yes"})


def asked_for() -> bool:
    """Whether accelerate was told to shard.

    Raises:
        ValueError: in a way that is not supported; the message names the remedy.
    """
    if not _says("ACCELERATE_USE_FSDP"):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(
            f"FSDP version {version} is not supported; say fsdp_version: 2, as "
            "recipes/accelerate/fsdp2.yaml does"
        )
    refused = {
        "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params is not supported; say false",
        "FSDP_ACTIVATION_CHECKPOINTING": (
            "fsdp_activation_checkpointing is the recipe's to say (activation_checkpointing); "
            "say false"
        ),
    }
    for name, message in refused.items():
        if _says(name):
            raise ValueError(message)
    return True


def _says(name: str) -> bool:
    return os.environ.get(name, "false").lower() in _TRUE


def check_sharded(stage: StageSettings) -> None:
    """Refuse what a sharded stage cannot do.

    Raises:
        ValueError: the message names the remedy.
    """
    if stage.compile:
        raise ValueError(
            f"stage {stage.name!r}: compile and FSDP2 do not go together; say compile: false, or "
            "start with torchrun alone"
        )
    if stage.precision == "float16":
        raise ValueError(
            f"stage {stage.name!r}: precision float16 and FSDP2 do not go together; say "
            "precision: bfloat16, or start with torchrun alone"
        )


def sharded_copy(objective: nn.Module, device: torch.device, processes: int) -> nn.Module:
    """A copy of an objective of which every process holds a part.

    The layers of the generation branch and of the vision tower are gathered when they run, and
    everything else when the objective does.

    Args:
        objective: stays as it is.
        device: takes the parts.
        processes: how many share it.
    """
    mesh = init_device_mesh(device.type, (processes,))
    copied = copy.deepcopy(objective)
    for parameter in copied.parameters():  # an autoencoder's lie channels last, which cannot be cut
        parameter.data = parameter.data.contiguous()
    for module in copied.modules():
        if isinstance(module, _LAYERS):
            fully_shard(module, mesh=mesh)
    fully_shard(copied, mesh=mesh)
    return copied


@contextmanager
def passing(sharded: nn.Module, *, last: bool) -> Iterator[None]:
    """Forward and backward of a micro-batch; gradients are shared out after the last one.

    Until then they pile up, whole, where they are computed.
    """
    if isinstance(sharded, FSDPModule):
        sharded.set_requires_gradient_sync(last)
    with warnings.catch_warnings():
        # joint blocks offer slices of their keys and values, and nobody changes them in place
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view")
        yield


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which this may be a part; all processes must ask for it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor that every process has; the whole of it elsewhere."""
    if not isinstance(like, DTensor):
        return tensor
    # every process has read the same file: nothing needs to be sent
    return distribute_tensor(
        tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def gathered(tensors: Mapping[str, Tensor], *, keeps: bool) -> dict[str, Tensor]:
    """Whole tensors, where this process keeps them.

    Args:
        tensors: parts or wholes; all processes must name the same.
        keeps: False in processes that must not write: they help, and get nothing.
    """
    kept = {}
    for name, tensor in tensors.items():
        value = whole(tensor)  # one after the other: few are there at once
        if keeps:
            kept[name] = value if value is tensor else value.cpu()
    return kept


@torch.no_grad()
def gather_into(targets: Mapping[str, nn.Parameter], sources: Mapping[str, Tensor]) -> None:
    """Write whole tensors into the parameters of the same names."""
    for name, parameter in targets.items():
        parameter.copy_(whole(sources[name]))
