"""Redis goes away and comes back: who is still served, and that no row is lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, gateway, hosted
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until


@pytest.fixture
async def gate(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Gateway]:
    upstream.default = Plan(text="ok", prompt_tokens=100, completion_tokens=10)
    async with gateway(tmp_path, [hosted("big", upstream.base_url)]) as under_test:
        yield under_test


async def gone(gate: Gateway) -> None:
    gate.redis.kill()
    await until(lambda: not gate.runtime.link.connected)


async def back(gate: Gateway) -> None:
    gate.redis.start()
    await until(lambda: gate.runtime.link.connected and not gate.runtime.books.spool.waiting)


async def test_who_has_no_budget_is_served_and_who_has_one_is_not(gate: Gateway, upstream: Upstream) -> None:
    plain, rich = await gate.key(rpm=100), await gate.key(budget_usd=1)
    for key in (plain, rich):
        assert (await gate.chat("before", key=key)).status_code == 200
    before = await gate.rows(2)
    await gone(gate)

    served = [await gate.chat(f"while {number}", key=key) for number, key in enumerate((plain, "", plain))]
    denied = await gate.chat("while", key=rich)
    stranger = await gate.chat("while", key="fg-unknown")

    assert [reply.status_code for reply in served] == [200] * 3
    assert (denied.status_code, denied.json()["error"]["code"]) == (503, "limits_unavailable")
    assert denied.headers["retry-after"] == "1"
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (503, "key_store_unavailable")
    assert len(upstream.requests) == 5
    told = await gate.get(f"/v1/requests/{served[0].headers['x-gateway-request-id']}", plain)
    assert (told.status_code, told.json()["cost_usd"]) == (200, 0.00035)

    await back(gate)
    rows = await gate.rows(5)
    expected = {row.request_id for row in before} | {reply.headers["x-gateway-request-id"] for reply in served}
    assert {row.request_id for row in rows} == expected
    assert sum(row.cost_nano for row in rows) == 5 * 350_000
    assert (await gate.chat("after", key=rich)).status_code == 200
    await gate.nothing_held(rich)
    assert (await gate.budget(rich))["spent"] == 700_000


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_was_under_way_is_settled_once_and_for_all(
    gate: Gateway, upstream: Upstream, stream: bool
) -> None:
    upstream.default = Plan(text="one two", chunks=2, chunk_delay_s=0.5, first_delay_s=0.5, completion_tokens=10)
    key = await gate.key(budget_usd=1, concurrency=2)
    asking = asyncio.create_task(gate.chat(key=key, stream=stream))
    await upstream.wait_for(1)
    await gone(gate)

    reply = await asking

    assert reply.status_code == 200
    assert "one" in reply.text
    spooled = gate.runtime.books.spool.path
    await until(lambda: spooled.exists() and spooled.stat().st_size > 0)
    await back(gate)
    [row] = await gate.rows(1)
    assert (row.status, row.usage_source) == ("ok", "reported")
    await gate.nothing_held(key)
    assert (await gate.budget(key))["spent"] == row.cost_nano


async def test_it_may_come_and_go_under_load(gate: Gateway) -> None:
    key = await gate.key()
    await gate.chat("first", key=key)
    ended = asyncio.Event()
    answered = 1

    async def ask(worker: int) -> None:
        nonlocal answered
        number = 0
        while not ended.is_set():
            reply = await gate.chat(f"{worker} {number}", key=key)
            assert reply.status_code in (200, 503), reply.text
            answered += reply.status_code == 200
            number += 1

    asking = [asyncio.create_task(ask(worker)) for worker in range(8)]
    for _ in range(3):
        goal = answered + 50
        await until(lambda goal=goal: answered >= goal)  # type: ignore[misc]
        await gone(gate)
        goal = answered + 20
        await until(lambda goal=goal: answered >= goal)  # type: ignore[misc]
        await back(gate)
    ended.set()
    await asyncio.gather(*asking)

    rows = await gate.rows(answered)
    assert len({row.request_id for row in rows}) == answered
    assert sum(row.cost_nano for row in rows) == sum(0 if row.cache == "exact" else 350_000 for row in rows)
    assert await gate.runtime.redis.hlen(gate.runtime.keys.intents) == 0
