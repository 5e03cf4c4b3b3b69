"""How much of a report's wording is in the prediction: BLEU, chrF and ROUGE-L.

Axes: n reports, r replicates, s statistics per report.
"""

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from unix_cxr.evaluation.corpus_metric import (
    CorpusMetric,
    OfSums,
    mean_metric,
    mean_statistics,
)
from unix_cxr.evaluation.results import MetricUnavailable

BLEU_ORDERS: Final = 4
CHRF_ORDERS: Final = 6
_CHRF_BETA: Final = 2
_EXTRA: Final = "pip install 'unix-cxr[eval]'"


def bleu_statistics(references: Sequence[str], predictions: Sequence[str]) -> Float[Tensor, "n 10"]:
    """Matches and counts of 1- to 4-grams, and both lengths, by sacrebleu's 13a tokenizer.

    Raises:
        MetricUnavailable: sacrebleu is not installed.
    """
    sacrebleu = _needed("sacrebleu", "bleu")
    scorer = sacrebleu.BLEU(tokenize="13a", effective_order=True)
    rows = []
    for reference, prediction in zip(references, predictions, strict=True):
        score = scorer.sentence_score(prediction, [reference])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 2 * BLEU_ORDERS + 2)


def bleu_of_sums(sums: Float[Tensor, "r 10"], order: int) -> Float[Tensor, " r"]:
    """Corpus BLEU (Papineni 2002, P02-1040) in [0, 1] with sacrebleu's "exp" smoothing."""
    sums = sums.double()
    correct, total = sums[:, :order], sums[:, BLEU_ORDERS : BLEU_ORDERS + order]
    predicted, wanted = sums[:, 2 * BLEU_ORDERS], sums[:, 2 * BLEU_ORDERS + 1]
    halvings = (correct == 0).double().cumsum(dim=1)
    smoothed = torch.where(correct > 0, correct, 0.5**halvings) / total.clamp_min(1)
    precisions = smoothed * (total > 0)
    short = torch.exp((1 - wanted / predicted.clamp_min(1)).clamp_max(0))
    bleu: Tensor = short * precisions.log().mean(dim=1).exp()
    return torch.where((correct.sum(dim=1) > 0) & (predicted > 0), bleu, 0.0)


def bleu_metrics() -> list[CorpusMetric]:
    """BLEU-1 to BLEU-4 on `bleu_statistics`."""
    facts = {"tokenizer": "13a", "smoothing": "exp", "scale": "0-1"}
    facts |= {"sacrebleu": version("sacrebleu")}
    return [
        CorpusMetric(f"bleu_{order}", _Bleu(order), facts=facts)
        for order in range(1, BLEU_ORDERS + 1)
    ]


def bleu_metric_of(order: int) -> OfSums:
    """BLEU of one order as a function of `bleu_statistics`' sums."""
    return _Bleu(order)


class _Bleu:
    def __init__(self, order: int) -> None:
        self.order = order

    def __call__(self, sums: Tensor) -> Tensor:
        return bleu_of_sums(sums, self.order)


def chrf_statistics(references: Sequence[str], predictions: Sequence[str]) -> Float[Tensor, "n 18"]:
    """For character 1- to 6-grams without spaces: how many predicted, true and matched ones."""
    rows = []
    for reference, prediction in zip(references, predictions, strict=True):
        true, written = ("".join(text.split()) for text in (reference, prediction))
        row: list[int] = []
        for order in range(1, CHRF_ORDERS + 1):
            theirs, ours = _character_grams(true, order), _character_grams(written, order)
            row += [ours.total() if theirs else 0, theirs.total(), (theirs & ours).total()]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3 * CHRF_ORDERS)


def chrf_of_sums(sums: Float[Tensor, "r 18"]) -> Float[Tensor, " r"]:
    """Corpus chrF (Popović 2015, W15-3049) in [0, 1] as sacrebleu computes it: β = 2."""
    ours, theirs, matched = sums.double().unflatten(1, (CHRF_ORDERS, 3)).unbind(dim=2)
    used = ((ours > 0) & (theirs > 0)).double()
    orders = used.sum(dim=1).clamp_min(1)
    precision = (used * matched / ours.clamp_min(1)).sum(dim=1) / orders
    recall = (used * matched / theirs.clamp_min(1)).sum(dim=1) / orders
    weight = _CHRF_BETA**2
    below = weight * precision + recall
    score: Tensor = (1 + weight) * precision * recall / below.clamp_min(1e-300)
    return torch.where(below > 0, score, 0.0)


def chrf_metric() -> CorpusMetric:
    """The metric chrF on `chrf_statistics`."""
    facts = {"characters": CHRF_ORDERS, "words": 0, "beta": _CHRF_BETA, "scale": "0-1"}
    return CorpusMetric("chrf", chrf_of_sums, facts=facts)


def rouge_statistics(references: Sequence[str], predictions: Sequence[str]) -> Float[Tensor, "n 2"]:
    """F of the longest common subsequence of each pair (Lin 2004, W04-1013), for a mean.

    Raises:
        MetricUnavailable: rouge-score is not installed.
    """
    module = _needed("rouge_score.rouge_scorer", "rouge_l")
    scorer: Any = module.RougeScorer(["rougeL"], use_stemmer=False)
    values = [
        scorer.score(reference, prediction)["rougeL"].fmeasure
        for reference, prediction in zip(references, predictions, strict=True)
    ]
    return mean_statistics(torch.tensor(values, dtype=torch.float64))


def rouge_metric() -> CorpusMetric:
    """The metric ROUGE-L on `rouge_statistics`."""
    facts = {"stemmer": "no", "of": "F", "rouge-score": version("rouge-score")}
    return mean_metric("rouge_l", facts=facts)


def _character_grams(text: str, order: int) -> Counter[str]:
    return Counter([text[start : start + order] for start in range(len(text) - order + 1)])


def _needed(module: str, metric: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise MetricUnavailable(metric, f"{error}; {_EXTRA}") from error
