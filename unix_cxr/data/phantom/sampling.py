"""Drawing phantoms: a seed decides the person, the film and the findings."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Final, Literal

from unix_cxr.data.phantom.description import (
    EXTENTS,
    KINDS,
    SIDED,
    SIDES,
    ZONED,
    ZONES,
    Anatomy,
    Kind,
    Phantom,
    PhantomFinding,
    View,
)

_LUNG: Final[frozenset[Kind]] = frozenset(
    ("effusion", "pneumothorax", "consolidation", "atelectasis", "nodule")
)
"""At most one of these in each lung: one would hide the other."""

_APART: Final[frozenset[frozenset[Kind]]] = frozenset(
    frozenset(pair)
    for pair in (
        ("edema", "nodule"),
        ("edema", "consolidation"),
        ("edema", "pneumothorax"),
        ("line", "pacemaker"),
        ("hernia", "cardiomegaly"),
    )
)
"""Pairs that are never drawn together, since one would hide the other."""

COUNTS: Final = (0.2, 0.4, 0.28, 0.12)
"""Chances of no, one, two and three findings."""

BUSY: Final = (0.1, 0.15, 0.2, 0.2, 0.2, 0.15)
"""Chances of none to five findings: twice as many per film, for learning from fewer films."""

_ROUNDING: Final = 1e-6


def sample_phantom(
    seed: int,
    findings: Sequence[PhantomFinding] | None = None,
    *,
    view: View | None = None,
    counts: Sequence[float] = COUNTS,
) -> Phantom:
    """Draw a phantom; equal arguments give an equal phantom.

    Args:
        seed: decides everything that is not given.
        findings: these exactly, instead of drawn ones; an empty list is a normal chest.
        view: "AP" or "PA" instead of a drawn one.
        counts: chances of no, one, two, … findings, where they are drawn.

    Raises:
        ValueError: a negative seed, chances that do not sum to 1, a finding given twice, or
            findings that hide each other.
    """
    if seed < 0:
        raise ValueError(f"seed ({seed}) must not be negative")
    draw = random.Random(f"anatomy {seed}")
    sex: Literal["M", "F"] = draw.choice(("M", "F"))
    age = draw.randint(18, 90)
    drawn_view: View = draw.choice(("AP", "PA"))
    chosen = view or drawn_view
    anatomy = _anatomy(draw, sex, age, chosen)
    if findings is None:
        if min(counts, default=0) < 0 or abs(sum(counts) - 1) > _ROUNDING:
            raise ValueError(f"counts ({list(counts)}) must be chances that sum to 1")
        findings = _findings(random.Random(f"findings {seed}"), counts)
    for first, second in combinations(findings, 2):
        if not compatible(first, second):
            raise ValueError(f"{first} and {second} would hide each other; draw one of them")
    return Phantom(seed, chosen, sex, age, anatomy, tuple(findings))


def sample_finding(
    seed: int, kind: Kind, side: str | None = None, severity: str | None = None
) -> PhantomFinding:
    """Draw one finding of a kind; side and severity are drawn where they are None.

    Raises:
        ValueError: the kind has no such side or severity.
    """
    drawn = _finding(random.Random(f"{kind} {seed}"), kind)
    if side is not None:
        drawn = replace(drawn, side=side)  # type: ignore[arg-type]  # checked by the class itself
    if severity is not None:
        if severity not in EXTENTS[kind].ranges:
            raise ValueError(
                f"severity ({severity!r}) of {kind} must be one of {list(EXTENTS[kind].ranges)}"
            )
        size = random.Random(f"{kind} size {seed}").uniform(*EXTENTS[kind].ranges[severity])
        drawn = replace(drawn, severity=severity, size=size)
    return drawn


def compatible(first: PhantomFinding, second: PhantomFinding) -> bool:
    """Whether two findings may be in one phantom without hiding each other."""
    kinds = frozenset((first.kind, second.kind))
    if len(kinds) == 1 or kinds in _APART:
        return False
    return not (kinds <= _LUNG and first.side == second.side)


def _findings(draw: random.Random, counts: Sequence[float]) -> list[PhantomFinding]:
    count = draw.choices(range(len(counts)), counts)[0]
    found: list[PhantomFinding] = []
    for kind in draw.sample(KINDS, len(KINDS)):
        finding = _finding(draw, kind)
        if len(found) < count and all(compatible(finding, other) for other in found):
            found.append(finding)
    return found


def _finding(draw: random.Random, kind: Kind) -> PhantomFinding:
    severity = draw.choice(list(EXTENTS[kind].ranges))
    return PhantomFinding(
        kind=kind,
        side=draw.choice(SIDES) if kind in SIDED else "",
        severity=severity,
        size=draw.uniform(*EXTENTS[kind].ranges[severity]),
        zone=draw.choice(ZONES) if kind in ZONED else "",
        place=(draw.random(), draw.random()),
    )


def _anatomy(draw: random.Random, sex: str, age: int, view: View) -> Anatomy:
    frontal, male = view == "PA", sex == "M"
    old = (age - 18) / 72
    build = draw.gauss(0, 1)
    width = (13.3 if male else 12.2) + 0.45 * draw.gauss(0, 1)
    dome = (7.2 if frontal else 5.4) + 0.6 * draw.uniform(-1, 1)
    return Anatomy(
        chest_width=width,
        chest_depth=9.6 + 0.5 * build + 0.8 * old,
        wall=max(1.6, 2.5 + 0.7 * build),
        apex=-13.4 + 0.5 * draw.uniform(-1, 1),
        dome_right=dome,
        dome_left=dome + draw.uniform(0.5, 1.6),
        recess=dome + draw.uniform(5.2, 6.2),
        heart_ratio=draw.uniform(0.38, 0.455),
        heart_tilt=draw.uniform(0.5, 0.75),
        knob=1.45 + 0.5 * old + 0.15 * draw.uniform(-1, 1),
        spine_bend=0.4 * draw.gauss(0, 1),
        rib_spacing=draw.uniform(2.2, 2.55),
        rib_drop=draw.uniform(2.6, 4.4) + 0.8 * old,
        rib_offset=draw.random(),
        bone=1.1 - 0.35 * old + (0.08 if male else 0) + 0.08 * draw.uniform(-1, 1),
        breast=0.0 if male else max(0.6, draw.gauss(2.2, 0.8)),
        gas=draw.choice((0.0, draw.uniform(1.0, 2.4))),
        scapula=draw.uniform(11.5, 13.5) if frontal else draw.uniform(9.5, 11.5),
        arms=width + draw.uniform(2.5, 6.5),
        markings=draw.uniform(0.7, 1.3),
        texture=draw.random(),
        zoom=draw.uniform(15.8, 17.6) * (1.0 if frontal else 1.04),
        turn=draw.gauss(0, 0.02 if frontal else 0.045),
        center_x=draw.gauss(0, 0.4 if frontal else 0.9),
        center_y=-0.6 + draw.gauss(0, 0.7),
        margin=_margins(draw),
        exposure=draw.gauss(0, 0.16),
        contrast=draw.uniform(0.9, 1.25),
        gamma=draw.uniform(0.85, 1.2),
        photons=10 ** draw.uniform(5.7, 6.6),
        scatter=draw.uniform(0.06, 0.12) if frontal else draw.uniform(0.12, 0.2),
    )


def _margins(draw: random.Random) -> tuple[float, float, float, float]:
    def one() -> float:
        return draw.uniform(0.005, 0.05) if draw.random() < 0.3 else 0.0  # noqa: PLR2004

    return one(), one(), one(), one()
