"""Plain constants that several layers share."""

from typing import Final

IGNORED_LABEL: Final = -100
"""Label of a token that carries no loss (torch's `ignore_index`)."""

MAX_IMAGE_PIXELS: Final = 64_000_000
"""Images with more pixels than this are refused before they are decoded."""

MAX_PROMPT_CHARACTERS: Final = 10_000
"""Longer prompts are refused: no chest X-ray report is that long."""

REPORT_PROMPT: Final = "Describe the findings of this chest X-ray."
"""What the understanding branch is asked unless the user asks something else."""

VISION_MEAN: Final = 0.555895
VISION_STD: Final = 0.336385
"""Normalisation of the vision tower's images (the published model's)."""
