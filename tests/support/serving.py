"""A whole gateway on loopback, started as a user starts it: ``gateway serve``."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.support.models import models_dir

PATIENCE = 90.0
BACK_SECONDS = 15.0
CLI = (sys.executable, "-c", "from gateway.cli import main; main()")
_URL = re.compile(r"Farthing answers at (?P<url>http://\S+)")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """This process's environment without anyone's keys or settings, with sockets under ``folder``."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"GATEWAY_|OPENAI_|ANTHROPIC_", name)}
    own = {
        "XDG_RUNTIME_DIR": str(folder),
        "COLUMNS": "200",
        "GATEWAY_MODELS_DIR": str(models_dir()),
        "UPSTREAM_KEY": "sk-none",
    }
    return kept | own | more


def write_config(folder: Path, **sections: Any) -> Path:
    """A gateway.yaml that serves on a free port with its data in ``folder``."""
    base = {"server": {"port": 0}, "data_dir": str(folder / "data"), "embedder": {"enabled": False}}
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump({**base, **sections}))
    return file


class Serving:
    """``gateway serve`` as a process, with what it prints."""

    def __init__(self, config: Path, env: dict[str, str] | None = None) -> None:
        self.folder = config.parent
        self.lines: list[str] = []
        self._fresh: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            (*CLI, "serve", "--config", str(config)),
            env=env or environment(self.folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as output:
            for line in output:
                self._fresh.put(line.rstrip("\n"))
        self._fresh.put(None)

    def until_line(self, pattern: str, patience: float = PATIENCE) -> str:
        """Wait for the next line in which ``pattern`` is found."""
        deadline = time.monotonic() + patience
        while True:
            try:
                line = self._fresh.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout=5.0)
                state = f"(exit status {self.process.returncode})"
                raise AssertionError(f"no line with {pattern!r} {state} in:\n" + "\n".join(self.lines))
            self.lines.append(line)
            if re.search(pattern, line):
                return line

    def until_ready(self) -> str:
        """Wait for the closing block; the gateway's address."""
        found = _URL.search(self.until_line(_URL.pattern))
        assert found
        self.url = found["url"]
        return self.url

    def rest(self) -> str:
        """Everything it printed; waits for its end."""
        with contextlib.suppress(AssertionError):
            self.until_line(r"(?!)")
        return "\n".join(self.lines)

    def children(self) -> dict[str, psutil.Process]:
        """Its child processes by part: ``redis``, ``chat``, ``embed``, ``background``, ``worker``."""
        found = {}
        for process in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                found[_part(process.cmdline())] = process
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE)


def _part(command: list[str]) -> str:
    words = " ".join(command)
    known = {"redis-server": "redis", "local_models chat": "chat", "local_models embed": "embed"}
    known |= {"gateway.background": "background", "gateway.http.worker": "worker"}
    return next((part for sign, part in known.items() if sign in words), words)


@contextlib.contextmanager
def serving(config: Path, env: dict[str, str] | None = None) -> Iterator[Serving]:
    """A gateway that is ready; stopped in the end, killed where it will not."""
    gateway = Serving(config, env)
    try:
        gateway.until_ready()
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.process.terminate()
            try:
                gateway.process.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                gateway.process.kill()
                gateway.process.wait()


def until(condition: Any, patience: float = PATIENCE) -> None:
    """Ask ``condition()`` again and again until it holds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def answers(url: str, path: str = "/healthz") -> bool:
    """Whether a GET is answered with 200."""
    try:
        return httpx.get(url + path, timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False
