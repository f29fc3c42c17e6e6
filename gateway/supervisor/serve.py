"""The supervisor: checks, locks, starts every part in order, keeps them alive, and stops them the other way round."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console

from gateway.config import Settings, require_admin_key, runtime_dir
from gateway.supervisor import embedded_redis
from gateway.supervisor.children import Child, State
from gateway.supervisor.errors import CannotStart
from gateway.supervisor.parts import all_parts, fresh_metrics_dir, local_url, status
from gateway.supervisor.screen import Screen

READY_SECONDS = 20.0
HOUSEKEEPING_SECONDS = 60.0
BIND_SECONDS = 3.0
BACKLOG = 2048


def serve(settings: Settings, console: Console) -> int:
    """Run a gateway until SIGTERM or Ctrl-C. Returns the exit status: 0 stopped in order, 1 the start failed.

    Raises:
        ConfigError, CannotStart, RedisUnavailable: before anything was started.
    """
    _check(settings)
    for warning in settings.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    os.umask(0o077)
    for folder in (settings.data_dir, settings.data_dir / "logs", runtime_dir(settings.data_dir)):
        embedded_redis.private_folder(folder)
    with _only_one(settings) as lock, _listening(settings) as listening:
        port = int(listening.getsockname()[1])
        _write_whereabouts(lock, local_url(settings, port))
        fresh_metrics_dir(settings)
        return asyncio.run(Supervisor(settings, listening.fileno(), port, console).run())


def _check(settings: Settings) -> None:
    from gateway.metrics import Metrics
    from gateway.reload import build_view

    require_admin_key(settings)
    build_view(settings, Metrics())
    if not settings.config.redis.url:
        embedded_redis.executable()


@contextlib.contextmanager
def _only_one(settings: Settings) -> Iterator[int]:
    """Hold the data folder. The kernel lets go of the lock with the process, however it ends."""
    path = settings.data_dir / "gateway.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise CannotStart(f"already serving {settings.data_dir}{_whereabouts(path)}") from None
    try:
        yield handle
    finally:
        os.close(handle)


def _write_whereabouts(lock: int, url: str) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"pid": os.getpid(), "url": url}).encode(), 0)


def _whereabouts(path: Path) -> str:
    try:
        found = json.loads(path.read_bytes())
        return f": process {found['pid']}, {found['url']}"
    except (OSError, ValueError, KeyError):
        return ""


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """The one socket all workers accept from: it stays open while any of them restarts."""
    server = settings.config.server
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(listening, (server.host, server.port))
        listening.listen(BACKLOG)
        yield listening


def _bind(listening: socket.socket, address: tuple[str, int]) -> None:
    # Workers of a killed supervisor close the port at once, but not before it is dead.
    deadline = time.monotonic() + BIND_SECONDS
    while True:
        try:
            return listening.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise CannotStart(f"cannot listen on {address[0]}:{address[1]}: {error.strerror}") from None
            time.sleep(0.1)


class Supervisor:
    """Owns the children of one gateway."""

    def __init__(self, settings: Settings, listening: int, port: int, console: Console) -> None:
        self._settings = settings
        self._url = local_url(settings, port)
        parts = all_parts(settings, listening, port)
        self._screen = Screen(console, [part.name for part in parts])
        self._children = [Child(part, settings.data_dir / "logs", self._said) for part in parts]
        self._stop = asyncio.Event()
        self._failed = False
        self._began = time.monotonic()

    async def run(self) -> int:
        """Start, watch, stop. Returns the exit status."""
        self._take_signals()
        for child in self._children:
            child.start()
        start = asyncio.create_task(self._starting())
        housekeeping = asyncio.create_task(self._housekeeping())
        await self._stop.wait()
        await _cancel(start, housekeeping)
        self._screen.settled()
        await self._stop_all()
        self._screen.line("stopped")
        return 1 if self._failed else 0

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _interrupt(self) -> None:
        if self._stop.is_set():
            for child in self._children:
                child.signal(signal.SIGKILL)
        self._stop.set()

    def _reload(self) -> None:
        for child in self._workers():
            child.signal(signal.SIGHUP)

    def _workers(self) -> list[Child]:
        return [child for child in self._children if child.part.name.startswith("worker-")]

    def _said(self, name: str, state: State, detail: str) -> None:
        self._screen.said(name, state, detail)
        child = next(child for child in self._children if child.part.name == name)
        if (state == "restarting" and child.exits == 1 and not child.ever_ready) or state == "failed":
            self._show_log(child)
        if state == "failed":
            self._failed = True
            self._stop.set()

    def _show_log(self, child: Child) -> None:
        for line in child.tail().splitlines():
            self._screen.line(f"  {child.part.name} | {line}", style="dim")

    async def _starting(self) -> None:
        while not all(child.settled for child in self._children):
            await asyncio.sleep(0.1)
            self._screen.refresh()
        waiting = await self._not_ready()
        self._screen.settled()
        self._announce(waiting)

    async def _not_ready(self) -> str:
        """What the gateway itself says it still waits for; empty when it is ready."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            code, body = await status(f"{self._url}/readyz")
            if code == 200:
                return ""
            parts = _parts(body)
            if time.monotonic() > deadline or (parts and set(parts.values()) == {"ready"}):
                return _told(parts)
            await asyncio.sleep(0.1)
            self._screen.refresh()

    def _announce(self, waiting: str) -> None:
        took = time.monotonic() - self._began
        self._screen.line(f"\nFarthing answers at {self._url} (started in {took:.1f} s, Ctrl-C stops it)", style="bold")
        if waiting:
            self._screen.line(f"  not ready yet  {waiting}", style="yellow")
        self._screen.line(f"  dashboard      {self._url}/dashboard")
        self._screen.line(f"  OpenAI client  base_url={self._url}/v1")
        self._screen.line(f"  try            {self._try_it()}")
        for name in self._without_profile():
            self._screen.line(f"  not probed     gateway router probe {name}: then it answers what it was seen to know")

    def _without_profile(self) -> list[str]:
        """Local models of which only rules say what they are good for."""
        from gateway.policy.competence import best

        served = [model.local for model in self._settings.config.models if model.local and not model.url]
        return [name for name in dict.fromkeys(served) if best(self._settings.models_dir, name) is None]

    def _try_it(self) -> str:
        body = '{"model": "auto", "messages": [{"role": "user", "content": "What is the capital of France?"}]}'
        anonymous = self._settings.config.auth.anonymous == "loopback"
        key = "" if anonymous else ' -H "authorization: Bearer $(gateway keys create try)"'
        return f"curl {self._url}/v1/chat/completions{key} -H 'content-type: application/json' -d '{body}'"

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            for child in self._children:
                child.bound_log()

    async def _stop_all(self) -> None:
        """Workers drain while all they need still runs; then the ledger's writer, the models, and Redis last."""
        self._screen.line("stopping: requests in flight are finished first (Ctrl-C again: at once)")
        workers = self._workers()
        rest = [child for child in self._children if child not in workers]
        await asyncio.gather(*(child.stop() for child in workers))
        for child in reversed(rest):
            await child.stop()


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _parts(body: bytes) -> dict[str, str]:
    try:
        return dict(msgspec.json.decode(body)["parts"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return {}


def _told(parts: dict[str, str]) -> str:
    late = ", ".join(f"{name} is {state}" for name, state in parts.items() if state != "ready")
    return late or "no model can answer: set a provider's key, or configure a local model"
