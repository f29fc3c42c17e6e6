"""The semantic tier: the stored question of the partition that means the same, if its answer is likely enough to serve.

What is served is decided one by one (:mod:`gateway.cache.decision`). Each worker holds a copy of the vectors
(:mod:`gateway.cache.partitions`), built from Redis when it starts and kept up by the event stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from gateway.cache import codes
from gateway.cache.codes import Vector
from gateway.cache.decision import NEIGHBOURS, Mode
from gateway.cache.index import PartitionIndex
from gateway.cache.judges import Judges, Promise
from gateway.cache.keys import CacheContext
from gateway.cache.partitions import Partitions
from gateway.cache.prefilter import Marker
from gateway.errors import RedisAway, UpstreamError
from gateway.protocols import Embedder, Used
from gateway.redis_io import Keys, RedisLink, Script
from gateway.types import CacheHit

if TYPE_CHECKING:
    from gateway.cache.judges import Second

_EVENTS_KEPT = 20_000
_UNLEARNT_MAX = 4_096
_BATCH = 8
# While more is waiting than one batch, embedding what was answered takes this share of the time; requests come first.
_LEARNING_SHARE = 0.2
_log = logging.getLogger(__name__)

# An answer that has gone meanwhile must leave no vector behind: nothing would ever remove it.
_KEEP = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'add', ARGV[1], 'partition', ARGV[2], 'vector', ARGV[3])
return 1
"""
)


class SemanticCache:
    """Recall and remember; ``embedder`` is None where embedding is switched off."""

    def __init__(self, link: RedisLink, keys: Keys, embedder: Embedder | None, marker: Marker | None = None) -> None:
        self._link, self._keys = link, keys
        self.embedder = embedder
        self.marker = marker or Marker()
        self.partitions = Partitions()
        self.judges = Judges(link, keys)
        self._unlearnt: deque[tuple[CacheContext, Used | None]] = deque()
        self._learning = asyncio.Lock()
        self._closed = asyncio.Event()

    def close(self) -> None:
        """Learn nothing more."""
        self._closed.set()
        self._unlearnt.clear()
        self.partitions.close()

    def identity(self, configured: str) -> str:
        """Whose vectors are compared: the configured model, and what its replies say that it is, so that another model
        behind the same name is another one. '' while none has replied.
        """
        if self.embedder is None:
            return configured
        return f"{configured} {self.embedder.id}" if self.embedder.id else ""

    async def introduce(self, wait_s: float, used: Used | None = None) -> None:
        """Ask the embedder who it is, unless that is known. Raises nothing: it may be away."""
        if self.embedder is not None and self.embedder.id is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._embed(["?"], used)

    def _is_of(self, context: CacheContext) -> bool:
        """Whether the embedder that has just replied is the one whose vectors are in the request's partition."""
        assert self.embedder is not None
        return not context.embedder or context.embedder.endswith(f" {self.embedder.id}")

    def candidates(self, context: CacheContext) -> bool:
        """Whether there is anything to compare with: without it, no embedding is computed."""
        if not context.question or self.embedder is None or self.partitions.get(context.partition) is None:
            return False
        return self.partitions.may_hit(context.partition, self.marker.of(context.question), words=False)

    async def recall(
        self,
        context: CacheContext,
        mode: Mode = "question",
        max_wrong_rate: float = 0.01,
        policy: str = "",
        *,
        local_only: bool = False,
        used: Used | None = None,
    ) -> tuple[CacheHit | None, Vector | None]:
        """A stored answer to a question that means the same, and the question's embedding if one was computed.

        No entry in the partition, or none that can be close enough: no embedding. ``used`` is told what it took.
        """
        index = self.partitions.get(context.partition)
        if index is None or not self.candidates(context):
            return None, None
        # In FAQ mode distant questions count as neighbours, too.
        mark, words = self.marker.of(context.question), mode == "question"
        if not self.partitions.may_hit(context.partition, mark, words=words):
            return None, None
        vectors = await self._embed([context.question], used)
        if vectors is None:
            return None, None
        vector: Vector = vectors[0]
        if len(vector) != index.dimension or not self._is_of(context):
            return None, vector
        promise = Promise(mode, max_wrong_rate, policy, local_only)
        return await self._judge(context, index, vector, promise, used), vector

    async def _judge(
        self, context: CacheContext, index: PartitionIndex, vector: Vector, promise: Promise, used: Used | None
    ) -> CacheHit | None:
        near = await index.search(vector, NEIGHBOURS, self.partitions.thread)
        judged = await self.judges.judge(context, near, promise, used)
        for entry_id in judged.gone:
            self.partitions.remove(context.partition, entry_id)
        return judged.hit

    async def remember(
        self,
        context: CacheContext,
        vector: Vector | None = None,
        second: Second | None = None,
        used: Used | None = None,
    ) -> None:
        """Make the answer just stored under ``context.exact`` findable by similar questions. Off the request's path.
        ``second``: who else may be asked whether it says what a stored one says. ``used`` is told what it took.

        Embedding gives way to the requests that wait for one: a batch at a time, a share of the time, and past a bound
        nothing more is learnt until there is room. Returns at once where another call is at it.
        """
        if not context.question or self.embedder is None:
            return
        if vector is not None:
            if self._is_of(context):
                await self._keep(context, vector)
            await self.judges.learn(context, partial(self._embed, used=used), second)
        elif len(self._unlearnt) < _UNLEARNT_MAX and not self._closed.is_set():
            self._unlearnt.append((context, used))
            if not self._learning.locked():
                async with self._learning:
                    await self._learn()

    async def _learn(self) -> None:
        while self._unlearnt:
            batch, used = self._next_batch()
            began = time.perf_counter()
            vectors = await self._embed([context.question for context in batch], used)
            took = time.perf_counter() - began
            if vectors is not None:
                kept = [(one, vector) for one, vector in zip(batch, vectors, strict=True) if self._is_of(one)]
                await asyncio.gather(*(self._keep(one, vector) for one, vector in kept))
            if len(self._unlearnt) > _BATCH:
                await self._pause(took * (1 / _LEARNING_SHARE - 1))

    def _next_batch(self) -> tuple[list[CacheContext], Used | None]:
        """The oldest that one and the same account pays for."""
        context, used = self._unlearnt.popleft()
        batch = [context]
        while len(batch) < _BATCH and self._unlearnt and self._unlearnt[0][1] == used:
            batch.append(self._unlearnt.popleft()[0])
        return batch, used

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closed.wait(), seconds)
        except TimeoutError:
            return

    async def _keep(self, context: CacheContext, vector: Vector) -> None:
        code = codes.encode(vector) + self.marker.of(context.question)
        self.partitions.add(context.partition, context.exact, code)
        names = (self._keys.exact(context.exact), self._keys.vectors(context.partition), self._keys.events)
        try:
            kept = await self._link.run(_KEEP, names, context.exact, context.partition, code, str(_EVENTS_KEPT))
        except RedisAway:
            return
        if not kept:
            self.partitions.remove(context.partition, context.exact)

    async def _embed(self, texts: Sequence[str], used: Used | None = None) -> Vector | None:
        """Shape (texts, dimension); None where the embedder is away."""
        assert self.embedder is not None
        try:
            vectors: Vector = await self.embedder.embed(texts, used)
        except UpstreamError as error:
            _log.debug("embedder away: %s", error)
            return None
        return vectors

    def apply(self, event: Mapping[bytes, bytes]) -> None:
        """Follow a change made by any worker: ``add``, ``drop`` (an entry) or ``purge`` (all)."""
        self.judges.apply(event)
        if b"purge" in event:
            self.partitions.clear()
        elif entry := event.get(b"add"):
            self.partitions.add(event[b"partition"].decode(), entry.decode(), event[b"vector"])
        elif dropped := event.get(b"drop"):
            self.partitions.remove(event[b"partition"].decode(), dropped.decode())

    @property
    def size(self) -> int:
        """Vectors held by this worker."""
        return len(self.partitions)
