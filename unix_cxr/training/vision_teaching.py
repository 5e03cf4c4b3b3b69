"""Stage "vision": the vision tower learns to tell what the reports state, before it is read from.

A captioning loss alone teaches a new tower hardly anything: the language model is faster at the
wording than the tower at seeing. Classification by attention pooling, one query per statement,
does; the queries are thrown away afterwards.

Axes: b batch, n image tokens, d width, k statements, h and w pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unix_cxr.functional.images import random_affine
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.processing import UniXProcessor
from unix_cxr.training.batches import BatchOrder, generator_of
from unix_cxr.training.images import ImageStore
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.statements import (
    StatementTable,
    spoken_of,
    stated_in,
    statement_table,
    teachable,
)


@dataclass(frozen=True)
class StatementBatch:
    """X-rays with the statements that hold for them.

    Args:
        pixel_values: for the vision tower.
        holds: whether a statement holds.
        known: whether that is known.
    """

    pixel_values: Float[Tensor, "b 3 h w"]
    holds: Bool[Tensor, "b k"]
    known: Bool[Tensor, "b k"]


class StatementProbe(nn.Module):
    """One query per statement, which gathers from the image tokens what speaks for it.

    Args:
        width: of the image tokens.
        statements: their number.
    """

    def __init__(self, width: int, statements: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(statements, width) * width**-0.5)
        self.weights = nn.Parameter(torch.randn(statements, width) * width**-0.5)
        self.biases = nn.Parameter(torch.zeros(statements))

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b k"]:
        """Logit of every statement."""
        tokens = self.norm(tokens)
        attention = torch.softmax((tokens @ self.queries.T).float(), dim=1).to(tokens.dtype)
        gathered = attention.transpose(1, 2) @ tokens
        return (gathered.float() * self.weights).sum(dim=-1) + self.biases


class VisionObjective(nn.Module):
    """Cross-entropy of every statement that is known to hold or not to hold.

    Args:
        model: its vision tower and connector are run.
        statements: their number.
        seed: of the probe's random weights.
    """

    own_parts = ("probe.*",)
    """Parameters that learn in every stage with this objective, and are thrown away after it."""

    def __init__(self, model: UniXModel, statements: int, seed: int) -> None:
        super().__init__()
        self.model = model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = model.connector.output.out_features
            self.probe = StatementProbe(width, statements)
        self.weights = {"statements": 1.0}

    def counts(self, batch: StatementBatch) -> dict[str, int]:
        """Elements of every loss term."""
        return {"statements": int(batch.known.sum())}

    def forward(self, batch: StatementBatch) -> dict[str, LossTerm]:
        """Loss terms of a batch of images with their statements."""
        logits = self.probe(self.model.image_tokens(batch.pixel_values))
        losses = F.binary_cross_entropy_with_logits(
            logits.float(), batch.holds.float(), reduction="none"
        )
        return {"statements": LossTerm((losses * batch.known).sum(), int(batch.known.sum()))}


class StatementSource:
    """Batches of X-rays with what is stated of them; a `BatchSource`.

    Args:
        train: images and studies to learn from; they decide which statements there are.
        dev: images and studies to validate on.
        processor: normalises the images.
        least: a statement must hold for that many studies of `train`, and be absent in as many.
        batch_size: studies per batch.
        augmentation: strength; see `random_affine`.
        seed: of the order, the wording and the augmentation.

    Raises:
        ValueError: there is no such statement.
    """

    def __init__(
        self,
        train: ImageStore,
        dev: ImageStore,
        processor: UniXProcessor,
        *,
        least: int,
        batch_size: int,
        augmentation: float,
        seed: int,
    ) -> None:
        self.train = train
        self.dev = dev
        self.processor = processor
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        stated, subsets = stated_in(train, seed)
        spoken = spoken_of(stated, subsets)
        names = teachable(statement_table(stated, subsets, spoken), least)
        self.train_table = statement_table(stated, subsets, spoken, names)
        self.dev_table = statement_table(*stated_in(dev, seed), spoken, names)
        self.train_rows = _with_statements(self.train_table, "train")
        self.dev_rows = _with_statements(self.dev_table, "dev")
        self.order = BatchOrder(len(self.train_rows), batch_size, seed)

    @property
    def statements(self) -> tuple[str, ...]:
        """What the columns state."""
        return self.train_table.names

    def batch(self, step: int) -> StatementBatch:
        """The studies of that step, augmented as that step does."""
        chosen = self.train_rows[self.order.batch(step)]
        generator = generator_of(self.seed, step, 7)
        images = random_affine(self.train[chosen], self.augmentation, generator)
        return self._batch(images, self.train_table, chosen)

    def validation(self) -> list[StatementBatch]:
        """All dev studies as they are."""
        return [
            self._batch(self.dev[part], self.dev_table, part)
            for part in self.dev_rows.split(self.batch_size)
        ]

    def _batch(self, images: Tensor, table: StatementTable, rows: Tensor) -> StatementBatch:
        return StatementBatch(
            pixel_values=self.processor.normalise(images),
            holds=table.holds[rows],
            known=table.known[rows],
        )


def _with_statements(table: StatementTable, split: str) -> Int[Tensor, " b"]:
    """Rows of which at least one statement is known.

    Raises:
        ValueError: there is none.
    """
    rows = table.known.any(dim=1).nonzero()[:, 0]
    if not len(rows):
        raise ValueError(f"no study of split {split!r} states any of {list(table.names)}")
    return rows
