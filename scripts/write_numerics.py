"""Measure how exact the model is and write docs/numerics.md.

python scripts/write_numerics.py
"""

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from unix_cxr.convert.compvis import autoencoder_from_compvis
from unix_cxr.convert.unix_release import release_config, weights_from_release
from unix_cxr.convert.verify import Check, Verification, verify
from unix_cxr.models.autoencoder import normalise_latents
from unix_cxr.models.context import Image, Text
from unix_cxr.models.unix import UniXModel

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "parity" / "golden"

GROUPS = {
    "vision and connector": ("und.vit_features", "und.connector_out"),
    "states after a prefill": ("und.vit.hidden", "und.text.hidden", "gen.text.hidden"),
    "cached keys and values": ("und.after", "gen.after", "edit.after"),
    "greedy and teacher-forced logits": ("und.greedy", "und.tf", "und.textonly"),
    "time, positions, rotary angles, patches": ("gen.time", "gen.latent_pos", "aux."),
    "velocities": ("gen.flow", "gen.v.", "gen.v_uncond", "edit.v.", "edit.vae.hidden"),
    "guided velocities, every renorm": ("gen.v_cfg", "edit.v_cfg"),
    "Euler trajectories": ("gen.loop", "edit.loop"),
    "training: losses and states": ("train.mse", "train.ce", "train.loss", "train.hidden"),
    "training: gradients": ("train.grad.",),
    "training: gradient norms, joint": ("train.grad_norms",),
    "training: gradient norms, frozen": ("train.freeze_und",),
    "autoencoder: encode": ("enc.", "encode."),
    "autoencoder: decode": ("decode.image", "decode.postquant", "decode.unit"),
    "autoencoder: 8-bit image (levels)": ("decode.uint8",),
    "autoencoder: there and back": ("roundtrip",),
}

HEAD = """\
# Numerics

How far this model is from the published one, measured. This page is written by

```
python scripts/write_numerics.py
```

with torch {torch}, Python {python}, {threads} thread(s), on {machine}. The first table is what
`unix-cxr verify tests/parity/golden/A` (and `B`, `vae`) checks: inputs and outputs recorded from
the published code with small random weights; see the README in each folder.

## Against the published code
"""

REST = """\
- **Relative** errors are those of gradient norms; a recorded 0 must be exactly 0 here.
- The autoencoder is verified in float64. Its convolutions round so differently from kernel to
  kernel that in float32 the machine would decide; the table below has the float32 errors. Nothing
  else is verified in another precision than float32, and no tolerance was changed.
- `decode.uint8` may differ by one level: the published code truncates x · 255, so a value that lies
  on a level falls to either side.

### The autoencoder in float32

| kernels | there and back: error against the record | against float64 |
|---|---|---|
{autoencoder}
The record itself is {record:.1e} away from float64; 2e-5 is the tolerance of the manifest.

## bfloat16

The same weights and inputs in bfloat16 on the CPU, against our float32. Not covered by the
recordings, which are float32: the published code's own rounding points are not known exactly.
Errors are norms of the difference over norms of the float32 result.

| recording | logits, teacher-forced | same first choice | velocity, t = 0.7 | keys and values |
|---|---|---|---|---|
{bfloat16}
## What is computed in which precision

| part | precision |
|---|---|
| norms (RMSNorm, LayerNorm), softmax of attention | float32 inside, whatever the weights are |
| rotary angles, sinusoids of the time | float32, then cast to the weights' precision |
| guidance, the solver's step, the latents between steps | float32 |
| whether guidance acts at a time (lo < t <= hi) | compared in float32 |
| linear layers, convolutions, embeddings | that of the weights |
| the table of latent positions | as published; cast together with the weights |
| cross-entropy | float32: transformers widens the logits |

## Known rounding

- t = float32(0.4) is not greater than 0.4 in float32, and is in float64. With 11 points at shift 1
  guidance is therefore off at that step; comparing in float64 would change the result by 0.015.
- A batch equals its single samples to a few 1e-6, not to the bit: the sums inside a matrix product
  are ordered by its size.
- Fused attention (SDPA) and eager attention differ by about 1e-6.
- Activation checkpointing changes no bit of the loss and none of the gradients.
- With a gradient factor f between 0 and 1 the understanding branch learns about f times as much,
  not exactly: BOI and EOI read scaled keys and offer scaled keys themselves; a path through n
  layers of them carries the factor n times. With one layer it is exact; 0 and 1 are always exact.
"""


def rows(verifications: dict[str, Verification]) -> Iterator[str]:
    """Worst error and tolerance of every group and folder."""
    yield "| what | outputs | compared | tolerance | worst A | worst B | worst vae |\n"
    yield "|---|---|---|---|---|---|---|\n"
    for title, prefixes in GROUPS.items():
        found = {
            folder: [x for x in v.checks if x.name.startswith(prefixes)]
            for folder, v in verifications.items()
        }
        checks = [check for group in found.values() for check in group]
        kinds = sorted({check.compare for check in checks if check.compare != "exact"})
        limits = sorted({f"{check.tolerance:.0e}" for check in checks if check.tolerance})
        yield (
            f"| {title} | {len(checks)} | {', '.join(kinds)} | {', '.join(limits)} | "
            + " | ".join(worst(found[folder]) for folder in ("A", "B", "vae"))
            + " |\n"
        )
    yield "\n"
    for folder, verification in verifications.items():
        yield f"- {folder}: {verification.summary()}\n"


def worst(checks: list[Check]) -> str:
    """Largest error, or nothing."""
    return f"{max(check.error for check in checks):.1e}" if checks else ""


@torch.no_grad()
def autoencoder_errors() -> tuple[str, float]:
    """Float32 errors by kernel, and how far the record is from float64."""
    enabled = torch._C._set_mkldnn_enabled  # noqa: SLF001 - its context manager warns about GPUs
    folder = GOLDEN / "vae"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    recorded = load_file(folder / "golden.safetensors")
    vae, _ = autoencoder_from_compvis(load_file(folder / "model.safetensors"), config)

    def there_and_back(image: Tensor) -> Tensor:
        scale, shift = vae.config["scaling_factor"], vae.config["shift_factor"]
        latents = normalise_latents(vae.encode(image).latent_dist.mode(), vae)
        decoded: Tensor = vae.decode(latents / scale + shift).sample
        return decoded.double()

    results = {}
    for name, fast in (("plain", False), ("oneDNN (torch's default)", True)):
        enabled(fast)
        results[name] = there_and_back(recorded["image"])
    vae.double()
    exact = there_and_back(recorded["image"].double())
    record = recorded["roundtrip.image"].double()
    lines = [
        f"| {name} | {largest(x, record):.1e} | {largest(x, exact):.1e} |\n"
        for name, x in results.items()
    ]
    return "".join(lines), largest(record, exact)


def largest(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference."""
    return float((first - second).abs().max())


def relative(rounded: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of the exact one."""
    return float((rounded.float() - exact).norm() / exact.norm())


@torch.no_grad()
def bfloat16_row(name: str) -> str:
    """How far bfloat16 is from float32 on a recording."""
    folder = GOLDEN / name
    config = release_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    weights, _ = weights_from_release(load_file(folder / "model.safetensors"), config)
    recorded = load_file(folder / "golden.safetensors")
    logits, velocities, keys = [], [], []
    for dtype in (torch.bfloat16, torch.float32):
        model: Any = UniXModel(config)
        model.load_state_dict(weights)
        model.to(dtype).eval()

        def text(ids: str, count: int | None = None) -> Text:
            inner = recorded[ids].tolist()[:count]
            ends = [] if count is not None else [config.eos_token_id]
            return Text(torch.tensor([[config.bos_token_id, *inner, *ends]]))

        segments = [Image(recorded["und.image"][None]), text("und.prompt_ids")]
        answer = model.encode([*segments, text("und.tf_ids", -1)])
        logits.append(model.language_model.lm_head(answer.hidden[0]))
        context = model.encode([text("gen.prompt_ids")])
        rows_, columns = recorded["gen.latent_hw"].tolist()
        latents = recorded["gen.x_mid"].T.reshape(1, -1, rows_, columns)
        velocities.append(model.denoise(latents.to(dtype), torch.tensor([0.7]), context))
        keys.append(torch.cat([torch.cat([x.keys, x.values]).flatten() for x in answer.layers]))
    agree = (logits[0].argmax(-1) == logits[1].argmax(-1)).sum()
    return (
        f"| {name} | {relative(*logits):.1e} | {int(agree)} of {len(logits[0])} | "
        f"{relative(*velocities):.1e} | {relative(*keys):.1e} |\n"
    )


def main() -> None:
    """Write the page."""
    verifications = {name: verify(GOLDEN / name) for name in ("A", "B", "vae")}
    autoencoder, record = autoencoder_errors()
    head = HEAD.format(
        torch=torch.__version__,
        python=platform.python_version(),
        threads=torch.get_num_threads(),
        machine=f"{platform.system()} {platform.machine()}",
    )
    rest = REST.format(
        autoencoder=autoencoder, record=record, bfloat16=bfloat16_row("A") + bfloat16_row("B")
    )
    page = ROOT / "docs" / "numerics.md"
    page.write_text(head + "\n" + "".join(rows(verifications)) + rest, encoding="utf-8")


if __name__ == "__main__":
    main()
