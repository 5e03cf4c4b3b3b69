"""The names of the 14 findings of the CheXpert vocabulary (arXiv:1901.07031, table 1)."""

from typing import Final

NO_FINDING: Final = "No Finding"

FINDINGS: Final[tuple[str, ...]] = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    NO_FINDING,
)
"""All 14 labels, in CheXpert's order; the last one means that none of the first 12 is present."""

TOP_FIVE: Final[tuple[str, ...]] = (
    "Cardiomegaly",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pleural Effusion",
)
"""The five findings of the "micro-5" and "macro-5" F1 scores."""
