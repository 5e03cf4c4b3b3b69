"""What learns in a stage, said once."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn


def select_learning(module: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    """Let the parameters that match a pattern learn, and freeze all others.

    Args:
        module: its parameters' dotted names are matched.
        patterns: shell patterns, such as "generation.*".

    Returns:
        The learning parameters by name.

    Raises:
        ValueError: a pattern matches no parameter.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise ValueError(
                f"pattern {pattern!r} matches no parameter; the module's parts are {parts}"
            )
    learning = {}
    for name, parameter in module.named_parameters():
        learns = any(fnmatchcase(name, pattern) for pattern in patterns)
        parameter.requires_grad_(learns and parameter.is_floating_point())
        if learns:
            learning[name] = parameter
    return learning
