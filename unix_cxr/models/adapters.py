"""Low-rank adapters (LoRA, arXiv:2106.09685) of one branch or of both, through peft.

An adapter sits on linear layers that the model calls. The joint block calls the language model's
layers for BOI and EOI, so an adapter of the understanding branch acts on drawing too; one of the
generation branch never touches a report.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from torch import Tensor, nn

from unix_cxr.models.unix import UniXModel

if TYPE_CHECKING:
    from peft import LoraConfig

Preset = Literal["und", "gen", "both"]

_UNDERSTANDING: Final = (
    r"language_model\.model\.layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)"
    r"|vision\.encoder\.layers\.\d+\.(?:self_attn\.(?:[qkv]|out)_proj|mlp\.fc[12])"
    r"|connector\.(?:input|output)"
)
_GENERATION: Final = (
    r"generation\.layers\.\d+\.(?:attention\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)"
)
TARGETS: Final[Mapping[Preset, str]] = MappingProxyType(
    {"und": _UNDERSTANDING, "gen": _GENERATION, "both": f"{_UNDERSTANDING}|{_GENERATION}"}
)
"""Linear layers of each preset: a regular expression that matches a module's whole dotted name.

A list of names in its place would match endings, and `q_proj` ends names in both branches.
"""

BRANCHES: Final[Mapping[Preset, tuple[str, ...]]] = MappingProxyType(
    {
        "und": ("language_model", "vision", "connector"),
        "gen": ("generation",),
        "both": ("language_model", "vision", "connector", "generation"),
    }
)
"""Parts of the model that a preset may touch."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class AdapterSettings:
    """What a fresh adapter is like.

    Args:
        preset: "und" adapts vision, connector and language model, "gen" the generation branch,
            "both" all of them.
        rank: of the low-rank product.
        alpha: the product is scaled by alpha / rank, with rsLoRA by alpha / √rank; alpha is the
            rank where None.
        rslora: scale by alpha / √rank (arXiv:2312.03732).
        dora: learn the weights' magnitudes apart from their directions (arXiv:2402.09353).
        dropout: share of the adapter's inputs that are dropped in training.
        modules_to_save: dotted names of modules of the preset's branch that learn in full and are
            kept with the adapter, such as "generation.velocity_head".

    Raises:
        ValueError: the preset is unknown, or a value is out of range.
    """

    preset: Preset = "gen"
    rank: int = 8
    alpha: float | None = None
    rslora: bool = False
    dora: bool = False
    dropout: float = 0.0
    modules_to_save: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ValueError(f"preset ({self.preset!r}) must be one of {get_args(Preset)}")
        if self.rank < 1:
            raise ValueError(f"rank ({self.rank}) must be at least 1")
        if self.alpha is not None and not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ValueError(f"alpha ({self.alpha}) must be above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout ({self.dropout}) must be at least 0 and below 1")

    def config(self, model: UniXModel) -> "LoraConfig":
        """The same in peft's words.

        Raises:
            ValueError: a module to save is unknown, is of the other branch, or is adapted itself.
        """
        from peft import LoraConfig

        self._check_modules(model)
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.rank if self.alpha is None else self.alpha,  # type: ignore[arg-type]  # a fraction works
            target_modules=TARGETS[self.preset],
            use_rslora=self.rslora,
            use_dora=self.dora,
            lora_dropout=self.dropout,
            modules_to_save=list(self.modules_to_save) or None,
        )

    def _check_modules(self, model: UniXModel) -> None:
        names = [name.replace(".base_layer", "") for name, _ in model.named_modules()]
        for wanted in self.modules_to_save:
            if wanted not in names:
                parts = [name for name, _ in model.named_children()]
                raise ValueError(f"module to save {wanted!r} is unknown; the model has {parts}")
            if wanted.split(".")[0] not in BRANCHES[self.preset]:
                raise ValueError(
                    f"module to save {wanted!r} is outside the branch of preset {self.preset!r}, "
                    f"{', '.join(BRANCHES[self.preset])}"
                )
            inside = [name for name in names if name == wanted or name.startswith(f"{wanted}.")]
            adapted = [name for name in inside if re.fullmatch(TARGETS[self.preset], name)]
            if adapted:
                raise ValueError(
                    f"module to save {wanted!r} holds {adapted[0]}, which the adapter adapts; "
                    "name modules outside the adapted layers"
                )


# -- which adapters there are --------------------------------------------------------------------


def adapter_names(model: UniXModel) -> list[str]:
    """Names of the adapters that the model carries, in the order they were added."""
    return list(getattr(model, "peft_config", {}))


def active_adapters(model: UniXModel) -> list[str]:
    """Names of the adapters that act now."""
    return next(
        (
            list(layer.active_adapters)
            for layer in adapted_layers(model).values()
            if not layer.disable_adapters
        ),
        [],
    )


def adapter_weights(model: UniXModel) -> dict[str, float]:
    """Weight of each adapter that acts now."""
    return {name: _weight(model, name) for name in active_adapters(model)}


# -- adding --------------------------------------------------------------------------------------


def add_adapter(
    model: UniXModel, settings: AdapterSettings, name: str = "default", *, seed: int = 0
) -> dict[str, nn.Parameter]:
    """Put a fresh adapter on a model; it does nothing until it has learned.

    It alone acts afterwards, and its parameters alone learn.

    Args:
        model: is changed in place.
        settings: of the adapter.
        name: letters, digits, "_" and "-".
        seed: of its random half.

    Returns:
        The adapter's parameters by name.

    Raises:
        ValueError: the name is taken or cannot be one, or the settings do not fit the model.
    """
    inject(model, settings.config(model), name, seed=seed)
    model.requires_grad_(requires_grad=False)
    set_adapters(model, [name])
    parameters = adapter_parameters(model, name)
    for parameter in parameters.values():
        parameter.requires_grad_()
    return parameters


def inject(model: UniXModel, config: "LoraConfig", name: str, *, seed: int = 0) -> None:
    """Wrap the layers that a peft configuration names.

    Raises:
        ValueError: the name is taken or cannot be one, adapters are merged, or peft refuses the
            configuration.
    """
    from peft import inject_adapter_in_model

    if not _NAME.fullmatch(name) or hasattr(nn.ModuleDict, name):
        raise ValueError(
            f"adapter name {name!r} cannot be used; take letters, digits, '_' and '-', and no word "
            "that torch's ModuleDict uses, such as 'keys' or 'train'"
        )
    if name in adapter_names(model):
        raise ValueError(f"there is an adapter named {name!r} already; give another name")
    refuse_merged(model)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)
        # several adapters are meant
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        inject_adapter_in_model(config, model, name)
    for part in (*adapted_layers(model).values(), *saved_modules(model).values()):
        part.train(model.training)  # what is new would drop out in a model that does not train
    # transformers then saves adapters, not wrapped weights under names that no loader knows
    model._hf_peft_config_loaded = True  # noqa: SLF001 - as its own `add_adapter` does


def adapter_parameters(model: UniXModel, name: str) -> dict[str, nn.Parameter]:
    """Parameters of one adapter by their names in the model."""
    parts = re.compile(rf"\.(?:lora_\w+|modules_to_save)\.{re.escape(name)}(?:\.|$)")
    return {key: value for key, value in model.named_parameters() if parts.search(key)}


# -- switching -----------------------------------------------------------------------------------


def set_adapters(
    model: UniXModel, names: Sequence[str], weights: Sequence[float] | None = None
) -> None:
    """Let these adapters act, added up, and no other.

    Args:
        model: is changed in place.
        names: adapters that it carries.
        weights: factor on what each adapter adds; 1 where None.

    Raises:
        TypeError: names is one string.
        ValueError: a name is unknown or given twice, weights and names differ in number, adapters
            are merged, or two adapters bring a module of their own for the same place.
    """
    if isinstance(names, str):
        raise TypeError(f"names ({names!r}) must be a list, such as [{names!r}]")
    weights = [1.0] * len(names) if weights is None else list(weights)
    _check_choice(model, names, weights)
    refuse_merged(model)
    for layer in adapted_layers(model).values():
        layer.enable_adapters(bool(names))
        layer.set_adapter(list(names), inference_mode=True)
        for name, weight in zip(names, weights, strict=True):
            layer.set_scale(name, weight)
    for module in saved_modules(model).values():
        mine = [name for name in names if name in module.modules_to_save]
        module.enable_adapters(bool(mine))
        module.set_adapter(mine, inference_mode=True)


def disable_adapters(model: UniXModel) -> None:
    """Let no adapter act: the model computes what it did without any, bit for bit.

    Raises:
        ValueError: adapters are merged.
    """
    set_adapters(model, [])


def _check_choice(model: UniXModel, names: Sequence[str], weights: Sequence[float]) -> None:
    known = adapter_names(model)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"adapters {unknown} are unknown; the model carries {known}")
    if len(set(names)) < len(names):
        raise ValueError(f"an adapter is named twice in {list(names)}; give it a larger weight")
    if len(weights) != len(names):
        raise ValueError(f"{len(weights)} weights for {len(names)} adapters; give one each")
    broken = [weight for weight in weights if not math.isfinite(weight)]
    if broken:
        raise ValueError(f"weights {broken} must be finite")
    for place, module in saved_modules(model).items():
        mine = [name for name in names if name in module.modules_to_save]
        if len(mine) > 1:
            raise ValueError(
                f"adapters {mine} bring a {place} of their own each, which do not add up; set one"
            )
        factors = [w for n, w in zip(names, weights, strict=True) if n in mine and w != 1]
        if factors:
            raise ValueError(
                f"adapter {mine[0]!r} brings a {place} of its own, which cannot be weighted "
                f"({factors[0]}); its weight must be 1"
            )


# -- merging -------------------------------------------------------------------------------------


def merge_adapters(model: UniXModel) -> dict[str, Tensor]:
    """Add what the active adapters do into the base weights, so that they cost no time.

    Returns:
        The base weights as they were, on the CPU, for `unmerge_adapters`.

    Raises:
        ValueError: no adapter is active, adapters are merged already, a merged weight would not be
            finite, or an adapter with DoRA is active beside another (their order would matter).
    """
    refuse_merged(model)
    names = active_adapters(model)
    if not names:
        raise ValueError("no adapter is active; set_adapters chooses what to merge")
    configs: Any = model.peft_config
    if len(names) > 1 and any(configs[name].use_dora for name in names):
        raise ValueError(
            f"adapters {names} cannot be merged together: one has DoRA, whose magnitudes belong to "
            "weights without the other; merge it alone"
        )
    kept: dict[str, Tensor] = {}
    for place, layer in adapted_layers(model).items():
        base = layer.get_base_layer()
        before = {f"{place}.{k}": v.detach().to("cpu", copy=True) for k, v in _own(base)}
        try:
            layer.merge(safe_merge=True, adapter_names=list(names))
        except ValueError:
            unmerge_adapters(model, kept | before)
            raise
        if layer.merged:
            kept |= before
    return kept


def unmerge_adapters(model: UniXModel, kept: Mapping[str, Tensor]) -> None:
    """Put the base weights back, bit for bit; the adapters act beside them again.

    Args:
        model: is changed in place.
        kept: what `merge_adapters` returned.
    """
    for place, layer in adapted_layers(model).items():
        if layer.merged:
            layer.unmerge()  # frees what peft keeps; subtracting leaves rounding errors behind
        with torch.no_grad():
            for name, value in _own(layer.get_base_layer()):
                if f"{place}.{name}" in kept:
                    value.copy_(kept[f"{place}.{name}"])


def merged_adapters(model: UniXModel) -> list[str]:
    """Names of the adapters that are in the base weights now."""
    found = (
        list(layer.merged_adapters) for layer in adapted_layers(model).values() if layer.merged
    )
    return next(found, [])


def refuse_merged(model: UniXModel) -> None:
    """Refuse to go on with adapters in the base weights.

    Raises:
        ValueError: they are; the message says what to do.
    """
    merged = merged_adapters(model)
    if merged:
        raise ValueError(f"adapters {merged} are merged into the weights; unmerge them first")


def adapted_layers(model: UniXModel) -> dict[str, Any]:
    """Adapted layers by their plain names."""
    if not adapter_names(model):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {n: m for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}


def saved_modules(model: UniXModel) -> dict[str, Any]:
    """Modules that adapters bring copies of, by their plain names."""
    if not adapter_names(model):
        return {}
    from peft.utils import ModulesToSaveWrapper

    return {n: m for n, m in model.named_modules() if isinstance(m, ModulesToSaveWrapper)}


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return module.named_parameters(recurse=False)


def _weight(model: UniXModel, name: str) -> float:
    for layer in adapted_layers(model).values():
        if name in layer.scaling:
            rank, alpha = layer.r[name], layer.lora_alpha[name]
            whole = alpha / (math.sqrt(rank) if layer.use_rslora.get(name) else rank)
            return float(layer.scaling[name] / whole)
    return 1.0
