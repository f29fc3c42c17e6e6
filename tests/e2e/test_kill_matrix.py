"""kill -9 of each process while requests are at each step, Redis and SQL away under load: one row a request, always.

A request counts as admitted once upstream has seen it, or once its answer says which rule decided.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil
import pytest
from redis import Redis
from redis.exceptions import RedisError

from gateway.background import HEARTBEAT
from gateway.ledger.stream import GROUP
from gateway.redis_io import Keys
from tests.support.serving import Serving, environment, serving, write_config
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(600)

Victim = Literal["worker", "background", "redis", "gateway"]
Step = Literal["admitting", "calling", "streaming", "settling", "writing"]
VICTIMS: tuple[Victim, ...] = ("worker", "background", "redis", "gateway")
STEPS: tuple[Step, ...] = ("admitting", "calling", "streaming", "settling", "writing")

PATIENCE_S = 60.0
POLICY = """
name: default
cache: {exact: false, semantic: false}
rules:
  - {name: all, use: [quick]}
"""
KEYS = Keys()


class House:
    """A gateway that may be killed and started again on the same data, and what became of every request."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.folder, self.upstream = folder, upstream
        (folder / "policies").mkdir()
        (folder / "policies" / "default.yaml").write_text(POLICY)
        base = {"provider": "openai_compatible", "base_url": upstream.base_url, "api_key": "k", "max_retries": 0}
        priced = {**base, "price": {"input": 2.5, "output": 10}}
        models = [{"name": name, **priced} for name in ("quick", "held", "streamed")]
        self.config = write_config(folder, models=models, server={"port": 0, "workers": 2})
        self.sent = 0
        self.answered: set[str] = set()
        self._asked = itertools.count()
        self._running = contextlib.ExitStack()
        self.serving: Serving

    def start(self) -> None:
        self.serving = self._running.enter_context(serving(self.config, environment(self.folder)))

    def stop(self) -> None:
        self._running.close()

    def process(self, part: str) -> psutil.Process:
        return psutil.Process(self.serving.process.pid) if part == "gateway" else self.serving.children()[part]

    def kill(self, victim: Victim) -> psutil.Process:
        """As ``kill -9``."""
        process = self.process(victim)
        process.kill()
        return process

    async def back(self, victim: Victim, killed: psutil.Process) -> None:
        """The supervisor starts its parts again; what starts the supervisor is whoever runs it."""
        if victim == "gateway":
            self.serving.process.wait()
            await asyncio.to_thread(self.start)
            return

        def again() -> bool:
            with contextlib.suppress(psutil.NoSuchProcess):
                return self.serving.children().get(victim) not in (None, killed)
            return False

        await until(again, within_s=PATIENCE_S)

    async def ask(self, model: str, *, stream: bool = False) -> None:
        """One request; whatever becomes of it is fine here."""
        self.sent += 1
        body = {
            "model": model,
            "stream": stream,
            "messages": [{"role": "user", "content": f"number {next(self._asked)}"}],
        }
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(base_url=self.serving.url, timeout=PATIENCE_S) as client:
                reply = await client.post("/v1/chat/completions", json=body)
                if "x-gateway-route" in reply.headers:
                    self.answered.add(reply.headers["x-gateway-request-id"])

    @contextlib.asynccontextmanager
    async def load(self, clients: int = 4) -> AsyncIterator[None]:
        """Short requests all the time."""
        over = asyncio.Event()

        async def run() -> None:
            while not over.is_set():
                await self.ask("quick")
                await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(run()) for _ in range(clients)]
        yield
        over.set()
        await asyncio.gather(*tasks)

    async def answers(self, more: int) -> None:
        wanted = len(self.answered) + more
        await until(lambda: len(self.answered) >= wanted, within_s=PATIENCE_S)

    @property
    def reached(self) -> int:
        """How many requests upstream has seen."""
        return sum(received.path.endswith("/chat/completions") for received in self.upstream.requests)

    @contextlib.contextmanager
    def sql_locked(self) -> Iterator[None]:
        """The writer stands in the middle of its work: it has taken rows and cannot write them."""
        books = sqlite3.connect(self.folder / "data" / "ledger.sqlite3", timeout=30, isolation_level=None)
        books.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            books.execute("ROLLBACK")
            books.close()

    def redis(self) -> Redis:
        path = next(self.folder.rglob("redis.sock"), self.folder / "none")
        return Redis(unix_socket_path=str(path), socket_timeout=2.0)

    def writer_is_at_work(self) -> bool:
        with self.redis() as redis, contextlib.suppress(RedisError, KeyError, psutil.NoSuchProcess):
            beat: Any = redis.get(HEARTBEAT)
            return beat is not None and json.loads(beat)["pid"] == self.process("background").pid
        return False

    def rows_are_taken(self) -> bool:
        """Whether the writer holds rows that it has not written."""
        with self.redis() as redis:
            pending: Any = redis.xpending(KEYS.ledger, GROUP)
            return bool(pending["pending"])

    def rows(self) -> list[str]:
        with sqlite3.connect(self.folder / "data" / "ledger.sqlite3", timeout=10) as books:
            return [row[0] for row in books.execute("select request_id from ledger")]

    def left(self) -> dict[str, object]:
        """What is still on its way."""
        with self.redis() as redis:
            kept: dict[str, object] = {"intents": redis.hgetall(KEYS.intents), "stream": redis.xlen(KEYS.ledger)}
        spools = (self.folder / "data" / "spool").glob("*.jsonl")
        return kept | {path.name: path.stat().st_size for path in spools}

    def settled(self) -> bool:
        """Whether nothing is on its way any longer: no intent, nothing on the stream, nothing on disk."""
        spools = list((self.folder / "data" / "spool").glob("*.jsonl"))
        try:
            with self.redis() as redis:
                waiting = int(redis.hlen(KEYS.intents)) + int(redis.xlen(KEYS.ledger))
        except RedisError:
            return False
        return not waiting and all(path.stat().st_size == 0 for path in spools if path.exists())

    async def books_are_right(self) -> None:
        """One row for each admitted request, and the rollups agree."""
        with contextlib.suppress(TimeoutError):
            await until(lambda: self.settled() and len(self.rows()) >= self.reached, within_s=PATIENCE_S)
        rows = self.rows()
        assert self.settled(), self.left()
        assert len(rows) == len(set(rows))
        assert self.answered <= set(rows)
        assert self.reached <= len(rows) <= self.sent
        with sqlite3.connect(self.folder / "data" / "ledger.sqlite3", timeout=10) as books:
            [(counted,)] = books.execute("select coalesce(sum(requests), 0) from rollup_day where cut = 1")
        assert counted == len(rows)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        server.plans["held"] = Plan(text="at last", first_delay_s=2.0)
        server.plans["streamed"] = Plan(text="one two three four", chunks=8, chunk_delay_s=0.25)
        yield server


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("m"), upstream)
    made.start()
    yield made
    made.stop()


@contextlib.asynccontextmanager
async def at_step(house: House, step: Step) -> AsyncIterator[None]:
    """Requests that are at a step while the block runs."""
    reached, tasks = house.reached, list[asyncio.Task[None]]()
    stopped: psutil.Process | None = None
    async with contextlib.AsyncExitStack() as stack:
        if step == "admitting":
            stopped = house.process("redis")
            stopped.suspend()
        if step == "writing":
            await until(house.writer_is_at_work, within_s=PATIENCE_S)  # it cannot begin on a locked database
            stack.enter_context(house.sql_locked())
        if step in ("settling", "writing"):
            await stack.enter_async_context(house.load())
            await house.answers(40)
            if step == "writing":
                await until(house.rows_are_taken, within_s=PATIENCE_S)
        else:
            model = {"admitting": "quick", "calling": "held", "streaming": "streamed"}[step]
            tasks = [asyncio.create_task(house.ask(model, stream=step == "streaming")) for _ in range(12)]
            if step == "admitting":
                await asyncio.sleep(0.1)  # they wait for a server that does not move: nothing could be watched
            else:
                await until(lambda: house.reached >= reached + 12, within_s=PATIENCE_S)
        yield
        with contextlib.suppress(psutil.NoSuchProcess):
            if stopped is not None:
                stopped.resume()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("victim", VICTIMS)
async def test_killed_while_requests_are_everywhere(house: House, victim: Victim) -> None:
    async with at_step(house, "calling"), at_step(house, "streaming"), at_step(house, "writing"):
        killed = house.kill(victim)
    await house.back(victim, killed)
    async with house.load():
        await house.answers(10)
    await house.books_are_right()


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("victim", VICTIMS)
async def test_killed_at_each_step(house: House, victim: Victim, step: Step) -> None:
    for _ in range(3):
        async with at_step(house, step):
            killed = house.kill(victim)
        await house.back(victim, killed)
        await house.books_are_right()


SECONDS = [2.0, pytest.param(60.0, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]


@pytest.mark.parametrize("seconds", SECONDS)
async def test_redis_stands_still_under_load(house: House, seconds: float) -> None:
    redis = house.process("redis")
    async with house.load():
        await house.answers(20)
        redis.suspend()
        await asyncio.sleep(seconds)
        await house.answers(20)
        redis.resume()
        await house.answers(20)
    await house.books_are_right()


@pytest.mark.parametrize("seconds", SECONDS)
async def test_redis_is_away_under_load(house: House, seconds: float) -> None:
    until_then = asyncio.get_running_loop().time() + seconds
    async with house.load():
        await house.answers(20)
        while asyncio.get_running_loop().time() < until_then:
            with contextlib.suppress(KeyError, psutil.NoSuchProcess):
                os.kill(house.process("redis").pid, signal.SIGKILL)
            await asyncio.sleep(0.2)
        await house.answers(20)
    await house.books_are_right()


@pytest.mark.parametrize("seconds", SECONDS)
async def test_sql_is_locked_under_load(house: House, seconds: float) -> None:
    async with house.load():
        await house.answers(20)
        with house.sql_locked():
            await asyncio.sleep(seconds)
            await house.answers(20)
    await house.books_are_right()
