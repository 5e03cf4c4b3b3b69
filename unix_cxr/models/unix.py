"""The model: an understanding branch of stock classes and a generation branch that reads it.

Axes: b batch, n tokens, d width, c latent channels, h and w rows and columns.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    PreTrainedModel,  # noqa: F401 - diffusers looks for the base class in here
    Qwen3ForCausalLM,
    SiglipVisionModel,
)

from unix_cxr.functional.masks import additive, segment_mask
from unix_cxr.models.config import UniXConfig
from unix_cxr.models.context import Context, Image, Latents, Segment, Text
from unix_cxr.models.generation import Denoised, GenerationBranch, surroundings_of
from unix_cxr.models.loading import check_model_folder, load_strictly
from unix_cxr.models.reading import ReadingModel
from unix_cxr.models.understanding import run_layers
from unix_cxr.modules.connector import Connector
from unix_cxr.modules.joint_block import Block, LayerContext
from unix_cxr.modules.latent_embedding import position_table
from unix_cxr.modules.vision_stem import VisionStem


class UniXModel(ReadingModel):
    """Writes the report of an X-ray (`generate`) and the velocity of a noisy one (`denoise`).

    `vision`, `connector` and `language_model` are the understanding branch; `generation` is the
    generation branch. Source: arXiv:2601.11522.
    """

    config_class = UniXConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: Any = ("Qwen3DecoderLayer", "SiglipEncoderLayer", "JointBlock")
    _skip_keys_device_placement: Any = ("past_key_values",)

    def __init__(self, config: UniXConfig) -> None:
        super().__init__(config)
        text: Any = config.text_config
        vision: Any = config.vision_config
        self.vision = SiglipVisionModel._from_config(vision)
        if config.vision_stem is not None:
            embeddings: Any = self.vision.embeddings
            embeddings.patch_embedding = VisionStem(config.vision_stem, vision.hidden_size)
        self.connector = Connector(
            vision.hidden_size, text.hidden_size, config.connector_activation
        )
        self.language_model = Qwen3ForCausalLM._from_config(text)
        if not config.query_key_norm:
            for layer in self.language_model.model.layers:
                layer.self_attn.q_norm = layer.self_attn.k_norm = nn.Identity()
        self.generation = GenerationBranch(config)
        self.post_init()  # type: ignore[no-untyped-call]  # the library's own hook

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> "UniXModel":
        """The model in a folder or under a hub id: safetensors only, every weight accounted for.

        Args:
            pretrained_model_name_or_path: a folder that `save_pretrained` wrote, or a hub id.
            args: as transformers takes them.
            kwargs: as transformers takes them.

        Raises:
            FileNotFoundError: there is no such folder, or no config or weights in it.
            ValueError: the folder holds a pickle only, or its weights are not those of its config.
        """
        if pretrained_model_name_or_path is not None:
            check_model_folder(pretrained_model_name_or_path, kwargs.get("subfolder", ""))
        model: UniXModel = load_strictly(
            super().from_pretrained, pretrained_model_name_or_path, *args, **kwargs
        )
        return model

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
        _fetch_offloaded(self)
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
        _fetch_offloaded(self)
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

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]  # the library's own hook
        if isinstance(module, VisionStem):
            module.reset_parameters()
        if isinstance(module, GenerationBranch):
            # a velocity of 0 to begin with, and a table that is told, not learned
            nn.init.zeros_(module.velocity_head.weight)
            nn.init.zeros_(module.velocity_head.bias)
            embedding = module.embedding
            embedding.positions.copy_(
                position_table(embedding.max_size, embedding.positions.shape[-1])
            )


def _fetch_offloaded(model: nn.Module) -> None:
    """Bring weights that accelerate's offloading keeps elsewhere, as it does before `forward`."""
    hook: Any = getattr(model, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(model)


def _batch_size(segment: Segment) -> int:
    match segment:
        case Text():
            return segment.ids.shape[0]
        case Image():
            return segment.pixel_values.shape[0]
        case Latents():
            return segment.latents.shape[0]


AutoModel.register(UniXConfig, UniXModel)
AutoModelForImageTextToText.register(UniXConfig, UniXModel)
