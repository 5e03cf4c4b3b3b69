"""From images and texts to the tensors of both branches, and from token ids back to text.

Axes: b batch, n tokens, i images, h and w pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from unix_cxr.data.pixels import Source, load_xray
from unix_cxr.defaults import IGNORED_LABEL, REPORT_PROMPT, VISION_MEAN, VISION_STD
from unix_cxr.functional.images import resize_and_pad
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.context import Text


@dataclass(frozen=True)
class ReadingInputs:
    """Tensors of the understanding branch with the labels of the report.

    Args:
        input_ids: [b, n] image block, prompt, report.
        attention_mask: [b, n] 1 for tokens, 0 for padding on the left.
        labels: [b, n] the ids where the report is, `IGNORED_LABEL` elsewhere.
    """

    input_ids: Int[Tensor, "b n"]
    attention_mask: Int[Tensor, "b n"]
    labels: Int[Tensor, "b n"]


class UniXProcessor(ProcessorMixin):
    """Images and texts to tensors, exactly in the layout that the model was trained with.

    Args:
        tokenizer: a transformers tokenizer; special tokens are looked up in it by name.
        image_size: side of the vision tower's images in pixels.
        image_tokens: tokens of one image.
        image_mean: mean of the vision tower's normalisation.
        image_std: standard deviation of the vision tower's normalisation.
        begin_of_image: name of the begin-of-image token.
        end_of_image: name of the end-of-image token.
        placeholder: name of the token that stands for an image token.

    Raises:
        ValueError: the tokenizer lacks one of the special tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int = 384,
        image_tokens: int = 576,
        image_mean: float = VISION_MEAN,
        image_std: float = VISION_STD,
        begin_of_image: str = "<begin_of_image>",
        end_of_image: str = "<end_of_image>",
        placeholder: str | None = None,
    ) -> None:
        super().__init__(tokenizer)  # type: ignore[no-untyped-call]  # transformers is untyped here
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.image_size = image_size
        self.image_tokens = image_tokens
        self.image_mean = image_mean
        self.image_std = image_std
        self.begin_of_image = begin_of_image
        self.end_of_image = end_of_image
        self.placeholder = placeholder or tokenizer.pad_token or tokenizer.eos_token
        self.begin_id = self._id_of(begin_of_image)
        self.end_id = self._id_of(end_of_image)
        self.placeholder_id = self._id_of(self.placeholder)
        self.bos_id = self._id_of(tokenizer.bos_token)
        self.eos_id = self._id_of(tokenizer.eos_token)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id

    def __call__(
        self,
        images: Source | Sequence[Source],
        text: str | Sequence[str] | None = None,
        *,
        indication: str | Sequence[str | None] | None = None,
        **_: Any,
    ) -> BatchFeature:
        """Inputs of `UniXModel.generate`: the model's next token opens the report.

        Args:
            images: one X-ray or several; whatever `load_xray` reads.
            text: the prompt, or one per image; `REPORT_PROMPT` where None.
            indication: why the image was taken, or one per image; part of the prompt.

        Returns:
            input_ids [b, n], attention_mask [b, n] and pixel_values [b, 3, h, w], padded on the
            left.
        """
        sources = as_list(images)
        prompts = self.prompts(len(sources), text, indication)
        rows = [[*self.image_block(), *self.text_ids(prompt), self.bos_id] for prompt in prompts]
        ids, mask = self.pad(rows)
        return BatchFeature(
            {
                "input_ids": ids,
                "attention_mask": mask.long(),
                "pixel_values": self.pixel_values(sources),
            }
        )

    def prompts(
        self,
        count: int,
        text: str | Sequence[str] | None = None,
        indication: str | Sequence[str | None] | None = None,
    ) -> list[str]:
        """One prompt per image.

        Raises:
            ValueError: the number of prompts or indications is not that of the images.
        """
        texts = _one_each("prompts", REPORT_PROMPT if text is None else text, count)
        reasons = _one_each("indications", indication, count)
        return [
            f"Indication: {reason} {prompt}" if reason else str(prompt)
            for prompt, reason in zip(texts, reasons, strict=True)
        ]

    def captions(self, texts: Sequence[str]) -> Text:
        """Captions as a context segment: [BOS] text [EOS], padded on the left."""
        ids, mask = self.pad([self.text_ids(text) for text in texts])
        return Text(ids, mask)

    def with_reports(self, prompts: Sequence[str], reports: Sequence[str]) -> ReadingInputs:
        """Whole sequences with labels on the reports' tokens and their EOS."""
        rows, starts = [], []
        for prompt, report in zip(prompts, reports, strict=True):
            before = [*self.image_block(), *self.text_ids(prompt)]
            rows.append([*before, *self.text_ids(report)])
            starts.append(len(before) + 1)  # the report's BOS is given, not predicted
        ids, mask = self.pad(rows)
        labels = torch.full_like(ids, IGNORED_LABEL)
        for row, (tokens, start) in enumerate(zip(rows, starts, strict=True)):
            first = ids.shape[1] - len(tokens) + start
            labels[row, first:] = ids[row, first:]
        return ReadingInputs(ids, mask.long(), labels)

    def pixel_values(self, images: Sequence[Source]) -> Float[Tensor, "i 3 h w"]:
        """Images for the vision tower: aspect ratio kept, black margins, normalised."""
        return self.normalise(
            torch.cat(
                [
                    resize_and_pad(
                        torch.from_numpy(load_xray(image).pixels)[None, None], self.image_size
                    )
                    for image in images
                ]
            )
        )

    def normalise(self, images: Float[Tensor, "i 1 h w"]) -> Float[Tensor, "i 3 h w"]:
        """Grey images in [0, 1], already square, as the vision tower wants them."""
        if images.shape[-1] != self.image_size:
            images = resize_and_pad(images, self.image_size)
        return ((images - self.image_mean) / self.image_std).expand(-1, 3, -1, -1)

    def text_ids(self, text: str) -> list[int]:
        """[BOS] text [EOS]; a special token's name in the text is text like any other."""
        ids: list[int] = self.tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )
        return [self.bos_id, *ids, self.eos_id]

    def image_block(self) -> list[int]:
        """[BOI] placeholders [EOI]."""
        return [self.begin_id, *[self.placeholder_id] * self.image_tokens, self.end_id]

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Rows of ids padded on the left, and True where a token is."""
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for index, row in enumerate(rows):
            ids[index, length - len(row) :] = torch.tensor(row)
            mask[index, length - len(row) :] = True
        return ids, mask

    def reports(self, generated: Int[Tensor, "b n"], prompt_length: int) -> list[str]:
        """Texts of what `generate` added to prompts of that length."""
        texts: list[str] = self.tokenizer.batch_decode(
            generated[:, prompt_length:], skip_special_tokens=True
        )
        return [text.strip() for text in texts]

    def _id_of(self, token: str | None) -> int:
        identity = None if token is None else self.tokenizer.get_vocab().get(token)
        if identity is None:
            raise ValueError(
                f"the tokenizer has no token {token!r}; name its begin- and end-of-image tokens "
                "with begin_of_image and end_of_image, and give it bos and eos tokens"
            )
        return identity


def as_list(images: Source | Sequence[Source]) -> list[Source]:
    """One image or several as a list of images."""
    if isinstance(images, list | tuple):
        return list(images)
    return [images]  # type: ignore[list-item]  # a sequence is a list or a tuple


def _one_each(
    what: str, values: str | Sequence[str | None] | None, count: int
) -> Sequence[str | None]:
    if values is None or isinstance(values, str):
        return [values] * count
    if len(values) != count:
        raise ValueError(f"{len(values)} {what} for {count} images; give one, or one per image")
    return values


AutoProcessor.register(UniXConfig, UniXProcessor)
