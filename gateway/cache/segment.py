"""Many vectors of one partition in a FAISS index, flat or a graph (HNSW), eight bits a component.

FAISS's graph cannot remove: what is removed is marked, and the search passes it by. Ids are revealed apart from being
added, so that a graph can grow on another thread while searches see what they saw.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.cache.codes import Vector
from gateway.cache.rows import Found

# Measured on MiniLM's vectors (docs/cache.md): recall@5 of at least 0.98 beside an exact search.
_LINKS, _WIDTH_BUILDING = 32, 80
# Recall falls as a graph grows, unless more of it is looked at.
_WIDTHS = ((50_000, 96), (200_000, 192), (1 << 62, 384))
# What components are given codes: of MiniLM's, none of ten million was past 6.2 / √dimension; other encoders have a few
# that always are, which the sample shows. The sample may also be of questions that are much alike.
_RANGE, _MARGIN = 6.5, 1.5
_SMALLEST = 64
_MIDDLE = 128  # the code of zero


@cache
def _faiss() -> Any:
    import faiss

    return faiss


def one_thread() -> None:
    """Have FAISS use one thread for what the calling thread asks of it."""
    _faiss().omp_set_num_threads(1)


def hamming(rows: NDArray[np.uint8], asked: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Bits of each row, shape (rows, bytes), that are not as ``asked``, shape (bytes,)."""
    faiss, found = _faiss(), np.empty(len(rows), dtype=np.int32)
    faiss.hammings(faiss.swig_ptr(asked), faiss.swig_ptr(rows), 1, *rows.shape, faiss.swig_ptr(found))
    return found


class Segment:
    """Rows in order of their coming. ``lock`` keeps adding and searching apart; ``frozen`` takes no more rows."""

    def __init__(self, index: Any, ids: list[str] | None = None, alive: NDArray[np.bool_] | None = None) -> None:
        self.index = index
        self.ids: list[str] = ids if ids is not None else []
        self.lock = threading.Lock()
        self.frozen = False
        self._alive = alive if alive is not None else np.ones(len(self.ids), dtype=np.bool_)
        self._places = {entry: place for place, entry in enumerate(self.ids) if self._alive[place]}
        self._bits = np.zeros(_SMALLEST, dtype=np.uint8)
        one_thread()
        self._look_up()

    @classmethod
    def flat(cls, sample: Vector) -> Segment:
        """An empty one that is searched whole; ``sample`` (rows, dimension) tells the range of the components."""
        faiss = _faiss()
        kind, metric = faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT
        return cls(_trained(faiss.IndexScalarQuantizer(sample.shape[1], kind, metric), sample))

    @classmethod
    def graph(cls, sample: Vector) -> Segment:
        """An empty one that is searched along its links, by and large."""
        faiss = _faiss()
        kind, metric = faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWSQ(sample.shape[1], kind, _LINKS, metric)
        index.hnsw.efConstruction = _WIDTH_BUILDING
        return cls(_trained(index, sample))

    @classmethod
    def read(cls, path: Path, ids: list[str], alive: NDArray[np.bool_]) -> Segment:
        """A graph as `write` left it. Raises RuntimeError, ValueError where it is none, or has other rows."""
        index = _faiss().read_index(str(path))
        if not hasattr(index, "hnsw") or index.ntotal != len(ids):
            raise ValueError(f"{path} does not hold {len(ids)} rows of a graph")
        return cls(index, ids, alive)

    def write(self, path: Path) -> None:
        """Nothing is added meanwhile; searches may go on."""
        _faiss().write_index(self.index, str(path))

    def overwrite_dead(self) -> None:
        """Give dead rows the vector of a live neighbour: no file is to hold theirs, and the graph needs the places."""
        faiss, hnsw = _faiss(), self.index.hnsw
        storage = faiss.downcast_index(self.index.storage)
        codes = faiss.rev_swig_ptr(storage.codes.data(), storage.ntotal * storage.code_size)
        codes = codes.reshape(storage.ntotal, storage.code_size)
        links = faiss.rev_swig_ptr(hnsw.neighbors.data(), hnsw.neighbors.size())
        firsts, count = faiss.vector_to_array(hnsw.offsets), hnsw.nb_neighbors(0)
        for place in np.flatnonzero(~self.alive).tolist():
            linked = links[firsts[place] : firsts[place] + count].tolist()
            live = next((other for other in linked if 0 <= other < len(self.ids) and self._alive[other]), None)
            codes[place] = codes[live] if live is not None else _MIDDLE

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    @property
    def is_graph(self) -> bool:
        return hasattr(self.index, "hnsw")

    @property
    def dimension(self) -> int:
        return int(self.index.d)

    @property
    def rows(self) -> int:
        """Revealed ones, dead ones too."""
        return len(self.ids)

    @property
    def dead_share(self) -> float:
        return 1 - len(self._places) / len(self.ids) if self.ids else 0.0

    @property
    def alive(self) -> NDArray[np.bool_]:
        """By place; shape (rows,)."""
        return self._alive[: len(self.ids)]

    def grow(self, vectors: Vector) -> None:
        """Add rows that no search sees yet. Any thread, one at a time."""
        with self.lock:
            self.index.add(np.ascontiguousarray(vectors))

    def reveal(self, ids: Sequence[str], alive: NDArray[np.bool_] | None = None) -> None:
        """The ids of the rows added last, and which of them are still wanted."""
        first = len(self.ids)
        wanted = np.ones(len(ids), dtype=np.bool_) if alive is None else alive
        self.ids += ids
        self._alive = _room(self._alive, len(self.ids))
        self._alive[first : len(self.ids)] = wanted
        self._places.update((ids[n], first + n) for n in np.flatnonzero(wanted).tolist())
        if len(self.ids) > 8 * len(self._bits):
            self._look_up()
        else:
            start = first - first % 8
            packed = np.packbits(self._alive[start : len(self.ids)], bitorder="little")
            self._bits[start // 8 : start // 8 + len(packed)] = packed

    def append(self, ids: Sequence[str], vectors: Vector) -> None:
        """Add and reveal."""
        self.grow(vectors)
        self.reveal(ids)

    def remove(self, entry_id: str) -> bool:
        """Mark it as dead. False where it was not here."""
        place = self._places.pop(entry_id, None)
        if place is None:
            return False
        self._alive[place] = False
        self._bits[place // 8] &= ~np.uint8(1 << place % 8)
        return True

    def vectors(self, start: int, stop: int) -> Vector:
        """Of the rows from ``start`` to before ``stop``, dead ones too."""
        return np.asarray(self.index.reconstruct_n(start, stop - start), dtype=np.float32)

    def nearest(self, vector: Vector, count: int) -> Found:
        """The closest live ones, best first. The caller holds ``lock`` where rows may be being added."""
        wanted = min(count, len(self._places))
        if wanted < 1:
            return []
        scores, places = self.index.search(vector[None, :], wanted, params=self._parameters)
        found = zip(places[0].tolist(), scores[0].tolist(), strict=True)
        return [(self.ids[place], min(1.0, score)) for place, score in found if place >= 0]

    def _look_up(self) -> None:
        """Room for twice the rows in the bits that a search asks."""
        faiss = _faiss()
        self._bits = np.zeros(max(_SMALLEST, len(self.ids) // 4 + 1), dtype=np.uint8)
        packed = np.packbits(self.alive, bitorder="little")
        self._bits[: len(packed)] = packed
        selector = faiss.IDSelectorBitmap(self._bits)
        if self.is_graph:
            width = next(width for most, width in _WIDTHS if len(self.ids) <= most)
            self._parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=width)
        else:
            self._parameters = faiss.SearchParameters(sel=selector)


def _trained(index: Any, sample: Vector) -> Any:
    faiss = _faiss()
    widest = max(_RANGE / math.sqrt(sample.shape[1]), _MARGIN * float(np.max(np.abs(sample), initial=0.0)))
    widest = min(1.0, widest)
    storage = faiss.downcast_index(index.storage) if hasattr(index, "storage") else index
    faiss.copy_array_to_vector(np.array([-widest, 2 * widest], dtype=np.float32), storage.sq.trained)
    storage.is_trained = index.is_trained = True
    return index


def _room(flags: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    if size <= len(flags):
        return flags
    grown = np.zeros(2 * size, dtype=np.bool_)
    grown[: len(flags)] = flags
    return grown
