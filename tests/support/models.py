"""The real models that tests run on, and model processes around them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx

from local_models import fetch

CHAT, EMBED = "smollm2-135m-instruct", "all-MiniLM-L6-v2"
START_SECONDS = 90


def models_dir() -> Path:
    """Where models are kept across runs: GATEWAY_MODELS_DIR, else the gateway's own default."""
    return Path(os.environ.get("GATEWAY_MODELS_DIR", "~/.local/share/farthing/models")).expanduser()


@cache
def chat_model() -> Path:
    """The default chat model's GGUF, fetched and requantised if it is not there yet."""
    return fetch.ensure(CHAT, models_dir())


@cache
def embed_model() -> Path:
    """The default embedder's folder, fetched if it is not there yet."""
    return fetch.ensure(EMBED, models_dir())


def free_port() -> int:
    """A TCP port nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """One that the system gives nobody else within the block; a server may listen on it, since it sets SO_REUSEADDR."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


@contextlib.contextmanager
def process(kind: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m local_models KIND …`, ended with SIGTERM afterwards if it still runs."""
    command = [sys.executable, "-m", "local_models", kind, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()


@contextlib.contextmanager
def served(kind: str, *arguments: str) -> Iterator[str]:
    """A model process on a TCP port, ready to answer. Yields its address, `http://127.0.0.1:PORT`."""
    with reserved_port() as port, process(kind, *arguments, "--port", str(port)) as child:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0) as http:
            wait_ready(http, child)
        yield f"http://127.0.0.1:{port}"


def wait_ready(http: httpx.Client, child: subprocess.Popen[str]) -> list[int]:
    """Watch /healthz until it says 200; the other statuses it gave before that. Fails if the process ends."""
    seen: list[int] = []
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert child.poll() is None, f"the process ended with {child.returncode}"
        with contextlib.suppress(httpx.TransportError):
            status = http.get("/healthz").status_code
            if status == 200:
                return seen
            seen.append(status)
        time.sleep(0.02)
    raise AssertionError(f"not ready within {START_SECONDS} s")
