"""Exact and near duplicates of cleaned reports, on disk, with a map of what fell to what.

Two reports are near duplicates where their words overlap (Jaccard of word trigrams, candidates by
MinHash) *and* they state the same: labels, sides, severities and numbers. "No left effusion" and
"no right effusion" share nearly all their words and are no duplicates.
"""

import json
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np

from unix_cxr.files import replacing
from unix_cxr.reports.labeler import facts
from unix_cxr.reports.sentences import split_sentences
from unix_cxr.reports.tokens import tokenize

_PERMUTATIONS: Final = 64
_BANDS: Final = 16
_ROWS: Final = _PERMUTATIONS // _BANDS
_CANDIDATES: Final = 50
_WORD: Final = re.compile(r"(?:[^\W_]|\.)+")
_COMMIT_EVERY: Final = 5000


@dataclass(frozen=True, slots=True)
class DedupCounts:
    """How many lines were read and what became of them."""

    read: int
    kept: int
    exact: int
    near: int
    without_text: int


def deduplicate(
    source: str | Path, out: str | Path, *, threshold: float = 0.9, work_dir: Path | None = None
) -> DedupCounts:
    """Copy the lines of cleaned JSONL whose text is new; write `OUT.map.jsonl` for the others.

    Each line of the map is `{"id", "kept", "kind", "similarity"}`. Lines without text (empty,
    quarantined) are copied.

    Args:
        source: output of `clean_corpus`, or any JSONL with `id` and `text`.
        out: the file of kept lines, byte for byte as they were.
        threshold: least Jaccard similarity of a near duplicate; 1 looks for exact ones only.
        work_dir: where the SQLite index lives while this runs; default beside `out`.

    Raises:
        ValueError: the threshold is outside (0, 1], or a line is no JSON object with id and text.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold}")
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=work_dir or out.parent, prefix=".dedup-") as folder,
        replacing(out) as kept_path,
        replacing(out.with_name(out.name + ".map.jsonl")) as map_path,
        kept_path.open("wb") as kept,
        map_path.open("w", encoding="utf-8") as mapping,
    ):
        index = _Index(Path(folder) / "index.sqlite", threshold)
        counts = dict.fromkeys(("read", "kept", "exact", "near", "without_text"), 0)
        for line, report_id, text in _lines(Path(source)):
            counts["read"] += 1
            if not text:
                counts["without_text"] += 1
                kept.write(line)
                continue
            found = index.find_or_add(report_id, text)
            if found is None:
                counts["kept"] += 1
                kept.write(line)
                continue
            counts[found["kind"]] += 1
            mapping.write(json.dumps({"id": report_id, **found}, ensure_ascii=False) + "\n")
        index.close()
    return DedupCounts(**counts)


def _lines(path: Path) -> Iterator[tuple[bytes, str, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                values = json.loads(line)
                yield line, str(values["id"]), values["text"] or ""
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}:{number} is no line with id and text: {error!r}"
                ) from error


def _digest(text: str) -> int:
    value = int.from_bytes(
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
    return value >> 1


class _Index:
    """Texts kept so far, by exact hash and by MinHash band, in SQLite."""

    def __init__(self, path: Path, threshold: float) -> None:
        self._near = threshold < 1
        self._threshold = threshold
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute(
            "CREATE TABLE texts (key INTEGER PRIMARY KEY, id TEXT, text TEXT, stated INTEGER)"
        )
        self._database.execute("CREATE TABLE bands (band INTEGER, key INTEGER)")
        self._database.execute("CREATE INDEX by_band ON bands (band)")
        self._database.execute("BEGIN")
        self._pending = 0

    def find_or_add(self, report_id: str, text: str) -> dict[str, Any] | None:
        """What an earlier text is to this one, or None, and then this one is remembered."""
        words = _WORD.findall(text.lower())
        key = _digest(" ".join(words))
        same = self._database.execute("SELECT id FROM texts WHERE key = ?", (key,)).fetchone()
        if same:
            return {"kept": same[0], "kind": "exact", "similarity": 1.0}
        if not self._near:
            self._add(key, report_id, "", 0)
            return None
        shingles = _shingles(words)
        stated = _digest(_statement(text))
        bands = _bands(shingles)
        found = self._nearest(shingles, stated, bands)
        if found is None:
            self._add(key, report_id, " ".join(words), stated)
            self._database.executemany(
                "INSERT INTO bands VALUES (?, ?)", [(band, key) for band in bands]
            )
        return found

    def _nearest(
        self, shingles: frozenset[str], stated: int, bands: list[int]
    ) -> dict[str, Any] | None:
        marks = ",".join("?" * len(bands))
        query = (
            "SELECT DISTINCT texts.id, texts.text FROM bands JOIN texts ON texts.key = bands.key "
            f"WHERE bands.band IN ({marks}) AND texts.stated = ? LIMIT {_CANDIDATES}"
        )
        best: dict[str, Any] | None = None
        for known_id, known in self._database.execute(query, (*bands, stated)):
            other = _shingles(known.split())
            similarity = len(shingles & other) / len(shingles | other)
            if similarity >= self._threshold and (best is None or similarity > best["similarity"]):
                best = {"kept": known_id, "kind": "near", "similarity": round(similarity, 4)}
        return best

    def _add(self, key: int, report_id: str, text: str, stated: int) -> None:
        self._database.execute(
            "INSERT INTO texts VALUES (?, ?, ?, ?)", (key, report_id, text, stated)
        )
        self._pending += 1
        if self._pending % _COMMIT_EVERY == 0:
            self._database.execute("COMMIT")
            self._database.execute("BEGIN")

    def close(self) -> None:
        self._database.close()


def _shingles(words: list[str]) -> frozenset[str]:
    if len(words) < 3:  # noqa: PLR2004 - a trigram
        return frozenset((" ".join(words),))
    return frozenset(" ".join(words[i : i + 3]) for i in range(len(words) - 2))


def _statement(text: str) -> str:
    """What a text says, whatever its words: facts in any order, and its numbers."""
    said = set()
    for sentence in split_sentences(text):
        tokens = tokenize(sentence)
        for fact in facts(tokens):
            said.add(f"{fact.label}|{fact.state}|{sorted(fact.sides)}|{fact.severity}")
        said.update(token for token in tokens if token[0].isdigit())
        said.update(token for token in tokens if token in {"left", "right", "no", "not", "without"})
    return ";".join(sorted(said))


def _bands(shingles: frozenset[str]) -> list[int]:
    try:
        from datasketch import MinHash
    except ImportError as error:
        raise ImportError(
            "near duplicates need datasketch: pip install unix-cxr[reports]"
        ) from error
    sketch = MinHash(num_perm=_PERMUTATIONS, seed=1)
    sketch.update_batch([shingle.encode() for shingle in sorted(shingles)])
    values = np.asarray(sketch.hashvalues, dtype=np.uint64).reshape(_BANDS, _ROWS)
    return [
        int.from_bytes(blake2b(bytes((band,)) + row.tobytes(), digest_size=8).digest(), "big") >> 1
        for band, row in enumerate(values)
    ]
