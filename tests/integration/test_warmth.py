"""Conversations stay where they are cached as long as that is cheaper, and move when it is not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml
from typer.testing import CliRunner

from gateway import redis_io
from gateway.cli.app import app
from gateway.http.worker import build_runtime
from gateway.ledger.store import SqlStore
from gateway.ledger.where import ledger_url
from tests.support.gateway import Gateway, gateway, hosted, serving
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

TURNS = 20
# Cold, dear costs three times what plain does; warm, half of it.
DEAR = {"input": 3, "output": 10, "cached_input": 0.3}
PLAIN = {"input": 1, "output": 5}
SLIGHT = {"input": 3, "output": 10, "cached_input": 2.5}
CHEAPEST = [{"name": "all", "use": ["plain", "dear", "slight"], "strategy": "cheapest"}]
POLICY: dict[str, Any] = {
    "name": "default",
    "baseline": "dear",
    "cache": {"exact": False, "semantic": False},
    "rules": CHEAPEST,
}
ORDER = POLICY | {"name": "order", "rules": [{"name": "all", "use": ["plain", "dear"]}]}
SYSTEM = {"role": "system", "content": "You know this report by heart: " + "one more word " * 2_600}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    prices = {"dear": DEAR, "plain": PLAIN, "slight": SLIGHT}
    models = [hosted(name, upstream_server.base_url, price=price) for name, price in prices.items()]
    async with gateway(tmp_path_factory.mktemp("gate"), models, [POLICY, ORDER]) as running:
        yield running


class Talk:
    """A conversation; what its last target has cached by then is told by the scripted upstream."""

    def __init__(self, gate: Gateway, upstream: Upstream, session: str = "", subject: str = "") -> None:
        self._gate, self._upstream = gate, upstream
        self.messages: list[dict[str, Any]] = [SYSTEM, *([{"role": "user", "content": subject}] if subject else [])]
        self.headers = {"x-gateway-session": session} if session else {}
        self.caches, self.extra = True, dict[str, Any]()
        self._cached: dict[str, int] = {}
        self._turn = 0

    async def turn(self, model: str = "auto", *, via: str = "", key: str = "") -> httpx.Response:
        """One more; ``via``: the base URL of another worker."""
        self._turn += 1
        self.messages.append({"role": "user", "content": f"Tell me about point {self._turn} of it."})
        for name in ("dear", "slight"):
            cached = self._cached.get(name, 0)
            self._upstream.plans[name] = Plan(text="It says so.", cached_tokens=cached, extra=self.extra)
        self._upstream.plans["plain"] = Plan(text="It says so.")
        headers = self.headers | ({"authorization": f"Bearer {key}"} if key else {})
        body = {"model": model, "messages": self.messages, "max_tokens": 400}
        reply = await self._gate.http.post(f"{via}/v1/chat/completions", json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        await self._gate.runtime.books.drain()
        if self.caches:
            self._cached[reply.headers["x-gateway-model"]] = reply.json()["usage"]["prompt_tokens"]
        self.messages.append(reply.json()["choices"][0]["message"])
        return reply

    async def goes_to(self, **more: Any) -> str:
        return str((await self.turn(**more)).headers["x-gateway-model"])


def later_by(seconds: float) -> Any:
    """A module ``time`` whose clock is ahead."""
    return SimpleNamespace(time=lambda: time.time() + seconds, perf_counter=time.perf_counter)


@pytest.mark.parametrize("session", ["", "s1"], ids=["by-history", "by-session"])
async def test_a_conversation_of_twenty_turns_stays_where_it_is_cached(
    gate: Gateway, upstream: Upstream, session: str
) -> None:
    talk = Talk(gate, upstream, session)
    await talk.turn("dear")
    assert [await talk.goes_to() for _ in range(TURNS - 1)] == ["dear"] * (TURNS - 1)

    rows = await gate.rows(TURNS)
    assert all(row.prompt_tokens > 7_800 for row in rows)
    moved = sum(row.prompt_tokens * 1_000 + row.completion_tokens * 5_000 for row in rows[1:])
    assert sum(row.cost_nano for row in rows[1:]) < moved / 2, "and that is cheaper than what it costs elsewhere"
    assert await Talk(gate, upstream, "another", "something else").goes_to() == "plain", (
        "where it is not, it goes there"
    )


async def test_what_is_kept_warm_for_little_is_left(gate: Gateway, upstream: Upstream) -> None:
    talk = Talk(gate, upstream)
    await talk.turn("slight")
    assert [await talk.goes_to() for _ in range(3)] == ["plain"] * 3


async def test_it_moves_once_the_provider_has_forgotten_it(
    gate: Gateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(gate, upstream)
    await talk.turn("dear")
    assert await talk.goes_to() == "dear"
    kept = await gate.runtime.redis.keys(gate.runtime.keys.warm("*"))
    assert kept
    assert all([0 < await gate.runtime.redis.pttl(key) <= 300_000 for key in kept])
    monkeypatch.setattr("gateway.visit.time", later_by(301))
    assert await talk.goes_to() == "plain"


async def test_an_hour_that_was_paid_for_lasts_an_hour(
    gate: Gateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(gate, upstream)
    written = {"cache_creation_input_tokens": 4000, "cache_creation": {"ephemeral_1h_input_tokens": 4000}}
    talk.extra = {"usage": written}
    await talk.turn("dear")
    monkeypatch.setattr("gateway.visit.time", later_by(3_000))
    talk.extra = {}
    assert await talk.goes_to() == "dear"
    assert await talk.goes_to() == "dear", "it is as good as new"
    monkeypatch.setattr("gateway.visit.time", later_by(7_000))
    assert await talk.goes_to() == "plain"


async def test_it_moves_once_the_provider_is_seen_not_to_cache_it(gate: Gateway, upstream: Upstream) -> None:
    talk = Talk(gate, upstream)
    talk.caches = False
    await talk.turn("dear")
    assert [await talk.goes_to() for _ in range(3)] == ["dear", "plain", "plain"]


@pytest.mark.parametrize("session", ["", "s1"], ids=["by-history", "by-session"])
async def test_other_workers_know_without_another_round_trip(
    gate: Gateway, upstream: Upstream, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []
    flush = redis_io._Connection._flush

    def noted(self: Any) -> None:
        writes.append(b"".join(self._out))
        flush(self)

    monkeypatch.setattr(redis_io._Connection, "_flush", noted)
    async with serving(build_runtime(gate.runtime.view.settings)) as (other, second):
        talk = Talk(gate, upstream, session)
        await talk.turn("dear")
        for number in range(8):
            assert await talk.goes_to(via="" if number % 2 else other) == "dear"
            await second.books.drain()
    keys, warm = gate.runtime.keys, gate.runtime.keys.warm("").encode()
    asking = [write for write in writes if b"HGETALL" in write and warm in write]
    telling = [write for write in writes if b"PEXPIRE" in write and warm in write]
    assert any(keys.intents.encode() in write for write in asking), "in the write that admits"
    assert any(keys.ledger.encode() in write for write in telling), "in the write that settles"


async def test_what_is_reserved_is_what_it_costs_where_nothing_is_cached(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(budget_usd=10)
    talk = Talk(gate, upstream)
    await talk.turn("dear", key=key)
    await talk.turn(key=key)
    row = (await gate.rows(2))[-1]
    assert (row.model, row.cached_tokens > 7_000) == ("dear", True)
    assert row.reserved_nano > row.prompt_tokens * 3_000 + 400 * 10_000
    await gate.nothing_held(key)


async def test_a_replay_knows_what_was_warm(gate: Gateway, upstream: Upstream) -> None:
    for session in ("", "s2"):
        talk = Talk(gate, upstream, session)
        await talk.turn("dear")
        for _ in range(4):
            await talk.turn()
    rows = await gate.rows(10)
    assert rows[-1].detail["warm"].keys() == {"dear"}
    store = SqlStore(ledger_url(gate.runtime.view.settings))
    await store.migrate()
    await store.append(rows)
    await store.close()

    same = await replayed(gate, POLICY)
    assert same["flipped"] == 0
    cost = sum(row.cost_nano for row in rows if row.rule != "pinned")
    assert same["cost_usd"] == same["cost_was_usd"] == f"{cost / 1e9:.9f}".rstrip("0")
    away = await replayed(gate, ORDER | {"name": "default"})
    assert away["moves"] == {"dear → plain": 8}
    assert float(away["cost_usd"]) > float(away["cost_was_usd"])


async def replayed(gate: Gateway, policy: dict[str, Any]) -> dict[str, Any]:
    file = gate.folder / "new.yaml"
    file.write_text(yaml.safe_dump(policy))
    command = ["replay", "--config", str(gate.folder / "gateway.yaml"), "--policy", str(file), "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout, parse_float=str))
