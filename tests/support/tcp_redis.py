"""A real Redis on a TCP port of this machine, with a password."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

import redis

from tests.support.redis_server import redis_binary


class TcpRedis:
    """``with TcpRedis(folder, password="…") as server``, then ``server.url(db=1)``."""

    def __init__(self, folder: Path, *, password: str) -> None:
        self._folder, self._password = folder, password
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    def url(self, *, user: str = "", password: str | None = None, db: int = 0) -> str:
        secret = quote(self._password if password is None else password, safe="")
        return f"redis://{user}:{secret}@127.0.0.1:{self.port}/{db}"

    def __enter__(self) -> Self:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--requirepass", self._password]
        command = [redis_binary(), *options, "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                with redis.Redis.from_url(self.url()) as connection:
                    connection.ping()
                return self
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
