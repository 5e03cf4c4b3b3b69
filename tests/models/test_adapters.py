"""LoRA through peft: the block calls the understanding modules, so adapters act everywhere."""

from typing import Any

import pytest
import torch

from unix_cxr.models.context import Text


@pytest.mark.slow
def test_a_lora_adapter_acts_on_reading_and_drawing(tiny_model: Any) -> None:
    from peft import LoraConfig, get_peft_model

    ids = torch.tensor([[62, 5, 6, 63]])
    latents, times = torch.randn(1, 4, 3, 3), torch.tensor([0.4])

    @torch.no_grad()
    def both(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        velocity = model.denoise(latents, times, model.empty_context(1))
        return model(input_ids=ids).logits, velocity

    before = both(tiny_model)
    wrapped = get_peft_model(
        tiny_model, LoraConfig(r=2, target_modules=r"language_model\..*\.(q|v)_proj")
    )
    for ours, theirs in zip(both(wrapped.base_model.model), before, strict=True):
        assert torch.equal(ours, theirs)  # a fresh adapter does nothing
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    # the velocity without any caption moves too: BOI and EOI run through the adapted layers
    for ours, theirs in zip(both(wrapped.base_model.model), before, strict=True):
        assert float((ours - theirs).abs().max()) > 1e-3
    context = tiny_model.encode([Text(ids)])
    tiny_model.denoise(latents, times, context).square().mean().backward()
    learned = [n for n, p in wrapped.named_parameters() if p.grad is not None]
    assert learned
    assert all("lora_" in name for name in learned)
