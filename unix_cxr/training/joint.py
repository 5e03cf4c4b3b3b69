"""Reading and drawing in one step: the loss terms of both objectives over one batch of each.

Axes: r samples to read, b samples to draw, c latent channels, h and w pixels, H and W latents,
R and C rows and columns of latent tokens, f features, n and m tokens.
"""

from dataclasses import dataclass, fields

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unix_cxr.training.alignment import AlignedBatch, AlignedObjective
from unix_cxr.training.batches import BatchSource, CaptionedLatentBatch, ReportBatch
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.understanding import UnderstandingObjective


@dataclass(frozen=True)
class JointBatch:
    """A batch to read and one to draw; flat, so that it is cut as others are.

    Args:
        input_ids: see `ReportBatch`, as for the three below.
        attention_mask: 1 for tokens, 0 for padding.
        pixel_values: for the vision tower.
        labels: next token, or `IGNORED_LABEL`.
        latents: see `CaptionedLatentBatch`, as for the four below.
        noise: standard normal.
        times: in (0, 1).
        caption_ids: with BOS and EOS; padded.
        caption_mask: True for tokens.
    """

    input_ids: Int[Tensor, "r n"]
    attention_mask: Int[Tensor, "r n"]
    pixel_values: Float[Tensor, "r 3 h w"]
    labels: Int[Tensor, "r n"]
    latents: Float[Tensor, "b c H W"]
    noise: Float[Tensor, "b c H W"]
    times: Float[Tensor, " b"]
    caption_ids: Int[Tensor, "b m"]
    caption_mask: Bool[Tensor, "b m"]

    @classmethod
    def of(cls, reading: ReportBatch, drawing: CaptionedLatentBatch) -> "JointBatch":
        """Both batches side by side; each part of the whole has a part of either."""
        kind = AlignedJointBatch if isinstance(drawing, AlignedBatch) else cls
        return kind(
            **{field.name: getattr(reading, field.name) for field in fields(reading)},
            **{field.name: getattr(drawing, field.name) for field in fields(drawing)},
        )

    @property
    def reading(self) -> ReportBatch:
        """The batch to read."""
        return ReportBatch(**{f.name: getattr(self, f.name) for f in fields(ReportBatch)})

    @property
    def drawing(self) -> CaptionedLatentBatch:
        """The batch to draw."""
        return CaptionedLatentBatch(
            **{f.name: getattr(self, f.name) for f in fields(CaptionedLatentBatch)}
        )


@dataclass(frozen=True)
class AlignedJointBatch(JointBatch):
    """A batch to read, and one to draw with an encoder's features.

    Args:
        features: see `AlignedBatch`.
    """

    features: Float[Tensor, "b f R C"]

    @property
    def drawing(self) -> AlignedBatch:
        """The batch to draw."""
        return AlignedBatch(**{f.name: getattr(self, f.name) for f in fields(AlignedBatch)})


class JointObjective(nn.Module):
    """Cross-entropy of the reports and the losses of drawing, each divided by its count.

    Args:
        drawing: its model reads too; its `understanding_gradient` is the factor on the gradient
            that drawing sends into the understanding branch: 1 trains that branch on both, 0 on
            reading alone.
        reading_weight: of the cross-entropy; the velocity's is 1.
    """

    def __init__(self, drawing: GenerationObjective, reading_weight: float = 1.0) -> None:
        super().__init__()
        self.model = drawing.model  # first: parameters are named after it
        self.own_parts: tuple[str, ...] = ()
        if isinstance(drawing, AlignedObjective):
            self.projector = drawing.projector  # by the name that it has without reading
            self.own_parts = drawing.own_parts
        self.to_read = UnderstandingObjective(drawing.model)
        self.to_draw = drawing
        self.weights = {"cross_entropy": reading_weight} | self.to_draw.weights

    def counts(self, batch: JointBatch) -> dict[str, int]:
        """Elements of every loss term."""
        return self.to_read.counts(batch.reading) | self.to_draw.counts(batch.drawing)

    def forward(
        self, batch: JointBatch | ReportBatch | CaptionedLatentBatch
    ) -> dict[str, LossTerm]:
        """Loss terms of both; of one, where a batch is to be read or to be drawn alone."""
        read: dict[str, LossTerm]
        drawn: dict[str, LossTerm]
        match batch:
            case ReportBatch():
                read, drawn = self.to_read(batch), {}
            case CaptionedLatentBatch():
                read, drawn = {}, self.to_draw(batch)
            case JointBatch():
                read, drawn = self.to_read(batch.reading), self.to_draw(batch.drawing)
        return read | drawn


class JointSource:
    """The batches of two sources side by side; a `BatchSource`.

    Args:
        reading: of batches to read.
        drawing: of batches to draw, as large as the others or not.
    """

    def __init__(
        self, reading: BatchSource[ReportBatch], drawing: BatchSource[CaptionedLatentBatch]
    ) -> None:
        self.reading = reading
        self.drawing = drawing

    def batch(self, step: int) -> JointBatch:
        """Both batches of that step."""
        return JointBatch.of(self.reading.batch(step), self.drawing.batch(step))

    def validation(self) -> list[JointBatch | ReportBatch | CaptionedLatentBatch]:
        """Both sources' validation batches, one after the other."""
        return [*self.reading.validation(), *self.drawing.validation()]
