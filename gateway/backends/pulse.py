"""How a target has been doing of late: the time to its first byte, its failures, and the wait for a local one.

Everything is forgotten by half every minute. A target that nobody has asked for a while is *unknown*, not slow: it is
tried again, so that one bad minute does not decide for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from gateway.types import Live

HALF_LIFE_S = 60.0
# Below this weight (one call, two minutes ago) nothing is claimed.
KNOWN = 0.2
# Calls that are taken to have gone well, so that the first failure is not "every call fails".
_PRIOR_CALLS = 1.0
POLL_S = 0.2
_ANSWER_TOKENS = 64


class Load(msgspec.Struct, frozen=True):
    """What an engine says of itself (``GET /v1/load``): seconds, tokens per second of one more stream."""

    predicted_wait_seconds: float = 0.0
    tokens_per_second: float = 0.0
    slots: int = 1
    running: dict[str, int] = {}

    @property
    def free(self) -> int:
        """Slots that an interactive request gets at once; batch work gives way."""
        return max(0, self.slots - self.running.get("interactive", 0))


class Pulse:
    """Of one target. Streams and plain replies are told apart: a plain one's first byte is its last.

    ``load`` asks an engine how busy it is; None for targets that do not say. ``clock`` gives seconds.
    """

    def __init__(
        self, load: Callable[[], Awaitable[Load | None]] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._clock = load, clock
        self._at = clock()
        self._calls, self._errors = 0.0, 0.0
        self._first_ms = {True: 0.0, False: 0.0}
        self._answers = {True: 0.0, False: 0.0}
        self._load = Load()
        self._asked_at = float("-inf")
        self._polling: asyncio.Task[None] | None = None
        self._sent = 0
        self.running = 0

    def handed_on(self, load: Callable[[], Awaitable[Load | None]] | None) -> Pulse:
        """A new one that remembers what this one knows, for the same target under a new configuration."""
        after = Pulse(load, self._clock)
        after._at, after._calls, after._errors = self._at, self._calls, self._errors
        after._first_ms, after._answers = dict(self._first_ms), dict(self._answers)
        after._load, after._asked_at = self._load, self._asked_at
        return after

    def began(self) -> None:
        """A call is under way."""
        self.running += 1
        self._sent += 1

    def left(self) -> None:
        """It ended, however that was."""
        self.running -= 1

    def answered(self, first_ms: float, *, stream: bool) -> None:
        """The first chunk came ``first_ms`` milliseconds after the call was made."""
        self._forget()
        self._calls += 1
        self._answers[stream] += 1
        self._first_ms[stream] += first_ms

    def whole(self, took_ms: float) -> None:
        """A stream that stands for a plain reply took as long to its end; its first chunk has been told of."""
        self._forget()
        self._answers[False] += 1
        self._first_ms[False] += took_ms

    def failed(self) -> None:
        """The target did not answer, or broke off."""
        self._forget()
        self._calls += 1
        self._errors += 1

    def live(self, *, stream: bool) -> Live:
        """Instant. The wait is what the engine said last, and the requests it has been sent since."""
        self._forget()
        known = self._answers[stream] >= KNOWN
        return Live(
            ttft_ms=self._first_ms[stream] / self._answers[stream] if known else None,
            error_rate=self._errors / (self._calls + _PRIOR_CALLS),
            wait_s=self._wait_s(),
        )

    async def close(self) -> None:
        """Stop asking."""
        if (polling := self._polling) is not None:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)

    def _wait_s(self) -> float:
        if self._ask is None:
            return 0.0
        if self._clock() - self._asked_at > POLL_S and self._polling is None:
            self._polling = asyncio.create_task(self._poll(self._ask))
        load = self._load
        ahead = max(0, self._sent - load.free)
        each_s = _ANSWER_TOKENS / load.tokens_per_second if load.tokens_per_second > 0 else 0.0
        return load.predicted_wait_seconds + ahead * each_s / max(1, load.slots)

    async def _poll(self, ask: Callable[[], Awaitable[Load | None]]) -> None:
        sent = self._sent
        try:
            load = await ask()
        finally:
            self._asked_at, self._polling = self._clock(), None
        if load is not None:
            self._load, self._sent = load, self._sent - sent

    def _forget(self) -> None:
        now = self._clock()
        kept = 0.5 ** ((now - self._at) / HALF_LIFE_S)
        self._at = now
        self._calls *= kept
        self._errors *= kept
        for stream in (True, False):
            self._first_ms[stream] *= kept
            self._answers[stream] *= kept
