"""One gateway worker: ``python -m gateway.http.worker --fd N [--config FILE]``, on a listening socket it inherits."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn

from gateway.http import lean as lean

# isort: split
from gateway import log
from gateway.backends.embedder import HttpEmbedder
from gateway.config import Settings, load, socket_path
from gateway.errors import ConfigError
from gateway.http.app import create_app
from gateway.http.protocol import BoundedProtocol
from gateway.metrics import Metrics
from gateway.reload import build_view
from gateway.runtime import Runtime

if TYPE_CHECKING:
    from gateway.protocols import Embedder


# A request makes some hundred objects and no cycles; the default of 700 walks the young ones at every third request.
_GC_YOUNG = 50_000


def embedder_of(settings: Settings) -> Embedder | None:
    """The configured embedder; None where embedding is switched off."""
    config = settings.config.embedder
    if not config.enabled:
        return None
    if config.url is not None:
        return HttpEmbedder(config.url, config.model, config.api_key)
    return HttpEmbedder("http://local/v1", config.model, uds=str(socket_path(settings.data_dir, "embed")))


def build_runtime(settings: Settings) -> Runtime:
    """A worker's runtime; connects to nothing yet. Raises ConfigError."""
    metrics = Metrics()
    return Runtime(build_view(settings, metrics), metrics, embedder_of(settings))


def server_config(runtime: Runtime, **overrides: object) -> uvicorn.Config:
    """How uvicorn runs the application."""
    settings = runtime.view.settings.config.server
    options: dict[str, object] = {
        "http": BoundedProtocol,
        "loop": "uvloop",
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "log_config": None,
        "proxy_headers": False,
        "server_header": False,
        "timeout_graceful_shutdown": int(settings.drain_seconds),
        "backlog": 2048,
    }
    return uvicorn.Config(create_app(runtime), **(options | overrides))  # type: ignore[arg-type]


async def serve(settings: Settings, fd: int) -> None:
    """Serve on the inherited socket until SIGTERM, then drain. SIGHUP reloads."""
    runtime = build_runtime(settings)
    server = uvicorn.Server(server_config(runtime))

    def reload() -> None:
        if runtime.on_reload is not None:
            runtime.books.spawn(runtime.on_reload())

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_YOUNG, 20, 50)
    await server.serve(sockets=[socket.socket(fileno=fd)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gateway.http.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="file descriptor of the listening socket")
    parser.add_argument("--config", help="gateway.yaml")
    arguments = parser.parse_args()
    log.setup("worker")
    try:
        settings = load(arguments.config)
        import uvloop

        uvloop.run(serve(settings, arguments.fd))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
