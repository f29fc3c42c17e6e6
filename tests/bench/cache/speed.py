"""Lookups as a worker makes them, at growing sizes, beside the bare embedding call; and a restart with all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import msgspec
import numpy as np

from gateway.backends.embedder import HttpEmbedder
from gateway.cache import codes, exact
from gateway.cache.codes import Vector
from gateway.cache.index import PartitionIndex
from gateway.cache.keys import CacheContext
from gateway.cache.partitions import Partitions
from gateway.cache.prefilter import MARK_BYTES, Marker
from gateway.cache.semantic import SemanticCache
from gateway.cache.snapshot import Snapshots
from gateway.redis_io import Keys, RedisLink, client
from gateway.types import CacheEntry, Usage
from tests.support.models import EMBED, embed_model, process, wait_ready
from tests.support.redis_server import RedisServer

PARTITION = "bench"
_NEAR = Marker().of("")[:8] + bytes(range(MARK_BYTES - 8))
_ASKED, _RECALLED, _NEIGHBOURS = 200, 200, 8


class Near(Marker):
    """Everything asked is near by token vectors, and embedded. Making that out takes what it takes."""

    def _of(self, question: str) -> bytes:
        super()._of(question)
        return _NEAR


class Point(msgspec.Struct, frozen=True):
    """At one size, milliseconds (medians): ``embed_ms`` the bare embedding call, ``recall_ms`` a whole lookup of a new
    question (embedding, search, judging), ``search_ms`` the search alone, ``p99_ms`` of the search. ``own_cpu_ms``,
    ``search_cpu_ms``: CPU this process spends on a lookup beyond that of the embedding call, and on the search; what
    else runs on the machine does not show in them.
    """

    entries: int
    embed_ms: float
    recall_ms: float
    search_ms: float
    p99_ms: float
    own_cpu_ms: float
    search_cpu_ms: float
    recall_at_5: float
    bytes_an_entry: float
    building_s: float

    @property
    def ratio(self) -> float:
        return self.recall_ms / self.embed_ms


class Restart(msgspec.Struct, frozen=True):
    """Seconds until a worker that starts holds everything again, with a snapshot, and of them this process's CPU; MB of
    it on disk; bytes in Redis.
    """

    entries: int
    writing_s: float
    reading_s: float
    comparing_s: float
    cpu_s: float
    snapshot_mb: float
    redis_bytes_an_entry: float


class Speed:
    """Grows one partition through ``sizes`` (ascending) and measures at each."""

    def __init__(self, folder: Path, asked: list[str], asked_vectors: Vector, vectors: Vector) -> None:
        self._folder, self._asked, self._asked_vectors, self._vectors = folder, asked, asked_vectors, vectors
        self._ids = [f"{number:032x}" for number in range(len(vectors))]
        self._random = np.random.default_rng(0)

    async def run(self, sizes: list[int]) -> tuple[list[Point], Restart]:
        """Measure at each size, then restart with all of it."""
        with embedder(self._folder) as address, redis(self._folder) as server:
            async with self._cache(address, server) as cache:
                points: list[Point] = []
                held, seconds = 0, 0.0
                for size in sizes:
                    began = time.perf_counter()
                    await self._grow(cache.partitions, held, size)
                    seconds += time.perf_counter() - began
                    held = size
                    points.append(await self._measure(cache, size, seconds))
                    self._say(points[-1])
                restart = await self._restart(server, cache.partitions, held)
                self._say(restart)
                return points, restart

    def _say(self, result: Point | Restart) -> None:
        print(msgspec.json.encode(result).decode(), flush=True)

    @asynccontextmanager
    async def _cache(self, address: str, server: RedisServer) -> AsyncIterator[SemanticCache]:
        link, keys = RedisLink(server.url), Keys()
        await link.start(5)
        model = HttpEmbedder("http://embed/v1", EMBED, uds=address)
        marker = Near.at(embed_model())
        assert marker.whole
        cache = SemanticCache(link, keys, model, marker)
        yield cache
        cache.close()
        await model.close()
        await link.close()

    def _mark(self) -> bytes:
        return _NEAR[:8] + self._random.bytes(MARK_BYTES - 8)

    async def _grow(self, partitions: Partitions, start: int, stop: int) -> None:
        for number in range(start, stop):
            partitions.add(PARTITION, self._ids[number], codes.encode(self._vectors[number]) + self._mark())
            if number % 1000 == 999:
                await asyncio.sleep(0)
        # The only near one is looked at last.
        marks = partitions._marks[PARTITION]
        for place, mark in ((start - 1, self._mark()), (stop - 1, _NEAR)):
            marks.remove(self._ids[place])
            marks.add(self._ids[place], mark)
        for _ in range(3):  # merging what came, and what was left over
            await partitions.tend()

    async def _measure(self, cache: SemanticCache, size: int, seconds: float) -> Point:
        index = cache.partitions.get(PARTITION)
        assert index is not None
        assert cache.embedder is not None
        embed: list[tuple[float, float]] = []
        whole: list[tuple[float, float]] = []
        search: list[tuple[float, float]] = []
        await self._answers(cache, index)
        for text in self._asked[:20]:
            await cache.embedder.embed([text])
        for text, vector in zip(self._asked[:_ASKED], self._asked_vectors, strict=False):
            embed.append(await _timed(cache.embedder.embed([text])))
            whole.append(await _timed(cache.recall(_context(text))))
            search.append(await _timed(index.search(vector, _NEIGHBOURS, cache.partitions.thread)))
        (embed_ms, embed_cpu), (recall_ms, recall_cpu) = _medians(embed), _medians(whole)
        search_ms, search_cpu = _medians(search)
        return Point(
            entries=size,
            embed_ms=embed_ms,
            recall_ms=recall_ms,
            search_ms=search_ms,
            p99_ms=float(np.quantile([wall for wall, _ in search], 0.99)),
            own_cpu_ms=recall_cpu - embed_cpu,
            search_cpu_ms=search_cpu,
            recall_at_5=self._recall(index, size),
            bytes_an_entry=footprint(index),
            building_s=seconds,
        )

    async def _answers(self, cache: SemanticCache, index: PartitionIndex) -> None:
        """Store an answer for each entry that will be found, as it is looked at when it is judged."""
        near = {entry for vector in self._asked_vectors for entry, _ in index.nearest(vector, _NEIGHBOURS)}
        for entry in near:
            prompt = self._asked[int(entry, 16) % len(self._asked)]
            stored = CacheEntry(id=entry, body=b"{}", model="big", usage=Usage(), created_ms=1, prompt=prompt)
            await cache._link.call("SET", cache._keys.exact(entry), exact.encode(stored))

    def _recall(self, index: PartitionIndex, size: int, count: int = 5) -> float:
        """Of the five nearest by exact search: how many are found. Asked: half of them new, half near an entry."""
        near = self._vectors[np.random.default_rng(size).integers(0, size, _RECALLED // 2)]
        asked = np.concatenate([self._asked_vectors[: _RECALLED // 2], near + 0.01])
        scores = np.concatenate([asked @ self._vectors[n : min(size, n + 50_000)].T for n in range(0, size, 50_000)], 1)
        found = 0
        for vector, row in zip(asked, scores, strict=True):
            # Those that are as near as the fifth, but for what a code of eight bits can tell.
            least = np.partition(row, -count)[-count] - 0.001
            found += sum(bool(row[int(entry, 16)] >= least) for entry, _ in index.nearest(vector, count))
        return found / (count * len(asked))

    async def _restart(self, server: RedisServer, partitions: Partitions, size: int) -> Restart:
        keys, connection = Keys(), client(server.url)
        before = int((await connection.info("memory"))["used_memory"])
        for start in range(0, size, 1_000):
            some = range(start, min(size, start + 1_000))
            rows = {self._ids[n]: codes.encode(self._vectors[n]) + self._mark() for n in some}
            await connection.hset(keys.vectors(PARTITION), mapping=rows)  # type: ignore[arg-type]
        used = int((await connection.info("memory"))["used_memory"]) - before
        snapshots = Snapshots(self._folder, every_s=0.0)
        began = time.perf_counter()
        await snapshots.save(partitions.graphs(), _yes)
        written = time.perf_counter()
        spent = time.process_time()
        fresh = Partitions()
        fresh.adopt(await snapshots.load())
        loaded = time.perf_counter()
        await fresh.refill(connection, keys)
        compared, spent = time.perf_counter(), time.process_time() - spent
        assert len(fresh) == size, (len(fresh), size)
        await connection.aclose()
        mb = sum(path.stat().st_size for path in (self._folder / "snapshots").iterdir()) / 1e6
        return Restart(size, written - began, loaded - written, compared - loaded, spent, mb, used / size)


def footprint(index: PartitionIndex) -> float:
    """Bytes an entry in this worker, by its parts."""
    graph, rows = index.graph, len(index)
    fixed = 32 + 49 + 2 * (8 + 104 + 28) + MARK_BYTES  # the id, its places in two lists and two dictionaries
    linked = 0.0
    if graph is not None:
        hnsw = graph.index.hnsw
        linked = (4 * hnsw.neighbors.size() + 8 * hnsw.offsets.size() + 4 * hnsw.levels.size()) / graph.rows
    return fixed + index.dimension + linked + (0 if rows > 1_000 else codes.SCALE_BYTES)


async def _timed(work: Coroutine[Any, Any, object]) -> tuple[float, float]:
    """Milliseconds, and those of this process's CPU."""
    began, spent = time.perf_counter(), time.process_time()
    await work
    return (time.perf_counter() - began) * 1e3, (time.process_time() - spent) * 1e3


def _medians(timed: list[tuple[float, float]]) -> tuple[float, float]:
    return median(wall for wall, _ in timed), median(cpu for _, cpu in timed)


async def _yes() -> bool:
    return True


def _context(text: str) -> CacheContext:
    return CacheContext(partition=PARTITION, exact="asked", normal=None, question=text)


@contextmanager
def embedder(folder: Path) -> Iterator[str]:
    """The embedding process as the supervisor runs it, on a socket."""
    socket = str(folder / "embed.sock")
    with process("embed", "--model", str(embed_model()), "--uds", socket) as child:
        with httpx.Client(base_url="http://embed", transport=httpx.HTTPTransport(uds=socket), timeout=60.0) as http:
            wait_ready(http, child)
        yield socket


@contextmanager
def redis(folder: Path) -> Iterator[RedisServer]:
    (folder / "redis").mkdir(exist_ok=True)
    server = RedisServer(folder / "redis").start()
    try:
        yield server
    finally:
        server.kill()
