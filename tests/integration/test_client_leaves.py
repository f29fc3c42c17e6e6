"""A client that leaves is not worked for: upstream is cancelled, the cost is recorded, what was held is let go."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
import pytest_asyncio

from gateway.tokens import estimate_tokens
from gateway.types import LedgerEntry
from tests.support.gateway import Gateway
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW = Plan(text="one two three four five six", chunks=6, chunk_delay_s=5)


@pytest_asyncio.fixture(loop_scope="module")
async def key(gate: Gateway) -> str:
    return await gate.key(budget_usd=1, concurrency=2)


async def cancelled(gate: Gateway, key: str) -> LedgerEntry:
    """The one row there is, once everything is settled."""
    [row] = await gate.rows(1)
    assert (row.status, row.http_status, row.error) == ("cancelled", 499, "the client left")
    assert (row.usage_source, row.model) == ("estimated", "big")
    assert 0 < row.cost_nano <= row.reserved_nano
    assert row.saved_nano == 0
    await gate.nothing_held(key)
    assert (await gate.budget(key))["spent"] == row.cost_nano
    return row


async def leave(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("stream", [False, True])
async def test_before_the_answer(gate: Gateway, upstream: Upstream, key: str, stream: bool) -> None:
    upstream.default = Plan(hang=True)
    asking = asyncio.create_task(gate.chat("a prompt of some words", key=key, stream=stream))
    await upstream.wait_for(1)

    await leave(asking)

    await upstream.wait_for(1, "disconnected")
    row = await cancelled(gate, key)
    assert row.completion_tokens == 0


async def test_in_the_middle_of_a_stream(gate: Gateway, upstream: Upstream, key: str) -> None:
    upstream.default = SLOW
    async with gate.open(key=key) as reply:
        async for line in reply.aiter_lines():
            if '"one ' in line:
                break

    await upstream.wait_for(1, "disconnected")
    row = await cancelled(gate, key)
    assert 1 <= row.completion_tokens <= 3
    assert row.ttft_ms is not None


async def test_right_after_the_head_of_a_stream(gate: Gateway, upstream: Upstream, key: str) -> None:
    upstream.default = SLOW
    async with gate.open(key=key) as reply:
        assert reply.status_code == 200

    await upstream.wait_for(1, "disconnected")
    await cancelled(gate, key)


async def test_while_a_retry_waits(gate: Gateway, upstream: Upstream, key: str) -> None:
    upstream.enqueue(Plan(status=503), Plan(hang=True))
    upstream.default = Plan(hang=True)
    asking = asyncio.create_task(gate.chat(key=key))
    await upstream.wait_for(1)

    await leave(asking)

    [row] = await gate.rows(1)
    assert row.status in ("cancelled", "error")
    await gate.nothing_held(key)


async def test_a_slot_is_free_again_for_the_next(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(concurrency=1)
    upstream.enqueue(SLOW)
    async with gate.open(key=key):
        assert (await gate.chat(key=key)).status_code == 429

    await gate.rows(1)
    assert (await gate.chat(key=key)).status_code == 200


async def test_for_a_client_that_reads_no_more_nothing_is_read_ahead(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(budget_usd=100)
    whole = 40_000_000
    upstream.default = Plan(text="x" * whole, chunks=4000, completion_tokens=1_000_000)
    async with gate.open(key=key, max_tokens=1_000_000) as reply:
        await anext(reply.aiter_raw())

    row = await cancelled(gate, key)
    assert row.completion_tokens < estimate_tokens("x" * whole) / 2


async def test_a_crowd_that_leaves_at_once_leaves_one_row_each(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(budget_usd=10)
    upstream.default = Plan(hang=True)
    crowd = [asyncio.create_task(gate.chat(f"number {number}", key=key)) for number in range(50)]
    await upstream.wait_for(30)  # some are still on their way

    await asyncio.gather(*(leave(one) for one in crowd))

    await upstream.wait_until(lambda: all(request.disconnected for request in upstream.requests))
    await gate.nothing_held(key)
    rows = await gate.rows(int(await gate.runtime.redis.xlen(gate.runtime.keys.ledger)) - 1)  # one message is the key's
    assert len(upstream.requests) <= len(rows) <= 50
    assert {row.status for row in rows} == {"cancelled"}
    assert sum(row.cost_nano for row in rows) == (await gate.budget(key))["spent"]
