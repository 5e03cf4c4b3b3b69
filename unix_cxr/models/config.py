"""Configuration of the whole model: two stock sub-configurations and what the branches share."""

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig, Qwen3Config, SiglipVisionConfig

_PUBLIC_LIBRARY_KEYS = frozenset(
    {"transformers_version", "architectures", "dtype", "model_type", "_name_or_path", "auto_map"}
)


class UniXConfig(PreTrainedConfig):
    """Sizes and conventions of a UniX model; unknown keys are refused.

    Args:
        text_config: the language model; `attention_bias=True` and a head width are required.
        vision_config: the vision tower; `vision_use_head=False` is required.
        latent_channels: channels of an autoencoder latent.
        latent_patch_size: latents per token along each side.
        max_latent_size: side of the table of latent positions, in tokens.
        time_frequencies: width of the sinusoidal time features.
        connector_activation: activation between the connector's two layers.
        vision_stem: channels of the convolutions in front of the vision tower, see `VisionStem`;
            None cuts into patches with one linear map, as the published model does.
        query_key_norm: whether every attention head normalises its queries and keys, in both
            branches, as the published model does. False is for language models that were trained
            without, such as Janus'.
        begin_image_token_id: id of the begin-of-image token.
        end_image_token_id: id of the end-of-image token.
        bos_token_id: id that opens every text.
        eos_token_id: id that closes every text.
        pad_token_id: id of padding and of an image's placeholder tokens.
        sampling: sampling defaults of this checkpoint, see `SamplingDefaults`.
        known_findings: CheXpert names of the findings that this checkpoint learned to draw; None
            where nobody wrote them down.

    Raises:
        ValueError: a key is unknown or two values disagree.
    """

    model_type = "unix_cxr"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "text_config": Qwen3Config,
        "vision_config": SiglipVisionConfig,
    }

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    latent_channels: int = 16
    latent_patch_size: int = 1
    max_latent_size: int = 32
    time_frequencies: int = 256
    connector_activation: str = "gelu_pytorch_tanh"
    vision_stem: list[int] | None = None
    query_key_norm: bool = True
    begin_image_token_id: int = 100003
    end_image_token_id: int = 100580
    bos_token_id: int = 100000
    eos_token_id: int = 100001
    pad_token_id: int = 100001
    sampling: dict[str, Any] | None = None
    known_findings: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(
            key
            for key in kwargs
            if key not in _PUBLIC_LIBRARY_KEYS
            and not key.startswith("_")
            and key not in _LIBRARY_ARGUMENTS
        )
        if unknown:
            known = sorted(name for name in self.__class__.__annotations__ if name[0] != "_")
            raise ValueError(f"unknown configuration keys {unknown}; known keys: {known}")
        for name, keys in _SECTIONS.items():
            section = getattr(self, name)
            strange = sorted(set(section) - keys) if isinstance(section, dict) else []
            if strange:
                raise ValueError(f"unknown keys {strange} in {name}; known keys: {sorted(keys)}")
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]  # the library's own hook
        self._check()

    def _check(self) -> None:
        text, vision = self.text_config, self.vision_config
        if not isinstance(text, Qwen3Config):
            raise ValueError(f"text_config must be a Qwen3Config, not {type(text).__name__}")  # noqa: TRY004 - a wrong value in a file
        if not isinstance(vision, SiglipVisionConfig):
            raise ValueError(  # noqa: TRY004 - a wrong value in a file
                f"vision_config must be a SiglipVisionConfig, not {type(vision).__name__}"
            )
        if not text.attention_bias:
            raise ValueError("text_config.attention_bias must be true: q, k and v have biases")
        if vision.vision_use_head:
            raise ValueError("vision_config.vision_use_head must be false: all patches are used")
        stem = self.vision_stem
        if stem is not None and (
            2 ** (len(stem) + 1) != vision.patch_size or min(stem, default=1) < 1
        ):
            raise ValueError(
                f"vision_stem ({stem}) halves the image {len(stem) + 1} times, for patches of "
                f"{2 ** (len(stem) + 1)} pixels; vision_config.patch_size is {vision.patch_size}"
            )
        for name in ("begin_image", "end_image", "bos", "eos", "pad"):
            value = getattr(self, f"{name}_token_id")
            if not 0 <= value < text.vocab_size:
                raise ValueError(
                    f"{name}_token_id ({value}) must be below vocab_size ({text.vocab_size})"
                )


_LIBRARY_ARGUMENTS = frozenset(
    {
        "attn_implementation",
        "experts_implementation",
        "output_attentions",
        "name_or_path",
        "torch_dtype",
        "num_labels",
        "per_layer_config",
        "rope_scaling",
        "rope_theta",
    }
)

_SECTIONS = {
    "text_config": frozenset(Qwen3Config().to_dict()) | {"rope_theta", "rope_scaling"},
    "vision_config": frozenset(SiglipVisionConfig().to_dict()) | {"vision_use_head"},
}
"""Known keys of the two stock configurations."""

AutoConfig.register(UniXConfig.model_type, UniXConfig)
