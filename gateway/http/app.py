"""The ASGI application of a worker: routes and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from gateway.dashboard.routes import Dashboard
from gateway.errors import GatewayError
from gateway.http import errors
from gateway.http.admin import Admin
from gateway.http.cache import CacheDesk
from gateway.http.chat import ChatEndpoint
from gateway.http.definitions import Definitions
from gateway.http.endpoint import Load
from gateway.http.experiments import Experiments
from gateway.http.health import Health
from gateway.http.meta import Meta
from gateway.http.middleware import RequestId
from gateway.http.watching import WatchDesk
from gateway.reload import Reloader

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gateway.runtime import Runtime

_CHAT = "/v1/chat/completions"


def create_app(runtime: Runtime) -> ASGIApp:
    """The application over one runtime, which it starts and closes.

    Chat completions go straight to their endpoint: Starlette's stack costs a twentieth of such a request.
    """
    chat: ASGIApp = ChatEndpoint(runtime, Load())
    rest = RequestId(_rest(runtime))
    if runtime.telemetry is not None:
        from gateway.tracing import traced

        chat = traced(chat)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == _CHAT and scope["method"] == "POST":
            await chat(scope, receive, send)
        else:
            await rest(scope, receive, send)

    return app


def _rest(runtime: Runtime) -> Starlette:
    reloader = Reloader(runtime)
    dashboard = Dashboard(runtime, reloader)
    health, meta, admin = Health(runtime), Meta(runtime), Admin(runtime, reloader)
    routes = [
        Route(_CHAT, _only_post, methods=["POST"]),
        Route("/v1/models", meta.models),
        Route("/v1/models/{model:path}", meta.model),
        Route("/v1/requests/{request_id}", meta.request),
        Route("/healthz", health.healthz),
        Route("/readyz", health.readyz),
        Route("/metrics", meta.metrics),
        Route("/admin/keys", admin.keys, methods=["GET", "POST"]),
        Route("/admin/keys/{key_id}", admin.key, methods=["PATCH", "DELETE"]),
        Route("/admin/keys/{key_id}/rotate", admin.rotate, methods=["POST"]),
        Route("/admin/alerts", admin.alerts),
        Route("/admin/alerts/test", admin.alerts, methods=["POST"]),
        Route("/admin/policies", admin.policies),
        Route("/admin/policies/reload", admin.reload, methods=["POST"]),
        Route("/admin/policies/validate", admin.validate, methods=["POST"]),
        Route("/admin/policies/rollback", admin.roll_back, methods=["POST"]),
        Route("/admin/policies/history", admin.history),
        *CacheDesk(runtime).routes(),
        *Definitions(runtime).routes(),
        *WatchDesk(runtime).routes(),
        *Experiments(runtime).routes(),
        *dashboard.routes(),
    ]
    app = Starlette(
        routes=routes,
        lifespan=_lifespan(runtime, reloader, dashboard),
        exception_handlers={
            GatewayError: errors.on_gateway_error,
            HTTPException: errors.on_http_exception,
            Exception: errors.on_bug,
        },
    )
    app.router.redirect_slashes = False
    return app


async def _only_post(_: Request) -> Response:
    raise HTTPException(405)


def _lifespan(
    runtime: Runtime, reloader: Reloader, dashboard: Dashboard
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        runtime.on_reload = reloader.try_reload
        await runtime.start()
        watching = asyncio.create_task(reloader.watch())
        try:
            yield
        finally:
            watching.cancel()
            await dashboard.close()
            await runtime.close()

    return lifespan
