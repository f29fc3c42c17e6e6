"""When the model is in memory: from the start or from the first request on, and until nobody has asked for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import psutil
from starlette.applications import Starlette

from local_models.chat.engine import Engine
from local_models.serving import Loading

logger = logging.getLogger("local_models")

_LOOK_SECONDS = 1.0


class Warmth(Loading[Engine]):
    """Loads the engine once for however many ask, and unloads it after `idle_seconds` without a request (0: never).

    An eager one loads with the process and says 503 `loading` until it is there, as a supervisor expects. One that is
    lazy, or was unloaded, lets requests wait for the load instead: that they came is why it happens.
    """

    def __init__(
        self, load: Callable[[], Engine], failed: Callable[[], None], lazy: bool = False, idle_seconds: float = 0.0
    ) -> None:
        super().__init__(load, failed)
        self._lazy, self._idle_seconds = lazy, idle_seconds
        self._using, self._used_at = 0, time.monotonic()
        self._change = asyncio.Lock()
        self._load_seconds = 0.0
        self._unloaded = lazy

    @property
    def engine(self) -> Engine | None:
        """The engine, if it is loaded."""
        return self._model

    @property
    def ready(self) -> bool:
        """Whether a request would be answered, if need be after a load."""
        return self._model is not None or self._unloaded

    @contextlib.asynccontextmanager
    async def using(self) -> AsyncIterator[Engine]:
        """The engine, not unloaded before the block ends. Raises Unavailable."""
        self._using += 1
        try:
            yield self._model or await self._again()
        finally:
            self._using -= 1
            self._used_at = time.monotonic()

    async def _again(self) -> Engine:
        if not self._unloaded:
            return self.get()
        async with self._change:
            if self._model is None:
                await asyncio.to_thread(self._run)
                self._unloaded = False
        return self.get()

    def _run(self) -> None:
        started = time.perf_counter()
        super()._run()
        self._load_seconds = time.perf_counter() - started
        if self._model is not None:
            logger.debug("loaded in %.1f s", self._load_seconds)

    def report(self) -> dict[str, Any]:
        """What `/v1/load` says."""
        state = "ready" if self._model else "unloaded" if self._unloaded else "loading"
        rss = psutil.Process().memory_info().rss
        common = {"state": state, "load_seconds": self._load_seconds, "rss_bytes": rss}
        if self._model is None:
            return {**common, "predicted_wait_seconds": self._load_seconds, "tokens_per_second": 0.0}
        return {**common, **msgspec.structs.asdict(self._model.load())}

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Load with the server unless lazy, watch for idleness, close the model after its last request."""
        if not self._lazy:
            self.thread.start()
        watch = asyncio.create_task(self._watch()) if self._idle_seconds else None
        try:
            yield
        finally:
            if watch:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
            if self._model is not None:
                await asyncio.to_thread(self._model.close)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, self._idle_seconds))
            async with self._change:
                idle = time.monotonic() - self._used_at
                if self._model is not None and not self._using and idle >= self._idle_seconds:
                    engine, self._model, self._unloaded = self._model, None, True
                    await asyncio.to_thread(engine.close)
