"""Presets: what is measured how, under the name of whoever measures so."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

KernelSubsets = Literal["all pairs", "100 of the smaller set"]
PrecisionOfMacro = Literal["zero", "left out"]


@dataclass(frozen=True)
class Protocol:
    """How numbers are taken; numbers of two protocols do not compare.

    Args:
        name: what it is called in signatures.
        neighbours: k of precision, recall, density and coverage.
        shards: both sets are cut into this many parts in their order, and the values averaged.
        kernel_subsets: which pairs the kernel distance takes. "100 of the smaller set" draws 100
            subsets as large as the smaller set, so they all but coincide and their spread says
            nothing; the published benchmark does so.
        squash: images are squeezed to a square of this side and cut to 8 bits before the extractor
            sees them; None leaves them as they are.
        label_characters: texts are cut to this many characters before they are labelled; None cuts
            nothing.
        skip_empty: pairs with an empty prediction are left out of the overlap metrics. Else they
            count as zero.
        absent_labels: what the macro F1 makes of a label that neither side states.
        per_finding: image metrics are repeated for every finding.
        about: one sentence on what differs from `strict` and why.
    """

    name: str
    neighbours: int = 5
    shards: int = 1
    kernel_subsets: KernelSubsets = "all pairs"
    squash: int | None = None
    label_characters: int | None = None
    skip_empty: bool = False
    absent_labels: PrecisionOfMacro = "left out"
    per_finding: bool = False
    about: str = "Every sample counts, nothing is cut, all pairs are compared."

    def __post_init__(self) -> None:
        for name in ("neighbours", "shards"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 1")


STRICT: Final = Protocol("strict")

PROTOCOLS: Final[Mapping[str, Protocol]] = MappingProxyType(
    {
        "strict": STRICT,
        "chexgenbench": Protocol(
            "chexgenbench",
            shards=4,
            kernel_subsets="100 of the smaller set",
            squash=299,
            absent_labels="zero",
            per_finding=True,
            about=(
                "As CheXGenBench's code measures: four shards averaged, images squeezed to "
                "299 x 299 in 8 bits, kernel subsets as large as the smaller set. Comparable with "
                "its tables only with RAD-DINO features on its MIMIC-CXR test prompts."
            ),
        ),
        "unix-paper": Protocol(
            "unix-paper",
            label_characters=512,
            skip_empty=True,
            absent_labels="zero",
            about=(
                "As the UniX paper's code measures: texts cut at 512 characters before labelling "
                "(long reports lose their end), empty predictions skipped in BLEU and ROUGE (which "
                "rewards saying nothing)."
            ),
        ),
    }
)
"""The presets by name."""


def protocol_named(name: str) -> Protocol:
    """A preset by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol ({name!r}) must be one of {sorted(PROTOCOLS)}")
    return PROTOCOLS[name]
