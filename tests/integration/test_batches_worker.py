"""Batches and what may happen to the process, or to Redis, in the middle of one; and a real model."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from gateway.batches.job import LINES_AT_ONCE
from tests.support.batches import begun, client, line, over, told
from tests.support.gateway import EVERYTHING_BIG, LOCAL_PRICE, gateway, hosted, write_policies
from tests.support.models import CHAT, chat_model, served
from tests.support.redis_server import RedisServer
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

# A worker whose leases run out within a second: what is tested is the taking over, not the wait for it.
WORKER = """
import gateway.batches.lease as lease
lease.LEASE_S, lease.RENEW_S = 1.0, 0.25
from gateway.http.worker import main
main()
"""
LINES = 150


@contextmanager
def worker(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A worker on a free port, killed in the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd, port = listening.fileno(), listening.getsockname()[1]
        command = [sys.executable, "-c", WORKER, "--fd", str(fd), "--config", f"{folder}/gateway.yaml"]
        process = subprocess.Popen(command, pass_fds=[fd], env=os.environ | {"BIG_KEY": "secret"})
    try:
        yield process, f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def folder(tmp_path: Path, upstream: Upstream) -> Iterator[Path]:
    config = {
        "data_dir": "data",
        "redis": {"url": f"unix://{tmp_path}/redis.sock"},
        "embedder": {"enabled": False},
        "models": [hosted("big", upstream.base_url)],
    }
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
    write_policies(tmp_path, [EVERYTHING_BIG])
    redis = RedisServer(tmp_path).start()
    yield tmp_path
    redis.kill()


async def interrupted(folder: Path, upstream: Upstream, by: Callable[[subprocess.Popen[bytes]], None]) -> Counter[str]:
    """How often each question came upstream, where one worker began a batch and another ended it."""
    upstream.default = Plan(text="fine", first_delay_s=0.05)
    with worker(folder) as (first, base_url):
        async with client(base_url, "anybody") as ours:
            batch = await begun(ours, [line(number) for number in range(LINES)])
            await until(lambda: upstream.total >= 60)
        await asyncio.to_thread(by, first)
    with worker(folder) as (_, base_url):
        async with client(base_url, "anybody") as ours:
            ended = await over(ours, batch.id)
            answers = await told(ours, ended.output_file_id)
    assert ended.status == "completed"
    assert ended.request_counts
    assert (ended.request_counts.completed, ended.request_counts.failed) == (LINES, 0)
    assert [answer["custom_id"] for answer in answers] == [f"q-{number}" for number in range(LINES)]
    return Counter(request.json["messages"][0]["content"] for request in upstream.requests if request.json)


async def test_after_kill_9_another_worker_goes_on_where_it_was(folder: Path, upstream: Upstream) -> None:
    def kill(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    asked = await interrupted(folder, upstream, kill)

    assert len(asked) == LINES
    assert max(asked.values()) <= 2
    assert sum(count > 1 for count in asked.values()) <= LINES_AT_ONCE  # what was under way, and nothing that was done


async def test_a_worker_that_stops_hands_over_without_asking_anything_twice(folder: Path, upstream: Upstream) -> None:
    def stop(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        process.wait(60)

    assert set((await interrupted(folder, upstream, stop)).values()) == {1}


async def test_it_waits_while_redis_is_away_and_goes_on(tmp_path: Path, upstream: Upstream) -> None:
    upstream.default = Plan(text="fine", first_delay_s=0.02)
    async with gateway(tmp_path, [hosted("big", upstream.base_url)]) as gate:
        async with client(gate.base_url, await gate.key()) as ours:
            batch = await begun(ours, [line(number) for number in range(300)])
            await until(lambda: upstream.total >= 30)
            gate.redis.kill()
            await until(lambda: not gate.runtime.link.connected)
            await until(lambda: all(request.ended_at for request in upstream.requests))  # what had been begun ends
            paused = upstream.total
            await asyncio.sleep(0.3)
            assert upstream.total == paused < 300
            gate.redis.start()
            await until(lambda: gate.runtime.link.connected)  # before, who asks cannot be told apart
            ended = await over(ours, batch.id)
        assert ended.request_counts
        assert (ended.status, ended.request_counts.completed, ended.request_counts.failed) == ("completed", 300, 0)


async def test_a_redis_that_has_lost_everything_loses_no_batch(tmp_path: Path, upstream: Upstream) -> None:
    upstream.default = Plan(text="fine", first_delay_s=0.02)
    async with gateway(tmp_path, [hosted("big", upstream.base_url)]) as gate, client(gate.base_url, "any") as ours:
        batch = await begun(ours, [line(number) for number in range(100)])
        await until(lambda: upstream.total >= 20)
        await gate.runtime.redis.flushall()
        ended = await over(ours, batch.id)
        assert (await ours.files.retrieve(batch.input_file_id)).bytes > 0
    assert ended.request_counts
    assert ended.request_counts.completed + ended.request_counts.failed == 100
    assert upstream.total == 100


@pytest.mark.soak
async def test_a_real_model_answers_in_the_batch_lane(tmp_path: Path) -> None:
    near = {"name": "default", "rules": [{"name": "all", "use": ["small"]}]}
    with served("chat", "--model", str(chat_model()), "--name", CHAT, "--slots", "4") as url:
        small = {"name": "small", "local": CHAT, "url": f"{url}/v1", **LOCAL_PRICE}
        async with gateway(tmp_path, [small], [near]) as gate, client(gate.base_url, "any") as ours:
            ended = await over(ours, (await begun(ours, [line(number, max_tokens=4) for number in range(8)])).id)
            answers = await told(ours, ended.output_file_id)
        async with httpx.AsyncClient() as http:
            told_of = (await http.get(f"{url}/metrics")).text
    assert ended.status == "completed"
    assert ended.usage
    assert len(answers) == 8
    assert ended.usage.output_tokens == 8 * 4
    counted = [row for row in told_of.splitlines() if row.startswith("gen_ai_server_request_duration_seconds_count")]
    assert [row.rpartition(" ")[2] for row in counted if 'lane="batch"' in row] == ["8.0"]
