"""What a pipeline does with adapters: load, stack, switch, merge, and save without them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor

from unix_cxr.models import adapter_files, adapters
from unix_cxr.models.adapter_base import plain_model
from unix_cxr.models.unix import UniXModel


class AdapterPipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers is untyped
    """A pipeline whose `model` may carry adapters."""

    model: UniXModel
    _kept: dict[str, Tensor] | None = None

    @property
    def adapters(self) -> dict[str, float]:
        """Adapters that are loaded, with their weights; 0 where one does not act."""
        acting = adapters.adapter_weights(self.model)
        return {name: acting.get(name, 0.0) for name in adapters.adapter_names(self.model)}

    def load_adapter(self, folder: str | Path, name: str | None = None) -> None:
        """Load an adapter's folder; it acts alone until `set_adapters` says otherwise.

        Args:
            folder: made by `unix-cxr train lora`, `save_adapter` or peft.
            name: what to call it; the folder's name where None.

        Raises:
            FileNotFoundError: there is no such folder, or it lacks a file.
            ValueError: the adapter is of another model, damaged or a pickle, the name is taken or
                cannot be one, or adapters are merged.
        """
        adapter_files.load_adapter(self.model, folder, name or Path(folder).resolve().name)

    def set_adapters(self, names: Sequence[str], weights: Sequence[float] | None = None) -> None:
        """Let these adapters act, added up, and no other.

        Args:
            names: of loaded adapters.
            weights: factor on what each adds; 1 where None.

        Raises:
            TypeError: names is one string.
            ValueError: a name is unknown, names and weights do not fit, or adapters are merged.
        """
        adapters.set_adapters(self.model, names, weights)

    def disable_adapters(self) -> None:
        """Let no adapter act; `set_adapters` brings them back.

        Raises:
            ValueError: adapters are merged.
        """
        adapters.disable_adapters(self.model)

    def merge_adapters(self) -> None:
        """Put what the acting adapters do into the weights; `unmerge_adapters` takes it out.

        Raises:
            ValueError: no adapter acts, adapters are merged already, or they cannot be merged
                together.
        """
        self._kept = adapters.merge_adapters(self.model)

    def unmerge_adapters(self) -> None:
        """Put the weights back as they were, bit for bit; the adapters act beside them again.

        Raises:
            ValueError: nothing is merged.
        """
        if self._kept is None:
            raise ValueError("no adapters are merged; there is nothing to put back")
        adapters.unmerge_adapters(self.model, self._kept)
        self._kept = None

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write the pipeline's folder; merged adapters are in its weights, others are left out.

        Raises:
            ValueError: adapters act and are not merged: merge or disable them first.
        """
        if not adapters.adapter_names(self.model):
            super().save_pretrained(save_directory, **options)
            return
        carrying = self.model
        self.model = plain_model(carrying)
        try:
            super().save_pretrained(save_directory, **options)
        finally:
            self.model = carrying
