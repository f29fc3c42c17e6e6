"""How many lines a worker asks at once: as many as live traffic leaves room for.

The measure is the event loop, which is what live requests wait for: how late it is, and how much of its time it
computes. While there are any such requests and it is late or mostly taken, the bound is halved; otherwise it grows by
one (AIMD: Chiu and Jain, 1989). One line may always run.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

MOST = 16
_LOOK_S, _DELAY_S, _TAKEN = 0.05, 0.005, 0.5
QUIET_LOOKS = 20
"""So many looks in a row that saw no live request (a second) before lines have the loop to themselves."""


class Pace:
    """``live``: how many requests are being answered that somebody waits for."""

    def __init__(self, live: Callable[[], int]) -> None:
        self._live = live
        self.allowed, self.running, self._promised = MOST, 0, 0
        self._quiet = QUIET_LOOKS
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._watch: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """First come, first served."""
        if self._waiting or self.running + self._promised >= self.allowed:
            await self._turn()
        self.running += 1
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self.running -= 1
            self._wake()

    async def _turn(self) -> None:
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._promised -= 1
                self._wake()
            raise
        self._promised -= 1

    def _wake(self) -> None:
        while self._waiting and self.running + self._promised < self.allowed:
            turn = self._waiting.popleft()
            if not turn.done():
                self._promised += 1
                turn.set_result(None)

    async def _look(self) -> None:
        """While lines run."""
        loop = asyncio.get_running_loop()
        while self.running or self._waiting:
            before, computed = loop.time(), time.thread_time()
            await asyncio.sleep(_LOOK_S)
            took = loop.time() - before
            self.heed(took - _LOOK_S, (time.thread_time() - computed) / took)

    def heed(self, delay_s: float, taken: float) -> None:
        """The event loop came ``delay_s`` seconds late, and computed for this share of the time since the last look."""
        self._quiet = 0 if self._live() else self._quiet + 1
        if self._quiet < QUIET_LOOKS and (delay_s > _DELAY_S or taken > _TAKEN):
            self.allowed = max(1, self.allowed // 2)
        else:
            self.allowed = min(MOST, self.allowed + 1)
        self._wake()
