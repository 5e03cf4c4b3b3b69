"""How large the gradients are: of all parameters together, and of each part of the networks."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unix_cxr.training.plan import parts_of
from unix_cxr.training.sharding import whole


def gradient_norms(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The norm of all gradients, "norm", and where there are several parts that of each.

    Args:
        gradients: by the parameters' names; "model.vision.…" counts to "norm_vision".
    """
    parts: defaultdict[str, list[Tensor]] = defaultdict(list)
    for name, gradient in gradients.items():
        parts[parts_of([name])[0].split(".")[-1]].append(gradient)
    norms = {
        f"norm_{part}": whole(nn.utils.get_total_norm(values)) for part, values in parts.items()
    }
    if len(norms) <= 1:
        return {"norm": next(iter(norms.values()), torch.tensor(0.0))}
    return {"norm": nn.utils.get_total_norm(list(norms.values()))} | norms
