"""Training of the oracle on phantoms; repeatable on one machine.

    python -m unix_cxr.data.phantom.oracle_training --out oracle.safetensors

Its phantoms have seeds from `FIRST_SEED` on; phantoms with lower seeds are fresh to it.

Axes: b films, h rows, w columns, k kinds of findings.
"""

import argparse
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from unix_cxr.data.phantom.description import (
    EXTENTS,
    KINDS,
    ZONED,
    ZONES,
    Phantom,
    PhantomFinding,
)
from unix_cxr.data.phantom.oracle import INPUT_SIZE, OracleNetwork, both_sides, presence
from unix_cxr.data.phantom.oracle_scoring import blurred
from unix_cxr.data.phantom.rendering import render_batch
from unix_cxr.data.phantom.sampling import compatible, sample_finding, sample_phantom
from unix_cxr.files import replacing

FIRST_SEED: Final = 10_000_000
_CALIBRATION_SEED: Final = 20_000_000
_GREY: Final = 255
_POSITIVE_WEIGHT: Final = 3.0
_STEADY: Final = 0.998

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OracleTraining:
    """How the oracle is trained.

    Args:
        count: phantoms to train on.
        calibration: phantoms that the thresholds are chosen on.
        steps: optimizer steps.
        batch: films per step.
        learning_rate: highest rate.
        seed: of weights, order and perturbations.
    """

    count: int = 24000
    calibration: int = 3000
    steps: int = 4000
    batch: int = 64
    learning_rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True)
class Truth:
    """What is there: columns are kinds, the last axis of `present` left and right."""

    present: Tensor
    extent: Tensor
    zone: Tensor

    def of(self, rows: Tensor) -> "Truth":
        """The truth of some of the phantoms."""
        return Truth(self.present[rows], self.extent[rows], self.zone[rows])


def crowded_phantom(seed: int) -> Phantom:
    """A phantom with up to four findings: rare ones are then seen more often."""
    draw = random.Random(f"crowded {seed}")
    found = [sample_finding(seed, kind) for kind in draw.sample(KINDS, 6)]
    kept: list[PhantomFinding] = []
    for finding in found:
        if len(kept) < 4 and all(compatible(finding, other) for other in kept):  # noqa: PLR2004
            kept.append(finding)
    return sample_phantom(seed, kept)


def truth_of(phantoms: Sequence[Phantom]) -> Truth:
    """Which kinds are there, on which side, how large, in which zone."""
    present = torch.zeros(len(phantoms), len(KINDS), 2)
    extent = torch.zeros(len(phantoms), len(KINDS))
    zone = torch.zeros(len(phantoms), len(ZONED), dtype=torch.long)
    for row, phantom in enumerate(phantoms):
        for finding in phantom.findings:
            column = KINDS.index(finding.kind)
            present[row, column, 0] = finding.side != "right"
            present[row, column, 1] = finding.side != "left"
            limits = EXTENTS[finding.kind]
            extent[row, column] = (finding.size - limits.lowest) / (limits.highest - limits.lowest)
            if finding.kind in ZONED:
                zone[row, ZONED.index(finding.kind)] = ZONES.index(finding.zone)
    return Truth(present, extent, zone)


def films_of(phantoms: Sequence[Phantom]) -> UInt8[Tensor, "b h w"]:
    """Films in 8 bits, to hold many of them."""
    parts = [
        (render_batch(phantoms[start : start + 512], INPUT_SIZE) * _GREY).round().to(torch.uint8)
        for start in range(0, len(phantoms), 512)
    ]
    return torch.cat(parts)


def perturbed(films: Float[Tensor, "b h w"], generator: torch.Generator) -> Float[Tensor, "b h w"]:
    """Films shifted, blurred, shrunk, with another tone and noise: what a drawn film may have."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(films), 1, 1, generator=generator)

    draw = torch.rand(4, generator=generator).tolist()
    down, across = torch.randint(-4, 5, (2,), generator=generator).tolist()
    padded = functional.pad(films[:, None], (4, 4, 4, 4), mode="replicate")
    films = padded[:, :, 4 + down :, 4 + across :][:, :, :INPUT_SIZE, :INPUT_SIZE]
    if draw[0] < 0.5:  # noqa: PLR2004
        films = functional.avg_pool2d(films, 2)
    if draw[1] < 0.4:  # noqa: PLR2004
        films = blurred(films[:, 0], 0.3 + 0.9 * draw[2])[:, None]
    films = films[:, 0].clamp(0, 1).pow(uniform(0.72, 1.4))
    films = films * uniform(0.85, 1.0) + uniform(0.0, 0.08)
    strength = uniform(0, 0.04) * (draw[3] < 0.7)  # noqa: PLR2004
    films = films + strength * torch.randn(films.shape, generator=generator)
    if films.shape[-1] < INPUT_SIZE:
        size = (INPUT_SIZE, INPUT_SIZE)
        films = functional.interpolate(films[:, None], size, mode="bilinear")[:, 0]
    return films.clamp(0, 1)


def loss_of(network: OracleNetwork, films: Tensor, truth: Truth, mirrored: Tensor) -> Tensor:
    """Presence, and size and zone of what is there; where `mirrored`, the film's left is read."""
    rows = torch.arange(len(films))
    present = truth.present[rows, :, mirrored.long()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        readings = network(films)
    weight = torch.tensor(_POSITIVE_WEIGHT)
    loss: Tensor = functional.binary_cross_entropy_with_logits(
        readings.present.float(), present, pos_weight=weight
    )
    gaps = (readings.extent.float() - truth.extent).square() * present
    loss = loss + gaps.sum() / present.sum().clamp_min(1)
    columns = torch.tensor([KINDS.index(kind) for kind in ZONED])
    there = present[:, columns].flatten()
    wrong = functional.cross_entropy(
        readings.zone.float().flatten(0, 1), truth.zone.flatten(), reduction="none"
    )
    return loss + 0.3 * (wrong * there).sum() / there.sum().clamp_min(1)


def train_oracle(settings: OracleTraining) -> OracleNetwork:
    """Render the phantoms, train, average the weights, choose the thresholds."""
    started = time.process_time()
    seeds = range(FIRST_SEED, FIRST_SEED + settings.count)
    phantoms = [crowded_phantom(seed) if seed % 2 else sample_phantom(seed) for seed in seeds]
    films, truth = films_of(phantoms), truth_of(phantoms)
    logger.info("rendered %d films, %.0f s of CPU", len(films), time.process_time() - started)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = OracleNetwork()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in stubs
    steady = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )
    for number in range(settings.steps):
        rows = torch.randint(len(films), (settings.batch,), generator=generator)
        mirrored = torch.rand(settings.batch, generator=generator) < 0.5  # noqa: PLR2004
        batch = films[rows].float() / _GREY
        batch = torch.where(mirrored[:, None, None], batch.flip(-1), batch)
        loss = loss_of(network, perturbed(batch, generator), truth.of(rows), mirrored)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        for name, tensor in network.state_dict().items():
            steady[name].lerp_(tensor, 1 - min(_STEADY, number / (number + 10)))
        if number % 100 == 0:
            spent = time.process_time() - started
            logger.info("step %d loss %.4f, %.0f s of CPU", number, float(loss.detach()), spent)
    network.load_state_dict({name: tensor.half().float() for name, tensor in steady.items()})
    _choose_thresholds(network.eval(), settings)
    return network


def _choose_thresholds(network: OracleNetwork, settings: OracleTraining) -> None:
    """For each kind the threshold of the highest balanced accuracy on its own phantoms."""
    seeds = range(_CALIBRATION_SEED, _CALIBRATION_SEED + settings.calibration)
    phantoms = [crowded_phantom(seed) if seed % 2 else sample_phantom(seed) for seed in seeds]
    films, truth = films_of(phantoms).float() / _GREY, truth_of(phantoms)
    generator = torch.Generator().manual_seed(settings.seed)
    scores = []
    with torch.no_grad():
        for start in range(0, len(films), settings.batch):
            batch = films[start : start + settings.batch]
            kept = batch if start // settings.batch % 2 else perturbed(batch, generator)
            scores.append(presence(*both_sides(network, kept)))
    score, there = torch.cat(scores), truth.present.amax(-1) > 0
    absent = [kind for kind, seen in zip(KINDS, there.any(0).tolist(), strict=True) if not seen]
    if absent:
        raise ValueError(
            f"calibration ({settings.calibration}) has no phantom with {absent}; use more"
        )
    for column in range(len(KINDS)):
        network.threshold[column] = _best_threshold(score[:, column], there[:, column])


def _best_threshold(score: Tensor, there: Tensor) -> float:
    candidates = torch.linspace(-6, 6, 121)
    above = score[:, None] > candidates
    balanced = (above[there].float().mean(0) + (~above[~there]).float().mean(0)) / 2
    # the middle of all that are best, so that both sides have room
    best = candidates[balanced >= balanced.max() - 1e-6]
    return float(best.median())


def main() -> None:
    """Train with the defaults and write the weights in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=OracleTraining.steps)
    parser.add_argument("--count", type=int, default=OracleTraining.count)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    network = train_oracle(OracleTraining(count=chosen.count, steps=chosen.steps))
    weights = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(chosen.out) as draft:
        draft.write_bytes(save(weights))


if __name__ == "__main__":
    main()
