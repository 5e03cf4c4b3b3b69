"""The understanding branch as transformers' `generate` wants it: images and texts in, logits out.

Axes: b batch, n tokens, i images, h and w pixels, d width.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, Qwen3ForCausalLM, SiglipVisionModel
from transformers.cache_utils import Cache
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import CausalLMOutputWithPast

from unix_cxr.functional.positions import inside_image, rotary_positions
from unix_cxr.models.config import UniXConfig
from unix_cxr.modules.connector import Connector


class ReadingModel(PreTrainedModel, GenerationMixin):
    """An ordinary causal language model that also reads X-rays.

    An image is a block of BOI, one placeholder per image token, EOI; its tokens share one position
    and see each other. Stock classes know neither, so positions and masks are made here.
    """

    config: UniXConfig
    vision: SiglipVisionModel
    connector: Connector
    language_model: Qwen3ForCausalLM
    main_input_name = "input_ids"
    input_modalities: Any = ("image", "text")

    def image_tokens(self, pixel_values: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Image tokens in the language model's space.

        Raises:
            ValueError: the image has another size than the vision tower.
        """
        size = cast("Any", self.config.vision_config).image_size
        if tuple(pixel_values.shape[-2:]) != (size, size):
            raise ValueError(
                f"the vision tower takes images of {size}x{size}, not "
                f"{pixel_values.shape[-1]}x{pixel_values.shape[-2]}; UniXProcessor resizes them"
            )
        features = self.vision(pixel_values.to(self.vision.dtype)).last_hidden_state
        tokens: Tensor = self.connector(features)
        return tokens

    def forward(
        self,
        input_ids: Int[Tensor, "b n"] | None = None,
        attention_mask: Tensor | dict[str, Tensor | None] | None = None,
        position_ids: Int[Tensor, "b n"] | None = None,
        past_key_values: Cache | None = None,
        pixel_values: Float[Tensor, "i 3 h w"] | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of a sequence of texts and image blocks, as transformers' `generate` calls it.

        Args:
            input_ids: [b, n]; an image block is BOI, one placeholder per image token, EOI.
            attention_mask: [b, n] 1 for tokens, 0 for padding; or masks that are ready.
            position_ids: [b, n]; worked out from the ids where None.
            past_key_values: keys and values of earlier tokens.
            pixel_values: [i, 3, h, w] the images of all blocks, in the order of the batch.
            options: inputs_embeds, labels, use_cache, logits_to_keep and what else the language
                model takes. Labels are the ids themselves, `IGNORED_LABEL` for no loss.

        Raises:
            ValueError: neither ids nor embeddings are given, images and blocks disagree, or tokens
                follow cached ones without their positions.
        """
        embedded = options.pop("inputs_embeds", None)
        if embedded is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            embedded = self._embed(input_ids, pixel_values)
        if input_ids is not None and not isinstance(attention_mask, dict):
            _, block_ids = self._blocks(input_ids)
            if position_ids is None:
                if _seen(past_key_values):
                    raise ValueError(
                        f"after {_seen(past_key_values)} cached tokens give position_ids: an image "
                        "among them counts as one position, which the cache does not tell"
                    )
                position_ids = rotary_positions(block_ids, _real(attention_mask, input_ids))
            attention_mask = self._masks(embedded, attention_mask, past_key_values, block_ids)
        output: CausalLMOutputWithPast = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=embedded,
            **options,
        )
        return output

    def prepare_inputs_for_generation(
        self,
        input_ids: Int[Tensor, "b n"],
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,  # noqa: FBT001, FBT002 - transformers' signature
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of one step of `generate`: the images unless they are in the cache already."""
        if is_first_iteration or not kwargs.get("use_cache", True):
            # the library hands this on to `create_masks_for_generate` for a static cache
            kwargs["token_type_ids"] = self._blocks(input_ids)[1]
        else:
            kwargs.pop("pixel_values", None)
        library = cast("Any", super())  # whose types name its own models only
        inputs: dict[str, Any] = library.prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        inputs.pop("token_type_ids", None)
        return inputs

    def _expand_inputs_for_generation(  # type: ignore[override]  # LongTensor is no runtime type
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
        input_ids: Int[Tensor, "b n"] | None = None,
        **model_kwargs: Any,
    ) -> tuple[Int[Tensor, "beams n"] | None, dict[str, Any]]:
        """Beams or samples of each row; all images of a row are repeated together."""
        pixel_values = model_kwargs.pop("pixel_values", None)
        if pixel_values is not None and input_ids is not None and expand_size > 1:
            counts = (input_ids == self.config.begin_image_token_id).sum(-1).tolist()
            rows = pixel_values.split(counts)
            pixel_values = torch.cat([image for row in rows for image in [row] * expand_size])
        library = cast("Any", super())  # whose types name its own models only
        ids, expanded = library._expand_inputs_for_generation(  # noqa: SLF001 - the hook itself
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if pixel_values is not None:
            expanded["pixel_values"] = pixel_values
        return ids, expanded

    @staticmethod
    def create_masks_for_generate(
        config: UniXConfig,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Tensor | None]:
        """Masks for a cache of fixed size: causal text, bidirectional image blocks.

        The positions are kept from the library: it would take an image's shared position for the
        start of another sequence.
        """
        del position_ids
        masks: dict[str, Tensor | None] = create_masks_for_generate(
            config=config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            block_sequence_ids=token_type_ids,
        )
        return masks

    def _prepare_position_ids_for_generation(
        self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]
    ) -> Int[Tensor, "b n"]:
        ids = inputs_tensor
        if model_kwargs.get("input_ids") is not None and model_kwargs["input_ids"].shape[1]:
            ids = model_kwargs["input_ids"]
        _, block_ids = self._blocks(ids)
        return rotary_positions(block_ids, _real(model_kwargs.get("attention_mask"), ids))

    def _masks(
        self,
        embedded: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        block_ids: Tensor,
    ) -> dict[str, Tensor | None]:
        has_image = bool((block_ids >= 0).any())
        # the library counts these from the first cached token on
        block_ids = F.pad(block_ids, (_seen(past_key_values), 0), value=-1)
        return self.create_masks_for_generate(
            self.config,
            embedded,
            attention_mask,
            past_key_values,
            token_type_ids=block_ids if has_image else None,
        )

    def _blocks(self, ids: Int[Tensor, "b n"]) -> tuple[Bool[Tensor, "b n"], Int[Tensor, "b n"]]:
        return inside_image(ids, self.config.begin_image_token_id, self.config.end_image_token_id)

    def _embed(
        self, ids: Int[Tensor, "b n"], pixel_values: Float[Tensor, "i 3 h w"] | None
    ) -> Float[Tensor, "b n d"]:
        embedded: Tensor = self.get_input_embeddings()(ids)
        inside, _ = self._blocks(ids)
        boundaries = (ids == self.config.begin_image_token_id) | (
            ids == self.config.end_image_token_id
        )
        places = inside & ~boundaries
        if pixel_values is None:
            if bool(places.any()):
                raise ValueError(
                    f"the ids have {int(places.sum())} placeholders of image tokens, and there are "
                    "no pixel_values to fill them"
                )
            return embedded
        tokens = self.image_tokens(pixel_values)
        if int(places.sum()) != tokens.shape[0] * tokens.shape[1]:
            raise ValueError(
                f"{tokens.shape[0]} images of {tokens.shape[1]} tokens need as many placeholders "
                f"between BOI and EOI; the ids have {int(places.sum())}"
            )
        return embedded.masked_scatter(places[..., None], tokens.to(embedded.dtype))

    def _boundary(self, batch_size: int) -> Float[Tensor, "b 2 d"]:
        ids = torch.tensor(
            [self.config.begin_image_token_id, self.config.end_image_token_id], device=self.device
        )
        embedded: Tensor = self.get_input_embeddings()(ids)
        return embedded.expand(batch_size, -1, -1)

    def get_input_embeddings(self) -> nn.Module:
        """The language model's table of token embeddings."""
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's table of token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        head: nn.Module = self.language_model.get_output_embeddings()
        return head


def _real(attention_mask: Tensor | None, ids: Int[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    if attention_mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    return attention_mask.bool()


def _seen(cache: Cache | None) -> int:
    """Number of tokens that a cache holds."""
    return 0 if cache is None else int(cache.get_seq_length())
