"""Identical requests in flight share one upstream call (as Go's singleflight does), streams included.

The call runs in a task of its own: whoever began it may leave, and it is given up only when nobody listens any more.
Who comes late is first told what has been said so far.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from gateway.errors import UpstreamBroken
from gateway.types import CacheHit, Chunk

_HELD_MAX = 1024 * 1024
_ENDED_BYTES = 16 * 1024 * 1024
# A request that came before, and looked for its answer before that was stored, still finds the call.
_ENDED_S = 1.0

Key = tuple[str, bool, int | None]
Work = Callable[["SharedCall"], Coroutine[Any, Any, None]]


class SharedCall:
    """An upstream call and what it has said. ``hit``: none was needed, an answer was stored under a similar question.

    ``over`` is True once nothing more will come; ``failure`` says why, where that is not the end of the answer.
    """

    __slots__ = (
        *("_chunks", "_listeners", "_passed", "_room", "_task", "_waiting"),
        *("degraded", "ended", "failure", "held", "hit", "model", "over", "settled", "whole"),
    )

    def __init__(self) -> None:
        self.model = self.degraded = ""
        self.hit: CacheHit | None = None
        self.failure: BaseException | None = None
        self.over, self.settled, self.whole = False, False, True
        self.ended = 0.0
        self.held = 0
        self._chunks: list[Chunk] = []
        self._passed = 0
        self._listeners: set[Listener] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def tell(self, chunk: Chunk) -> None:
        """To everyone who listens. Waits for the slowest where that one is a megabyte behind."""
        self._chunks.append(chunk)
        self.held += len(chunk.data)
        self._wake()
        while self.held > _HELD_MAX:
            self.whole = False  # from now on what all have read is let go, so nobody can join
            self._let_go()
            if self.held > _HELD_MAX and self._listeners:
                self._room = asyncio.get_running_loop().create_future()
                await self._room

    def settle(self) -> None:
        """What it said is stored, or never will be: who comes now finds it there, or is to ask anew."""
        self.settled, self.ended = True, time.perf_counter()

    def listen(self) -> Listener:
        """From the beginning; only while ``whole``."""
        listener = Listener(self)
        self._listeners.add(listener)
        return listener

    def _let_go(self) -> None:
        read = min((listener.place for listener in self._listeners), default=self._passed + len(self._chunks))
        gone = self._chunks[: read - self._passed]
        del self._chunks[: len(gone)]
        self._passed = read
        self.held -= sum(len(chunk.data) for chunk in gone)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _moved(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _left(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        self._moved()
        if not self._listeners and not self.over and self._task is not None:
            self.whole = False
            self._task.cancel()

    def _end(self, failure: BaseException | None) -> None:
        self.over, self.ended = True, time.perf_counter()
        given_up = isinstance(failure, asyncio.CancelledError)
        self.failure = UpstreamBroken("the call was given up") if given_up else failure
        self._task = None
        self._wake()


class Listener:
    """One request's ear on a call; to be left (:meth:`leave`) in the end, which may be said twice."""

    __slots__ = ("call", "place")

    def __init__(self, call: SharedCall) -> None:
        self.call, self.place = call, 0

    async def ready(self) -> None:
        """Until something was said or found. Raises what the call failed with, if it did so before."""
        call = self.call
        while not (call._chunks or call._passed or call.over):
            await self._change()
        if call.failure is not None and not (call._chunks or call._passed):
            raise _copy(call.failure)

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Everything from the beginning to the end. Raises what the call failed with."""
        while True:
            while (chunk := self._read()) is not None:
                yield chunk
            if self._ended():
                return
            await self._change()

    async def last(self) -> Chunk | None:
        """What was said last, once the call is over: all of a plain reply. Raises what the call failed with."""
        last = None
        while True:
            while (chunk := self._read()) is not None:
                last = chunk
            if self._ended():
                return last
            await self._change()

    def leave(self) -> None:
        """The last one to leave ends the call, unless that is over."""
        self.call._left(self)

    def _read(self) -> Chunk | None:
        """The next chunk, where there is one already."""
        call = self.call
        if self.place == call._passed + len(call._chunks):
            return None
        self.place += 1
        call._moved()
        return call._chunks[self.place - call._passed - 1]

    def _ended(self) -> bool:
        if self.call.over and self.call.failure is not None:
            raise _copy(self.call.failure)
        return self.call.over

    async def _change(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self.call._waiting.append(waiting)
        await waiting


class Coalescer:
    """The calls of one worker. ``find`` and ``begin`` never wait, so that two alike cannot slip past each other."""

    def __init__(self) -> None:
        self._calls: dict[Key, SharedCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: deque[tuple[Key, SharedCall]] = deque()
        self._ended_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def find(self, key: Key | None, since: float) -> SharedCall | None:
        """A call under ``key`` that was not settled yet at ``since`` (``time.perf_counter``)."""
        call = self._calls.get(key) if key is not None else None
        return call if call is not None and call.whole and (not call.settled or since < call.ended) else None

    def begin(self, key: Key | None, work: Work, ended: Callable[[], None]) -> Listener:
        """Start ``work``, to be found under ``key`` (None: by nobody), and listen to it.

        ``ended`` is called when it is over, also where it was cancelled before its first step.
        """
        call = SharedCall()
        listener = call.listen()
        task = call._task = asyncio.get_running_loop().create_task(self._run(key, call, work))
        self._tasks.add(task)
        if key is not None:
            self._calls[key] = call

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not call.over:
                self._over(key, call, asyncio.CancelledError())
            ended()

        task.add_done_callback(done)
        return listener

    async def _run(self, key: Key | None, call: SharedCall, work: Work) -> None:
        """Its end is told in the same turn of the loop as its last chunk, so that who listens is woken once."""
        try:
            await work(call)
        except (asyncio.CancelledError, Exception) as failure:  # the task's edge: told to those who listen
            self._over(key, call, failure)
        else:
            self._over(key, call, None)

    def _over(self, key: Key | None, call: SharedCall, failure: BaseException | None) -> None:
        call._end(failure)
        self._keep(key, call)

    async def drain(self) -> None:
        """Wait for every call under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)
            await asyncio.sleep(0)  # what they call when they are done

    def _keep(self, key: Key | None, call: SharedCall) -> None:
        """A whole answer can be found a little longer."""
        if key is None or self._calls.get(key) is not call:
            return
        if call.failure is not None or call.hit is not None or not call.whole:
            del self._calls[key]
            return
        self._ended.append((key, call))
        self._ended_bytes += call.held
        while self._ended_bytes > _ENDED_BYTES:
            self._forget()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_ENDED_S, self._sweep)

    def _forget(self) -> None:
        key, call = self._ended.popleft()
        self._ended_bytes -= call.held
        if self._calls.get(key) is call:
            del self._calls[key]

    def _sweep(self) -> None:
        before = time.perf_counter() - _ENDED_S
        while self._ended and self._ended[0][1].ended <= before:
            self._forget()
        self._timer = asyncio.get_running_loop().call_later(_ENDED_S, self._sweep) if self._ended else None


def _copy(error: BaseException) -> BaseException:
    """The same error for one of many: each adds headers and a traceback of its own."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    if "headers" in copy.__dict__:
        copy.__dict__["headers"] = list(copy.__dict__["headers"])
    return copy
