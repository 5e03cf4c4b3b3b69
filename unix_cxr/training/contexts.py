"""Contexts of captions under a frozen understanding branch: each is computed once.

Every caption is encoded by itself, so that its context depends on nothing but the caption: what is
found again has the bits that computing it again would give, whatever shared its batch.

Axes: b batch, n tokens, l layers, g key/value heads, e head width.
"""

import hashlib
import json
import logging
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unix_cxr.files import replacing
from unix_cxr.models.context import Context, Text
from unix_cxr.models.fingerprint import fingerprint
from unix_cxr.models.unix import UniXModel
from unix_cxr.modules.joint_block import LayerContext

logger = logging.getLogger(__name__)


class CaptionContexts:
    """Keeps the contexts of captions in memory, and in a folder where one is given.

    Args:
        memory: bytes to keep at most; what was asked for longest ago goes first.
        folder: takes one safetensors file per caption, in a folder named after the language model's
            fingerprint; None writes none.
    """

    def __init__(self, memory: int, folder: Path | None = None) -> None:
        self.memory = memory
        self.folder = folder
        self.computed = 0
        self.found = 0
        self._kept: OrderedDict[str, Context] = OrderedDict()
        self._bytes = 0
        self._fingerprint: str | None = None

    @torch.no_grad()
    def of(self, model: UniXModel, ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]) -> Context:
        """The context of a batch of captions; a row without any True is an empty one.

        Args:
            model: its understanding branch must not have changed since the first call.
            ids: with BOS and EOS; padded.
            mask: True for tokens.
        """
        rows = zip(ids.tolist(), mask.tolist(), strict=True)
        captions = [[t for t, real in zip(*row, strict=True) if real] for row in rows]
        return Context.stack([self._context(model, caption) for caption in captions])

    def _context(self, model: UniXModel, caption: list[int]) -> Context:
        if not caption:
            return model.empty_context(1)
        key = _key(caption, model)
        context = self._kept.get(key)
        if context is not None:
            self._kept.move_to_end(key)
        elif self.folder is not None:
            context = self._read(model, key)
        if context is None:
            self.computed += 1
            text = Text(torch.tensor([caption], device=model.device))
            context = replace(model.encode([text]), hidden=None)
            self._write(model, key, context)
        else:
            self.found += 1
        self._keep(key, context)
        return context

    def _keep(self, key: str, context: Context) -> None:
        if key in self._kept or _bytes(context) > self.memory:
            return
        self._kept[key] = context
        self._bytes += _bytes(context)
        while self._bytes > self.memory:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= _bytes(oldest)

    def _file(self, model: UniXModel, key: str) -> Path | None:
        if self.folder is None:
            return None
        if self._fingerprint is None:
            self._fingerprint = fingerprint(model.language_model)
        return self.folder / self._fingerprint[:16] / f"{key}.safetensors"

    def _read(self, model: UniXModel, key: str) -> Context | None:
        file = self._file(model, key)
        if file is None or not file.is_file():
            return None
        try:
            tensors = load_file(file, device=str(model.device))
        except SafetensorError as error:
            logger.warning("%s is damaged (%s); its caption is encoded again", file, error)
            return None
        layers = zip(tensors["keys"], tensors["values"], strict=True)
        return Context(
            layers=tuple(LayerContext(keys, values) for keys, values in layers),
            real=tensors["real"],
            from_generation=tensors["from_generation"],
            position=tensors["position"],
        )

    def _write(self, model: UniXModel, key: str, context: Context) -> None:
        file = self._file(model, key)
        if file is None:
            return
        tensors = {
            "keys": torch.stack([layer.keys for layer in context.layers]),
            "values": torch.stack([layer.values for layer in context.layers]),
            "real": context.real,
            "from_generation": context.from_generation,
            "position": context.position,
        }
        with replacing(file) as new:
            save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, new)


def _key(caption: list[int], model: UniXModel) -> str:
    """Of a caption, and of the number type that it is computed in."""
    kind = model.device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
    return hashlib.sha256(json.dumps([caption, str(low)]).encode()).hexdigest()


def _bytes(context: Context) -> int:
    layers: Any = context.layers
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
