"""How many lines a worker asks at once: as many as live traffic leaves room for.

The measure is the event loop's own delay, which is what live requests wait for. While there are any and it is long, the
bound is halved; while it is short it grows by one (AIMD: Chiu and Jain, 1989). One line may always run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

MOST = 16
_LOOK_S, _DELAY_S = 0.05, 0.005


class Pace:
    """``live``: how many requests are being answered that somebody waits for."""

    def __init__(self, live: Callable[[], int]) -> None:
        self._live = live
        self.allowed, self.running, self._promised = MOST, 0, 0
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
            before = loop.time()
            await asyncio.sleep(_LOOK_S)
            self.heed(loop.time() - before - _LOOK_S)

    def heed(self, delay_s: float) -> None:
        """The event loop came ``delay_s`` seconds late."""
        if self._live() and delay_s > _DELAY_S:
            self.allowed = max(1, self.allowed // 2)
        else:
            self.allowed = min(MOST, self.allowed + 1)
        self._wake()
