"""A whole network learns from real X-rays, from drawn ones and from both; real ones test it.

A probe on frozen features asks what an eye that saw real X-rays finds in drawn ones. Here nothing
is known beforehand: all of the network learns from the pixels that it is given.

Axes: n X-rays, b X-rays of a batch, l labels, h rows, w columns, s side.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from unix_cxr.evaluation.classifier import ClassifierConfig, XrayClassifier
from unix_cxr.evaluation.classifier_training import augment, learn
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.image_sets import ImageSet
from unix_cxr.evaluation.reading.probe import label_table, learnable
from unix_cxr.evaluation.reading.use import HeldOut, use_results
from unix_cxr.evaluation.results import MetricResult, content_mark
from unix_cxr.functional.images import resize_and_pad

_GREYS: Final = 255
_TEST_BATCH: Final = 256
_GROUPS: Final = 8
_WARM_UP: Final = 0.1


@dataclass(frozen=True)
class NetworkTraining:
    """How the network learns; the same for real, drawn and both, whatever their number.

    Args:
        steps: of the optimizer, for each of the three. Equal steps, not equal epochs: otherwise
            more X-rays would mean more training, not only more to learn from.
        batch_size: X-rays of a step.
        size: side of the squares that the network sees.
        widths: channels of its stages, each a multiple of 8.
        learning_rate: AdamW's, at its highest.
        weight_decay: AdamW's.
        max_shift: X-rays are shifted by up to this share of their side.
        seed: of the weights, the order and the augmentation.
        progress: show a bar.
    """

    steps: int = 300
    batch_size: int = 32
    size: int = 64
    widths: tuple[int, ...] = (16, 32, 64)
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    max_shift: float = 0.06
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 1")
        self.config()

    def config(self) -> ClassifierConfig:
        """The shape of the network.

        Raises:
            ValueError: the size or a width does not suit it.
        """
        return ClassifierConfig(self.size, self.widths, _GROUPS)

    def facts(self) -> dict[str, object]:
        """For signatures."""
        known = {name: value for name, value in asdict(self).items() if name != "progress"}
        return {**known, "widths": "-".join(map(str, self.widths)), "network": "XrayClassifier"}


class LabelNetwork(nn.Module):
    """The stages of `XrayClassifier`, and a logit for each label."""

    def __init__(self, config: ClassifierConfig, labels: int) -> None:
        super().__init__()
        self.body = XrayClassifier(config)
        self.head = nn.Linear(config.widths[-1], labels)

    def forward(self, images: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b l"]:
        """A logit for each label."""
        pooled = self.body.pooled(self.body.prepare(images))[-1]
        logits: Tensor = self.head(pooled.to(self.head.weight.dtype)).float()
        return logits


def measure_use_network(
    real: ImageSet,
    drawn: ImageSet,
    test: ImageSet,
    resampling: Resampling,
    training: NetworkTraining | None = None,
) -> list[MetricResult]:
    """Networks that learned from real X-rays, from drawn ones and from both, on real unseen ones.

    All three begin with the same weights and take the same number of steps. Intervals draw the
    patients of the test set; the chance of a training (its seed) is not in them.

    Args:
        real: training X-rays with labels.
        drawn: X-rays of a generator, with the labels that were asked for.
        test: real X-rays of other patients, with labels.
        resampling: the bootstrap.
        training: how.

    Returns:
        `auroc/use_network/SOURCE` for real, drawn and both with its labels, and
        `auroc/use_network/gain`: both - real, by the same replicates.

    Raises:
        ValueError: no label that all three hold on both sides, or a loss that is not finite.
    """
    training = training or NetworkTraining()
    names = shared_labels(real, drawn, test)
    sets = {"real": real, "drawn": drawn}
    pixels = {role: _pixels(images, training.size) for role, images in sets.items()}
    tables = {
        role: label_table([one.labels for one in images], names) for role, images in sets.items()
    }
    looked_at = _pixels(test, training.size)
    logits, counts = {}, {}
    for source, roles in (("real", ["real"]), ("drawn", ["drawn"]), ("both", list(sets))):
        images = torch.cat([pixels[role] for role in roles])
        labels = torch.cat([tables[role] for role in roles])
        network = train_network(images, labels, training, f"learning from {source}")
        logits[source], counts[source] = _look(network, looked_at), len(images)
    tested = HeldOut(
        "use_network",
        names,
        label_table([one.labels for one in test], names),
        test.ids,
        test.groups,
        {**training.facts(), "against": content_mark(test.ids)},
    )
    return use_results(tested, logits, counts, resampling)


def shared_labels(real: ImageSet, drawn: ImageSet, test: ImageSet) -> list[str]:
    """Labels that a network can learn from `real` and from `drawn`, and be tested in.

    Raises:
        ValueError: there is none; the message says how often each occurs in each set.
    """
    sets = {"real": real, "drawn": drawn, "test": test}
    names = learnable([[one.labels for one in images] for images in sets.values()])
    if names:
        return names
    every = sorted({label for images in sets.values() for one in images for label in one.labels})
    counts = "; ".join(
        f"{label} is on "
        + ", ".join(
            f"{sum(label in one.labels for one in images)} of {len(images)} {role}"
            for role, images in sets.items()
        )
        for label in every
    )
    raise ValueError(
        "a network cannot learn a label of one class only: every set needs a label that at least "
        f"5 of its X-rays have and 5 lack ({counts or 'no X-ray has a label'}); write labels into "
        "the manifest of the drawn ones, or choose another split"
    )


def train_network(
    images: UInt8[Tensor, "n 1 s s"],
    labels: Bool[Tensor, "n l"],
    training: NetworkTraining,
    about: str = "learning",
) -> LabelNetwork:
    """A network that learned the labels, in evaluation mode; the same call gives the same one.

    Raises:
        ValueError: the loss is not finite.
    """
    generator = torch.Generator().manual_seed(training.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = LabelNetwork(training.config(), labels.shape[1])
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this overload
    optimizer = torch.optim.AdamW(
        [one for name, one in network.named_parameters() if not name.startswith("body.head")],
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.steps + 1, pct_start=_WARM_UP
    )

    def loss(rows: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        batch = augment(images[rows].float() / _GREYS, training.max_shift, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(batch)
        return functional.binary_cross_entropy_with_logits(logits, labels[rows].float())

    batches = _batches(len(images), training, generator)
    hidden = None if training.progress else True
    shown = tqdm(batches, about, training.steps, unit="step", disable=hidden)
    learn(network, shown, loss, optimizer, schedule, about)
    return network.eval()


def _batches(
    count: int, training: NetworkTraining, generator: torch.Generator
) -> Iterator[Int[Tensor, " b"]]:
    """As many batches as there are steps, from one shuffled pass after the other."""
    waiting = torch.empty(0, dtype=torch.long)
    for _ in range(training.steps):
        while len(waiting) < training.batch_size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[: training.batch_size]
        waiting = waiting[training.batch_size :]


def _pixels(images: ImageSet, size: int) -> UInt8[Tensor, "n 1 s s"]:
    """All X-rays as small squares of bytes: 4 KB each at 64 pixels."""
    squares = [resize_and_pad(one.load()[None], size).clamp(0, 1) for one in images]
    return torch.cat([(square * _GREYS).round().byte() for square in squares])


@torch.inference_mode()
def _look(network: LabelNetwork, images: UInt8[Tensor, "n 1 s s"]) -> Float[Tensor, "n l"]:
    batches = torch.split(images, _TEST_BATCH)
    return torch.cat([network(batch.float() / _GREYS) for batch in batches])
