"""How the import hook checks calls in tests: an int is a float, as the type checker says too."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

checked: Callable[..., Any] = beartype(conf=BeartypeConf(is_pep484_tower=True))
