"""Weights of a local folder, read one by one: safetensors or a PyTorch file, whole or in shards."""

import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from unix_cxr.files import COPY_AGAIN, read_json, replacing, write_text

_SINGLE: Final = ("model.safetensors", "pytorch_model.bin")


class WeightFiles:
    """Weights by name, of which each is read when it is asked for.

    safetensors are preferred; a PyTorch file is opened with `weights_only=True` and mapped into
    memory, so that neither needs the memory of a whole checkpoint.

    Args:
        folder: holds model.safetensors or pytorch_model.bin, or the index of either's shards.

    Raises:
        FileNotFoundError: there are no weights, or a shard of the index is missing.
        ValueError: a file is damaged, would run code when opened, or is not what its index says.
    """

    def __init__(self, folder: Path) -> None:
        self.files, index = _files(folder)
        self._opened = [_open(file) for file in self.files]
        self._place: dict[str, int] = {}
        for number, content in enumerate(self._opened):
            for name in content.keys():  # noqa: SIM118 - a safetensors file is no dictionary
                if name in self._place:
                    raise ValueError(
                        f"{name} is both in {self.files[self._place[name]].name} and in "
                        f"{self.files[number].name} of {folder}; remove the other version"
                    )
                self._place[name] = number
        if index is not None:
            _check_index(index, self)

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __contains__(self, name: object) -> bool:
        return name in self._place

    def __len__(self) -> int:
        return len(self._place)

    def file_of(self, name: str) -> Path:
        """The file that holds a weight."""
        return self.files[self._place[name]]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a weight; its values are not read."""
        content = self._opened[self._place[name]]
        if isinstance(content, dict):
            return tuple(content[name].shape)
        return tuple(content.get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        content = self._opened[self._place[name]]
        if isinstance(content, dict):
            value: Tensor = content[name]
            return value
        tensor: Tensor = content.get_tensor(name)
        return tensor


def _files(folder: Path) -> tuple[tuple[Path, ...], Path | None]:
    """The files of a folder's weights, and the index that names them."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    for name in _SINGLE:
        if (folder / name).is_file():
            return (folder / name,), None
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = tuple(folder / shard for shard in sorted(set(_weight_map(index).values())))
            absent = [shard.name for shard in shards if not shard.is_file()]
            if absent:
                raise FileNotFoundError(
                    f"{index} names {', '.join(absent)}, which {folder} lacks; download the rest"
                )
            return shards, index
    raise FileNotFoundError(
        f"no weights in {folder}: neither model.safetensors nor pytorch_model.bin, nor an index of "
        "their shards"
    )


def _weight_map(index: Path) -> dict[str, str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} has no 'weight_map'; {COPY_AGAIN}")
    outside = [file for file in places.values() if Path(file).name != file]
    if outside:
        raise ValueError(f"{index} names the file {outside[0]!r}, which is not in its own folder")
    return places


def _check_index(index: Path, weights: WeightFiles) -> None:
    wrong = [
        f"{name} in {file}"
        for name, file in _weight_map(index).items()
        if name not in weights or weights.file_of(name).name != file
    ]
    if wrong:
        raise ValueError(
            f"{index} promises {len(wrong)} weights that are not there, such as {wrong[0]}; "
            "download the shards again, all of one version"
        )


def _open(path: Path) -> Any:  # noqa: ANN401 - a safetensors file or a dictionary
    if path.suffix == ".safetensors":
        try:
            return safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or cut off ({error}); {COPY_AGAIN}") from error
    return _open_pytorch(path)


def _open_pytorch(path: Path) -> dict[str, Tensor]:
    try:
        tree: Any = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is a pickle that holds more than weights, or a damaged one, and is never "
            "opened otherwise; take the safetensors of the same checkpoint"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged or cut off ({error}); {COPY_AGAIN}") from error
    weights = tree.get("state_dict", tree) if isinstance(tree, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(f"{path} holds no weights by name; it is no checkpoint of a model")
    return weights


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All weights of a safetensors file by name.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut off ({error}); {COPY_AGAIN}") from error


def write_shards(
    folder: Path, names: Iterable[str], make: Callable[[str], Tensor], shard_bytes: int
) -> None:
    """Write weights as model.safetensors, or as shards with their index where they need several.

    Args:
        folder: to write into.
        names: of the weights, in their order.
        make: gives each; only one shard's weights are held at a time.
        shard_bytes: most bytes of a file, unless one weight alone is larger.

    Raises:
        OSError: the disk is full; the message names the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[str]] = []
    sizes, held = 0, dict[str, Tensor]()
    total = 0
    for name in names:
        # a copy of its own: the format refuses weights that share memory
        value = make(name).clone(memory_format=torch.contiguous_format)
        if held and sizes + value.nbytes > shard_bytes:
            shards.append(_write_shard(folder, len(shards), held))
            sizes, held = 0, {}
        held[name] = value
        sizes += value.nbytes
        total += value.nbytes
    shards.append(_write_shard(folder, len(shards), held))
    _name_shards(folder, shards, total)


def _write_shard(folder: Path, number: int, weights: dict[str, Tensor]) -> list[str]:
    with replacing(folder / f"shard-{number}.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    return list(weights)


def _name_shards(folder: Path, shards: list[list[str]], total: int) -> None:
    """Files that were written under passing names get those that loaders look for."""
    whole = folder / _SINGLE[0]
    if len(shards) == 1:
        (folder / "shard-0.safetensors").replace(whole)
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"shard-{number}.safetensors").replace(folder / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    write_text(folder / f"{whole.name}.index.json", json.dumps(index, indent=1))
