"""``/healthz`` and ``/readyz``: is this worker alive, and can requests be answered."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.backends.connect import reach
from gateway.config import socket_path

if TYPE_CHECKING:
    from gateway.runtime import Runtime

_PROBE_S = 1.0
_FRESH_S = 0.5
_BACKGROUND = "fg:background"


class Health:
    """Probes the configured parts, at most twice a second whoever asks.

    Ready means: every part has been ready once, and requests can be answered now.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._once: set[str] = set()
        self._parts: dict[str, str] = {}
        self._at = 0.0
        self._lock = asyncio.Lock()

    async def healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        async with self._lock:
            if time.monotonic() - self._at > _FRESH_S:
                self._parts = await self._probe()
                self._at = time.monotonic()
        ready = set(self._parts) <= self._once and self._answers() and not self._runtime.draining
        body: dict[str, Any] = {"status": "ready" if ready else "not ready", "parts": self._parts}
        return JSONResponse(body, status_code=200 if ready else 503)

    def _answers(self) -> bool:
        view = self._runtime.view
        return any(view.fleet.unavailable(model.name) is None for model in view.settings.config.models)

    async def _probe(self) -> dict[str, str]:
        probes = {"redis": self._redis(), "background": self._background()}
        view = self._runtime.view
        for model in view.settings.config.models:
            if model.local is not None:
                probes[f"chat:{model.name}"] = self._part(f"chat-{model.local}", model.url)
        embedder = view.settings.config.embedder
        if embedder.enabled and embedder.url is None:
            probes["embedder"] = self._part("embed", None)
        states = await asyncio.gather(*probes.values())
        parts = dict(zip(probes, states, strict=True))
        self._once |= {name for name, state in parts.items() if state == "ready"}
        return parts

    async def _redis(self) -> str:
        return "ready" if self._runtime.link.connected else "away"

    async def _background(self) -> str:
        try:
            return "ready" if await self._runtime.redis.exists(_BACKGROUND) else "away"
        except Exception:  # whatever redis-py raises while Redis is away, the answer is the same
            return "away"

    async def _part(self, name: str, url: str | None) -> str:
        """A model process: it answers ``/healthz`` with 200 once its model is loaded."""
        uds = str(socket_path(self._runtime.view.settings.data_dir, name)) if url is None else None
        base = "http://local" if url is None else url.rstrip("/").removesuffix("/v1")
        status = await reach(f"{base}/healthz", uds=uds, connect_timeout=_PROBE_S)
        return "away" if status is None else "ready" if status == 200 else "loading"
