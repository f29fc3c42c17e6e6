"""Nearest stored questions in one partition: exact while it is small, by FAISS's graph once that is quicker.

New rows come into plain memory (:class:`Rows`), from there a few hundred at a time into a flat FAISS segment, and from
ten thousand rows on into a graph. What takes longer than a moment, building, is :meth:`PartitionIndex.tend`, a slice
at a time on the one thread a worker has for FAISS, which lets go of the interpreter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np

from gateway.cache import codes, segment
from gateway.cache.codes import Vector
from gateway.cache.rows import Found, Rows
from gateway.cache.segment import Segment

FLAT_FROM, GRAPH_FROM = 1_000, 10_000
_FRESH_MOST = 256
_MERGED_FROM = 2_000
_DEAD_SHARE = 0.2
_SLICE_S, _SLICE_MOST = 0.004, 256
# A search of more than this many rows, or of so large a graph, takes more than about a millisecond of the loop's.
_FLAT_AT_ONCE, _GRAPH_AT_ONCE = 12_000, 300_000
__all__ = ["FaissThread", "Found", "PartitionIndex", "Vector"]
P = ParamSpec("P")
T = TypeVar("T")


class FaissThread:
    """The one thread of a worker on which graphs are built, and searched where that takes long."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="faiss", initializer=segment.one_thread)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(*args, **kwargs))

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


class PartitionIndex:
    """Unit vectors under ids; cosine similarities are true to about 0.001."""

    __slots__ = ("_fresh", "_segments", "dimension")

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._fresh = Rows(dimension)
        self._segments: tuple[Segment, ...] = ()

    def __len__(self) -> int:
        return len(self._fresh) + sum(map(len, self._segments))

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._fresh or any(entry_id in each for each in self._segments)

    def __iter__(self) -> Iterator[str]:
        yield from self._fresh
        for each in self._segments:
            yield from each

    @property
    def graph(self) -> Segment | None:
        return next((each for each in self._segments if each.is_graph), None)

    def adopt(self, graph: Segment) -> None:
        """Take over a graph from a snapshot; the index is empty."""
        segment.one_thread()
        self._segments = (graph,)

    def add(self, entry_id: str, vector: Vector) -> None:
        """Insert or replace; ``vector`` has shape (dimension,) and length 1."""
        self.add_code(entry_id, codes.encode(vector))

    def add_code(self, entry_id: str, code: bytes) -> None:
        """As `add`, of a vector as it is stored."""
        self.remove(entry_id)
        self._fresh.append(entry_id, code)
        if len(self._fresh) >= (_FRESH_MOST if self._segments else FLAT_FROM):
            self._settle()

    def remove(self, entry_id: str) -> None:
        if self._fresh.remove(entry_id):
            return
        for each in self._segments:
            if each.remove(entry_id):
                if not each.is_graph and not each.frozen and each.dead_share > _DEAD_SHARE:
                    self._compact(each)
                return

    def nearest(self, vector: Vector, count: int = 4) -> Found:
        """The closest live entries, best first, with their cosine similarity. Takes as long as it takes."""
        found = self._fresh.nearest(vector, count)
        for each in self._segments:
            with each.lock:
                found += each.nearest(vector, count)
        return _best(found, count)

    async def search(self, vector: Vector, count: int, thread: FaissThread) -> Found:
        """As `nearest`; on ``thread`` where it would hold the event loop for longer than about a millisecond."""
        found = self._fresh.nearest(vector, count)
        for each in self._segments:
            quick = each.rows <= (_GRAPH_AT_ONCE if each.is_graph else _FLAT_AT_ONCE)
            if quick and each.lock.acquire(blocking=False):
                try:
                    found += each.nearest(vector, count)
                finally:
                    each.lock.release()
            else:
                found += await thread.run(_locked, each, vector, count)
        return _best(found, count)

    async def tend(self, thread: FaissThread) -> bool:
        """Build, merge or rebuild what is due. Returns whether the graph is another one or has grown."""
        graph = self.graph
        flat = [each for each in self._segments if each is not graph]
        rows = sum(map(len, flat))
        if graph is None:
            if rows < GRAPH_FROM:
                return False
            await self._rebuild(flat, thread)
        elif graph.dead_share > _DEAD_SHARE:
            await self._rebuild([graph, *flat], thread)
        elif rows >= _MERGED_FROM:
            await self._merge(flat, graph, thread)
        else:
            return False
        return True

    def _settle(self) -> None:
        ids, vectors = self._fresh.take()
        open_one = next((each for each in self._segments if not each.is_graph and not each.frozen), None)
        if open_one is None:
            open_one = Segment.flat(vectors)
            self._segments = (*self._segments, open_one)
        open_one.append(ids, vectors)

    def _compact(self, flat: Segment) -> None:
        live = np.flatnonzero(flat.alive)
        rest = tuple(each for each in self._segments if each is not flat)
        if len(live) >= FLAT_FROM or (len(live) and rest):
            vectors = flat.vectors(0, flat.rows)[live]
            smaller = Segment.flat(vectors)
            smaller.append([flat.ids[place] for place in live], vectors)
            rest = (*rest, smaller)
        else:
            for place in live:
                self._fresh.append(flat.ids[place], codes.encode(flat.vectors(int(place), int(place) + 1)[0]))
        self._segments = rest

    async def _rebuild(self, sources: list[Segment], thread: FaissThread) -> None:
        """A new graph of what is alive, which takes the place of ``sources``."""
        _freeze(sources)
        largest = max(sources, key=len)
        built = Segment.graph(await thread.run(largest.vectors, 0, min(largest.rows, GRAPH_FROM)))
        await self._copy(sources, built, thread, reveal=True)

    async def _merge(self, sources: list[Segment], graph: Segment, thread: FaissThread) -> None:
        _freeze(sources)
        await self._copy(sources, graph, thread, reveal=False)

    async def _copy(self, sources: list[Segment], into: Segment, thread: FaissThread, *, reveal: bool) -> None:
        """Rows that are alive, in slices; those that die meanwhile are dead in ``into``, too.

        ``reveal``: nobody searches ``into`` yet, so its ids may come as its rows do.
        """
        copied: list[tuple[Segment, list[int]]] = []
        for source in sources:
            places = np.flatnonzero(source.alive).tolist()
            size, start = 8, 0
            while start < len(places):
                some = places[start : start + size]
                took = await thread.run(_slice, source, some, into)
                start += len(some)
                size = max(1, min(_SLICE_MOST, 2 * size, int(size * _SLICE_S / max(took, 1e-6))))
                if reveal:
                    into.reveal([source.ids[place] for place in some])
            copied.append((source, places))
        for source, places in copied:
            if not reveal:
                into.reveal([source.ids[place] for place in places], source.alive[places])
            else:
                for place in np.flatnonzero(~source.alive[places]):
                    into.remove(source.ids[places[place]])
        kept = tuple(each for each in self._segments if each not in sources and each is not into)
        self._segments = (into, *kept)


def _freeze(sources: Iterable[Segment]) -> None:
    for each in sources:
        each.frozen = True


def _slice(source: Segment, places: list[int], into: Segment) -> float:
    """Returns the seconds it computed; waiting for the interpreter, which a busy loop holds, is no reason for less."""
    began = time.thread_time()
    first = places[0]
    vectors = source.vectors(first, places[-1] + 1)[[place - first for place in places]]
    into.grow(vectors)
    return time.thread_time() - began


def _locked(one: Segment, vector: Vector, count: int) -> Found:
    with one.lock:
        return one.nearest(vector, count)


def _best(found: Found, count: int) -> Found:
    return sorted(found, key=lambda pair: -pair[1])[:count]
