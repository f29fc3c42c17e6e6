"""What rules out that any stored question is close enough, before an embedding is computed for the one asked.

Each entry has a mark beside its vector: a hash of the numbers in its question, which the guard wants equal, and a
sketch of its static embedding, one bit for each of some random directions: the bits that differ tell the angle
(Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002).
"""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.cache import segment
from gateway.cache.index import FLAT_FROM
from gateway.cache.static_embedding import StaticEmbedding
from gateway.cache.words import read

_BITS, _NUMBER_BYTES = 512, 8
_SKETCH_BYTES = _BITS // 8
MARK_BYTES = _NUMBER_BYTES + _SKETCH_BYTES
# Of questions of cosine 0.9 or more by the model, 1 % have more bits that differ; docs/cache.md has what it rules out.
MOST_DIFFERING = 115
# Looking through more takes longer than a millisecond of the loop's, and they are not looked through.
_MOST_ROWS = 100_000
_SEED = 0
_NO_SKETCH = bytes(_SKETCH_BYTES)
_log = logging.getLogger(__name__)


class Marker:
    """Makes the marks of questions; without a static embedding, of their numbers only."""

    def __init__(self, static: StaticEmbedding | None = None) -> None:
        self._static = static
        if static is not None:
            random = np.random.default_rng(_SEED)
            self._directions = random.normal(size=(static.dimension, _BITS)).astype(np.float32)
        self.of = lru_cache(2_048)(self._of)

    @property
    def whole(self) -> bool:
        """Whether its marks have sketches."""
        return self._static is not None

    @classmethod
    def at(cls, folder: Path | None) -> Marker:
        """With the token vectors in a model's folder, where it has any."""
        if folder is None:
            return cls()
        try:
            return cls(StaticEmbedding(folder))
        except (OSError, ValueError, KeyError) as reason:
            _log.info("no token vectors, so fewer embeddings are spared: %s", reason)
            return cls()

    def _of(self, question: str) -> bytes:
        """MARK_BYTES long; the sketch is zero where nothing is known."""
        numbers = "\0".join(read(question).numbers).encode()
        digest = hashlib.blake2b(numbers, digest_size=_NUMBER_BYTES).digest()
        vector = self._static.embed(question) if self._static is not None else None
        if vector is None or not vector.any():
            return digest + _NO_SKETCH
        return digest + np.packbits(vector @ self._directions > 0).tobytes()


class Marks:
    """Of one partition's entries."""

    __slots__ = ("_ids", "_numbers", "_places", "_plain", "_sketches")

    def __init__(self) -> None:
        self._numbers, self._sketches = bytearray(), bytearray()
        self._ids: list[str] = []
        self._places: dict[str, int] = {}
        self._plain = 0  # entries without a sketch

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, entry_id: str, mark: bytes) -> None:
        """The first under an id stays: it depends on the question alone."""
        if entry_id not in self._places:
            self._places[entry_id] = len(self._ids)
            self._ids.append(entry_id)
            self._numbers += mark[:_NUMBER_BYTES]
            self._sketches += mark[_NUMBER_BYTES:]
            self._plain += mark.endswith(_NO_SKETCH)

    def remove(self, entry_id: str) -> None:
        place = self._places.pop(entry_id, None)
        if place is None:
            return
        last = self._ids.pop()
        if last != entry_id:
            self._ids[place], self._places[last] = last, place
        self._plain -= _fill(self._sketches, place, _SKETCH_BYTES) == _NO_SKETCH
        _fill(self._numbers, place, _NUMBER_BYTES)

    def may_hit(self, mark: bytes, *, words: bool = True) -> bool:
        """Whether any entry has the same numbers and, with ``words``, is as close as those that hit nearly all are."""
        if len(self) > _MOST_ROWS:
            return True
        same = np.frombuffer(self._numbers, dtype="<u8") == np.frombuffer(mark, dtype="<u8", count=1)
        if not words or mark.endswith(_NO_SKETCH) or self._plain or not same.any():
            return bool(same.any())
        differing = _differing(self._sketches, mark[_NUMBER_BYTES:])
        return bool((same & (differing <= MOST_DIFFERING)).any())


def _fill(rows: bytearray, place: int, width: int) -> bytes:
    """The last row takes the place of another, which is returned."""
    gone = bytes(rows[place * width : (place + 1) * width])
    rows[place * width : (place + 1) * width] = rows[-width:]
    del rows[-width:]
    return gone


def _differing(sketches: bytearray, asked: bytes) -> NDArray[np.int32]:
    """Of each sketch, how many bits are not as in ``asked``. FAISS takes a millisecond for a hundred thousand."""
    if len(sketches) < _SKETCH_BYTES * FLAT_FROM:
        rows = np.frombuffer(sketches, dtype="<u8").reshape(-1, _SKETCH_BYTES // 8)
        return np.asarray(np.bitwise_count(rows ^ np.frombuffer(asked, dtype="<u8")).sum(axis=1, dtype=np.int32))
    return segment.hamming(
        np.frombuffer(sketches, dtype=np.uint8).reshape(-1, _SKETCH_BYTES), np.frombuffer(asked, np.uint8)
    )
