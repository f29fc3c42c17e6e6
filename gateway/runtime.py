"""Everything that lives in a worker, built once and passed on: connections, copies, the current view, its tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import RedisError

from gateway import log, telemetry
from gateway.auth import KeyRing
from gateway.backends.reranker import HttpReranker
from gateway.books import SCRIPTS, Books
from gateway.budget.spool import Spool
from gateway.cache import segment
from gateway.cache.judges import Pairs
from gateway.cache.prefilter import Marker
from gateway.cache.semantic import SemanticCache
from gateway.cache.snapshot import Snapshots
from gateway.errors import Overloaded, RedisAway, UpstreamError
from gateway.events import Event, Follower
from gateway.ledger.errors import LedgerAway
from gateway.ledger.where import ledger_url
from gateway.pipeline import Pipeline
from gateway.redis_io import Keys, RedisLink, client, redis_url
from gateway.telemetry import Telemetry
from gateway.types import LedgerEntry
from gateway.unary import Unary

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from gateway.metrics import Metrics
    from gateway.protocols import Embedder, LedgerStore, Used
    from gateway.view import View

_RECENT_MAX = 2_000
_REPLAY_S = 0.5
_HEARTBEAT_S = 2.0
_ALIVE_MS = 6_000
_TAIL = 2_000
_TEND_S, _CHECK_S, _INTRODUCE_S = 0.5, 2.0, 2.0
# Above what a follower waits for events: a network that only drops would else leave it deaf to revocations for ever.
_SOCKET_TIMEOUT_S = 4.0
_log = log.get(__name__)


class Runtime:
    """One worker's living parts. ``view`` is swapped whole by :mod:`gateway.reload`."""

    def __init__(self, view: View, metrics: Metrics, embedder: Embedder | None) -> None:
        self.view, self.metrics = view, metrics
        self.worker = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.keys = Keys()
        url = redis_url(view.settings)
        self.link = RedisLink(url, scripts=SCRIPTS)
        self.redis: Redis = client(url, socket_timeout=_SOCKET_TIMEOUT_S)
        self.ring = KeyRing(self.link, self.keys)
        self.embedder = embedder
        self.semantic = SemanticCache(self.link, self.keys, embedder)
        self.semantic.judges.verifier = view.verifier
        self._reranker = HttpReranker.of(view.settings)
        self.semantic.judges.pairs = self._pairs()
        self.snapshots = Snapshots(view.settings.data_dir)
        self._filled, self._unsaved = False, False
        house = (self._read_house, self._apply_house, lambda: self.pipeline.trials.forget(self.view.policies))
        self._house = Follower(self.redis, self.keys.events, *house)
        self._stored = Follower(self.redis, self.keys.events, self._fill_index, self._apply_stored)
        self._token_vectors_read = False
        spool = Spool(spool_folder(view.settings.data_dir), self.worker)
        parts = (self.link, self.keys, spool, metrics, self.worker)
        self.telemetry: Telemetry | None = None
        if telemetry.wanted(view.settings.config.telemetry):
            from gateway.tracing import TracedBooks, TracedPipeline, TracedUnary

            self.telemetry = Telemetry.start(view.settings.config.telemetry, self.worker)
            self.books: Books = TracedBooks(self.telemetry, *parts)
            self.pipeline: Pipeline = TracedPipeline(self.books, self.semantic, metrics, self._remember)
            self.unary: Unary = TracedUnary(self.books, metrics, self._remember)
        else:
            self.books = Books(*parts)
            self.pipeline = Pipeline(self.books, self.semantic, metrics, self._remember)
            self.unary = Unary(self.books, metrics, self._remember)
        self.books.seal = view.seal
        self.on_reload: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.draining = False
        self._recent: OrderedDict[str, LedgerEntry] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []
        self._store: LedgerStore | None = None

    async def start(self, wait_s: float = 1.0) -> None:
        """Connect (waiting up to ``wait_s`` for Redis, then going on without it) and begin the background tasks."""
        await asyncio.gather(self.link.start(wait_s), self._introduce(wait_s))
        following = (self._house.run(), self._stored.run())
        for work in (*following, self._heartbeat(), self._replay_spool(), self._tend_index(), self._check_index()):
            self._tasks.append(asyncio.create_task(work))

    async def close(self) -> None:
        """Finish what was begun, then let go of everything."""
        self.draining = True
        self.semantic.close()
        await self.pipeline.calls.drain()
        await self.pipeline.settling.shadows.close()
        self.pipeline.settling.upkeep.flush()
        await self.books.drain()
        await self._stop_tasks()
        with contextlib.suppress(RedisAway):
            await self.books.replay_spool()
            await self.link.call("DEL", self.keys.alive(self.worker))
        self.books.spool.close()
        self.metrics.flush()
        if self.telemetry is not None:
            await self.telemetry.close()
        await self.view.fleet.close()
        await self.view.operations.close()
        if self.embedder is not None:
            await self.embedder.close()
        if self._reranker is not None:
            await self._reranker.close()
        if self._store is not None:
            await self._store.close()
        await self.link.close()
        await self.redis.aclose()

    def _pairs(self) -> Pairs | None:
        """What the cache asks of the cross-encoder."""
        config, reranker = self.view.settings.config.cache.cross_encoder, self._reranker
        if config is None or reranker is None:
            return None

        async def score(asked: str, stored: Sequence[str], used: Used | None) -> list[float] | None:
            try:
                return await reranker.score(asked, stored, used)
            except UpstreamError as error:
                _log.debug("the cross-encoder is away", reason=str(error))
                return None

        return Pairs(score, config.low, config.high, local=config.url is None)

    async def _stop_tasks(self) -> None:
        """Cancelled until they end: Python 3.11's wait_for(), inside redis-py, now and then swallows a cancellation."""
        running = set(self._tasks)
        while running:
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=0.1)

    async def store(self) -> LedgerStore:
        """The books in SQL, for reading; connected on first use, never on the way of a request."""
        if self._store is None:
            from gateway.ledger.store import SqlStore

            self._store = SqlStore.reader(ledger_url(self.view.settings))
        return self._store

    async def find(self, request_id: str) -> LedgerEntry | None:
        """A settled request of any worker: from this one's memory, from SQL, or still on its way there.

        Raises:
            Overloaded: it may be in the ledger, which cannot be read now.
        """
        if (entry := self._recent.get(request_id)) is not None:
            return entry
        try:
            entry, away = await (await self.store()).get(request_id), False
        except LedgerAway:
            entry, away = None, True
        entry = entry or await self._on_its_way(request_id)
        if entry is None and away:
            raise Overloaded("the ledger cannot be read at the moment", code="ledger_unavailable", retry_after=1.0)
        return entry

    async def _on_its_way(self, request_id: str) -> LedgerEntry | None:
        """A row that is in the stream and not yet in SQL."""
        try:
            messages: Any = await self.redis.xrevrange(self.keys.ledger, count=_TAIL)
        except (RedisError, OSError):
            return None
        needle = request_id.encode()
        for _, fields in messages:
            value = fields.get(b"e", b"")
            if needle in value and (entry := msgspec.json.decode(value, type=LedgerEntry)).request_id == request_id:
                return entry
        return None

    def _remember(self, entry: LedgerEntry) -> None:
        self._recent[entry.request_id] = entry
        if len(self._recent) > _RECENT_MAX:
            self._recent.popitem(last=False)

    async def _heartbeat(self) -> None:
        """While this is fresh, the sweeper leaves this worker's intents alone."""
        while True:
            with contextlib.suppress(RedisAway):
                await self.link.call("SET", self.keys.alive(self.worker), "1", "PX", str(_ALIVE_MS))
            await asyncio.sleep(_HEARTBEAT_S if self.link.connected else 0.2)

    async def _replay_spool(self) -> None:
        while True:
            await asyncio.sleep(_REPLAY_S)
            if self.books.spool.waiting and self.link.connected:
                try:
                    _log.info("spool replayed", rows=await self.books.replay_spool())
                except RedisAway:
                    continue
                except Exception:  # the task's edge: what is spooled is kept, and tried again
                    _log.exception("the spool could not be replayed")

    async def _tend_index(self) -> None:
        if self.embedder is not None:
            await asyncio.to_thread(segment.one_thread)  # importing FAISS holds up whoever does it
        while True:
            try:
                await self._tend_once()
            except (RedisError, OSError):
                _log.debug("redis is away, or the disk full; no snapshot for now")
            except Exception:  # the task's edge: the index goes on as it is
                _log.exception("the index of the cache could not be rebuilt")
            await asyncio.sleep(_TEND_S)

    async def _introduce(self, wait_s: float) -> None:
        await self.semantic.introduce(wait_s, self.pipeline.settling.upkeep.of(self.view.prices))

    async def _tend_once(self) -> None:
        partitions = self.semantic.partitions
        await self._introduce(_INTRODUCE_S)
        if (folder := self._token_vectors()) is not None:
            self._token_vectors_read = True
            self.semantic.marker = await asyncio.to_thread(Marker.at, folder)
        self._unsaved |= await partitions.tend()
        graphs = partitions.graphs()
        if not graphs and self._filled:
            await self.snapshots.remove()
        elif self._unsaved and await self.snapshots.save(graphs, self._stored.caught_up):
            self._unsaved = False

    def _token_vectors(self) -> Path | None:
        """The embedding model's folder, once it has any and they are not in use: it may be pulled while we serve."""
        settings = self.view.settings
        if self.embedder is None or not self.view.embedder_local or self._token_vectors_read:
            return None
        folder = settings.models_dir / settings.config.embedder.model
        return folder if (folder / "static.npz").exists() else None

    async def _check_index(self) -> None:
        """Entries may be deleted in Redis by other hands than ours: no event says so."""
        while True:
            await asyncio.sleep(_CHECK_S)
            with contextlib.suppress(RedisError, OSError):
                await self.semantic.partitions.check(self.redis, self.keys)

    async def _read_house(self) -> None:
        """Keys, budgets and groups from scratch, since events may have been missed: keys are asked for anew."""
        self.ring.forget()
        await self._load_definitions()

    async def _load_definitions(self) -> None:
        fields: Any = await self.redis.hgetall(self.keys.definitions)
        self.books.tree.load(fields)
        self.ring.load(fields)
        self.pipeline.trials.load(fields, self.view.policies)

    async def _apply_house(self, event: Event) -> None:
        if digest := event.get(b"key"):
            self.ring.forget(digest.decode())
        elif b"definitions" in event:
            await self._load_definitions()
        elif b"erased" in event:
            self._recent.clear()
        elif b"reload" in event and self.on_reload is not None and event[b"reload"] != self.worker.encode():
            await self.on_reload()

    async def _fill_index(self) -> None:
        """The index as Redis has it; a million entries take half a minute."""
        if not self._filled:
            self.semantic.partitions.adopt(await self.snapshots.load())
        await self.semantic.partitions.refill(self.redis, self.keys)
        self._filled = True

    async def _apply_stored(self, event: Event) -> None:
        self.semantic.apply(event)


def spool_folder(data_dir: Path) -> Path:
    """Where settlements wait while Redis is away."""
    return data_dir / "spool"
