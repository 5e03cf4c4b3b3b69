"""The numbers of drawn X-rays, what is asked of them, and the verdict."""

from dataclasses import dataclass, fields
from typing import Literal

from unix_cxr.evaluation.bootstrap import Measured


@dataclass(frozen=True)
class DrawnNumbers:
    """What was measured on drawn X-rays.

    Args:
        drawn: number of drawn X-rays.
        real: number of real X-rays held out.
        train: number of real X-rays that the generator learned from.
        auc: how well the real-trained classifier tells the classes of drawn X-rays apart.
        precision: share of drawn X-rays in the neighbourhood of a real one.
        recall: share of real X-rays in the neighbourhood of a drawn one.
        density: real neighbourhoods around a drawn X-ray, over k; about 1 for real ones.
        coverage: share of real X-rays with a drawn one in their neighbourhood.
        coverage_normal: coverage among normal X-rays alone.
        coverage_pneumonia: coverage among X-rays with pneumonia alone.
        near_train_features: share nearer to `train` than the nearest 1 % of real X-rays are, by
            the classifier's features.
        near_train_pixels: the same by aligned pixels.
        near_train_halves: the same by the aligned pixels of the nearer half.
        repeated: share whose nearest other drawn X-ray is nearer than the nearest 1 % of real
            ones to another patient's.
        spread_features: mean distance of two drawn X-rays of a class, over that of real ones.
        spread_pixels: the same by pixels.
        detail_middle: share with the sharpness of real X-rays in structures 4 to 8 pixels wide.
        detail_fine: the same, 2 to 4 pixels wide.
        tone: share with the brightness and contrast of real X-rays.
    """

    drawn: int
    real: int
    train: int
    auc: Measured
    precision: Measured
    recall: Measured
    density: Measured
    coverage: Measured
    coverage_normal: Measured
    coverage_pneumonia: Measured
    near_train_features: Measured
    near_train_pixels: Measured
    near_train_halves: Measured
    repeated: Measured
    spread_features: Measured
    spread_pixels: Measured
    detail_middle: Measured
    detail_fine: Measured
    tone: Measured

    def measures(self) -> dict[str, Measured]:
        """The measured numbers by name, in the order above."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Measured)}


@dataclass(frozen=True)
class Aims:
    """What drawn X-rays must reach; each aim stops a cheat that the others let through.

    `near_train` holds in features, pixels and halves, `spread` in features and pixels.
    """

    auc_at_least: float = 0.80
    coverage_at_least: float = 0.30
    near_train_at_most: float = 0.05
    repeated_at_most: float = 0.05
    spread_at_least: float = 0.60
    detail_at_least: float = 0.60
    tone_at_least: float = 0.60


@dataclass(frozen=True)
class Check:
    """One aim against one number."""

    name: str
    value: float
    relation: Literal["≥", "≤"]
    aim: float

    @property
    def passed(self) -> bool:
        """Whether the number reaches the aim; one that is not a number does not."""
        return self.value >= self.aim if self.relation == "≥" else self.value <= self.aim

    def __str__(self) -> str:
        """`coverage 0.210 (aim ≥ 0.30)`."""
        return f"{self.name} {self.value:.3f} (aim {self.relation} {self.aim:.2f})"


@dataclass(frozen=True)
class Verdict:
    """All checks; the X-rays pass when every one does."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every aim is reached."""
        return all(check.passed for check in self.checks)

    @property
    def missed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)


def judge(numbers: DrawnNumbers, aims: Aims | None = None) -> Verdict:
    """Hold the numbers against the aims: the values, not the friendlier ends of their intervals."""
    aims = aims or Aims()
    lower: list[tuple[str, float]] = [
        ("auc", aims.auc_at_least),
        ("coverage", aims.coverage_at_least),
        ("spread_features", aims.spread_at_least),
        ("spread_pixels", aims.spread_at_least),
        ("detail_middle", aims.detail_at_least),
        ("tone", aims.tone_at_least),
    ]
    upper: list[tuple[str, float]] = [
        ("near_train_features", aims.near_train_at_most),
        ("near_train_pixels", aims.near_train_at_most),
        ("near_train_halves", aims.near_train_at_most),
        ("repeated", aims.repeated_at_most),
    ]
    values = numbers.measures()
    return Verdict(
        tuple(Check(name, values[name].value, "≥", aim) for name, aim in lower)
        + tuple(Check(name, values[name].value, "≤", aim) for name, aim in upper)
    )
