"""Labels as CheXpert's tables state them (1, 0, -1 or blank), and a compact index of many."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import numpy as np

_PRESENT: Final = 1
_ABSENT: Final = 2
_UNCERTAIN: Final = 3
_CODES: Final[Mapping[str, int]] = {
    "": 0, "nan": 0, "none": 0,
    "1": _PRESENT, "1.0": _PRESENT,
    "0": _ABSENT, "0.0": _ABSENT,
    "-1": _UNCERTAIN, "-1.0": _UNCERTAIN,
}  # fmt: skip
_BITS: Final = 2
_MAX_NAMES: Final = 32


class Stated(NamedTuple):
    """What is stated as present, absent and uncertain; the rest was not mentioned."""

    present: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    uncertain: frozenset[str] = frozenset()


def stated_in(values: Mapping[str, Any], names: Sequence[str]) -> Stated:
    """The labels in a row of a table.

    Raises:
        ValueError: a cell is none of 1, 0, -1 and blank.
    """
    return _unpacked(packed(values, names), names)


def packed(values: Mapping[str, Any], names: Sequence[str]) -> int:
    """The labels in a row as two bits each.

    Raises:
        ValueError: a cell is none of 1, 0, -1 and blank.
    """
    bits = 0
    for position, name in enumerate(names):
        cell = "" if values.get(name) is None else str(values[name]).strip().lower()
        if cell not in _CODES:
            raise ValueError(f"label {name!r} is {cell!r}; it must be 1, 0, -1 or blank")
        bits |= _CODES[cell] << (_BITS * position)
    return bits


def key_of(text: str) -> int:
    """A 63-bit number for a name, to find it in an index without holding the name."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class LabelIndex:
    """The labels of many studies by a number; 16 bytes per study, so 228,000 take 4 MB.

    Args:
        names: the labels, at most 32.
        rows: the number of a study, and its labels packed.

    Raises:
        ValueError: a number comes twice with different labels.
    """

    def __init__(self, names: Sequence[str], rows: Iterable[tuple[int, int]]) -> None:
        if len(names) > _MAX_NAMES:
            raise ValueError(f"{len(names)} labels do not fit; at most {_MAX_NAMES}")
        self._names = tuple(names)
        keys, labels = array("q"), array("Q")
        for key, bits in rows:
            keys.append(key)
            labels.append(bits)
        # an array of length 0 has no buffer to read
        all_keys = np.frombuffer(keys, dtype=np.int64) if keys else np.empty(0, np.int64)
        all_labels = np.frombuffer(labels, dtype=np.uint64) if keys else np.empty(0, np.uint64)
        order = np.argsort(all_keys, kind="stable")
        self._keys, self._labels = all_keys[order], all_labels[order]
        same = self._keys[1:] == self._keys[:-1]
        differing = same & (self._labels[1:] != self._labels[:-1])
        if differing.any():
            first = int(self._keys[1:][differing][0])
            raise ValueError(f"study {first} has two rows of labels that differ")

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: int) -> Stated | None:
        """The labels of a study, None where the table has no row of it."""
        position = int(np.searchsorted(self._keys, key))
        if position == len(self._keys) or int(self._keys[position]) != key:
            return None
        return _unpacked(int(self._labels[position]), self._names)


def _unpacked(bits: int, names: Sequence[str]) -> Stated:
    of_code: dict[int, set[str]] = {_PRESENT: set(), _ABSENT: set(), _UNCERTAIN: set(), 0: set()}
    for position, name in enumerate(names):
        of_code[bits >> (_BITS * position) & 0b11].add(name)
    return Stated(
        frozenset(of_code[_PRESENT]), frozenset(of_code[_ABSENT]), frozenset(of_code[_UNCERTAIN])
    )
