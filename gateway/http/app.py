"""The ASGI application of a worker: routes and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from gateway.dashboard.routes import Dashboard
from gateway.errors import GatewayError
from gateway.http import errors
from gateway.http.admin import Admin
from gateway.http.batches import Batches, runner_of
from gateway.http.cache import CacheDesk
from gateway.http.chat import ChatEndpoint
from gateway.http.definitions import Definitions
from gateway.http.embeddings import EmbeddingsEndpoint
from gateway.http.endpoint import Load
from gateway.http.experiments import Experiments
from gateway.http.files import Files
from gateway.http.formats import paths
from gateway.http.health import Health
from gateway.http.meta import Meta
from gateway.http.middleware import RequestId
from gateway.http.moderations import ModerationsEndpoint
from gateway.http.watching import WatchDesk
from gateway.reload import Reloader

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gateway.batches.runner import Runner
    from gateway.runtime import Runtime


def create_app(runtime: Runtime) -> ASGIApp:
    """The application over one runtime, which it starts and closes.

    What asks a model goes straight to its endpoint: Starlette's stack costs a twentieth of a chat completion.
    """
    load = Load()
    endpoints: dict[str, ASGIApp] = {
        "/v1/chat/completions": ChatEndpoint(runtime, load),
        "/v1/embeddings": EmbeddingsEndpoint(runtime, load),
        "/v1/moderations": ModerationsEndpoint(runtime, load),
        **paths.endpoints(runtime, load),
    }
    rest = RequestId(_rest(runtime, endpoints))
    if runtime.telemetry is not None:
        from gateway.tracing import traced

        endpoints = {path: traced(endpoint) for path, endpoint in endpoints.items()}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked = endpoints.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (asked or rest)(scope, receive, send)

    return app


def _rest(runtime: Runtime, asking: Iterable[str]) -> Starlette:
    reloader = Reloader(runtime)
    dashboard = Dashboard(runtime, reloader)
    runner = runner_of(runtime)
    health, meta, admin = Health(runtime), Meta(runtime), Admin(runtime, reloader)
    routes = [
        *(Route(path, _only_post, methods=["POST"]) for path in asking),
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
        *Files(runtime, runner).routes(),
        *Batches(runtime, runner).routes(),
        *CacheDesk(runtime).routes(),
        *Definitions(runtime).routes(),
        *WatchDesk(runtime).routes(),
        *Experiments(runtime).routes(),
        *dashboard.routes(),
    ]
    app = Starlette(
        routes=routes,
        lifespan=_lifespan(runtime, reloader, dashboard, runner),
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
    runtime: Runtime, reloader: Reloader, dashboard: Dashboard, runner: Runner
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        runtime.on_reload = reloader.try_reload
        await runtime.start()
        runner.start()
        watching = asyncio.create_task(reloader.watch())
        try:
            yield
        finally:
            watching.cancel()
            await dashboard.close()
            await runner.close()
            await runtime.close()

    return lifespan
