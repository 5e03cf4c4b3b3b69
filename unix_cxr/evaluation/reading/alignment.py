"""Does an X-ray fit its text better than another text?

Axes: n X-rays, h rows, w columns.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from unix_cxr.evaluation.corpus_metric import Resampling, mean_metric, mean_statistics
from unix_cxr.evaluation.imaging.extractors import weights_hash
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet
from unix_cxr.evaluation.results import MetricResult, MetricUnavailable
from unix_cxr.evaluation.row_store import RowStore
from unix_cxr.evaluation.xrays import check_images
from unix_cxr.files import read_json
from unix_cxr.functional.images import resize_and_pad

if TYPE_CHECKING:
    from unix_cxr.pipelines.pipeline import UniXPipeline

_ROUNDING: Final = 1e-6
_FILES: Final = ("config.json", "model.safetensors", "preprocessor_config.json")


ScorePairs = Callable[[Sequence[Tensor], Sequence[str]], Tensor]
"""Pixels and texts to one score per pair, such as an `ImageTextScorer`."""


class ImageTextScorer(Protocol):
    """How well texts fit X-rays, such as BioViL-T or a CLIP."""

    name: str
    comparable: bool

    def facts(self) -> Mapping[str, object]:
        """Weights and preprocessing, for signatures."""
        ...

    def __call__(
        self, images: Sequence[Float[Tensor, "1 h w"]], texts: Sequence[str]
    ) -> Float[Tensor, " n"]:
        """One score per pair; more fits better."""
        ...


class LikelihoodScorer:
    """Our own model's log-likelihood of the text given the X-ray, per character.

    It judges what it may have drawn itself, so it says whether the two branches agree, not whether
    the drawing is right.
    """

    comparable = False

    def __init__(self, pipeline: "UniXPipeline") -> None:
        self.pipeline = pipeline
        self.name = f"{pipeline.model_id}-likelihood"
        self._weights = weights_hash(pipeline.model)  # of all: the tower decides what is read

    def facts(self) -> Mapping[str, object]:
        """For the signature."""
        return {"scorer": self.name, "weights": self._weights}

    def __call__(
        self, images: Sequence[Float[Tensor, "1 h w"]], texts: Sequence[str]
    ) -> Float[Tensor, " n"]:
        """Nats per character."""
        return self.of_texts(images, texts) / torch.tensor([max(1, len(text)) for text in texts])

    def of_texts(
        self, images: Sequence[Float[Tensor, "1 h w"]], texts: Sequence[str]
    ) -> Float[Tensor, " n"]:
        """Nats of each text as a whole."""
        pixels = [image[0].clamp(0, 1).numpy() for image in images]
        return torch.tensor(self.pipeline.score(pixels, list(texts)), dtype=torch.float64)


class DualEncoderScorer:
    """Cosine of image and text by a CLIP or SigLIP of a local folder.

    Args:
        folder: of `transformers`: config.json, model.safetensors, the tokenizer and
            preprocessor_config.json with image_mean, image_std and size.
        name: how it is called in signatures.

    Raises:
        MetricUnavailable: a file is missing.
        ValueError: the folder holds another kind of model.
    """

    comparable = True

    def __init__(self, folder: str | Path, name: str | None = None) -> None:
        folder = Path(folder)
        for file in _FILES:
            if not (folder / file).is_file():
                raise MetricUnavailable(
                    "alignment",
                    f"no {file} in {folder}; save a CLIP or SigLIP there with its weights as "
                    "safetensors: --scorer FOLDER",
                )
        from transformers import AutoTokenizer, CLIPModel, SiglipModel

        config = read_json(folder / "config.json")
        kinds: dict[str, Any] = {"clip": CLIPModel, "siglip": SiglipModel}
        if config.get("model_type") not in kinds:
            raise ValueError(
                f"{folder} holds a {config.get('model_type')!r}; known are {sorted(kinds)}"
            )
        self.name = name or folder.name
        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.model: Any = kinds[config["model_type"]].from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        self.model.eval()
        values = read_json(folder / _FILES[2])
        self.mean = torch.tensor(values["image_mean"])[:, None, None]
        self.std = torch.tensor(values["image_std"])[:, None, None]
        self.size: int = self.model.config.vision_config.image_size
        self.length: int = self.model.config.text_config.max_position_embeddings
        self._weights = weights_hash(self.model)

    def facts(self) -> Mapping[str, object]:
        """For the signature."""
        return {
            "scorer": self.name,
            "weights": self._weights,
            "size": self.size,
            "resize": "pad to a square",
        }

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[Float[Tensor, "1 h w"]], texts: Sequence[str]
    ) -> Float[Tensor, " n"]:
        """Cosines; texts are cut at the encoder's length in tokens."""
        for image in images:
            check_images(image[None])
        square = torch.cat([resize_and_pad(image[None], self.size) for image in images])
        pixels = (square.expand(-1, 3, -1, -1) - self.mean) / self.std
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        output = self.model(pixel_values=pixels, **tokens)
        return functional.cosine_similarity(output.image_embeds, output.text_embeds)


def partners(texts: Sequence[str], seed: int = 0) -> list[int]:
    """For each text the row of another one, at random, that differs from it.

    Raises:
        ValueError: all texts are equal.
    """
    if len(set(texts)) <= 1:
        raise ValueError(f"all {len(texts)} texts are equal; alignment needs texts to tell apart")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(texts), generator=generator).tolist()
    found = []
    for row, text in enumerate(texts):
        step = row
        while texts[order[step % len(order)]] == text:
            step += 1
        found.append(order[step % len(order)])
    return found


def measure_alignment(
    images: ImageSet,
    scorer: ImageTextScorer,
    resampling: Resampling,
    *,
    batch_size: int = 16,
    cache: Path | None = None,
) -> list[MetricResult]:
    """Two X-rays and their two texts: do they fit better as they belong than exchanged?

    A text has a score of its own (short and common ones are likely whatever the X-ray shows), and
    so has an X-ray. In s(i, tᵢ) + s(j, tⱼ) - s(i, tⱼ) - s(j, tᵢ) both cancel; each X-ray i is held
    against one other j, drawn at random among those with another text.

    Args:
        images: X-rays with texts: prompts of drawn ones, reports of real ones.
        scorer: judges the pairs.
        resampling: the bootstrap.
        batch_size: pairs at once.
        cache: folder of scores; what it holds is not computed again.

    Returns:
        `alignment/wins`: share of pairs that fit better as they belong (chance .5);
        `alignment/margin`: half of the sum above; `alignment/score`: of the own text.

    Raises:
        ValueError: an X-ray without text, or texts that are all equal.
    """
    texts = [image.text for image in images]
    silent = [image.id for image in images if not image.text.strip()]
    if silent:
        raise ValueError(
            f"{len(silent)} of {len(images)} X-rays of {images.name} have no text (first: "
            f"{silent[0]!r}); write the prompt or report into the manifest"
        )
    others = partners(texts, resampling.seed)
    other_texts = [texts[row] for row in others]
    other_images = [images.images[row] for row in others]
    scored = scorer.facts()

    def score(pictures: Sequence[ImageFile], words: Sequence[str]) -> Float[Tensor, " n"]:
        return score_pairs(pictures, words, scorer, scored, batch_size, cache)

    own, with_other_text = score(images.images, texts), score(images.images, other_texts)
    on_other_image = score(other_images, texts)
    margin = (own + own[others] - with_other_text - on_other_image) / 2
    tied = margin.abs() <= _ROUNDING * own.abs()
    wins = torch.where(tied, 0.5, (margin > 0).double())
    facts = {**scored, "against": "another X-ray of the set and its text"}
    return [
        mean_metric(f"alignment/{name}", facts=facts, comparable=scorer.comparable).measure(
            mean_statistics(values), images.ids, images.groups, resampling
        )
        for name, values in (("wins", wins), ("margin", margin), ("score", own))
    ]


def score_pairs(
    images: Sequence[ImageFile],
    texts: Sequence[str],
    scorer: ScorePairs,
    facts: Mapping[str, object],
    batch_size: int = 16,
    cache: Path | None = None,
) -> Float[Tensor, " n"]:
    """One score for each X-ray with its text; a batch of which all are known is not scored again.

    Args:
        images: X-rays.
        texts: one for each.
        scorer: takes pixels and texts.
        facts: of the scorer: what the scores in the cache depend on.
        batch_size: pairs at once.
        cache: folder of scores; None keeps none.
    """
    parts = []
    with RowStore(cache, {"scores": "image and text", **facts}) as store:
        for start in range(0, len(images), batch_size):
            some = slice(start, start + batch_size)
            pairs = list(zip(images[some], texts[some], strict=True))
            keys = [_pair_key(image, text) for image, text in pairs]
            known = store.known(keys)
            if len(known) < len(set(keys)):
                pixels = [image.load() for image, _ in pairs]
                scores = scorer(pixels, [text for _, text in pairs]).double()
                known = dict(zip(keys, scores[:, None], strict=True))
                store.keep(known)
            parts.append(torch.cat([known[one] for one in keys]))
    return torch.cat(parts)


def _pair_key(image: ImageFile, text: str) -> str:
    return hashlib.sha256(f"{image.content_hash()}\0{text}".encode()).hexdigest()
