"""The recorded cases of a model, run through ours; sizes and cases are read from the recording.

Axes: b batch, n tokens, d width, c latent channels, h and w latents.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig

from unix_cxr.convert.replay_training import replay_training
from unix_cxr.convert.unix_release import release_config, weights_from_release
from unix_cxr.functional.guidance import Guidance, Renorm
from unix_cxr.functional.patchify import patchify, unpatchify
from unix_cxr.models.context import Context, Image, Latents, Text
from unix_cxr.models.sampling import (
    GuidanceContexts,
    GuidedVelocity,
    euler_scheduler,
    sample,
    set_steps,
)
from unix_cxr.models.unix import UniXModel

_ROPE_POSITIONS: Final = (0, 1, 5, 600)
_DEMO: Final = Guidance(scale=3.0, image_scale=1.5)
_EDIT: Final = Guidance(scale=2.0, image_scale=1.5)
_OFF: Final = Guidance(scale=1.0)


def replay_model(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    recorded: Mapping[str, Tensor],
    gradient_names: Mapping[str, Sequence[str]],
) -> dict[str, Tensor]:
    """Our outputs by recorded name."""
    ours_config = release_config(config)
    ours, _ = weights_from_release(weights, ours_config)
    model = UniXModel(ours_config)
    model.load_state_dict(ours, strict=True)
    model.eval()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    replay = _Replay(model, recorded)
    groups = {
        "und.prompt_ids": replay.understanding,
        "gen.prompt_ids": replay.drawing,
        "edit.prompt_ids": replay.editing,
        "aux.latent_p2": replay.parts,
    }
    outputs: dict[str, Tensor] = {}
    with torch.no_grad():
        for given, run in groups.items():
            if given in recorded:  # what is not run is counted as unchecked
                outputs |= run()
    shift = float(config.get("timestep_shift", 1.0))
    return outputs | replay_training(model, recorded, shift, gradient_names)


class _Replay:
    """A model and the recording that it is held against."""

    def __init__(self, model: UniXModel, recorded: Mapping[str, Tensor]) -> None:
        self.model = model
        self.recorded = recorded
        self.patch = model.config.latent_patch_size
        height, width = recorded.get("gen.latent_hw", torch.zeros(2, dtype=torch.long)).tolist()
        self.height, self.width = height * self.patch, width * self.patch

    def understanding(self) -> dict[str, Tensor]:
        """Vision, connector, prefill, greedy decoding, teacher forcing."""
        model, recorded = self.model, self.recorded
        image = recorded["und.image"][None]
        prompt = self._text("und.prompt_ids")
        after_image = model.encode([Image(image)])
        after_text = model.encode([Image(image), prompt])
        features = model.vision(image).last_hidden_state
        outputs = {
            "und.vit_features": features,
            "und.connector_out": model.connector(features),
            "und.vit.hidden": _states(after_image),
            "und.text.hidden": _states(after_text),
            "und.textonly.logits": self._first_logits(prompt),
        }
        outputs |= _cached("und.after_image", after_image)
        outputs |= _cached("und.after_text", after_text)
        return outputs | self._greedy(image) | self._teacher_forced(image, prompt)

    def _greedy(self, image: Tensor) -> dict[str, Tensor]:
        steps = self.recorded["und.greedy.logits"].shape[0]
        ids = self._reading_ids()
        library = cast("Any", self.model)  # whose types name its own models only
        generated = library.generate(
            input_ids=ids,
            pixel_values=image,
            generation_config=GenerationConfig(
                max_new_tokens=steps,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                pad_token_id=self.model.config.pad_token_id,
            ),
        )
        logits = torch.cat(generated.logits)
        top = logits.topk(2, dim=-1).values
        return {
            "und.greedy.logits": logits,
            "und.greedy.tokens": generated.sequences[0, ids.shape[1] - 1 : -1],
            "und.greedy.argmax": logits.argmax(-1),
            "und.greedy.margin": top[:, 0] - top[:, 1],
        }

    def _teacher_forced(self, image: Tensor, prompt: Text) -> dict[str, Tensor]:
        target = self.recorded["und.tf_ids"]
        bos = torch.tensor([self.model.config.bos_token_id])
        inputs = torch.cat([bos, target[:-1]])[None]
        context = self.model.encode([Image(image), prompt, Text(inputs)])
        logits = self.model.language_model.lm_head(_states(context))
        first = self.model(
            input_ids=self._reading_ids(), pixel_values=image, use_cache=True, logits_to_keep=1
        )
        stepwise, cache = [first.logits[0]], first.past_key_values
        position = int(context.position) - inputs.shape[1] + 1
        for offset, token in enumerate(inputs[0, 1:]):
            step = self.model(
                input_ids=token.view(1, 1),
                position_ids=torch.tensor([[position + offset]]),
                past_key_values=cache,
                use_cache=True,
            )
            stepwise.append(step.logits[0])
        return {
            "und.tf.logits": logits,
            "und.tf.nll": F.cross_entropy(logits, target, reduction="none"),
            "und.tf.logits_stepwise": torch.cat(stepwise),
        }

    def drawing(self) -> dict[str, Tensor]:
        """Velocities, guidance with every renormalisation, Euler trajectories."""
        model, recorded = self.model, self.recorded
        context = model.encode([self._text("gen.prompt_ids")])
        empty = model.empty_context(1)
        contexts = GuidanceContexts(context, empty, context)
        noise = self._grid(recorded["gen.noise"])
        first = model.run_block(noise, torch.ones(1), context, understanding_gradient=1.0)
        ends = model.language_model.model.norm(first.block.boundary)[0]
        outputs = {
            "gen.text.hidden": _states(context),
            "gen.flow.hidden_t1": torch.cat([ends[:1], first.latents[0], ends[1:]]),
            "gen.time_embed": model.generation.embedding.time(recorded["aux.t"]),
            "gen.latent_pos": self._places(),
        }
        outputs |= _cached("gen.after_text", context)
        for name in recorded:
            if match := re.fullmatch(r"gen\.(v\w*)\.(?:(\w+?)(?:_min([\d.]+))?\.)?t([\d.]+)", name):
                kind, renorm, floor, time = match.groups()
                guidance = _named_guidance(kind, renorm, floor)
                chosen = replace(contexts, conditional=empty) if kind == "v_uncond" else contexts
                t = float(time)
                latents = noise if t == 1 else self._grid(recorded["gen.x_mid"])
                outputs[name] = self._tokens(GuidedVelocity(model, chosen, guidance)(latents, t))
            elif match := re.fullmatch(
                r"gen\.loop\.(n\d+\.shift\d+\.\d+)(?:\.(\w+))?\.final", name
            ):
                outputs |= self._loop(f"gen.loop.{match[1]}", match[2], contexts, noise)
        return outputs

    def editing(self) -> dict[str, Tensor]:
        """Clean latents, an image and a text in the context."""
        model, recorded = self.model, self.recorded
        latents = Latents(recorded["edit.vae_latent"])
        image = Image(recorded["edit.vit_image"][None])
        text = self._text("edit.prompt_ids")
        after_vae = model.encode([latents])
        after_vit = model.encode([latents, image])
        after_text = model.encode([latents, image, text])
        contexts = GuidanceContexts(after_text, after_vit, model.encode([text]))
        outputs = {"edit.vae.hidden": _states(after_vae)}
        for name, context in (("vae", after_vae), ("vit", after_vit), ("text", after_text)):
            outputs |= _cached(f"edit.after_{name}", context)
        noise = self._grid(recorded["edit.noise"])
        for name in recorded:
            if match := re.fullmatch(r"edit\.v(?:_cfg2\.(\w+))?\.t([\d.]+)", name):
                guidance = replace(_EDIT, renorm=_renorm(match[1])) if match[1] else _OFF
                velocity = GuidedVelocity(model, contexts, guidance)(noise, float(match[2]))
                outputs[name] = self._tokens(velocity)
            elif match := re.fullmatch(r"edit\.loop\.(n\d+\.shift\d+\.\d+)\.final", name):
                trajectory = self._trajectory(match[1], _EDIT, contexts, noise)
                outputs[name] = self._tokens(trajectory[-1][1])
        return outputs

    def parts(self) -> dict[str, Tensor]:
        """Patch order and rotary angles."""
        positions = torch.tensor([_ROPE_POSITIONS])
        cos, sin = self.model.language_model.model.rotary_emb(torch.zeros(1), positions)
        return {
            "aux.tokens_p2": patchify(self.recorded["aux.latent_p2"][None], 2)[0],
            "aux.rope_cos": cos[0],
            "aux.rope_sin": sin[0],
        }

    def _loop(
        self, prefix: str, variant: str | None, contexts: GuidanceContexts, noise: Tensor
    ) -> dict[str, Tensor]:
        guidance = {
            None: Guidance(),
            "nocfg": _OFF,
            "demo": _DEMO,
            "channel": Guidance(renorm="channel"),
            "text_channel": Guidance(renorm="text_channel"),
        }[variant]
        steps = self._trajectory(prefix.removeprefix("gen.loop."), guidance, contexts, noise)
        name = f"{prefix}.{variant}" if variant else prefix
        final = steps[-1][1]
        outputs = {f"{name}.final": self._tokens(final), f"{name}.latent_chw": final}
        before = [noise, *(after for _, after in steps[:-1])]
        outputs[f"{name}.x"] = torch.stack([self._tokens(latents) for latents in before])
        outputs[f"{name}.v"] = torch.stack([self._tokens(velocity) for velocity, _ in steps])
        return outputs

    def _trajectory(
        self, grid: str, guidance: Guidance, contexts: GuidanceContexts, noise: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Velocity of every step, and the latents after it."""
        match = re.fullmatch(r"n(\d+)\.shift([\d.]+)", grid)
        if match is None:
            raise ValueError(f"loop {grid!r} does not say its number of points and its shift")
        scheduler = euler_scheduler(float(match[2]))
        set_steps(scheduler, int(match[1]) - 1)
        guided = GuidedVelocity(self.model, contexts, guidance)
        velocities: list[Tensor] = []
        latents: list[Tensor] = []

        def velocity(x: Tensor, t: float) -> Tensor:
            velocities.append(guided(x, t))
            return velocities[-1]

        def keep(_: int, __: float, x: Tensor) -> Tensor:
            latents.append(x)
            return x

        sample(velocity, noise, scheduler, keep)
        return list(zip(velocities, latents, strict=True))

    def _first_logits(self, prompt: Text) -> Tensor:
        bos = Text(torch.tensor([[self.model.config.bos_token_id]]))
        context = self.model.encode([prompt, bos])
        logits: Tensor = self.model.language_model.lm_head(_states(context)[-1:])
        return logits

    def _reading_ids(self) -> Tensor:
        config: Any = self.model.config
        vision = config.vision_config
        tokens = (vision.image_size // vision.patch_size) ** 2
        image = [config.begin_image_token_id, *[config.pad_token_id] * tokens]
        prompt = self._text("und.prompt_ids").ids[0].tolist()
        return torch.tensor([[*image, config.end_image_token_id, *prompt, config.bos_token_id]])

    def _text(self, name: str) -> Text:
        config = self.model.config
        ids = self.recorded[name].tolist()
        return Text(torch.tensor([[config.bos_token_id, *ids, config.eos_token_id]]))

    def _places(self) -> Tensor:
        embedding = self.model.generation.embedding
        side = embedding.max_size
        table = embedding.positions.view(side, side, -1)
        rows, columns = self.height // self.patch, self.width // self.patch
        return table[:rows, :columns].reshape(rows * columns, -1)

    def _grid(self, tokens: Tensor) -> Tensor:
        return unpatchify(tokens[None], self.patch, self.height, self.width)

    def _tokens(self, latents: Tensor) -> Tensor:
        return patchify(latents, self.patch)[0]


def _named_guidance(kind: str, renorm: str | None, floor: str | None) -> Guidance:
    if renorm is None:
        return _OFF
    base = _DEMO if kind == "v_cfg2" else Guidance()
    return replace(
        base,
        interval=(0.0, 1.0),  # single velocities were recorded guided at every time
        renorm=_renorm(renorm),
        renorm_min=float(floor or 0),
    )


def _renorm(name: str) -> Renorm:
    return cast("Renorm", name)  # Guidance refuses what is none


def _states(context: Context) -> Tensor:
    if context.hidden is None:
        raise ValueError("an empty context has no states")
    return context.hidden[0]


def _cached(prefix: str, context: Context) -> dict[str, Tensor]:
    outputs = {}
    for index, layer in enumerate(context.layers):
        outputs[f"{prefix}.k{index}"] = layer.keys[0].transpose(0, 1)
        outputs[f"{prefix}.v{index}"] = layer.values[0].transpose(0, 1)
    return outputs
