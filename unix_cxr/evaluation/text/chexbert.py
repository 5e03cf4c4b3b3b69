"""CheXbert (arXiv:2004.09167) from weights that the user has: a BERT and 14 linear heads.

Axes: b reports, n tokens, d width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unix_cxr.evaluation.results import MetricUnavailable
from unix_cxr.evaluation.text.label_scores import States
from unix_cxr.files import sha256
from unix_cxr.reports.labeler import NEGATIVE, POSITIVE, UNCERTAIN
from unix_cxr.vocabulary import NO_FINDING

MAX_TOKENS: Final = 512
CONDITIONS: Final = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    NO_FINDING,
)
"""The order of the published heads: opacity before lesion, unlike CheXpert's table."""

_CLASSES: Final = (None, POSITIVE, NEGATIVE, UNCERTAIN)
_REMEDY: Final = (
    "give the published checkpoint (chexbert.pth, or safetensors made of it) and the folder of "
    "bert-base-uncased's tokenizer by path: --chexbert FILE --chexbert-tokenizer FOLDER"
)


class CheXbert(nn.Module):
    """BERT and a linear head for each condition, on the state of [CLS]."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 - a BertConfig
        from transformers import BertModel

        super().__init__()
        self.bert = BertModel(config)
        self.linear_heads = nn.ModuleList(
            nn.Linear(config.hidden_size, 2 if name == NO_FINDING else len(_CLASSES))
            for name in CONDITIONS
        )

    def forward(
        self, input_ids: Int[Tensor, "b n"], attention_mask: Int[Tensor, "b n"]
    ) -> list[Float[Tensor, "b c"]]:
        """Logits of each condition's classes: blank, positive, negative, uncertain."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return [head(states[:, 0]) for head in self.linear_heads]


class CheXbertLabeler:
    """The 14 findings of a text by CheXbert; texts are cut at 512 tokens, not characters.

    Args:
        weights: `chexbert.pth`, opened with `weights_only`, or a safetensors file with its names.
        tokenizer: folder of the BERT tokenizer (`vocab.txt` is enough).
        batch_size: texts at once.
        device: where it runs.

    Raises:
        MetricUnavailable: a path is not there.
        ValueError: the weights do not fit.
    """

    def __init__(
        self,
        weights: str | Path,
        tokenizer: str | Path,
        *,
        batch_size: int = 32,
        device: str | torch.device = "cpu",
    ) -> None:
        weights, tokenizer = Path(weights), Path(tokenizer)
        if not weights.is_file():
            raise MetricUnavailable("chexbert", f"no weights at {weights}; {_REMEDY}")
        if not (tokenizer / "vocab.txt").is_file():
            raise MetricUnavailable("chexbert", f"no vocab.txt in {tokenizer}; {_REMEDY}")
        from transformers import BertTokenizer

        self.tokenizer = BertTokenizer.from_pretrained(str(tokenizer), do_lower_case=True)
        self.model = _model(_read(weights), weights).to(device).eval()
        self.batch_size, self.device = batch_size, torch.device(device)
        self.name = f"chexbert-{sha256(weights)[:12]}"

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> list[States]:
        """The states of each text; an empty text states nothing."""
        states: list[States] = [{} for _ in texts]
        filled = [row for row, text in enumerate(texts) if text.strip()]
        # long texts together, so that a batch is padded little
        filled.sort(key=lambda row: len(texts[row]))
        for start in range(0, len(filled), self.batch_size):
            rows = filled[start : start + self.batch_size]
            logits = self.model(*self._batch([" ".join(texts[row].split()) for row in rows]))
            classes = torch.stack([logit.argmax(dim=1) for logit in logits], dim=1).tolist()
            for row, found in zip(rows, classes, strict=True):
                states[row] = _states(found)
        return states

    def _batch(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt"
        )
        return (
            cast("Tensor", encoded["input_ids"]).to(self.device),
            cast("Tensor", encoded["attention_mask"]).to(self.device),
        )


def _states(classes: Sequence[int]) -> dict[str, str]:
    found = {}
    for name, chosen in zip(CONDITIONS, classes, strict=True):
        state = _CLASSES[chosen]
        if state is not None:
            found[name] = state
    return found


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tree: Mapping[str, Any] = load_file(path)
    else:
        try:
            tree = torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            raise ValueError(
                f"{path} holds more than tensors, and is not opened; save its state_dict alone"
            ) from error
    tree = tree.get("model_state_dict", tree)
    return {name.removeprefix("module."): value for name, value in tree.items()}


def _model(weights: dict[str, Tensor], path: Path) -> CheXbert:
    """The network whose shapes the weights have; every weight is used and none is missing."""
    from transformers import BertConfig

    try:
        words = weights["bert.embeddings.word_embeddings.weight"]
        positions = weights["bert.embeddings.position_embeddings.weight"]
        inner = weights["bert.encoder.layer.0.intermediate.dense.weight"]
    except KeyError as error:
        raise ValueError(
            f"{path} has no {error}; it is not CheXbert, whose names begin with 'bert.' and "
            "'linear_heads.'"
        ) from error
    layers = 1 + max(int(name.split(".")[3]) for name in weights if ".encoder.layer." in name)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=words.shape[1],
        num_hidden_layers=layers,
        num_attention_heads=max(1, words.shape[1] // 64),
        intermediate_size=len(inner),
        max_position_embeddings=len(positions),
    )
    model = CheXbert(config)
    known = model.state_dict()
    weights = {name: value for name, value in weights.items() if not name.endswith("position_ids")}
    wrong = sorted(
        name
        for name in known.keys() | weights.keys()
        if name not in known or name not in weights or known[name].shape != weights[name].shape
    )
    if wrong:
        raise ValueError(
            f"{path} does not fit CheXbert's layout: {len(wrong)} names or shapes differ, the "
            f"first is {wrong[0]}"
        )
    model.load_state_dict(weights)
    return model
