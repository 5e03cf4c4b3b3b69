"""Stage "understanding": the report's tokens, given the image.

Axes: b batch, n tokens, v vocabulary.
"""

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unix_cxr.defaults import IGNORED_LABEL
from unix_cxr.functional.images import random_affine
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.processing import UniXProcessor
from unix_cxr.training.batches import BatchOrder, ReportBatch, generator_of
from unix_cxr.training.images import ImageStore
from unix_cxr.training.losses import LossTerm


class UnderstandingObjective(nn.Module):
    """Cross-entropy of every labelled token.

    Args:
        model: its understanding branch is run.
    """

    def __init__(self, model: UniXModel) -> None:
        super().__init__()
        self.model = model
        self.weights = {"cross_entropy": 1.0}

    def counts(self, batch: ReportBatch) -> dict[str, int]:
        """Elements of every loss term."""
        return {"cross_entropy": int((batch.labels != IGNORED_LABEL).sum())}

    def forward(self, batch: ReportBatch) -> dict[str, LossTerm]:
        """Loss terms of a batch of images with their reports."""
        labelled = batch.labels != IGNORED_LABEL
        kept = batch.labels.shape[1] - int(labelled.any(dim=0).long().argmax()) + 1
        logits = self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values,
            use_cache=False,
            logits_to_keep=kept,
        ).logits
        losses = F.cross_entropy(
            logits[:, :-1].float().flatten(0, 1),
            batch.labels[:, 1 - kept :].flatten(),
            ignore_index=IGNORED_LABEL,
            reduction="sum",
        )
        return {"cross_entropy": LossTerm(losses, int(labelled.sum()))}


class ReportSource:
    """Batches of X-rays with findings text in varied wording; a `BatchSource`.

    Args:
        train: images and studies to learn from.
        dev: images and studies to validate on.
        processor: makes the tensors.
        batch_size: studies per batch.
        augmentation: strength; see `random_affine`.
        seed: of the order, the wording and the augmentation.
        length_window: see `BatchOrder`.
    """

    def __init__(
        self,
        train: ImageStore,
        dev: ImageStore,
        processor: UniXProcessor,
        *,
        batch_size: int,
        augmentation: float,
        seed: int,
        length_window: int = 1,
    ) -> None:
        self.train = train
        self.dev = dev
        self.processor = processor
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.order = text_order(train, processor, batch_size, seed, length_window)

    def batch(self, step: int) -> ReportBatch:
        """The studies of that step, worded and augmented as that step does."""
        chosen = self.order.batch(step)
        generator = generator_of(self.seed, step, 2)
        words = random.Random(int(torch.randint(2**62, (), generator=generator)))
        texts = self.train.texts(chosen, words)
        images = random_affine(self.train[chosen], self.augmentation, generator)
        return self._batch(images, texts)

    def validation(self) -> list[ReportBatch]:
        """All dev studies, each in one fixed wording."""
        words = random.Random(self.seed)
        order = torch.arange(len(self.dev))
        return [
            self._batch(self.dev[part], self.dev.texts(part, words))
            for part in order.split(self.batch_size)
        ]

    def _batch(self, images: Tensor, texts: Sequence[str]) -> ReportBatch:
        inputs = self.processor.with_reports(self.processor.prompts(len(texts)), texts)
        return ReportBatch(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            pixel_values=self.processor.normalise(images),
            labels=inputs.labels,
        )


def text_order(
    store: ImageStore, processor: UniXProcessor, batch_size: int, seed: int, window: int
) -> BatchOrder:
    """The order of a store's studies, by the lengths of their texts where a window is given."""
    if window == 1:
        return BatchOrder(len(store), batch_size, seed)
    words = random.Random(seed)
    lengths = [
        len(processor.text_ids(text))
        for part in torch.arange(len(store)).split(256)
        for text in store.texts(part, words)
    ]
    return BatchOrder(len(store), batch_size, seed, torch.tensor(lengths), window)
