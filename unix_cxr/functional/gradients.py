"""The one stop-gradient of the design."""

from torch import Tensor


def scale_gradient(value: Tensor, factor: float) -> Tensor:
    """`value` unchanged, with its gradient multiplied by `factor`.

    1 trains the understanding branch jointly, 0 freezes it, 0.1 lies between (arXiv:2503.21979).
    """
    if factor == 1:
        return value
    if factor == 0:
        return value.detach()
    return value.detach() + factor * (value - value.detach())
