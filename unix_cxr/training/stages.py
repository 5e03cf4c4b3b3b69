"""What learns in a stage, said once."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from torch import nn

ALWAYS_FROZEN: Final = ("*language_model.*.self_attn.o_proj.bias",)
"""Biases that the language model's stock class has and the published layout has not: 0 for ever."""


def select_learning(
    module: nn.Module, trains: Sequence[str], freezes: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """Let the parameters that a stage trains learn, and freeze all others.

    Args:
        module: its parameters' dotted names are matched.
        trains: shell patterns, such as "generation.*".
        freezes: shell patterns of parameters that stay as they are all the same.

    Returns:
        The learning parameters by name.

    Raises:
        ValueError: a pattern matches no parameter, or nothing is left to learn.
    """
    parameters = dict(module.named_parameters())
    learning = set(learning_names(list(parameters), trains, freezes))
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in learning)
    return {name: parameters[name] for name in parameters if name in learning}


def learning_names(
    names: Sequence[str], trains: Sequence[str], freezes: Sequence[str] = ()
) -> list[str]:
    """Which of these parameters learn: those that `trains` matches and nothing freezes.

    Raises:
        ValueError: a pattern matches no parameter, or nothing is left to learn.
    """
    for pattern in (*trains, *freezes):
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise ValueError(
                f"pattern {pattern!r} matches no parameter; the module's parts are {parts}"
            )
    learning = [
        name
        for name in names
        if matches(name, trains) and not matches(name, (*freezes, *ALWAYS_FROZEN))
    ]
    if not learning:
        raise ValueError(
            f"trains {list(trains)} leaves nothing to learn: freezes {list(freezes)} and the "
            f"parameters that never learn ({list(ALWAYS_FROZEN)}) take all of it"
        )
    return learning


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether any of the shell patterns matches."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
