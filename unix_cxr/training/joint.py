"""Reading and drawing in one step: the loss terms of both objectives over one batch of each.

Axes: b batch, c latent channels, h and w pixels, H and W latents, n and m tokens.
"""

from dataclasses import dataclass, fields

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unix_cxr.models.unix import UniXModel
from unix_cxr.training.batches import BatchSource, CaptionedLatentBatch, ReportBatch
from unix_cxr.training.generation import GenerationObjective
from unix_cxr.training.losses import LossTerm
from unix_cxr.training.understanding import UnderstandingObjective


@dataclass(frozen=True)
class JointBatch:
    """A batch to read and one to draw, of the same studies; flat, so that it is cut as others are.

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

    input_ids: Int[Tensor, "b n"]
    attention_mask: Int[Tensor, "b n"]
    pixel_values: Float[Tensor, "b 3 h w"]
    labels: Int[Tensor, "b n"]
    latents: Float[Tensor, "b c H W"]
    noise: Float[Tensor, "b c H W"]
    times: Float[Tensor, " b"]
    caption_ids: Int[Tensor, "b m"]
    caption_mask: Bool[Tensor, "b m"]

    @classmethod
    def of(cls, reading: ReportBatch, drawing: CaptionedLatentBatch) -> "JointBatch":
        """Both batches side by side.

        Raises:
            ValueError: they differ in size.
        """
        if len(reading.input_ids) != len(drawing.latents):
            raise ValueError(
                f"a batch of {len(reading.input_ids)} to read and one of {len(drawing.latents)} to "
                "draw cannot be cut alike; make both of the same studies"
            )
        return cls(
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


class JointObjective(nn.Module):
    """Cross-entropy of the reports and squared error of the velocities, each divided by its count.

    Args:
        model: both branches are run.
        understanding_gradient: factor on the gradient that drawing sends into the understanding
            branch; 1 trains it on both, 0 on reading alone.
        reading_weight: of the cross-entropy; the velocity's is 1.
    """

    def __init__(
        self, model: UniXModel, understanding_gradient: float = 1.0, reading_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.model = model  # first: parameters are named after it
        self.to_read = UnderstandingObjective(model)
        self.to_draw = GenerationObjective(model, understanding_gradient)
        self.weights = {"cross_entropy": reading_weight, "velocity": 1.0}

    def counts(self, batch: JointBatch) -> dict[str, int]:
        """Elements of every loss term."""
        return self.to_read.counts(batch.reading) | self.to_draw.counts(batch.drawing)

    def forward(self, batch: JointBatch) -> dict[str, LossTerm]:
        """Loss terms of both."""
        read: dict[str, LossTerm] = self.to_read(batch.reading)
        drawn: dict[str, LossTerm] = self.to_draw(batch.drawing)
        return read | drawn


class JointSource:
    """The batches of two sources side by side; a `BatchSource`.

    Args:
        reading: of batches to read.
        drawing: of batches to draw, of the same studies in the same order.
    """

    def __init__(
        self, reading: BatchSource[ReportBatch], drawing: BatchSource[CaptionedLatentBatch]
    ) -> None:
        self.reading = reading
        self.drawing = drawing

    def batch(self, step: int) -> JointBatch:
        """Both batches of that step."""
        return JointBatch.of(self.reading.batch(step), self.drawing.batch(step))

    def validation(self) -> list[JointBatch]:
        """Both sources' validation batches, pair by pair."""
        pairs = zip(self.reading.validation(), self.drawing.validation(), strict=True)
        return [JointBatch.of(reading, drawing) for reading, drawing in pairs]
