"""The studies of a recipe: a table beside images, a prepared folder, or phantoms."""

import random
from collections.abc import Iterator
from functools import cached_property
from itertools import islice

import torch

from unix_cxr.data.findings_text import all_texts
from unix_cxr.data.prepared import PreparedStudies
from unix_cxr.data.sources import open_source
from unix_cxr.data.studies import Study, read_table
from unix_cxr.training.images import ImageStore, PreparedStore, XRayStore
from unix_cxr.training.settings import DataSettings

_TOKENIZER_TEXTS = 20_000


class RecipeData:
    """Stores of a recipe's splits, each read once.

    Args:
        settings: where the studies are.
    """

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings
        self._stores: dict[str, ImageStore] = {}

    def store(self, split: str) -> ImageStore:
        """Images and texts of a split.

        Raises:
            FileNotFoundError: the table, the folder or an image is missing.
            ValueError: the split is empty, or what is there cannot be read.
        """
        if split not in self._stores:
            self._stores[split] = self._open(split)
        return self._stores[split]

    def count(self, split: str) -> int:
        """Number of studies of a split; 0 where it has none."""
        if self.settings.kind == "prepared":
            shards = PreparedStudies(self.settings.root).manifest.shards
            count = sum(n for shard in shards for name, n in shard.splits if name == split)
        else:
            count = sum(study.split == split for study in self._studies)
        return min(count, self.settings.limit or count)

    def few(self, count: int) -> "RecipeData":
        """The same data with the first studies of each split alone; others are not read."""
        limit = min(count, self.settings.limit or count)
        few = RecipeData(self.settings.model_copy(update={"limit": limit}))
        if self.settings.kind != "prepared":
            few._studies = self._studies
        return few

    def tokenizer_texts(self) -> Iterator[str]:
        """Texts that a tokenizer of one's own is trained on: never those of held-out splits."""
        if self.settings.kind == "table":
            yield from all_texts()
            return
        store, words = self.store("train"), random.Random(0)
        for part in torch.arange(min(len(store), _TOKENIZER_TEXTS)).split(64):
            yield from store.texts(part, words)

    def _open(self, split: str) -> ImageStore:
        side, limit = self.settings.image_size, self.settings.limit
        if self.settings.kind == "prepared":
            return PreparedStore(PreparedStudies(self.settings.root, split), side, limit)
        chosen = (study for study in self._studies if study.split == split)
        return XRayStore(list(islice(chosen, limit)), side)

    @cached_property
    def _studies(self) -> list[Study]:
        if self.settings.kind == "table":
            return read_table(self.settings.root, subsets=self.settings.subsets)
        size = self.settings.image_size
        return list(open_source(self.settings.root, kind=self.settings.kind, size=size))
