"""The semantic tier: the closest stored question of the partition, if it is close enough and the guard agrees.

The threshold is static and strict: no static threshold keeps a stated wrong-answer rate with this kind of encoder, so
until hits are judged one by one, few are better than wrong ones. Each worker holds a copy of the vectors, built from
Redis when it starts and kept up by the event stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from gateway.cache import exact, guard
from gateway.cache.index import PartitionIndex, Vector
from gateway.cache.keys import CacheContext
from gateway.errors import RedisAway, UpstreamError
from gateway.protocols import Embedder
from gateway.redis_io import Keys, RedisLink
from gateway.types import CacheHit

THRESHOLD = 0.97
_EVENTS_KEPT = 20_000
_UNLEARNT_MAX = 256
_BATCH = 8
_log = logging.getLogger(__name__)


class SemanticCache:
    """Recall and remember; ``embedder`` is None where embedding is switched off."""

    def __init__(self, link: RedisLink, keys: Keys, embedder: Embedder | None) -> None:
        self._link, self._keys = link, keys
        self.embedder = embedder
        self._partitions: dict[str, PartitionIndex] = {}
        self._unlearnt: deque[CacheContext] = deque()
        self._learning = asyncio.Lock()

    def candidates(self, context: CacheContext) -> bool:
        """Whether there is anything to compare with: without it, no embedding is computed."""
        index = self._partitions.get(context.partition)
        return bool(context.question) and self.embedder is not None and index is not None and len(index) > 0

    async def recall(self, context: CacheContext) -> tuple[CacheHit | None, Vector | None]:
        """A stored answer to a question that means the same, and the question's embedding if one was computed.

        No entry in the partition: no embedding.
        """
        if not self.candidates(context):
            return None, None
        index = self._partitions[context.partition]
        vectors = await self._embed([context.question])
        if vectors is None:
            return None, None
        vector: Vector = vectors[0]
        if len(vector) != index.dimension:
            return None, vector
        return await self._judge(context, index, vector), vector

    async def _judge(self, context: CacheContext, index: PartitionIndex, vector: Vector) -> CacheHit | None:
        for entry_id, similarity in index.nearest(vector):
            if not similarity >= THRESHOLD:
                return None
            try:
                entry = await exact.fetch(self._link, self._keys, entry_id)
            except RedisAway:
                return None
            if entry is None:
                index.remove(entry_id)
            elif guard.differ(context.question, entry.prompt) is None:
                return CacheHit(entry=entry, tier="semantic", similarity=min(1.0, similarity))
        return None

    async def remember(self, context: CacheContext, vector: Vector | None = None) -> None:
        """Make the answer just stored under ``context.exact`` findable by similar questions. Off the request's path.

        Embedding gives way to the requests that wait for one: a batch at a time, and past a bound nothing more is
        learnt until there is room.
        """
        if not context.question or self.embedder is None:
            return
        if vector is not None:
            await self._keep(context, vector)
        elif len(self._unlearnt) < _UNLEARNT_MAX:
            self._unlearnt.append(context)
            async with self._learning:
                await self._learn()

    async def _learn(self) -> None:
        batch = [self._unlearnt.popleft() for _ in range(min(_BATCH, len(self._unlearnt)))]
        vectors = await self._embed([context.question for context in batch]) if batch else None
        if vectors is not None:
            for context, vector in zip(batch, vectors, strict=True):
                await self._keep(context, vector)

    async def _keep(self, context: CacheContext, vector: Vector) -> None:
        self._add(context.partition, context.exact, vector)
        data = vector.tobytes()
        try:
            await self._link.call("HSET", self._keys.vectors(context.partition), context.exact, data)
            await self._link.call(
                *("XADD", self._keys.events, "MAXLEN", "~", str(_EVENTS_KEPT), "*"),
                *("add", context.exact, "partition", context.partition, "vector", data),
            )
        except RedisAway:
            return

    async def _embed(self, texts: Sequence[str]) -> Vector | None:
        """Shape (texts, dimension); None where the embedder is away."""
        assert self.embedder is not None
        try:
            vectors: Vector = await self.embedder.embed(texts)
        except UpstreamError as error:
            _log.debug("embedder away: %s", error)
            return None
        return vectors

    def _add(self, partition: str, entry_id: str, vector: Vector) -> None:
        index = self._partitions.get(partition)
        if index is None or index.dimension != len(vector):
            index = self._partitions[partition] = PartitionIndex(len(vector))
        index.add(entry_id, vector)

    def apply(self, event: Mapping[bytes, bytes]) -> None:
        """Follow a change made by any worker: ``add``, ``drop`` (an entry) or ``purge`` (all)."""
        if b"purge" in event:
            self._partitions.clear()
        elif entry := event.get(b"add"):
            self._add(event[b"partition"].decode(), entry.decode(), np.frombuffer(event[b"vector"], dtype=np.float32))
        elif dropped := event.get(b"drop"):
            index = self._partitions.get(event[b"partition"].decode())
            if index is not None:
                index.remove(dropped.decode())
                if not len(index):
                    del self._partitions[event[b"partition"].decode()]

    def load(self, partition: str, rows: Mapping[bytes, bytes]) -> None:
        """Take over a partition's vectors as Redis holds them: entry id → float32 bytes."""
        for entry, data in rows.items():
            self._add(partition, entry.decode(), np.frombuffer(data, dtype=np.float32))

    @property
    def size(self) -> int:
        """Vectors held by this worker."""
        return sum(len(index) for index in self._partitions.values())
