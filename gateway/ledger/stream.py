"""From the Redis stream to SQL: what workers settled becomes rows, each exactly once.

A message of the stream ``Keys.ledger`` holds one thing: ``e``, the JSON of a LedgerEntry, and with it ``c``, its
Content as MessagePack, where that is kept; ``k``, the JSON of the definition of an API key; or ``f``, feedback as JSON
(``{"request_id": …, "score": −1 … 1}``). It is acknowledged and deleted only after the transaction that holds it is on
disk, so a writer may die anywhere: its successor is handed the same messages again, and the store knows what it has.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from gateway import log
from gateway.ledger.errors import LedgerAway, LedgerRefused
from gateway.protocols import LedgerStore
from gateway.redis_io import Keys
from gateway.types import Content

if TYPE_CHECKING:
    from redis.asyncio import Redis

Message = tuple[bytes, dict[bytes, bytes]]

GROUP = "sql"
# One name for every writer there ever is: what a dead one had pending is simply its successor's.
CONSUMER = "writer"
BATCH = 1000
GATHER_S = 0.35
BLOCK_MS = 250
DEAD_MAX = 10_000
_RETRY_FIRST_S, _RETRY_MAX_S = 0.1, 5.0
_log = log.get(__name__)


def dead_key(keys: Keys) -> str:
    """The stream of messages that could not be read or written; the newest ``DEAD_MAX`` are kept for a person."""
    return keys.ledger + ":dead"


class Feedback(msgspec.Struct, frozen=True):
    """What somebody thought of an answer."""

    request_id: str
    score: Annotated[float, msgspec.Meta(ge=-1, le=1)]


@dataclass
class _Batch:
    entries: list[tuple[Message, bytes]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    contents: list[Content] = field(default_factory=list)


class Drain:
    """The one consumer of an organisation's ledger stream.

    ``away`` says why the last try to write failed, '' while writing works.
    """

    def __init__(self, redis: Redis, store: LedgerStore, keys: Keys | None = None) -> None:
        self._redis, self._store = redis, store
        self._keys = keys or Keys()
        self.away = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Move messages until ``stop`` is set; a batch that has begun is finished first.

        Raises:
            redis.RedisError, OSError: Redis is away; nothing is lost, call again.
        """
        await self._join()
        while await self._pending(stop):
            pass
        while not stop.is_set():
            await self._move(await self._next(stop), stop)

    async def catch_up(self) -> None:
        """Move what is in the stream now. Raises LedgerAway at once where SQL cannot be written."""
        await self._join()
        for start in (b"0", b">"):
            while messages := await self._read(start):
                await self._write(messages)

    async def _join(self) -> None:
        from redis.exceptions import ResponseError

        try:
            await self._redis.xgroup_create(self._keys.ledger, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _pending(self, stop: asyncio.Event) -> bool:
        """Move some of what was handed out before and never acknowledged; False when that is all."""
        messages = await self._read(b"0")
        if messages and not stop.is_set():
            await self._move(messages, stop)
        return bool(messages) and not stop.is_set()

    async def _next(self, stop: asyncio.Event) -> list[Message]:
        """Wait for a first message, then gather for a moment: a transaction a row would wear out disk and CPU."""
        messages = await self._read(b">", block_ms=BLOCK_MS)
        if messages and len(messages) < BATCH:
            await _pause(stop, GATHER_S)
            messages += await self._read(b">", count=BATCH - len(messages))
        return messages

    async def _read(self, start: bytes, *, count: int = BATCH, block_ms: int | None = None) -> list[Message]:
        reply: Any = await self._redis.xreadgroup(
            GROUP, CONSUMER, {self._keys.ledger: start}, count=count, block=block_ms
        )
        streams = reply.values() if isinstance(reply, dict) else [messages for _, messages in reply or ()]
        # A message that was deleted while it was pending has no fields.
        return [(message_id, fields or {}) for messages in streams for message_id, fields in messages]

    async def _move(self, messages: Sequence[Message], stop: asyncio.Event) -> None:
        """Write, again and again with back-off while SQL is away; given up only when stopping (they stay pending)."""
        delay = _RETRY_FIRST_S
        while messages:
            try:
                return await self._write(messages)
            except LedgerAway as error:
                self.away = str(error)
                _log.warning("the ledger database is away", reason=self.away, waiting=len(messages))
            await _pause(stop, delay * random.uniform(0.5, 1))
            if stop.is_set():
                return None
            delay = min(delay * 2, _RETRY_MAX_S)
        return None

    async def _write(self, messages: Sequence[Message]) -> None:
        """Put a batch into SQL, what cannot be put there into the dead stream, and let go of all of it."""
        batch, dead = await self._sorted(messages)
        dead += await self._append(batch.entries)
        if batch.scores and (unknown := await self._store.rate(batch.scores)):
            _log.warning("feedback on requests that have no row", requests=len(unknown))
        if batch.contents:
            await self._store.put_contents(batch.contents)
        await self._release(messages, dead)
        self.away = ""

    async def _sorted(self, messages: Sequence[Message]) -> tuple[_Batch, list[tuple[Message, str]]]:
        """What the messages hold, and those that cannot be read."""
        batch = _Batch()
        dead: list[tuple[Message, str]] = []
        for message in messages:
            fields = message[1]
            try:
                if b"e" in fields:
                    batch.entries.append((message, fields[b"e"]))
                    if b"c" in fields:
                        batch.contents.append(msgspec.msgpack.decode(fields[b"c"], type=Content))
                elif b"f" in fields:
                    feedback = msgspec.json.decode(fields[b"f"], type=Feedback)
                    batch.scores[feedback.request_id] = feedback.score
                elif b"d" in fields:
                    await self._store.put_definition(fields[b"field"].decode(), fields[b"d"].decode())
                else:
                    await self._store.put_key(msgspec.json.decode(fields[b"k"]))
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, LedgerRefused) as error:
                dead.append((message, f"{type(error).__name__}: {error}"))
        return batch, dead

    async def _append(self, entries: Sequence[tuple[Message, bytes]]) -> list[tuple[Message, str]]:
        """Append a batch; where the database refuses it, halve it until the one row at fault stands alone."""
        try:
            await self._store.append_encoded([entry for _, entry in entries])
        except LedgerRefused as error:
            if len(entries) == 1:
                return [(entries[0][0], str(error))]
            middle = len(entries) // 2
            return await self._append(entries[:middle]) + await self._append(entries[middle:])
        return []

    async def _release(self, messages: Sequence[Message], dead: Sequence[tuple[Message, str]]) -> None:
        pipe = self._redis.pipeline(transaction=True)
        for (message_id, fields), reason in dead:
            _log.error("a ledger message cannot be kept", id=message_id.decode(), reason=reason)
            kept: dict[Any, Any] = {name: value for name, value in fields.items() if name != b"c"}  # has its own end
            kept[b"reason"] = reason
            pipe.xadd(dead_key(self._keys), kept, maxlen=DEAD_MAX, approximate=True)
        ids = [message_id for message_id, _ in messages]
        pipe.xack(self._keys.ledger, GROUP, *ids)
        pipe.xdel(self._keys.ledger, *ids)
        await pipe.execute()


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
