"""Nearest stored question in one partition: an exact search, by numpy while small, by FAISS above a thousand rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

_FAISS_ROWS = 1_000
_DEAD_SHARE = 0.2


class PartitionIndex:
    """Unit vectors under ids. Deleting marks a row dead; rows are compacted when a fifth of them are."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._rows: Vector = np.empty((16, dimension), dtype=np.float32)
        self._ids: list[str | None] = []
        self._places: dict[str, int] = {}
        self._faiss: Any = None

    def __len__(self) -> int:
        return len(self._places)

    def add(self, entry_id: str, vector: Vector) -> None:
        """Insert or replace; ``vector`` has shape (dimension,) and length 1."""
        self.remove(entry_id)
        size = len(self._ids)
        if size == len(self._rows):
            self._rows = np.resize(self._rows, (2 * size, self.dimension))
        self._rows[size] = vector
        self._ids.append(entry_id)
        self._places[entry_id] = size
        if self._faiss is not None:
            self._faiss.add(self._rows[size : size + 1])

    def remove(self, entry_id: str) -> None:
        place = self._places.pop(entry_id, None)
        if place is None:
            return
        self._ids[place] = None
        if len(self._ids) - len(self._places) > _DEAD_SHARE * len(self._ids):
            self._compact()

    def nearest(self, vector: Vector, count: int = 4) -> list[tuple[str, float]]:
        """The closest live entries, best first, with their cosine similarity."""
        size = len(self._ids)
        if not self._places:
            return []
        wanted = min(size, count + size - len(self._places))
        if size < _FAISS_ROWS:
            scores = self._rows[:size] @ vector
            order = np.argsort(-scores)[:wanted]
            found = [(int(place), float(scores[place])) for place in order]
        else:
            similarity, places = self._index().search(vector[None, :], wanted)
            found = list(zip(places[0].tolist(), similarity[0].tolist(), strict=True))
        live = [(entry, score) for place, score in found if (entry := self._ids[place]) is not None]
        return live[:count]

    def _index(self) -> Any:
        if self._faiss is None:
            import faiss

            faiss.omp_set_num_threads(1)
            self._faiss = faiss.IndexFlatIP(self.dimension)
            self._faiss.add(self._rows[: len(self._ids)])
        return self._faiss

    def _compact(self) -> None:
        live = [place for place, entry in enumerate(self._ids) if entry is not None]
        self._rows = np.concatenate([self._rows[live], np.empty((16, self.dimension), dtype=np.float32)])
        self._ids = [self._ids[place] for place in live]
        self._places = {entry: place for place, entry in enumerate(self._ids) if entry is not None}
        self._faiss = None
