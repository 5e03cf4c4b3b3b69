"""Whether two networks are the same: a checksum of weights, wherever they lie in memory."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def fingerprint(module: nn.Module) -> str:
    """SHA-256 of a network's weights, names and configuration, wherever they lie in memory."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(f"{name} {list(value.shape)} {value.dtype}".encode())
        digest.update(flat.numpy())
    config: Any = getattr(module, "config", None)
    stored = config if isinstance(config, Mapping) else {}  # an autoencoder's
    scaling = {key: stored.get(key) for key in ("scaling_factor", "shift_factor")}
    digest.update(json.dumps(scaling).encode())
    return digest.hexdigest()
