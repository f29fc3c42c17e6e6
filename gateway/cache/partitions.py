"""A worker's copy of all vectors: filled from Redis, kept up by events, checked against Redis, bounded."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from gateway.cache import codes
from gateway.cache.index import GRAPH_FROM, FaissThread, PartitionIndex
from gateway.cache.prefilter import MARK_BYTES, Marks
from gateway.cache.segment import Segment

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.redis_io import Keys

_MOST = 100_000
_AT_ONCE, _ROWS_AT_ONCE = 50, 500
_CHECKED = 1_000


class Partitions:
    """Indexes by partition, the least lately used first. Where there are too many, that one goes."""

    def __init__(self, most: int = _MOST) -> None:
        self.thread = FaissThread()
        self._held: OrderedDict[str, PartitionIndex] = OrderedDict()
        self._marks: dict[str, Marks] = {}
        self._large: set[str] = set()
        self._most = most
        self._odd: dict[str, int] = {}
        self._checked = 0

    def __len__(self) -> int:
        """Vectors in all partitions."""
        return sum(map(len, self._held.values()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def get(self, partition: str) -> PartitionIndex | None:
        """The index of a partition that has any entries."""
        index = self._held.get(partition)
        if index is not None:
            self._held.move_to_end(partition)
        return index

    def may_hit(self, partition: str, mark: bytes, *, words: bool = True) -> bool:
        """Whether a question with this mark may have an answer here; see :meth:`Marks.may_hit`."""
        marks = self._marks.get(partition)
        return marks is not None and marks.may_hit(mark, words=words)

    def graphs(self) -> dict[str, Segment]:
        """By partition, where it is large enough to have one."""
        found = {name: index.graph for name in self._large if (index := self._held.get(name)) is not None}
        return {name: graph for name, graph in found.items() if graph is not None}

    def adopt(self, graphs: Mapping[str, Segment]) -> None:
        """Begin with what a snapshot held; :meth:`refill` is to follow."""
        for partition, graph in graphs.items():
            index = self._held[partition] = PartitionIndex(graph.dimension)
            index.adopt(graph)
            self._large.add(partition)

    def add(self, partition: str, entry_id: str, value: bytes) -> None:
        """``value``: the code and the mark. Both depend on a text alone, and so does the id: what is held stays."""
        code, mark = value[:-MARK_BYTES], value[-MARK_BYTES:]
        index, dimension = self._held.get(partition), codes.dimension_of(code)
        if dimension < 1:
            return
        if index is None or index.dimension != dimension:
            index = self._held[partition] = PartitionIndex(dimension)
            self._marks.pop(partition, None)
            if len(self._held) > self._most:
                self._forget(next(iter(self._held)))
        self._marks.setdefault(partition, Marks()).add(entry_id, mark)
        if entry_id in index:
            return
        index.add_code(entry_id, code)
        if len(index) >= GRAPH_FROM:
            self._large.add(partition)

    def remove(self, partition: str, entry_id: str) -> None:
        index = self._held.get(partition)
        if index is not None:
            index.remove(entry_id)
            if (marks := self._marks.get(partition)) is not None:
                marks.remove(entry_id)
            if not len(index):
                self._forget(partition)

    def clear(self) -> None:
        self._held.clear()
        self._marks.clear()
        self._large.clear()
        self._odd.clear()

    def _forget(self, partition: str) -> None:
        self._held.pop(partition, None)
        self._marks.pop(partition, None)
        self._large.discard(partition)
        self._odd.pop(partition, None)

    async def tend(self) -> bool:
        """Let large partitions build what is due. Returns whether a graph is another one than before."""
        changed = False
        for name in tuple(self._large):
            index = self._held.get(name)
            if index is None or len(index) < GRAPH_FROM // 2:
                self._large.discard(name)
            else:
                changed |= await index.tend(self.thread)
        return changed

    async def refill(self, redis: Redis, keys: Keys) -> None:
        """Hold what Redis holds, no more and no less; what is here already is not fetched into the index again.

        Raises:
            redis.RedisError: half done; do it again.
        """
        gone = set(self._held)
        prefix = keys.vectors("").encode()
        some: list[str] = []
        async for name in redis.scan_iter(match=_literal(prefix) + b"*", count=1000):
            some.append(bytes(name).removeprefix(prefix).decode())
            if len(some) == _AT_ONCE:
                await self._compare(redis, keys, some)
                gone.difference_update(some)
                some = []
        await self._compare(redis, keys, some)
        for partition in gone.difference(some):
            self._forget(partition)

    async def check(self, redis: Redis, keys: Keys) -> None:
        """Some partitions a call, all in turn: whether Redis still holds what is here. It may have been deleted there.

        Raises:
            redis.RedisError
        """
        names = list(islice(self._held, self._checked, self._checked + _CHECKED))
        self._checked = self._checked + len(names) if len(names) == _CHECKED else 0
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            pipe = redis.pipeline(transaction=False)
            for name in some:
                pipe.hlen(keys.vectors(name))
            for name, rows in zip(some, await pipe.execute(), strict=True):
                await self._settle(redis, keys, name, rows)

    async def _settle(self, redis: Redis, keys: Keys, name: str, rows: int) -> None:
        """Events are on their way most of the time: only what is odd twice, by the same number, is looked into."""
        index = self._held.get(name)
        odd = 0 if index is None else len(index) - rows
        if not odd:
            self._odd.pop(name, None)
        elif not rows or self._odd.get(name) == odd:
            self._odd.pop(name, None)
            await self._compare(redis, keys, [name])
        else:
            self._odd[name] = odd

    async def _compare(self, redis: Redis, keys: Keys, names: Sequence[str]) -> None:
        pipe = redis.pipeline(transaction=False)
        for name in names:
            pipe.hscan(keys.vectors(name), 0, count=_ROWS_AT_ONCE)
        for name, first in zip(names, await pipe.execute(), strict=True):
            await self._take_over(redis, keys, name, first)

    async def _take_over(self, redis: Redis, keys: Keys, name: str, reply: Any) -> None:
        index = self._held.get(name)
        gone = set(index) if index is not None else set()
        size = index.dimension + codes.SCALE_BYTES + MARK_BYTES if index is not None else 0
        while True:
            cursor, rows = reply
            marks = self._marks.setdefault(name, Marks()) if gone else None
            for entry, value in rows.items():
                entry_id = entry.decode()
                if marks is not None and entry_id in gone and len(value) == size:
                    marks.add(entry_id, value[-MARK_BYTES:])  # as after a snapshot: its vector is here
                else:
                    self.add(name, entry_id, value)
                gone.discard(entry_id)
            if not cursor:
                break
            reply = await redis.hscan(keys.vectors(name), cursor, count=_ROWS_AT_ONCE)
            await asyncio.sleep(0)
        for entry_id in gone:
            self.remove(name, entry_id)

    def close(self) -> None:
        self.thread.close()


def _literal(pattern: bytes) -> bytes:
    """For MATCH: an organisation may be named with its wildcards."""
    return b"".join(b"[%c]" % letter if letter in b"*?[]" else b"%c" % letter for letter in pattern)
