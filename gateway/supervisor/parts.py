"""The parts of a gateway on one machine: command lines, surroundings, and how to see that each is ready."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

from gateway import log
from gateway.config import EngineConfig, Settings, is_loopback, runtime_dir, socket_path
from gateway.redis_io import client, redis_url
from gateway.supervisor import embedded_redis
from gateway.supervisor.children import Launch, Part, Say
from gateway.supervisor.models import draft, ensured, sampling

HEARTBEAT = "fg:background"  # gateway.background.HEARTBEAT, without importing SQLAlchemy for it
_DRAIN_GRACE = 5.0
_log = log.get(__name__)


def all_parts(settings: Settings, listening: int, port: int) -> list[Part]:
    """Every part this machine runs, in the order of starting; they are stopped the other way round."""
    workers = [_worker(settings, listening, port, number) for number in range(settings.config.server.workers)]
    return [*_redis(settings), *_embedder(settings), *_chat(settings), _background(settings), *workers]


def metrics_dir(settings: Settings) -> Path:
    """Where the workers' metrics meet."""
    return runtime_dir(settings.data_dir) / "metrics"


def _redis(settings: Settings) -> list[Part]:
    if settings.config.redis.url:
        return []

    async def launch(say: Say) -> Launch:
        while (claim := embedded_redis.try_claim(settings)) is None:
            say("waiting", "for the last redis-server on these data to end")
            await asyncio.sleep(0.1)
        return Launch(embedded_redis.command(settings), give=(claim,))

    return [Part("redis", launch, partial(_redis_answers, settings), stop_seconds=15.0, essential=True)]


def _embedder(settings: Settings) -> list[Part]:
    embedder = settings.config.embedder
    if embedder.url or not embedder.enabled:
        return []
    beside = settings.config.cache.cross_encoder
    folder = settings.models_dir / Path(beside.model).expanduser() if beside and not beside.url else None
    options = ("--cross-encoder", str(folder)) if folder and folder.is_dir() else ()
    if folder and not options:
        _log.error("cache.cross_encoder: there is no such folder, the verifier decides alone", folder=str(folder))
    return [_model_part(settings, "embed", embedder.model, "embed", options)]


def _chat(settings: Settings) -> list[Part]:
    wanted = {model.local: model.engine for model in reversed(settings.config.models) if model.local and not model.url}
    return [
        _model_part(settings, "chat", name, f"chat-{name}", _engine_options(engine, settings.data_dir / "kv" / name))
        for name, engine in reversed(wanted.items())
    ]


def _engine_options(engine: EngineConfig, keep: Path) -> tuple[str, ...]:
    """Two targets of one local model share its process; the first one's settings hold."""
    options = {
        "--slots": engine.slots,
        "--ctx": engine.context,
        "--default-max-tokens": engine.default_max_tokens,
        "--threads": engine.threads,
        "--gpu-layers": engine.n_gpu_layers,
        "--max-queue": engine.max_queue,
        "--idle-unload": engine.idle_unload,
        "--keep": engine.keep_bytes and keep,
        "--keep-bytes": engine.keep_bytes,
    }
    lazy = ("--lazy",) if engine.load == "lazy" else ()
    return (*(text for option, value in options.items() if value for text in (option, str(value))), *lazy)


def _model_part(settings: Settings, kind: str, name: str, part: str, options: tuple[str, ...] = ()) -> Part:
    socket = socket_path(settings.data_dir, part)

    async def launch(say: Say) -> Launch:
        path = await ensured(name, settings.models_dir, say)
        socket.unlink(missing_ok=True)
        command = (sys.executable, "-m", "local_models", kind, "--model", str(path), "--name", name)
        defaults = ("--defaults", sampling(name), *draft(name, settings.models_dir)) if kind == "chat" else ()
        return Launch((*command, "--uds", str(socket), *defaults, *options))

    return Part(
        socket.stem,
        launch,
        partial(_healthy, "http://part/healthz", str(socket)),
        {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        death_signal=signal.SIGKILL,
    )


def _background(settings: Settings) -> Part:
    async def launch(say: Say) -> Launch:
        return Launch((sys.executable, "-m", "gateway.background"))

    ready = partial(_redis_answers, settings, HEARTBEAT)
    return Part("background", launch, ready, _surroundings(settings), stop_seconds=15.0)


def _worker(settings: Settings, listening: int, port: int, number: int) -> Part:
    config = ("--config", settings.file) if settings.file else ()

    async def launch(say: Say) -> Launch:
        command = (sys.executable, "-m", "gateway.http.worker", "--fd", str(listening), *config)
        return Launch(command, share=(listening,))

    return Part(
        f"worker-{number + 1}",
        launch,
        partial(_healthy, f"{local_url(settings, port)}/healthz", None),
        _surroundings(settings) | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stop_seconds=settings.config.server.drain_seconds + _DRAIN_GRACE,
        essential=True,
        exited=partial(forget_gauges, metrics_dir(settings)),
    )


def _surroundings(settings: Settings) -> dict[str, str]:
    found = {
        "PROMETHEUS_MULTIPROC_DIR": str(metrics_dir(settings)),
        "GATEWAY_DATA_DIR": str(settings.data_dir),
        "GATEWAY_MODELS_DIR": str(settings.models_dir),
    }
    return found | ({"GATEWAY_CONFIG": settings.file} if settings.file else {})


def fresh_metrics_dir(settings: Settings) -> None:
    """Begin counting anew: the files of processes that are gone would be added up for ever."""
    shutil.rmtree(metrics_dir(settings), ignore_errors=True)
    metrics_dir(settings).mkdir(mode=0o700)


def forget_gauges(folder: Path, pid: int) -> None:
    """Live gauges of a worker that died; its counters stay, see prometheus_client.multiprocess."""
    for file in folder.glob(f"gauge_live*_{pid}.db"):
        file.unlink(missing_ok=True)


def local_url(settings: Settings, port: int) -> str:
    """The gateway as seen from this machine."""
    host = settings.config.server.host
    if not is_loopback(host):
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _healthy(url: str, uds: str | None) -> bool:
    return (await status(url, uds))[0] == 200


async def status(url: str, uds: str | None = None) -> tuple[int, bytes]:
    """HTTP status and body of a GET; status 0 where nothing answers within two seconds."""
    import aiohttp

    connector = aiohttp.UnixConnector(uds) if uds else aiohttp.TCPConnector()
    timeout = aiohttp.ClientTimeout(total=2.0)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(url) as reply,
        ):
            return reply.status, await reply.read()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return 0, b""


async def _redis_answers(settings: Settings, key: str = "") -> bool:
    """Whether Redis answers, and has ``key`` where one is given."""
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError

    redis = client(redis_url(settings), socket_timeout=2.0, retry=Retry(NoBackoff(), 0))
    try:
        return bool(await (redis.exists(key) if key else redis.ping()))
    except (RedisError, OSError, TimeoutError):
        return False
    finally:
        await redis.aclose()
