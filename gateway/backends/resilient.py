"""A backend around a backend: tries again what may pass, and keeps away from a target that is not well."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from time import perf_counter
from typing import cast

import msgspec

from gateway.backends import translate
from gateway.backends.breaker import Breaker
from gateway.backends.pulse import Pulse
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamUnavailable
from gateway.protocols import Backend
from gateway.types import Attempt, ChatRequest, Chunk

# Full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), in seconds.
BACKOFF_S, MAX_BACKOFF_S = 0.2, 2.0
# A target that asks for a longer pause is given up at once: somebody is waiting.
LONGEST_WAIT_S = 5.0
PROBE_S, MAX_PROBE_S = 0.5, 5.0

# The first chunk and the generator of the others.
Begun = tuple[Chunk, AsyncGenerator[Chunk, None]]


class Watch(msgspec.Struct, frozen=True):
    """What a caller wants to hear of the upstream calls made for it.

    ``attempt``: one has answered or ended. ``before_retry``: another is about to be made though the one before may be
    billed; what it raises ends the call.
    """

    attempt: Callable[[Attempt], None] = lambda _: None
    before_retry: Callable[[str], Awaitable[None]] | None = None


def may_be_billed(error: UpstreamError) -> bool:
    """Whether upstream may have worked for a call that failed so: it was sent, and no status said no."""
    unsent = isinstance(error, UpstreamUnavailable) and error.connect
    return not unsent and error.upstream_status is None


class Resilient:
    """``backend`` with retries (on 429, 5xx and connect errors, before the first chunk only) and a circuit breaker.

    ``probe`` says whether an unreachable target is back; it is asked in the background, 0.5 → 5 s apart, so that
    no request pays for a trial. Without one, an unreachable target is tried again by a request after a while.
    ``idle`` is set while no call is under way.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        *,
        max_retries: int = 2,
        probe: Callable[[], Awaitable[bool]] | None = None,
        breaker: Breaker | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self.name = name
        self.pulse = pulse or Pulse()
        self.breaker = breaker or Breaker(probed=probe is not None)
        self.idle = asyncio.Event()
        self.idle.set()
        self._active = 0
        self._backend, self._max_retries, self._probe = backend, max_retries, probe
        self._probing: asyncio.Task[None] | None = None

    def shun(self, error: UpstreamError) -> None:
        """Treat the target as having failed like one beside it, on the same host."""
        if self.available() is None:
            self.breaker.failed(error, trial=False)
            self.resume()

    def available(self) -> str | None:
        """Why this target is not to be asked now, None if it may be. Instant."""
        return self.breaker.reason()

    async def chat(
        self, request: ChatRequest, *, timeout_s: float | None = None, watch: Watch | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """See `protocols.Backend.chat`. A target that is cooling down raises UpstreamUnavailable at once."""
        trial = self.breaker.enter()
        self._active += 1
        self.pulse.began()
        self.idle.clear()
        try:
            first, rest = await self._begin(request, timeout_s, watch or Watch())
            async with aclosing(rest):
                self.breaker.answered(trial)
                yield first
                async for chunk in rest:
                    yield chunk
            self.breaker.succeeded()
        except UpstreamError as error:
            self.breaker.failed(error, trial)
            if isinstance(error, UpstreamBroken):
                self.pulse.failed()
            self.resume()
            raise
        finally:
            self.breaker.left(trial)
            self.pulse.left()
            self._active -= 1
            if not self._active:
                self.idle.set()

    def resume(self) -> None:
        """Go on probing an unreachable target whose breaker was taken over; call it on the loop."""
        if self.breaker.unreachable and self._probe is not None and self._probing is None:
            self._probing = asyncio.create_task(self._probe_until_back(self._probe))

    async def close(self) -> None:
        """Stop probing and release connections."""
        if (probing := self._probing) is not None:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
        await self.pulse.close()
        await self._backend.close()

    async def _begin(self, request: ChatRequest, timeout_s: float | None, watch: Watch) -> Begun:
        ends = None if timeout_s is None else perf_counter() + timeout_s
        retries, fresh = 0, False
        while True:
            try:
                return await self._attempt(request, None if ends is None else ends - perf_counter(), watch)
            except UpstreamError as error:
                failure = error
            if failure.code == translate.STALE and not fresh:
                fresh = True
                continue
            pause = self._pause(failure, retries, ends)
            if pause is None:
                raise failure
            retries += 1
            await asyncio.sleep(pause)
            if watch.before_retry and may_be_billed(failure):
                await watch.before_retry(self.name)

    async def _attempt(self, request: ChatRequest, left: float | None, watch: Watch) -> Begun:
        started_ms, began = int(time.time() * 1000), perf_counter()
        status: int | None = None
        said, used = "cancelled", None
        try:
            rest = cast(AsyncGenerator[Chunk, None], self._backend.chat(request, timeout_s=left))
            first = await anext(rest)
            status, said = 200, ""
            self.pulse.answered((perf_counter() - began) * 1000, stream=request.stream)
            return first, rest
        except UpstreamError as error:
            status, said, used = error.upstream_status, error.code, error.used
            if not isinstance(error, UpstreamRefused) and said not in (translate.DEADLINE, translate.STALE):
                self.pulse.failed()
            raise
        finally:
            took = (perf_counter() - began) * 1000
            billed = used if used is not None and used.source != "none" else None
            watch.attempt(
                Attempt(
                    model=self.name, started_ms=started_ms, duration_ms=took, status=status, error=said, usage=billed
                )
            )

    def _pause(self, failure: UpstreamError, retries: int, ends: float | None) -> float | None:
        """Seconds to wait before another try here; None: there is to be none."""
        hopeless = failure.code in (translate.UNREACHABLE, translate.AUTH)
        if not isinstance(failure, UpstreamUnavailable) or hopeless or retries >= self._max_retries:
            return None
        pause = random.uniform(0, min(BACKOFF_S * 2**retries, MAX_BACKOFF_S)) + (failure.retry_after or 0)
        left = LONGEST_WAIT_S if ends is None else min(LONGEST_WAIT_S, ends - perf_counter())
        return pause if (failure.retry_after or 0) <= LONGEST_WAIT_S and pause <= left else None

    async def _probe_until_back(self, probe: Callable[[], Awaitable[bool]]) -> None:
        wait = PROBE_S
        try:
            while self.breaker.unreachable:
                await asyncio.sleep(wait)
                if await probe():
                    self.breaker.recovered()
                wait = min(wait * 2, MAX_PROBE_S)
        finally:
            self._probing = None
