"""The recorded training step, read from its packed sequence and run sample by sample.

Axes: n tokens, d width, c latent channels, h and w latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unix_cxr.convert.key_table import UNIX_RULES, canonical, to_ours
from unix_cxr.functional.flow import interpolate, training_times, velocity
from unix_cxr.functional.gradients import scale_gradient
from unix_cxr.functional.patchify import patchify, unpatchify
from unix_cxr.models.context import Context, Image, Latents, Segment, Text
from unix_cxr.models.unix import UniXModel

Kind = Literal["text", "vit", "clean", "noisy"]
_QKV = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class _Piece:
    """A run of tokens in the packed sequence: what it is, and which image it is, if any."""

    kind: Kind
    start: int
    stop: int
    number: int = 0


@dataclass
class _Outcome:
    """What the samples of the packed sequence leave behind, in its order."""

    squared_errors: list[Tensor]
    cross_entropies: list[Tensor]
    hidden: list[Tensor]

    @property
    def loss(self) -> Tensor:
        terms = [torch.cat(self.squared_errors).mean()] if self.squared_errors else []
        if self.cross_entropies:
            terms.append(torch.cat(self.cross_entropies).mean())
        return torch.stack(terms).sum()


def replay_training(
    model: UniXModel,
    recorded: Mapping[str, Tensor],
    shift: float,
    gradient_names: Mapping[str, Sequence[str]],
) -> dict[str, Tensor]:
    """Losses, states and gradients of the recorded step, joint and frozen, by recorded name."""
    if "train.sample_lens" not in recorded:
        return {}
    names = list(gradient_names.get("grad_norm_names", ()))
    joint = _Step(model, recorded, shift, 1.0).run()
    model.zero_grad()
    joint.loss.backward()
    gradients = _gradients(model)
    outputs = {
        "train.mse": torch.cat(joint.squared_errors),
        "train.ce": torch.cat(joint.cross_entropies),
        "train.loss": joint.loss.detach(),
        "train.hidden": torch.cat(joint.hidden),
        "train.grad_norms": _norms(names, gradients),
    }
    for name in recorded:
        if name.startswith("train.grad."):
            found = _published_gradient(name.removeprefix("train.grad."), gradients)
            if found is not None:
                outputs[name] = found
    model.zero_grad()
    _Step(model, recorded, shift, 0.0).run().loss.backward()
    outputs["train.freeze_und.grad_norms"] = _norms(names, _gradients(model))
    model.zero_grad()
    return {name: value.detach() for name, value in outputs.items()}


class _Step:
    """One training step over the samples of a packed sequence."""

    def __init__(
        self, model: UniXModel, recorded: Mapping[str, Tensor], shift: float, factor: float
    ) -> None:
        self.model = model
        self.recorded = recorded
        self.factor = factor
        self.times = training_times(recorded["train.timestep_normals"], shift)
        self.noise_rows = 0
        self.noisy_images = 0
        self.supervised = set(recorded["train.ce_loss_indexes"].tolist())
        self.ids = dict(
            zip(
                recorded["train.packed_text_indexes"].tolist(),
                recorded["train.packed_text_ids"].tolist(),
                strict=True,
            )
        )
        labels = recorded["train.packed_label_ids"].tolist()
        self.labels = dict(zip(sorted(self.supervised), labels, strict=True))

    def run(self) -> _Outcome:
        outcome = _Outcome([], [], [])
        start = 0
        for length in self.recorded["train.sample_lens"].tolist():
            self._sample(start, start + length, outcome)
            start += length
        return outcome

    def _sample(self, start: int, stop: int, outcome: _Outcome) -> None:
        segments: list[Segment] = []
        for piece in self._pieces(start, stop):
            if piece.kind == "noisy":
                context = self._encode(segments)
                outcome.hidden.append(self._denoise(piece, context, outcome))
                continue
            segments.append(self._segment(piece))
            states = self._states(segments, piece)
            outcome.hidden.append(states)
            if piece.kind == "text":
                self._cross_entropy(piece, states, outcome)

    def _encode(self, segments: Sequence[Segment]) -> Context:
        if not segments:
            return self.model.empty_context(1)
        return self.model.encode(segments, understanding_gradient=self.factor)

    def _states(self, segments: Sequence[Segment], piece: _Piece) -> Tensor:
        hidden = self._encode(segments).hidden
        if hidden is None:
            raise ValueError(f"the tokens {piece.start}..{piece.stop} left no states")
        if piece.kind == "clean":
            return hidden[0]
        return scale_gradient(hidden[0], self.factor)

    def _segment(self, piece: _Piece) -> Segment:
        if piece.kind == "text":
            return Text(torch.tensor([[self.ids[i] for i in range(piece.start, piece.stop)]]))
        if piece.kind == "vit":
            return Image(self.recorded[f"train.vit_image{piece.number}"][None])
        latents = self._latents(piece.number)
        self.noise_rows += piece.stop - piece.start - 2
        return Latents(latents)

    def _denoise(self, piece: _Piece, context: Context, outcome: _Outcome) -> Tensor:
        latents = self._latents(piece.number)
        height, width = latents.shape[-2:]
        patch = self.model.config.latent_patch_size
        rows = self.recorded["train.noise"][self.noise_rows :][: piece.stop - piece.start - 2]
        self.noise_rows += len(rows)
        time = self.times[self.noisy_images][None]
        self.noisy_images += 1
        tokens = patchify(latents, patch)
        noisy_tokens = interpolate(tokens, rows[None], time)
        noisy = unpatchify(noisy_tokens, patch, height, width)
        denoised = self.model.run_block(noisy, time, context, understanding_gradient=self.factor)
        predicted = self.model.generation.velocity_head(denoised.latents)
        target = velocity(tokens, rows[None])
        outcome.squared_errors.append((predicted - target)[0].square())
        ends = self.model.language_model.model.norm(denoised.block.boundary)[0]
        return torch.cat([ends[:1], denoised.latents[0], ends[1:]])

    def _cross_entropy(self, piece: _Piece, states: Tensor, outcome: _Outcome) -> None:
        places = [i for i in range(piece.start, piece.stop) if i in self.supervised]
        if places:
            rows = states[[i - piece.start for i in places]]
            logits = self.model.language_model.lm_head(rows)
            labels = torch.tensor([self.labels[i] for i in places])
            outcome.cross_entropies.append(F.cross_entropy(logits, labels, reduction="none"))

    def _latents(self, number: int) -> Tensor:
        height, width = self.recorded["train.latent_shapes"][number].tolist()
        patch = self.model.config.latent_patch_size
        return self.recorded["train.padded_latent"][
            number : number + 1, :, : height * patch, : width * patch
        ]

    def _pieces(self, start: int, stop: int) -> list[_Piece]:
        """Runs of a sample: an image block is a BOI, tokens that are no text, and an EOI."""
        vit = self.recorded["train.packed_vit_token_indexes"].tolist()
        latent = self.recorded["train.packed_vae_token_indexes"].tolist()
        clean = {
            index
            for index, normal in zip(
                latent, self.recorded["train.packed_timesteps"].tolist(), strict=True
            )
            if normal == float("-inf")
        }
        vit_starts = _block_numbers(vit, set(self.ids))
        latent_starts = _block_numbers(latent, set(self.ids))
        pieces, place = [], start
        while place < stop:
            if place + 1 in vit_starts or place + 1 in latent_starts:
                end = next(i for i in range(place + 1, stop) if i in self.ids) + 1
                if place + 1 in vit_starts:
                    pieces.append(_Piece("vit", place, end, vit_starts[place + 1]))
                else:
                    kind: Kind = "clean" if place + 1 in clean else "noisy"
                    pieces.append(_Piece(kind, place, end, latent_starts[place + 1]))
            else:
                end = place + 1
                eos = self.model.config.eos_token_id
                while self.ids[end - 1] != eos:
                    end += 1
                pieces.append(_Piece("text", place, end))
            place = end
        return pieces


def _block_numbers(indexes: Sequence[int], text: set[int]) -> dict[int, int]:
    """Number of each block of tokens by its first index: a block begins behind a text token."""
    starts = [index for index in indexes if index - 1 in text]
    return {index: number for number, index in enumerate(starts)}


def _gradients(model: UniXModel) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
        for name, value in model.named_parameters()
    }


def _published_gradient(name: str, gradients: Mapping[str, Tensor]) -> Tensor | None:
    ours = to_ours(canonical(name), UNIX_RULES)
    if ours is None:
        return None
    if ".self_attn.qkv." in ours:
        return torch.cat([gradients[ours.replace("qkv", part)] for part in _QKV])
    return gradients.get(ours)


def _norms(names: Sequence[str], gradients: Mapping[str, Tensor]) -> Tensor:
    """Norms in the recorded order; a weight that we do not run has gradient 0."""
    norms = []
    for name in names:
        gradient = _published_gradient(name, gradients)
        norms.append(0.0 if gradient is None else float(gradient.double().norm()))
    return torch.tensor(norms, dtype=torch.float64)
