"""A worker as the supervisor runs it: a process on a socket it inherits."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest
import yaml

from tests.support.gateway import EVERYTHING_BIG, hosted, write_policies
from tests.support.pace import allowed
from tests.support.redis_server import RedisServer
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

BODY = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
HEAVY = ("torch", "llama_cpp", "litellm", "sentence_transformers", "transformers", "sqlalchemy", "aiohttp")


class Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    http: httpx.AsyncClient
    folder: Path
    started_s: float


@pytest.fixture
async def worker(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Worker]:
    config = {
        "data_dir": "data",
        "redis": {"url": f"unix://{tmp_path}/redis.sock"},
        "embedder": {"enabled": False},
        "models": [hosted("big", upstream.base_url)],
    }
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
    write_policies(tmp_path, [EVERYTHING_BIG])
    redis = RedisServer(tmp_path).start()
    began = time.perf_counter()
    process, port = started(tmp_path)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            assert (await http.get("/healthz")).status_code == 200
            yield Worker(process, http, tmp_path, time.perf_counter() - began)
    finally:
        process.kill()
        process.wait()
        redis.kill()


def started(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A worker on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd, port = listening.fileno(), listening.getsockname()[1]
        command = [sys.executable, "-m", "gateway.http.worker", "--fd", str(fd), "--config", f"{folder}/gateway.yaml"]
        return subprocess.Popen(command, pass_fds=[fd], env=os.environ | {"BIG_KEY": "secret"}), port


async def test_it_answers_and_imports_nothing_heavy(worker: Worker) -> None:
    replies = [await worker.http.post("/v1/chat/completions", json=BODY | {"seed": seed}) for seed in range(5)]

    assert [reply.status_code for reply in replies] == [200] * 5
    mapped = {Path(one.path).as_posix() for one in psutil.Process(worker.process.pid).memory_maps()}
    assert not [path for path in mapped for name in HEAVY if f"/site-packages/{name}/" in path]
    assert worker.started_s < allowed(10.0)  # two seconds on a quiet machine: `make bench` reports it


def test_its_libraries_bring_nothing_along_that_it_does_not_use() -> None:
    code = "import sys, gateway.http.worker; print(*{name.partition('.')[0] for name in sys.modules})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"cel", "redis"} <= set(said)
    assert not {"aiohttp", "opentelemetry", "prompt_toolkit"} & set(said)
    code = "import gateway.http.worker, cel.cli, opentelemetry.metrics; print(cel.cli.main)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


async def test_a_kept_connection_costs_no_delayed_acknowledgement(worker: Worker) -> None:
    """Nagle's algorithm is off: without that every reply after the first on a connection takes 40 ms more."""
    await worker.http.get("/healthz")

    took = []
    for _ in range(10):
        started = time.perf_counter()
        await worker.http.get("/v1/models")
        took.append(time.perf_counter() - started)

    assert min(took) < allowed(0.03)


async def test_a_hangup_reloads(worker: Worker) -> None:
    write_policies(worker.folder, [EVERYTHING_BIG | {"rules": [{"name": "reloaded", "use": ["big"]}]}])

    worker.process.send_signal(signal.SIGHUP)

    async def reloaded() -> bool:
        reply = await worker.http.post("/v1/chat/completions", json=BODY, headers={"x-gateway-cache": "no-cache"})
        return reply.headers["x-gateway-route"] == "reloaded"

    await until(reloaded)


async def test_a_stream_under_way_is_finished_before_it_stops(worker: Worker, upstream: Upstream) -> None:
    upstream.default = Plan(text="one two three four", chunks=4, chunk_delay_s=0.3)
    async with worker.http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as reply:
        parts = reply.aiter_text()
        text = await anext(parts)
        worker.process.send_signal(signal.SIGTERM)
        text += "".join([part async for part in parts])

    assert text.endswith("data: [DONE]\n\n")
    ended = await asyncio.to_thread(worker.process.wait, 15)
    assert ended in (0, -signal.SIGTERM)  # uvicorn raises the signal again once all is closed
