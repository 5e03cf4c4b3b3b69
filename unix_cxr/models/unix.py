"""The model: an understanding branch of stock classes and a generation branch that reads it.

Axes: b batch, n tokens, d width, c latent channels, h and w rows and columns.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    GenerationMixin,
    PreTrainedModel,
    Qwen3ForCausalLM,
    SiglipVisionModel,
)
from transformers.cache_utils import Cache
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import CausalLMOutputWithPast

from unix_cxr.functional.masks import additive, segment_mask
from unix_cxr.functional.positions import inside_image, rotary_positions
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.context import Context, Image, Latents, Segment, Text
from unix_cxr.models.generation import Denoised, GenerationBranch, surroundings_of
from unix_cxr.models.understanding import run_layers
from unix_cxr.modules.connector import Connector
from unix_cxr.modules.joint_block import Block, LayerContext
from unix_cxr.modules.latent_embedding import position_table


class UniXModel(PreTrainedModel, GenerationMixin):
    """Writes the report of an X-ray (`generate`) and the velocity of a noisy one (`denoise`).

    `vision`, `connector` and `language_model` are the understanding branch; `generation` is the
    generation branch. Source: arXiv:2601.11522.
    """

    config: UniXConfig
    config_class = UniXConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("Qwen3DecoderLayer", "SiglipEncoderLayer", "JointBlock")
    _skip_keys_device_placement = ("past_key_values",)

    def __init__(self, config: UniXConfig) -> None:
        super().__init__(config)
        text: Any = config.text_config
        vision: Any = config.vision_config
        self.vision = SiglipVisionModel._from_config(vision)
        self.connector = Connector(
            vision.hidden_size, text.hidden_size, config.connector_activation
        )
        self.language_model = Qwen3ForCausalLM._from_config(text)
        self.generation = GenerationBranch(config)
        self.post_init()

    # -- drawing -----------------------------------------------------------------------------

    def encode(
        self, segments: Sequence[Segment], *, understanding_gradient: float = 1.0
    ) -> Context:
        """Run the segments one after the other; each leaves its keys and values.

        Args:
            segments: texts, images and clean latents of the same batch size, in order.
            understanding_gradient: factor on the gradient that `Latents` send into the
                understanding branch; see `denoise`.

        Raises:
            ValueError: there is no segment, or batch sizes differ.
        """
        if not segments:
            raise ValueError(
                "encode needs at least one segment; `empty_context` makes an empty one"
            )
        context = self.empty_context(_batch_size(segments[0]))
        for segment in segments:
            if _batch_size(segment) != context.batch_size:
                raise ValueError(
                    f"segments of batch size {context.batch_size} and {_batch_size(segment)} "
                    "cannot form one context"
                )
            if isinstance(segment, Latents):
                context = self._append_latents(context, segment, understanding_gradient)
            else:
                context = self._append_understood(context, segment)
        return context

    def empty_context(self, batch_size: int) -> Context:
        """The unconditional context: no token at all, the image at position 0."""
        text: Any = self.config.text_config
        nothing = torch.empty(
            batch_size,
            text.num_key_value_heads,
            0,
            text.head_dim,
            dtype=self.dtype,
            device=self.device,
        )
        no_tokens = torch.empty(batch_size, 0, dtype=torch.bool, device=self.device)
        return Context(
            layers=(LayerContext(nothing, nothing),) * text.num_hidden_layers,
            real=no_tokens,
            from_generation=no_tokens,
            position=torch.zeros(batch_size, dtype=torch.long, device=self.device),
        )

    def denoise(
        self,
        latents: Float[Tensor, "b c h w"],
        timesteps: Float[Tensor, " b"],
        context: Context,
        *,
        understanding_gradient: float = 1.0,
    ) -> Float[Tensor, "b c h w"]:
        """Velocity of noisy latents after a context.

        Args:
            latents: x_t.
            timesteps: t in [0, 1]; 1 is noise.
            context: what `encode` returned, of the same batch size.
            understanding_gradient: factor on the gradient of everything that the generation
                weights read from the understanding branch: 1 joint training, 0 frozen.

        Raises:
            ValueError: batch sizes differ, or the latents are larger than the position table.
        """
        denoised = self.run_block(
            latents, timesteps, context, understanding_gradient=understanding_gradient
        )
        height, width = latents.shape[-2:]
        return self.generation.velocity(denoised.latents, height, width)

    def run_block(
        self,
        latents: Float[Tensor, "b c h w"],
        timesteps: Float[Tensor, " b"],
        context: Context,
        *,
        understanding_gradient: float,
    ) -> Denoised:
        """States, keys and values of the block [BOI, latents, EOI] after a context."""
        if latents.shape[0] != context.batch_size:
            raise ValueError(
                f"{latents.shape[0]} latents need as many contexts, not {context.batch_size}; "
                "see Context.repeat"
            )
        decoder = self.language_model.model
        tokens = self.generation.embedding(latents, timesteps)
        block = Block(boundary=self._boundary(latents.shape[0]).to(tokens.dtype), latents=tokens)
        rotary = decoder.rotary_emb(tokens, context.position[:, None])
        surroundings = surroundings_of(
            rotary,
            context.real,
            tokens.shape[1] + 2,
            padded=context.padded,
            understanding_gradient=understanding_gradient,
        )
        readable = context.read_by_generation(understanding_gradient)
        denoised: Denoised = self.generation(block, readable.layers, decoder.layers, surroundings)
        return denoised

    def _append_latents(self, context: Context, segment: Latents, factor: float) -> Context:
        clean = torch.zeros(segment.latents.shape[0], device=self.device)
        denoised = self.run_block(segment.latents, clean, context, understanding_gradient=factor)
        length = denoised.latents.shape[1] + 2
        made_by_generation = torch.ones(length, dtype=torch.bool, device=self.device)
        made_by_generation[[0, -1]] = False
        ends = self.language_model.model.norm(denoised.block.boundary)
        return context.append(
            denoised.layers,
            context.real.new_ones(context.batch_size, length),
            position=context.position + 1,
            from_generation=made_by_generation,
            hidden=torch.cat([ends[:, :1], denoised.latents, ends[:, 1:]], dim=1),
        )

    def _append_understood(self, context: Context, segment: Text | Image) -> Context:
        if isinstance(segment, Text):
            embedded = self.get_input_embeddings()(segment.ids)
            real = segment.real
            advance = real.long()
            positions = (context.position[:, None] + advance.cumsum(-1) - 1).clamp(min=0)
            position = context.position + advance.sum(-1)
        else:
            embedded = self._image_block(segment.pixel_values)
            real = context.real.new_ones(embedded.shape[:2])
            positions = context.position[:, None].expand(-1, embedded.shape[1])
            position = context.position + 1
        mask = segment_mask(context.real, real, causal=isinstance(segment, Text))
        hidden, layers = run_layers(
            self.language_model.model, embedded, positions, self._for_attention(mask), context
        )
        return context.append(
            layers,
            real,
            position=position,
            from_generation=real.new_zeros(real.shape[1]),
            hidden=hidden,
        )

    def _for_attention(self, mask: Bool[Tensor, "b 1 n m"]) -> Tensor:
        """The mask as the language model's attention wants it: eager adds, SDPA selects."""
        if self.language_model.config._attn_implementation == "eager":
            return additive(mask, self.dtype)
        return mask

    def _image_block(self, pixel_values: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        tokens = self.image_tokens(pixel_values)
        ends = self._boundary(pixel_values.shape[0])
        return torch.cat([ends[:, :1], tokens, ends[:, 1:]], dim=1)

    def _boundary(self, batch_size: int) -> Float[Tensor, "b 2 d"]:
        ids = torch.tensor(
            [self.config.begin_image_token_id, self.config.end_image_token_id], device=self.device
        )
        embedded: Tensor = self.get_input_embeddings()(ids)
        return embedded.expand(batch_size, -1, -1)

    # -- reading -----------------------------------------------------------------------------

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
        attention_mask: Tensor | dict[str, Tensor] | None = None,
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
            ValueError: neither ids nor embeddings are given, or images and blocks disagree.
        """
        embedded = options.pop("inputs_embeds", None)
        if embedded is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            embedded = self._embed(input_ids, pixel_values)
        if input_ids is not None and not isinstance(attention_mask, dict):
            _, block_ids = self._blocks(input_ids)
            if position_ids is None and past_key_values is None:
                real = _real(attention_mask, input_ids)
                position_ids = rotary_positions(block_ids, real)
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
        is_first_iteration: bool | None = False,  # noqa: FBT002 - transformers' signature
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of one step of `generate`: the images on the first one only."""
        if is_first_iteration:
            # the library hands this on to `create_masks_for_generate` for a static cache
            kwargs["token_type_ids"] = self._blocks(input_ids)[1]
        else:
            kwargs.pop("pixel_values", None)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
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

    @staticmethod
    def create_masks_for_generate(
        config: UniXConfig,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Cache | None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Masks for a cache of fixed size: causal text, bidirectional image blocks.

        The positions are kept from the library: it would take an image's shared position for the
        start of another sequence.
        """
        del position_ids
        masks: dict[str, Tensor] = create_masks_for_generate(
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
    ) -> dict[str, Tensor]:
        has_image = bool((block_ids >= 0).any())
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
        if pixel_values is None:
            return embedded
        inside, _ = self._blocks(ids)
        boundaries = (ids == self.config.begin_image_token_id) | (
            ids == self.config.end_image_token_id
        )
        places = inside & ~boundaries
        tokens = self.image_tokens(pixel_values)
        if int(places.sum()) != tokens.shape[0] * tokens.shape[1]:
            raise ValueError(
                f"{tokens.shape[0]} images of {tokens.shape[1]} tokens need as many placeholders "
                f"between BOI and EOI; the ids have {int(places.sum())}"
            )
        return embedded.masked_scatter(places[..., None], tokens.to(embedded.dtype))

    # -- the library's hooks -----------------------------------------------------------------

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

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GenerationBranch):
            # a velocity of 0 to begin with, and a table that is told, not learned
            nn.init.zeros_(module.velocity_head.weight)
            nn.init.zeros_(module.velocity_head.bias)
            embedding = module.embedding
            embedding.positions.copy_(
                position_table(embedding.max_size, embedding.positions.shape[-1])
            )


def _batch_size(segment: Segment) -> int:
    match segment:
        case Text():
            return segment.ids.shape[0]
        case Image():
            return segment.pixel_values.shape[0]
        case Latents():
            return segment.latents.shape[0]


def _real(attention_mask: Tensor | None, ids: Int[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    if attention_mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    return attention_mask.bool()


AutoModel.register(UniXConfig, UniXModel)
AutoModelForImageTextToText.register(UniXConfig, UniXModel)
