"""Following the stream of events in Redis: what one worker changes, all of them hear of, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from gateway import log

if TYPE_CHECKING:
    from redis.asyncio import Redis

Event = Mapping[bytes, bytes]

_BLOCK_MS = 2_000
_AT_ONCE = 100
_BEGINNING = b"0-0"
_CAUGHT_UP_TRIES = 250
_log = log.get(__name__)


class _Missed(Exception):
    """Events may have gone unread."""


class Follower:
    """One reader of the stream. ``catch_up`` makes a copy true from scratch, ``apply`` keeps it so from there on;
    ``lost`` is called when it may no longer be true, because Redis is away.

    Copies that differ much in what catching up takes have a follower each: a revocation does not wait for an index.
    """

    def __init__(
        self,
        redis: Redis,
        stream: str,
        catch_up: Callable[[], Awaitable[None]],
        apply: Callable[[Event], Awaitable[None]],
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._redis, self._stream = redis, stream
        self.catch_up, self.apply, self._lost = catch_up, apply, lost
        self._applied = _BEGINNING

    async def run(self) -> None:
        """For ever: begins anew after every gap and every absence of Redis."""
        while True:
            try:
                newest = await self._newest()
                await self.catch_up()
                self._applied = newest
                while True:
                    self._applied = await self._next(self._applied)
            except _Missed:
                _log.warning("events came faster than they could be followed; comparing with Redis instead")
            except (RedisError, OSError):
                self._lost()
                await asyncio.sleep(0.3)
            except Exception:  # the task's edge: one odd event must not end the following of revocations
                _log.exception("an event could not be applied")
                await asyncio.sleep(0.3)

    async def caught_up(self) -> bool:
        """Whether all events that had been told when this was asked are applied within a moment.

        Raises:
            redis.RedisError
        """
        wanted = _number(await self._newest())
        for _ in range(_CAUGHT_UP_TRIES):
            if _number(self._applied) >= wanted:
                return True
            await asyncio.sleep(0.02)
        return False

    async def _newest(self) -> bytes:
        found: Any = await self._redis.xrevrange(self._stream, count=1)
        return bytes(found[0][0]) if found else _BEGINNING

    async def _next(self, last: bytes) -> bytes:
        """Raises _Missed where the stream was trimmed past ``last``, so that events may be gone unread."""
        reply: Any = await self._redis.xread({self._stream: last}, count=_AT_ONCE, block=_BLOCK_MS)
        if reply and last != _BEGINNING and not await self._redis.xrange(self._stream, last, last):
            raise _Missed
        for _, messages in reply or ():
            for message_id, event in messages:
                last = message_id
                await self.apply(event)
        return last


def _number(event_id: bytes) -> tuple[int, int]:
    milliseconds, _, count = event_id.partition(b"-")
    return int(milliseconds), int(count)
