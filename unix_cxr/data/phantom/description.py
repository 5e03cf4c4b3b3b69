"""What a phantom is: its anatomy, its findings, and the vocabulary of both.

Left and right are the patient's. A frontal chest X-ray is shown as if the patient faced the viewer:
the patient's left is on the viewer's right, where columns are high and x is positive.
"""

from dataclasses import dataclass
from typing import Final, Literal, get_args

Kind = Literal[
    "effusion",
    "pneumothorax",
    "consolidation",
    "atelectasis",
    "edema",
    "cardiomegaly",
    "nodule",
    "hernia",
    "fracture",
    "tube",
    "line",
    "pacemaker",
]
Side = Literal["left", "right", ""]
Zone = Literal["upper", "mid", "lower", ""]
View = Literal["AP", "PA"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""The twelve findings, in the order of the oracle's outputs."""

SIDED: Final[tuple[Kind, ...]] = (
    "effusion",
    "pneumothorax",
    "consolidation",
    "atelectasis",
    "nodule",
    "fracture",
    "line",
    "pacemaker",
)
"""Findings that have a side; the others lie in the middle or on both sides."""

ZONED: Final[tuple[Kind, ...]] = ("consolidation", "nodule")
"""Findings that lie in one zone of a lung."""

SIDES: Final[tuple[Side, ...]] = ("left", "right")
ZONES: Final[tuple[Zone, ...]] = ("upper", "mid", "lower")

LABELS: Final[dict[Kind, str]] = {
    "effusion": "Pleural Effusion",
    "pneumothorax": "Pneumothorax",
    "consolidation": "Consolidation",
    "atelectasis": "Atelectasis",
    "edema": "Edema",
    "cardiomegaly": "Cardiomegaly",
    "nodule": "Lung Lesion",
    "hernia": "Hernia",
    "fracture": "Fracture",
    "tube": "Support Devices",
    "line": "Support Devices",
    "pacemaker": "Support Devices",
}
"""CheXpert's name of each finding; a hernia, which it lacks, is named as in ChestX-ray14."""

_SIZES: Final = ("small", "moderate", "large")
_GRADES: Final = ("mild", "moderate", "severe")


@dataclass(frozen=True)
class Extent:
    """How large a finding may be.

    Args:
        unit: what `PhantomFinding.size` counts.
        ranges: name of each severity with its lowest and highest size.
    """

    unit: str
    ranges: dict[str, tuple[float, float]]

    @property
    def lowest(self) -> float:
        """The smallest size of any severity."""
        return min(low for low, _ in self.ranges.values())

    @property
    def highest(self) -> float:
        """The largest size of any severity."""
        return max(high for _, high in self.ranges.values())

    def severity(self, size: float) -> str:
        """The severity whose range is nearest to a size."""
        return min(
            self.ranges,
            key=lambda name: max(self.ranges[name][0] - size, size - self.ranges[name][1]),
        )


def _extent(unit: str, names: tuple[str, ...], *ranges: tuple[float, float]) -> Extent:
    return Extent(unit, dict(zip(names, ranges, strict=True)))


EXTENTS: Final[dict[Kind, Extent]] = {
    "effusion": _extent("cm of fluid", _SIZES, (3.6, 4.8), (6.2, 8.2), (10.5, 14.0)),
    "pneumothorax": _extent("cm of air", _SIZES, (2.0, 2.8), (3.6, 4.6), (5.6, 7.0)),
    "consolidation": _extent("cm of radius", _SIZES, (2.4, 2.8), (3.3, 3.8), (4.4, 5.2)),
    "atelectasis": _extent("cm of raised diaphragm", _GRADES, (3.2, 3.8), (4.5, 5.1), (5.8, 6.6)),
    "edema": _extent("share of air lost", _GRADES, (0.32, 0.38), (0.48, 0.56), (0.68, 0.78)),
    "cardiomegaly": _extent(
        "cardiothoracic ratio", _GRADES, (0.55, 0.57), (0.60, 0.63), (0.67, 0.71)
    ),
    "nodule": _extent("cm of diameter", ("",), (2.0, 3.0)),
    "hernia": _extent("cm of diameter", _SIZES, (4.8, 5.4), (6.2, 6.8), (7.6, 8.4)),
    "fracture": _extent("number of the middle rib", ("",), (5.0, 9.0)),
    "tube": _extent(
        "cm above the carina", ("low", "adequate", "high"), (0.3, 1.2), (3.2, 4.4), (6.3, 7.5)
    ),
    "line": _extent("cm of depth", ("",), (0.0, 3.0)),
    "pacemaker": _extent("cm of width", ("",), (3.8, 5.0)),
}
"""Sizes by severity. Between severities there are gaps, so that a name is never a matter of taste;
the name is "" where the kind has no severity."""


@dataclass(frozen=True)
class PhantomFinding:
    """One finding with its place and size; validated when made.

    Args:
        kind: which of the twelve.
        side: "left" or "right" of the patient, "" for kinds without a side.
        severity: one of the kind's severities in `EXTENTS`.
        size: in the kind's own unit, within the severity's range.
        zone: "upper", "mid" or "lower" for kinds that have a zone.
        place: two numbers in [0, 1], where in its range of places the finding lies.
    """

    kind: Kind
    side: Side
    severity: str
    size: float
    zone: Zone = ""
    place: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind ({self.kind!r}) must be one of {list(KINDS)}")
        sides = SIDES if self.kind in SIDED else ("",)
        if self.side not in sides:
            raise ValueError(f"side ({self.side!r}) of {self.kind} must be one of {list(sides)}")
        zones = ZONES if self.kind in ZONED else ("",)
        if self.zone not in zones:
            raise ValueError(f"zone ({self.zone!r}) of {self.kind} must be one of {list(zones)}")
        ranges = EXTENTS[self.kind].ranges
        if self.severity not in ranges:
            raise ValueError(
                f"severity ({self.severity!r}) of {self.kind} must be one of {list(ranges)}"
            )
        low, high = ranges[self.severity]
        if not low <= self.size <= high:
            raise ValueError(
                f"size ({self.size}) of {self.severity} {self.kind} must be {low} to {high} "
                f"{EXTENTS[self.kind].unit}"
            )
        if not all(0 <= number <= 1 for number in self.place):
            raise ValueError(f"place ({self.place}) must be two numbers in [0, 1]")


@dataclass(frozen=True)
class Anatomy:
    """The person and the film, as numbers; lengths in cm, x to the patient's left, y downwards.

    Args:
        chest_width: half of the inner width of the rib cage.
        chest_depth: half of its depth.
        wall: soft tissue between ribs and skin.
        apex: y of the lungs' tops.
        dome_right, dome_left: y of the tops of the diaphragm.
        recess: y of the bottom of the lungs' recesses.
        heart_ratio: true heart width over chest width.
        heart_tilt: angle of the heart's long axis, radians.
        knob: radius of the aortic arch.
        spine_bend: amplitude of a scoliosis.
        rib_spacing, rib_drop, rib_offset: the ribs' distance, fall and phase.
        bone: density of bone, 1 for a young adult.
        breast: depth of breast tissue.
        gas: radius of the stomach's gas bubble, 0 for none.
        scapula: distance of the shoulder blades from the midline.
        arms: distance of the arms from the midline.
        markings: strength of the vessels.
        texture: number that picks the vessels and the mottle.
        zoom: half of the field's width.
        turn: rotation of the film, radians.
        center_x, center_y: where the beam's axis hits the body.
        margin: collimated borders right, left, top and bottom as shares of the width.
        exposure, contrast, gamma: the tone of the film.
        photons: photons per cm² without a patient.
        scatter: scattered share of the light.
    """

    chest_width: float
    chest_depth: float
    wall: float
    apex: float
    dome_right: float
    dome_left: float
    recess: float
    heart_ratio: float
    heart_tilt: float
    knob: float
    spine_bend: float
    rib_spacing: float
    rib_drop: float
    rib_offset: float
    bone: float
    breast: float
    gas: float
    scapula: float
    arms: float
    markings: float
    texture: float
    zoom: float
    turn: float
    center_x: float
    center_y: float
    margin: tuple[float, float, float, float]
    exposure: float
    contrast: float
    gamma: float
    photons: float
    scatter: float


@dataclass(frozen=True)
class Phantom:
    """A chest with known findings; everything that a picture of it needs.

    Args:
        seed: where it came from; also the seed of the film's noise.
        view: "AP" or "PA".
        sex: "M" or "F".
        age: years.
        anatomy: the person and the film.
        findings: at most one of each kind.
    """

    seed: int
    view: View
    sex: Literal["M", "F"]
    age: int
    anatomy: Anatomy
    findings: tuple[PhantomFinding, ...]

    def __post_init__(self) -> None:
        kinds = [finding.kind for finding in self.findings]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise ValueError(f"findings {twice} are given twice; a phantom has one of each kind")

    def finding(self, kind: Kind) -> PhantomFinding | None:
        """The finding of a kind, None where it is absent."""
        return next((finding for finding in self.findings if finding.kind == kind), None)

    @property
    def labels(self) -> frozenset[str]:
        """CheXpert's names of the findings; "No Finding" where there is none but devices."""
        from unix_cxr.vocabulary import NO_FINDING

        labels = {LABELS[finding.kind] for finding in self.findings}
        return frozenset(labels if labels - {"Support Devices"} else labels | {NO_FINDING})
