"""The pipeline: an X-ray from text, a report from an X-ray, and how well the two fit.

Axes: b batch, i images, n tokens, c latent channels, h and w latents.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor

from unix_cxr import __version__
from unix_cxr.data.pixels import Source
from unix_cxr.defaults import IGNORED_LABEL, MAX_PROMPT_CHARACTERS
from unix_cxr.functional.guidance import Guidance, Renorm
from unix_cxr.models.autoencoder import decode, downsampling_of
from unix_cxr.models.context import Context
from unix_cxr.models.sampling import (
    GuidanceContexts,
    GuidedVelocity,
    SamplingDefaults,
    sample,
    set_steps,
)
from unix_cxr.models.unix import UniXModel
from unix_cxr.pipelines.adapters import AdapterPipeline
from unix_cxr.pipelines.bundled import BUNDLED
from unix_cxr.pipelines.knowledge import unknown_findings
from unix_cxr.pipelines.noise import draw_noise, generators_of
from unix_cxr.pipelines.outputs import ReportOutput, XRayOutput
from unix_cxr.pipelines.processing import UniXProcessor, as_list

OutputType = Literal["pil", "np", "pt", "latent"]
StepEnd = Callable[["UniXPipeline", int, float, dict[str, Tensor]], dict[str, Tensor]]

logger = logging.getLogger(__name__)


class UniXPipeline(AdapterPipeline):
    """Draws X-rays from findings text and writes findings text for X-rays.

    Args:
        model: both branches.
        vae: the latent autoencoder.
        processor: texts and images to tensors.
        scheduler: a diffusers scheduler with flow settings; see `euler_scheduler` and
            `unipc_scheduler`.
    """

    model_cpu_offload_seq = "model->vae"
    _callback_tensor_inputs: Final = ("latents",)
    model: UniXModel
    vae: AutoencoderKL
    processor: UniXProcessor
    scheduler: Any

    def __init__(
        self,
        model: UniXModel,
        vae: AutoencoderKL,
        processor: UniXProcessor,
        scheduler: Any,  # noqa: ANN401 - any diffusers scheduler
    ) -> None:
        super().__init__()
        self.register_modules(model=model, vae=vae, processor=processor, scheduler=scheduler)
        self.defaults = SamplingDefaults.of(model.config)
        self.model_id = ""

    # -- loading -----------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """Load bundled weights by name ("nano"), a folder, or a repository of the hub.

        Args:
            name: a folder wins over a bundled name, a bundled name over a repository.
            options: diffusers' own; `dtype` is float32 where it is not given.

        Raises:
            FileNotFoundError: nothing has that name, or the folder has no pipeline in it, or lacks
                its weights.
            ValueError: the folder holds a pickle in place of safetensors.
        """
        folder = BUNDLED.get(str(name), Path(name))
        looks_local = Path(name).exists() or str(name) in BUNDLED or _is_path(str(name))
        if looks_local:
            _check_folder(folder)
        elif "/" not in str(name):
            raise FileNotFoundError(
                f"no model {str(name)!r}: bundled is {', '.join(BUNDLED)}, a folder must be there, "
                "and a repository of the hub is named OWNER/NAME"
            )
        options = {"dtype": torch.float32, "use_safetensors": True} | options
        pipeline: Self = super().from_pretrained(folder if looks_local else str(name), **options)
        pipeline.model_id = str(name) if str(name) in BUNDLED else Path(name).name
        pipeline.model.train(mode=False)
        pipeline.vae.train(mode=False)
        return pipeline

    # -- drawing -----------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(  # noqa: PLR0917 - diffusers' signature
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_renorm: Renorm | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Float[Tensor, "i c h w"] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,  # noqa: FBT001, FBT002 - diffusers' signature
        callback_on_step_end: StepEnd | None = None,
    ) -> XRayOutput:
        """Draw X-rays. What is not given comes from the checkpoint's own defaults.

        Args:
            prompt: findings text, or several.
            negative_prompt: takes the place of the empty context in guidance.
            height: of the images in pixels, a multiple of a token's side: 16 as published.
            width: of the images in pixels, likewise.
            num_inference_steps: solver steps.
            guidance_scale: 1 switches guidance off.
            guidance_interval: (lo, hi): guidance acts while lo < t ≤ hi.
            guidance_renorm: "global", "channel" or "text_channel".
            num_images_per_prompt: images of one prompt share its context.
            seed: of the first image, the next ones counting up; or one per image. Random, and told
                in the output, where neither this nor a generator is given.
            generator: one that the images draw from in turn, or one per image; on the CPU, whose
                noise is the same for every device, or on the model's kind of device.
            latents: [i, c, h, w] standard normal noise to start from.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: a tuple of the images alone where False.
            callback_on_step_end: called as diffusers does, with {"latents": …}; may return others.

        Raises:
            TypeError: a seed is no whole number, or a generator none.
            ValueError: an argument is out of range, or a generator on another device; the message
                names it and the remedy.
        """
        prompts = _checked_prompts(prompt)
        if num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt ({num_images_per_prompt}) must be at least 1")
        guidance = self._guidance(guidance_scale, guidance_interval, guidance_renorm)
        count = len(prompts) * num_images_per_prompt
        seeds, noise = self._noise(
            count, self._latent_size(height, width), seed, generator, latents
        )
        set_steps(
            self.scheduler,
            self.defaults.num_inference_steps
            if num_inference_steps is None
            else num_inference_steps,
            self._execution_device,
        )
        self._warn_of_unknown_findings(prompts)
        velocity = GuidedVelocity(
            self.model,
            self._contexts(prompts, negative_prompt, num_images_per_prompt, guidance),
            guidance,
        )
        drawn = self._solve(velocity, noise, callback_on_step_end)
        images = drawn if output_type == "latent" else self._decode(drawn, output_type)
        self.maybe_free_model_hooks()
        output = XRayOutput(
            images=images,
            seeds=seeds,
            prompts=[text for text in prompts for _ in range(num_images_per_prompt)],
            network_calls=velocity.network_calls,
            model_id=self.model_id,
            version=__version__,
        )
        if return_dict:
            return output
        return (images,)  # type: ignore[return-value]  # diffusers' habit, typed for the usual case

    def _guidance(
        self,
        scale: float | None,
        interval: tuple[float, float] | None,
        renorm: Renorm | None,
    ) -> Guidance:
        stored = self.defaults
        return Guidance(
            scale=stored.guidance_scale if scale is None else scale,
            interval=stored.guidance_interval if interval is None else interval,
            renorm=stored.guidance_renorm if renorm is None else renorm,
        )

    def _contexts(
        self, prompts: Sequence[str], negative: str | None, images: int, guidance: Guidance
    ) -> GuidanceContexts:
        """One context per prompt, shared by its images; the empty one is built, not computed."""
        conditional = self._context(prompts).repeat(images)
        if negative is None or not guidance.uses_text:
            without_text = self.model.empty_context(conditional.batch_size)
        else:
            without_text = self._context(_checked_prompts(negative)).repeat(conditional.batch_size)
        return GuidanceContexts(conditional, without_text)

    def _context(self, prompts: Sequence[str]) -> Context:
        caption = self.processor.captions(prompts)
        device = self._execution_device
        return self.model.encode([type(caption)(caption.ids.to(device), caption.real.to(device))])

    def _solve(
        self, velocity: GuidedVelocity, noise: Tensor, on_step_end: StepEnd | None
    ) -> Float[Tensor, "i c h w"]:
        progress = self.progress_bar(total=len(self.scheduler.timesteps))

        def on_step(index: int, t: float, latents: Tensor) -> Tensor:
            progress.update()
            if on_step_end is None:
                return latents
            returned = on_step_end(self, index, t, {"latents": latents})
            return returned.pop("latents", latents)

        with progress:
            return sample(velocity, noise, self.scheduler, on_step)

    def _latent_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        default, factor = self.defaults.image_size, downsampling_of(self.vae)
        sides = []
        patch = self.model.config.latent_patch_size
        largest = self.model.config.max_latent_size * patch
        for name, given in (("height", height), ("width", width)):
            pixels = default if given is None else given
            if pixels < factor or pixels % (factor * patch):
                raise ValueError(
                    f"{name} ({pixels}) must be a positive multiple of {factor * patch}"
                )
            if pixels // factor > largest:
                raise ValueError(
                    f"{name} ({pixels}) exceeds what this checkpoint draws, "
                    f"{largest * factor} pixels"
                )
            sides.append(pixels // factor)
        return sides[0], sides[1]

    def _noise(
        self,
        count: int,
        size: tuple[int, int],
        seed: int | Sequence[int] | None,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        latents: Tensor | None,
    ) -> tuple[list[int], Float[Tensor, "i c h w"]]:
        """Seeds and starting noise; each image has a generator of its own."""
        shape = (self.model.config.latent_channels, *size)
        generators, device = generators_of(count, seed, generator), self._execution_device
        seeds = [one.initial_seed() for one in generators]
        if latents is None:
            latents = draw_noise(shape, generators, device)
        elif latents.shape != (count, *shape):
            raise ValueError(f"latents {list(latents.shape)} must be {[count, *shape]}")
        return seeds, latents.to(device, torch.float32)

    def _decode(self, latents: Tensor, output_type: OutputType) -> Any:  # noqa: ANN401 - as asked for
        if output_type not in {"pil", "np", "pt"}:
            raise ValueError(f"output_type ({output_type!r}) must be 'pil', 'np', 'pt' or 'latent'")
        images = decode(latents.to(self.vae.dtype), self.vae).float().mean(dim=1, keepdim=True)
        if output_type == "pt":
            return images
        pixels = images[:, 0].cpu().numpy()
        if output_type == "np":
            return pixels
        return [PILImage.fromarray((x * 255).round().astype("uint8")) for x in pixels]

    def _warn_of_unknown_findings(self, prompts: Sequence[str]) -> None:
        known = self.model.config.known_findings
        if known is None:
            return
        unknown = sorted({name for text in prompts for name in unknown_findings(text, known)})
        if unknown:
            logger.warning(
                "this checkpoint does not know %s; it knows %s, so what it draws of the others "
                "means nothing",
                unknown,
                known,
            )

    # -- reading -----------------------------------------------------------------------------

    @torch.no_grad()
    def describe(
        self,
        images: Source | Sequence[Source],
        prompt: str | Sequence[str] | None = None,
        *,
        indication: str | Sequence[str | None] | None = None,
        max_new_tokens: int = 200,
        **options: Any,
    ) -> ReportOutput:
        """Write the report of one X-ray or several, in one batch.

        Args:
            images: whatever `load_xray` reads.
            prompt: what to ask, or one per image; the usual prompt where None.
            indication: why the image was taken, or one per image; part of the prompt.
            max_new_tokens: longest report in tokens.
            options: further ones of transformers' `generate`; greedy decoding where none.

        Raises:
            FileNotFoundError: there is no such image file.
            ValueError: an image cannot be read, or prompts and images differ in number.
        """
        inputs = self.processor(images, prompt, indication=indication)
        inputs = inputs.to(self._execution_device)
        model: Any = self.model  # transformers types the self of `generate` as a protocol
        generated: Tensor = model.generate(
            **inputs, max_new_tokens=max_new_tokens, **({"do_sample": False} | options)
        )
        self.maybe_free_model_hooks()
        reports = self.processor.reports(generated, inputs["input_ids"].shape[1])
        return ReportOutput(reports=reports, model_id=self.model_id, version=__version__)

    @torch.no_grad()
    def score(
        self,
        images: Source | Sequence[Source],
        text: str | Sequence[str],
        prompt: str | None = None,
    ) -> list[float]:
        """Log-likelihood, in nats, of each text as the report of its image.

        Args:
            images: one X-ray or several.
            text: one text for all images, or one per image; one image may have many texts.
            prompt: what is asked; the usual prompt where None.

        Returns:
            Σ log p(token | image, prompt, tokens before) over the text's tokens and its EOS.
        """
        sources = as_list(images)
        texts = [text] * len(sources) if isinstance(text, str) else list(text)
        if len(sources) == 1:
            sources = sources * len(texts)
        if len(sources) != len(texts):
            raise ValueError(f"{len(texts)} texts for {len(sources)} images; give one each")
        device = self._execution_device
        inputs = self.processor.with_reports(
            self.processor.prompts(len(texts), prompt), _checked_prompts(texts)
        )
        logits = self.model(
            input_ids=inputs.input_ids.to(device),
            attention_mask=inputs.attention_mask.to(device),
            pixel_values=self.processor.pixel_values(sources).to(device),
            use_cache=False,
        ).logits
        self.maybe_free_model_hooks()
        losses = F.cross_entropy(
            logits[:, :-1].float().transpose(1, 2),
            inputs.labels[:, 1:].to(device),
            ignore_index=IGNORED_LABEL,
            reduction="none",
        )
        scores: list[float] = (-losses.sum(dim=1)).tolist()
        return scores


def _checked_prompts(prompt: str | Sequence[str]) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise ValueError("there is no prompt; give findings text")
    for text in prompts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"prompt {text!r} is empty; describe the findings to draw")
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"a prompt of {len(text):,} characters exceeds the limit of "
                f"{MAX_PROMPT_CHARACTERS:,}; give the findings alone"
            )
    return prompts


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise FileNotFoundError(f"{folder} is a file; give the folder of a pipeline")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no pipeline (model_index.json); `unix-cxr convert` and "
            "`UniXPipeline.save_pretrained` write one"
        )
    for part in ("model", "vae"):
        if any((folder / part).glob("*.safetensors")):
            continue
        pickles = [
            p.name for p in (folder / part).glob("*") if p.suffix in {".bin", ".pt", ".ckpt"}
        ]
        if pickles:
            raise ValueError(
                f"{folder / part} holds only pickles ({pickles}), which are never opened; save the "
                "weights as safetensors"
            )
        raise FileNotFoundError(f"no weights (*.safetensors) in {folder / part}")
    if not (folder / "processor" / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"no tokenizer in {folder / 'processor'}; convert again with --tokenizer"
        )
