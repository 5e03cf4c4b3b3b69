"""Training of the classifier behind the measurements: seeded, early-stopped, minutes on a CPU.

Axes: b X-rays, h rows, w columns.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from unix_cxr.evaluation.classifier import ClassifierConfig, XrayClassifier
from unix_cxr.evaluation.roc import auc
from unix_cxr.evaluation.xrays import LabelledXrays

_BATCH: Final = 128


@dataclass(frozen=True)
class ClassifierTraining:
    """How the classifier learns.

    Args:
        epochs: at most this many passes over `train`.
        patience: stop after this many epochs without a lower loss on `dev`.
        batch_size: X-rays per step.
        learning_rate: peak of the schedule (one epoch of warm-up, then half a cosine).
        weight_decay: AdamW's.
        max_shift: X-rays are shifted by up to this share of their side.
        seed: initial weights, order and augmentation.
    """

    epochs: int = 14
    patience: int = 5
    batch_size: int = 48
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    max_shift: float = 0.06
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """What one pass over `train` gave."""

    number: int
    train_loss: float
    dev_loss: float
    dev_auc: float


@dataclass(frozen=True)
class TrainedClassifier:
    """The best epoch's classifier, in evaluation mode, and the whole history."""

    classifier: XrayClassifier
    history: tuple[Epoch, ...]
    best: Epoch


def train_classifier(
    train: LabelledXrays,
    dev: LabelledXrays,
    config: ClassifierConfig,
    training: ClassifierTraining | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> TrainedClassifier:
    """Learn pneumonia against normal on `train`, keep the epoch with the lowest loss on `dev`.

    Convolutions run in bfloat16 (2 to 3 times faster on CPUs that know it), norms and losses in
    float32. The classes are weighted so that both count the same.

    Raises:
        ValueError: a class is absent, a patient is in both splits, or the loss is not finite.
    """
    training = training or ClassifierTraining()
    _check_splits(train, dev)
    generator = torch.Generator().manual_seed(training.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        classifier = XrayClassifier(config)
    classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this overload
    steps_per_epoch = math.ceil(len(train) / training.batch_size)
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(step, steps_per_epoch, training.epochs)
    )
    history: list[Epoch] = []
    best, best_state = None, None
    for number in range(1, training.epochs + 1):
        train_loss = _train_epoch(classifier, train, training, optimizer, scheduler, generator)
        dev_loss, dev_auc = _judge(classifier, dev)
        history.append(Epoch(number, train_loss, dev_loss, dev_auc))
        if on_epoch:
            on_epoch(history[-1])
        if best is None or dev_loss < best.dev_loss:
            best, best_state = history[-1], copy.deepcopy(classifier.state_dict())
        elif number - best.number >= training.patience:
            break
    if best is None or best_state is None:
        raise ValueError(f"epochs must be at least 1, got {training.epochs}")
    classifier.load_state_dict(best_state)
    _standardise(classifier.eval(), train)
    return TrainedClassifier(classifier, tuple(history), best)


def _rate(step: int, steps_per_epoch: int, epochs: int) -> float:
    if step < steps_per_epoch:
        return (step + 1) / steps_per_epoch
    done = (step - steps_per_epoch) / max(1, steps_per_epoch * (epochs - 1))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _train_epoch(
    classifier: XrayClassifier,
    train: LabelledXrays,
    training: ClassifierTraining,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    generator: torch.Generator,
) -> float:
    share = train.pneumonia.float().mean()

    def loss(rows: Int[Tensor, " b"]) -> Tensor:
        images = augment(train.images[rows], training.max_shift, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, _ = classifier.see(classifier.prepare(images))
        weight = torch.where(train.pneumonia[rows], 0.5 / share, 0.5 / (1 - share))
        wanted = train.pneumonia[rows].float()
        return functional.binary_cross_entropy_with_logits(logits, wanted, weight=weight)

    order = torch.split(torch.randperm(len(train), generator=generator), training.batch_size)
    return learn(classifier, order, loss, optimizer, scheduler, "the classifier")


def learn(
    network: nn.Module,
    batches: Iterable[Int[Tensor, " b"]],
    loss: Callable[[Int[Tensor, " b"]], Float[Tensor, ""]],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    about: str,
) -> float:
    """One step for each batch, with gradients cut to a norm of 1.

    Args:
        network: learns, in training mode.
        batches: rows of the X-rays of each step.
        loss: mean over the X-rays at these rows.
        optimizer: of the network's parameters.
        scheduler: goes on after each step.
        about: what errors call it.

    Returns:
        The mean loss over all X-rays, while it learned.

    Raises:
        ValueError: a loss is not finite.
    """
    network.train()
    total, count = 0.0, 0
    for rows in batches:
        value = loss(rows)
        if not torch.isfinite(value):
            raise ValueError(
                f"{about}: the loss is {value.item()}; lower learning_rate "
                f"({optimizer.defaults['lr']})"
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        total, count = total + value.item() * len(rows), count + len(rows)
    return total / count


def augment(
    images: Float[Tensor, "b 1 h w"], max_shift: float, generator: torch.Generator
) -> Float[Tensor, "b 1 h w"]:
    """Shift, mirror half of them, scale by up to 5 %, and bend the grey curve a little."""
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    scale = draw(0.95, 1.05)
    mirror = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)  # noqa: PLR2004 - half of them
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0] = scale * mirror
    affine[:, 1, 1] = scale
    affine[:, 0, 2] = draw(-2 * max_shift, 2 * max_shift)
    affine[:, 1, 2] = draw(-2 * max_shift, 2 * max_shift)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved.clamp(0, 1) ** draw(0.8, 1.25)[:, None, None, None]


@torch.inference_mode()
def _judge(classifier: XrayClassifier, xrays: LabelledXrays) -> tuple[float, float]:
    classifier.eval()
    parts = []
    for images in torch.split(xrays.images, _BATCH):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts.append(classifier.see(classifier.prepare(images))[0])
    logits = torch.cat(parts)
    loss = functional.binary_cross_entropy_with_logits(logits, xrays.pneumonia.float())
    return loss.item(), auc(logits, xrays.pneumonia).item()


@torch.inference_mode()
def _standardise(classifier: XrayClassifier, train: LabelledXrays) -> None:
    features = torch.cat(
        [
            classifier.see(classifier.prepare(images))[1]
            for images in torch.split(train.images, _BATCH)
        ]
    )
    classifier.feature_mean.copy_(features.mean(dim=0))
    classifier.feature_std.copy_(features.std(dim=0).clamp_min(1e-6))


def _check_splits(train: LabelledXrays, dev: LabelledXrays) -> None:
    for name, xrays in (("train", train), ("dev", dev)):
        if not _both(xrays.pneumonia):
            raise ValueError(
                f"{name} must hold both classes, got {int(xrays.pneumonia.sum())} pneumonia "
                f"among {len(xrays)}"
            )
    shared = sorted(set(train.groups) & set(dev.groups))
    if shared:
        raise ValueError(
            f"{len(shared)} patients are in train and in dev (first: {shared[0]!r}); "
            "split by patient"
        )


def _both(labels: Bool[Tensor, " b"]) -> bool:
    return bool(labels.any()) and not bool(labels.all())
