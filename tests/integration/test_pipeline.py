"""A request's way through a real worker, with a real Redis and a scripted upstream."""

from __future__ import annotations

import pytest

from tests.support.gateway import Gateway
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_plain_answer_carries_its_cost_and_leaves_one_row(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="Paris", prompt_tokens=1000, completion_tokens=100, cached_tokens=400)

    reply = await gate.chat("What is the capital of France?")

    # 600 × 2.50 + 400 × 1.25 + 100 × 10 = 3,000 micro-dollars
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == "Paris"
    assert reply.json()["usage"]["cost_usd"] == 0.003
    assert reply.headers["x-gateway-cost-usd"] == "0.003"
    assert reply.headers["x-gateway-model"] == "big"
    assert reply.headers["x-gateway-route"] == "all"
    assert reply.headers["x-gateway-cache"] == "miss"
    [row] = await gate.rows(1)
    assert (row.cost_nano, row.usage_source, row.status) == (3_000_000, "reported", "ok")
    assert row.request_id == reply.headers["x-gateway-request-id"]
