"""The invariant under attack: one budget, two workers, clients that leave, upstreams that fail, and kill -9.

At every instant spent + reserved ≤ budget. In the end nothing is reserved, the ledger sums up to the counter, rows
with reported usage cost what upstream's own log says, and all others at most what was reserved for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.support.processes import children_with
from tests.support.serving import Serving, environment, serving, write_config
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

SEED = 4_711
ADMIN = "admin-of-the-attacked"
PRICE = {"input": 2.5, "output": 10, "cached_input": 1.25}
MONEY_POLICY = """
name: default
cache: {exact: false, semantic: false}
on_budget_exhausted: reject
rules:
  - {name: all, use: [first, second]}
"""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        yield server


@pytest.fixture
def gateway(tmp_path: Path, upstream: Upstream) -> Iterator[Serving]:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "default.yaml").write_text(MONEY_POLICY)
    base = {"provider": "openai_compatible", "base_url": upstream.base_url, "api_key": "k", "price": PRICE}
    models = [{"name": "first", "max_retries": 1, **base}, {"name": "second", "max_retries": 0, **base}]
    config = write_config(tmp_path, models=models, server={"port": 0, "workers": 2})
    with serving(config, environment(tmp_path, GATEWAY_ADMIN_KEY=ADMIN)) as running:
        yield running


def plan(drawn: random.Random) -> Plan:
    """An answer, or one of the ways in which upstreams fail."""
    kind = drawn.random()
    if kind < 0.1:
        return Plan(status=500)
    if kind < 0.15:
        return Plan(status=429, headers={"retry-after-ms": "1"})
    if kind < 0.2:
        return Plan(drop_connect=True)
    if kind < 0.3:
        return Plan(text="cut off " * 6, usage="missing", cut_after=2)
    cached, pause = drawn.randrange(3), drawn.random() * 0.4
    return Plan(text="fine words " * drawn.randrange(1, 12), cached_tokens=cached, chunk_delay_s=pause)


@dataclass
class Attack:
    """``clients`` at a time, each asking again and again until ``requests`` are made; some leave half way."""

    url: str
    key: str
    clients: int
    requests: int
    drawn: random.Random
    statuses: list[int] = field(default_factory=list)
    made: int = 0

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=60.0, limits=limits) as client:
            await asyncio.gather(*(self._client(client) for _ in range(self.clients)))

    async def _client(self, client: httpx.AsyncClient) -> None:
        while self.made < self.requests:
            self.made += 1
            body = {
                "model": "auto",
                "user": f"user-{self.made}",
                "stream": self.drawn.random() < 0.5,
                "messages": [{"role": "user", "content": "word " * self.drawn.randrange(3, 60)}],
            }
            if self.drawn.random() < 0.5:
                body["max_tokens"] = self.drawn.randrange(5, 60)
            patience = self.drawn.uniform(0.3, 2.0) if self.drawn.random() < 0.4 else 60.0
            with contextlib.suppress(httpx.HTTPError, TimeoutError):
                async with asyncio.timeout(patience):
                    reply = await client.post(
                        "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {self.key}"}
                    )
                    self.statuses.append(reply.status_code)


class Watcher:
    """Looks at the budget's account as often as it can."""

    def __init__(self, redis: Redis, account: str) -> None:
        self.redis, self.account = redis, account
        self.looks = 0
        self.most_reserved = 0

    async def run(self) -> None:
        while True:
            held = self.state()
            if held:
                self.looks += 1
                self.most_reserved = max(self.most_reserved, held["reserved"])
                assert held["left"] + held["reserved"] + held["spent"] == held["limit"]
                assert held["spent"] + held["reserved"] <= held["limit"]
            await asyncio.sleep(0.005)

    def state(self) -> dict[str, int]:
        held: Any = self.redis.hgetall(self.account)
        return {name: int(held[name.encode()]) for name in ("left", "reserved", "spent", "limit") if held}


async def kill_workers(gateway: Serving, drawn: random.Random, times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(drawn.uniform(0.5, 1.0))
        if workers := children_with("gateway.http.worker", gateway.process.pid):
            drawn.choice(workers).kill()


def rows(folder: Path) -> list[Any]:
    with sqlite3.connect(folder / "data" / "ledger.sqlite3") as books:
        books.row_factory = sqlite3.Row
        return books.execute("select * from ledger").fetchall()


def recomputed(calls: list[Any]) -> set[int]:
    """Nano-dollars of each call upstream has reported usage for, from its own log and the price list alone."""
    costs = set()
    for usage in (call.usage for call in calls if call.usage is not None):
        millionths = (usage.prompt_tokens - usage.cached_tokens) * Decimal("2.5") + usage.completion_tokens * 10
        millionths += usage.cached_tokens * Decimal("1.25")
        costs.add(int((millionths * 1000).quantize(Decimal(1), ROUND_HALF_EVEN)))
    return costs


async def attacked(
    gateway: Serving, upstream: Upstream, *, clients: int, requests: int, kills: int, budget_usd: float
) -> None:
    drawn = random.Random(SEED)
    for _ in range(2 * requests):
        upstream.enqueue(plan(drawn))
    async with httpx.AsyncClient(
        base_url=gateway.url, headers={"authorization": f"Bearer {ADMIN}"}, timeout=60.0
    ) as admin:
        key = (await admin.post("/admin/keys", json={"name": "attacked", "budget_usd": budget_usd})).json()
    redis = Redis(unix_socket_path=str(next(gateway.folder.glob("farthing-*/redis.sock"))))
    watcher = Watcher(redis, f"fg:{{default}}:b:{key['id']}")
    attack = Attack(gateway.url, key["key"], clients, requests, drawn)

    watching = asyncio.create_task(watcher.run())
    killing = asyncio.create_task(kill_workers(gateway, drawn, kills))
    await asyncio.gather(attack.run(), killing)
    await until(lambda: redis.hlen("fg:{default}:intents") == 0)
    await until(lambda: redis.xlen("fg:{default}:ledger") == 0)
    assert not watching.done(), watching.exception()
    watching.cancel()

    state, booked = watcher.state(), rows(gateway.folder)
    assert watcher.looks >= 5
    assert watcher.most_reserved > 0
    assert state["reserved"] == 0
    assert state["spent"] == sum(row["cost_nano"] for row in booked) <= state["limit"]
    assert len({row["request_id"] for row in booked}) == len(booked)
    by_user: dict[str, list[Any]] = {}
    # A look at whether a target that swallowed packets can be reached again asks for nothing.
    for call in (call for call in upstream.requests if call.json is not None):
        by_user.setdefault(call.json["user"], []).append(call)
    for row in booked:
        if row["usage_source"] == "reported":
            assert row["cost_nano"] in recomputed(by_user[row["end_user"]])
        assert row["cost_nano"] <= row["reserved_nano"]
    assert len({row["status"] for row in booked}) >= 2
    assert attack.statuses.count(200) > requests / 50
    assert 402 in attack.statuses
    redis.close()


@pytest.mark.timeout(180)
async def test_a_budget_holds_whatever_happens(gateway: Serving, upstream: Upstream) -> None:
    await attacked(gateway, upstream, clients=200, requests=400, kills=2, budget_usd=0.2)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_budget_holds_for_long(gateway: Serving, upstream: Upstream) -> None:
    await attacked(gateway, upstream, clients=200, requests=20_000, kills=60, budget_usd=1.0)
