"""Server processes: start, wait until ready, weigh, stop."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_POLL_S = 0.02
_STOP_S = 20.0


class Skipped(Exception):
    """A contender cannot take part; the message says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `start_s`: from its start to its first answer."""

    pid: int
    start_s: float

    def rss_mb(self) -> float:
        """Resident memory of the process and its descendants, in MB."""
        root = psutil.Process(self.pid)
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)]) / 1e6


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], ready_url: str, log: Path, env: Mapping[str, str], *, within: float = 180.0
) -> Iterator[Server]:
    """Run a server until the block ends.

    Raises:
        Skipped: it ended, or was not ready in time; with the end of its log.
    """
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | dict(env), start_new_session=True
        )
    try:
        while not answers(ready_url):
            if process.poll() is not None or time.monotonic() - began > within:
                raise Skipped(f"did not get ready ({Path(command[0]).name}): {_tail(log)}")
            time.sleep(_POLL_S)
        yield Server(process.pid, time.monotonic() - began)
    finally:
        _stop(process)


def answers(url: str) -> bool:
    """Whether a GET is answered with a 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=30):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
