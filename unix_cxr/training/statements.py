"""What reports and labels state of each study, as a table that a classifier can learn from.

Axes: s studies, k statements.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool
from torch import Tensor
from tqdm.auto import tqdm

from unix_cxr.data.studies import Labelled
from unix_cxr.reports.labeler import label_report
from unix_cxr.training.images import ImageStore

_STATED: Final = "positive"
_PART: Final = 256


@dataclass(frozen=True)
class StatementTable:
    """Which statements hold for which studies.

    Args:
        names: such as "Pleural Effusion", "Pleural Effusion: left", "Pleural Effusion: moderate".
        holds: whether a statement holds.
        known: whether that is known; what is uncertain, and what a collection never speaks of, is
            not.
    """

    names: tuple[str, ...]
    holds: Bool[Tensor, "s k"]
    known: Bool[Tensor, "s k"]


def statements_of(study: Labelled, text: str) -> dict[str, bool | None]:
    """What a study states: True present, False absent, None uncertain.

    Its own labels come first; the text adds the findings of the rule labeler with side and
    severity, and which devices. A finding that is absent has no side, severity or device.

    Args:
        study: its labels are read.
        text: its findings text.
    """
    stated: dict[str, bool | None] = {}
    for name, label in label_report(text).items() if text else ():
        stated[name] = {_STATED: True, "negative": False}.get(label.state)
        if label.state == _STATED:
            severity = [label.severity] if label.severity else []
            attributes = [*label.sides, *severity, *label.devices]
            stated |= {f"{name}: {attribute}": True for attribute in attributes}
    stated |= dict.fromkeys(study.uncertain, None)
    stated |= dict.fromkeys(study.negative, False)
    stated |= dict.fromkeys(study.labels, True)
    return stated


def teachable(table: StatementTable, least: int) -> tuple[str, ...]:
    """Names of the statements that hold for at least `least` studies, and are absent in as many.

    Raises:
        ValueError: there is none.
    """
    present = (table.holds & table.known).sum(dim=0)
    absent = (~table.holds & table.known).sum(dim=0)
    chosen = ((present >= least) & (absent >= least)).tolist()
    names = tuple(name for name, keep in zip(table.names, chosen, strict=True) if keep)
    if not names:
        counted = sorted(zip(present.tolist(), absent.tolist(), table.names, strict=True))
        common = ", ".join(f"{name}: {n} and {no}" for n, no, name in counted[:-4:-1]) or "none"
        raise ValueError(
            f"no statement holds for {least} of {len(table.holds)} studies and is absent in "
            f"{least} (most often stated, present and absent: {common}); lower objective.least, "
            "or teach with studies that have labels or findings texts"
        )
    return names


def stated_in(store: ImageStore, seed: int) -> tuple[list[dict[str, bool | None]], list[str]]:
    """What every study of a store states, and the collection it belongs to.

    Args:
        store: its labels and texts are read.
        seed: draws the wording where it is free.
    """
    words = random.Random(seed)
    stated, subsets = [], []
    parts = torch.arange(len(store)).split(_PART)
    for part in tqdm(parts, "reading statements", unit="batch", disable=None):
        studies, texts = store.labels(part), store.texts(part, words)
        stated += [statements_of(*pair) for pair in zip(studies, texts, strict=True)]
        subsets += [study.subset for study in studies]
    return stated, subsets


def spoken_of(
    stated: Sequence[Mapping[str, bool | None]], subsets: Sequence[str]
) -> dict[str, set[str]]:
    """The statements that each collection makes at all, either way, by the collection's name."""
    spoken: dict[str, set[str]] = {}
    for one, subset in zip(stated, subsets, strict=True):
        spoken.setdefault(subset, set()).update(one)
    return spoken


def statement_table(
    stated: Sequence[Mapping[str, bool | None]],
    subsets: Sequence[str],
    spoken: Mapping[str, set[str]],
    names: Sequence[str] | None = None,
) -> StatementTable:
    """Lay statements out as a table.

    What a study does not mention counts as absent if others of its collection mention it, and as
    unknown if none does: a collection of pneumonias says nothing of fractures.

    Args:
        stated: of every study.
        subsets: the collection of every study.
        spoken: see `spoken_of`; of the studies to learn from.
        names: the columns; everything that is spoken of where None.
    """
    if names is None:
        names = sorted(set().union(*spoken.values()))
    holds = torch.zeros(len(stated), len(names), dtype=torch.bool)
    known = torch.zeros(len(stated), len(names), dtype=torch.bool)
    for row, (one, subset) in enumerate(zip(stated, subsets, strict=True)):
        for column, name in enumerate(names):
            state = _state(one, name, mentioned=name in spoken.get(subset, ()))
            holds[row, column] = state is True
            known[row, column] = state is not None
    return StatementTable(tuple(names), holds, known)


def _state(stated: Mapping[str, bool | None], name: str, *, mentioned: bool) -> bool | None:
    if name in stated:
        return stated[name]
    finding = name.partition(":")[0]
    uncertain = finding in stated and stated[finding] is None
    return None if uncertain or not mentioned else False
