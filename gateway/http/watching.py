"""``/admin/probes`` and ``/admin/routing``: what golden prompts and the books say; and the same for ``/metrics``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.http.admin import keeping
from gateway.http.peer import require_role

if TYPE_CHECKING:
    from gateway.runtime import Runtime

_REDIS_S = 0.5


class WatchDesk:
    """For viewers and admins."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def routes(self) -> list[Route]:
        return [Route("/admin/probes", self.probes), Route("/admin/routing", self.routing)]

    async def probes(self, request: Request) -> Response:
        """Every target that is asked golden prompts, and when it last changed."""
        from gateway.watching.probes import targets

        await require_role(self._runtime, request.scope)
        found = await keeping(targets(self._runtime.redis, self._runtime.keys))
        return JSONResponse({"object": "list", "data": msgspec.to_builtins(found)})

    async def routing(self, request: Request) -> Response:
        """The last day of routing beside the week before it; no ``until_ms`` before it was counted first."""
        from gateway.watching.routing import latest

        await require_role(self._runtime, request.scope)
        found = await keeping(latest(self._runtime.redis, self._runtime.keys))
        return JSONResponse(msgspec.to_builtins(found) or {"requests": 0, "shifts": []})


async def watched(runtime: Runtime) -> bytes:
    """What ``/metrics`` says besides; nothing while Redis is away."""
    from gateway.watching.exposition import render
    from gateway.watching.probes import targets
    from gateway.watching.routing import latest

    redis, keys = runtime.redis, runtime.keys
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(_REDIS_S):
            return render(await targets(redis, keys), await latest(redis, keys))
    return b""
