"""Limits and budgets as clients meet them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.gateway import Gateway, gateway, hosted, local
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

REJECT: Any = {
    "name": "reject",
    "on_budget_exhausted": "reject",
    "cache": {"exact": False, "semantic": False},
    "rules": [{"name": "all", "use": ["big"]}],
}
DEGRADE: Any = {"name": "default", "rules": [{"name": "all", "use": ["big", "small"]}]}
FIRST: Any = {"name": "retry", "on_budget_exhausted": "reject", "rules": [{"name": "all", "use": ["twice"]}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    url = upstream_server.base_url
    models = [
        hosted("big", url),
        local("small", url, usd_per_hour=0),
        hosted("twice", url, max_retries=1, first_byte_timeout=0.5),
    ]
    async with gateway(tmp_path_factory.mktemp("gate"), models, [DEGRADE, REJECT, FIRST]) as running:
        yield running


def refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


async def test_requests_a_minute(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(rpm=2)

    replies = [await gate.chat(key=key) for _ in range(3)]

    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["1", "0", "0"]
    assert refusal(replies[2]) == (429, "rpm_limit_exceeded")
    assert 1 <= int(replies[2].headers["retry-after"]) <= 30  # one comes back every 30 s
    assert replies[2].json()["error"]["type"] == "rate_limit_error"
    await gate.rows(2)
    assert (await gate.chat(key=await gate.key(rpm=2))).status_code == 200


async def test_tokens_a_minute_count_prompt_and_answer(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="ok", completion_tokens=900)
    key = await gate.key(tpm=1000)

    first = await gate.chat("word " * 150, key=key)
    await gate.runtime.books.drain()
    second = await gate.chat("word " * 150, key=key, seed=1)

    assert first.status_code == 200
    assert refusal(second) == (429, "tpm_limit_exceeded")
    assert second.headers["x-ratelimit-remaining-tokens"] == "0"
    assert int(second.headers["retry-after"]) >= 1
    await gate.rows(1)


async def test_requests_at_once(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(concurrency=2)
    upstream.default = Plan(text="one two three", first_delay_s=0.3)
    running = [asyncio.create_task(gate.chat(f"number {number}", key=key)) for number in range(2)]
    await upstream.wait_for(2)

    third = await gate.chat("number 3", key=key)

    assert refusal(third) == (429, "concurrency_limit_exceeded")
    assert third.headers["retry-after"] == "1"
    assert [reply.status_code for reply in await asyncio.gather(*running)] == [200, 200]
    await gate.rows(2)
    assert (await gate.chat("number 3", key=key)).status_code == 200


async def test_a_spent_budget_is_answered_locally_where_the_policy_says_so(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(budget_usd=0.000001)

    reply = await gate.chat(key=key)

    assert (reply.status_code, reply.headers["x-gateway-model"]) == (200, "small")
    assert reply.headers["x-gateway-degraded"] == "budget"
    assert [request.model for request in upstream.requests] == ["smollm2-135m-instruct"]
    told = (await gate.get(f"/v1/requests/{reply.headers['x-gateway-request-id']}", key)).json()
    assert {"model": "big", "reason": "budget exhausted"} in told["rejected"]
    await gate.nothing_held(key)


@pytest.mark.parametrize("budget", [0, 0.000001])
async def test_or_refused_where_it_says_that(gate: Gateway, upstream: Upstream, budget: float) -> None:
    key = await gate.key(budget_usd=budget)

    reply = await gate.chat(key=key, model="auto:reject")

    assert refusal(reply) == (402, "budget_exhausted")
    assert reply.json()["error"]["type"] == "insufficient_quota"
    assert upstream.requests == []
    [row] = await gate.rows(1)
    assert (row.status, row.http_status, row.cost_nano) == ("error", 402, 0)
    await gate.nothing_held(key)


async def test_a_budget_is_charged_what_was_used_not_what_was_reserved(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="ok", prompt_tokens=100, completion_tokens=10)
    key = await gate.key(budget_usd=1)

    await gate.chat(key=key)
    await gate.nothing_held(key)

    assert await gate.budget(key) == {
        "limit": 1_000_000_000,
        "left": 999_650_000,
        "reserved": 0,
        "spent": 350_000,
    }


async def test_an_exact_hit_is_served_whatever_is_left(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="ok", prompt_tokens=5, completion_tokens=1)
    # enough for the worst case of one request: about 100 prompt tokens and 50 of answer
    key = await gate.key(budget_usd=0.00078)
    policy: dict[str, Any] = {"model": "auto:retry", "max_tokens": 50}

    first = await gate.chat(key=key, **policy)
    await gate.runtime.books.drain()
    again = await gate.chat(key=key, **policy)
    other = await gate.chat("something else", key=key, **(policy | {"max_tokens": 90}))

    assert (first.status_code, again.status_code, again.headers["x-gateway-cache"]) == (200, 200, "exact")
    assert refusal(other) == (402, "budget_exhausted")


async def test_a_retry_that_may_be_billed_too_needs_a_budget_too(gate: Gateway, upstream: Upstream) -> None:
    upstream.enqueue(Plan(drop_connect=True))
    key = await gate.key(budget_usd=0.0008)  # one try of max_tokens=50, not two

    reply = await gate.chat(key=key, model="auto:retry", max_tokens=50)

    assert refusal(reply) == (402, "budget_exhausted")
    assert len(upstream.requests) == 1
    await gate.nothing_held(key)


async def test_a_crowd_on_one_small_budget_never_overspends(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="ok", prompt_tokens=8, completion_tokens=50, first_delay_s=0.05)
    key = await gate.key(budget_usd=0.01)

    replies = await asyncio.gather(
        *(gate.chat(f"number {number}", key=key, model="auto:reject", max_tokens=50) for number in range(200))
    )

    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 402}
    rows = await gate.rows(200)
    budget = await gate.budget(key)
    await gate.nothing_held(key)
    # 8 × 2.50 + 50 × 10 micro-dollars each
    assert budget["spent"] == sum(row.cost_nano for row in rows) == statuses.count(200) * 520_000
    assert budget["spent"] <= budget["limit"]
    assert statuses.count(200) >= 10
    assert len(upstream.requests) == statuses.count(200)


async def test_even_where_every_request_costs_more_than_its_worst_case(gate: Gateway, upstream: Upstream) -> None:
    """An upstream that counts more tokens than could be foreseen: overspent by what was in flight, and no more."""
    upstream.default = Plan(text="ok", prompt_tokens=400, completion_tokens=50, first_delay_s=0.05)
    key = await gate.key(budget_usd=0.01, concurrency=10)

    async def ask(number: int) -> int:
        for _ in range(1000):
            reply = await gate.chat(f"number {number}", key=key, model="auto:reject", max_tokens=50)
            if reply.status_code != 429:
                return reply.status_code
        return 429

    statuses = await asyncio.gather(*(ask(number) for number in range(60)))

    await gate.nothing_held(key)
    budget = await gate.budget(key)
    assert budget["spent"] == statuses.count(200) * 1_500_000
    assert budget["spent"] <= budget["limit"] + 10 * 1_500_000
    assert statuses.count(402) >= 40


async def test_a_rotated_key_keeps_its_budget(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="ok", prompt_tokens=100, completion_tokens=10)
    key = await gate.key(budget_usd=1)
    await gate.chat(key=key)
    await gate.nothing_held(key)
    rotated = await gate.admin("POST", f"/admin/keys/{gate.key_id(key)}/rotate")
    fresh = rotated.json()["key"]

    async def refused() -> bool:
        return (await gate.chat(key=key)).status_code == 401

    await until(refused)
    assert (await gate.chat("another", key=fresh)).status_code == 200
    await gate.nothing_held(key)
    assert (await gate.budget(key))["spent"] >= 700_000


async def test_an_answer_is_bounded_upstream_only_where_a_budget_depends_on_it(
    gate: Gateway, upstream: Upstream
) -> None:
    """A drop-in endpoint cuts no answer short that its caller wanted whole; a hard budget has to."""
    await gate.chat("hello there", model="auto:reject", key=await gate.key())
    await gate.chat("hello again", model="auto:reject", key=await gate.key(budget_usd=1))

    free, budgeted = (request.json for request in upstream.requests)
    assert not free.keys() & {"max_tokens", "max_completion_tokens"}
    assert budgeted["max_tokens"] == 1024
