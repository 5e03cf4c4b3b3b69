"""Shapes and types of every call are checked in tests; a tiny model and the golden ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from torch import Tensor

from tests import tolerances, typechecking

# not the configuration: transformers makes its __init__, which takes more than its fields
_MODELS = ("autoencoder", "context", "generation", "reading", "sampling", "understanding", "unix")
install_import_hook(
    ["unix_cxr.functional", "unix_cxr.modules", *(f"unix_cxr.models.{name}" for name in _MODELS)],
    f"{typechecking.__name__}.checked",
)

settings.register_profile(
    "unix_cxr",
    deadline=None,
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],  # which a busy machine is
)
settings.load_profile("unix_cxr")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--measured", action="store_true", help="print the largest errors found")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.getoption("--measured"):
        for name, error in sorted(tolerances.MEASURED.items()):
            terminalreporter.write_line(f"{name}: {error:.1e}, {tolerances.TOLERANCES[name]}")


GOLDEN = Path(__file__).parent / "parity" / "golden"


@pytest.fixture(autouse=True)
def _one_seed_per_test() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the checks of shapes and types, as users run it: our own errors must be clear."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def make_tiny_config(*, layers: int = 2, **changes: Any) -> Any:
    """As small as a model can be that still has every part: groups of heads, several layers."""
    from unix_cxr import UniXConfig

    values: dict[str, Any] = {
        "text_config": {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 128,
            "attention_bias": True,
        },
        "vision_config": {
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
            "vision_use_head": False,
        },
        "latent_channels": 4,
        "max_latent_size": 6,
        "time_frequencies": 16,
        "begin_image_token_id": 60,
        "end_image_token_id": 61,
        "bos_token_id": 62,
        "eos_token_id": 63,
        "pad_token_id": 59,
    }
    return UniXConfig(**(values | changes))


def make_tiny_model(**changes: Any) -> Any:
    """A tiny model whose every weight is drawn, those that begin at 0 too."""
    from unix_cxr import UniXModel

    model = UniXModel(make_tiny_config(**changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim > 1 else 0.1
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise + (1 if parameter.ndim == 1 and _is_norm(parameter) else 0))
        for name, parameter in model.named_parameters():
            if name.startswith("language_model") and name.endswith("o_proj.bias"):
                parameter.zero_()
    return model.eval()


def _is_norm(parameter: Tensor) -> bool:
    return bool((parameter == 1).all())


@pytest.fixture
def tiny_model() -> Any:
    return make_tiny_model()


@pytest.fixture
def tiny_config() -> Any:
    return make_tiny_config()


@dataclass(frozen=True)
class Recording:
    """A model with the published code's own recording of it."""

    folder: Path
    model: Any
    tensors: dict[str, Tensor]

    def text(self, name: str) -> Tensor:
        """[1, n] recorded ids between BOS and EOS."""
        config = self.model.config
        ids = self.tensors[name].tolist()
        return torch.tensor([[config.bos_token_id, *ids, config.eos_token_id]])

    def reading_ids(self, prompt: Tensor | None = None) -> Tensor:
        """[1, n] image block, prompt, and the BOS that opens the answer."""
        config = self.model.config
        tokens = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        ids = self.text("und.prompt_ids") if prompt is None else prompt
        image = [
            config.begin_image_token_id,
            *[config.pad_token_id] * tokens,
            config.end_image_token_id,
        ]
        return torch.tensor([[*image, *ids[0].tolist(), config.bos_token_id]])


@cache
def golden_recording(name: str) -> Recording:
    import json

    from safetensors.torch import load_file

    from unix_cxr import UniXModel
    from unix_cxr.convert.unix_release import release_config, weights_from_release

    folder = GOLDEN / name
    config = release_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    weights, _ = weights_from_release(load_file(folder / "model.safetensors"), config)
    model = UniXModel(config)
    model.load_state_dict(weights)
    return Recording(folder, model.eval(), load_file(folder / "golden.safetensors"))


@pytest.fixture(params=["A", "B"])
def recording(request: pytest.FixtureRequest) -> Recording:
    return golden_recording(request.param)


@pytest.fixture
def generator() -> Callable[[int], torch.Generator]:
    return lambda seed=0: torch.Generator().manual_seed(seed)
