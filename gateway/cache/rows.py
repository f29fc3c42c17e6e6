"""The vectors of a small partition, or those of a large one that have just come: plain memory, searched whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gateway.cache import codes
from gateway.cache.codes import Vector

Found = list[tuple[str, float]]


class Rows:
    """Codes under ids, one after another; a conversation of its own costs its code and a few hundred bytes."""

    __slots__ = ("_codes", "_ids", "_places", "_width")

    def __init__(self, dimension: int) -> None:
        self._width = dimension + codes.SCALE_BYTES
        self._codes = bytearray()
        self._ids: list[str] = []
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def append(self, entry_id: str, code: bytes) -> None:
        """``entry_id`` is not in here yet."""
        self._places[entry_id] = len(self._ids)
        self._ids.append(entry_id)
        self._codes += code

    def remove(self, entry_id: str) -> bool:
        """The last takes its place. False where it was not here."""
        place = self._places.pop(entry_id, None)
        if place is None:
            return False
        last = self._ids.pop()
        if last != entry_id:
            self._codes[place * self._width : (place + 1) * self._width] = self._codes[-self._width :]
            self._ids[place], self._places[last] = last, place
        del self._codes[-self._width :]
        return True

    def nearest(self, vector: Vector, count: int) -> Found:
        """The closest, best first, with their cosine similarity."""
        if not self._ids or count < 1:
            return []
        scores = self._vectors() @ vector
        some = np.argpartition(-scores, count)[:count] if count < len(scores) else np.arange(len(scores))
        best = some[np.argsort(-scores[some], kind="stable")]
        return [(self._ids[place], float(scores[place])) for place in best]

    def take(self) -> tuple[list[str], Vector]:
        """All ids and their vectors; nothing is left."""
        ids, vectors = self._ids, self._vectors()
        self._codes, self._ids, self._places = bytearray(), [], {}
        return ids, vectors

    def _vectors(self) -> Vector:
        return codes.decode(self._codes, self._width - codes.SCALE_BYTES)
