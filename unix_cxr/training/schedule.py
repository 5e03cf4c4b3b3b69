"""How the learning rate rises and falls over a stage."""

import math
from typing import Final

from unix_cxr.training.settings import StageSettings

_FLOOR: Final = 0.01


def learning_rate_factor(step: int, stage: StageSettings) -> float:
    """Share of the learning rate at a step: linear warm-up, then constant or cosine."""
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    if stage.schedule == "constant":
        return 1.0
    progress = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
