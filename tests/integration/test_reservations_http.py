"""What is held of a budget is the most a request may cost, whatever its tokenizer and whichever tries are billed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway import tokenizer
from gateway.tokens import estimate_tokens
from tests.support.gateway import Gateway, gateway, hosted
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAID = "Paris is the capital of France."
UNCACHED: Any = {"cache": {"exact": False, "semantic": False}, "on_budget_exhausted": "reject"}
LETTERS = "qzxvkjwpqyhb"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    """``big`` is nobody's model in particular, ``known`` is called gpt-4o upstream."""
    url = upstream_server.base_url
    models = [
        hosted("big", url),
        hosted("other", url),
        hosted("known", url, upstream_model="gpt-4o"),
        {"name": "near", "local": "smollm2-135m-instruct", "url": url, "usd_per_hour": 0.36, "max_retries": 0},
    ]
    default = {"name": "default", "baseline": "big", **UNCACHED, "rules": [{"name": "all", "use": ["big", "other"]}]}
    late = {"name": "late", "baseline": "big", **UNCACHED, "rules": [{"name": "all", "use": ["near", "other"]}]}
    async with gateway(tmp_path_factory.mktemp("reserved"), models, [default, late]) as running:
        yield running


def counted(text: str) -> int:
    return len(tokenizer.o200k().encode_ordinary(text))


async def test_a_prompt_of_more_tokens_than_estimated_stays_within_its_reservation(
    gate: Gateway, upstream: Upstream
) -> None:
    drawn = random.Random(7)
    key = await gate.key(budget_usd=0.01)
    prompt = "".join(drawn.choices(LETTERS, k=1500))
    truth = counted(prompt)
    assert truth > 1.25 * estimate_tokens(prompt)
    upstream.default = Plan(text="ok", prompt_tokens=truth, completion_tokens=1, first_delay_s=0.02)

    replies = await asyncio.gather(*(gate.chat(prompt, key=key, model="big", max_tokens=1) for _ in range(30)))

    assert {reply.status_code for reply in replies} == {200, 402}
    await gate.nothing_held(key)
    budget = await gate.budget(key)
    assert 0 < budget["spent"] <= budget["limit"]
    for row in await gate.rows(30):
        assert row.cost_nano <= row.reserved_nano or row.status != "ok"


async def test_near_the_edge_a_prompt_is_counted_where_its_tokenizer_is_known(
    gate: Gateway, upstream: Upstream
) -> None:
    prompt = (
        "The quick brown fox jumps over the lazy dog. " * 200
    )  # 9,000 bytes, about 2,000 tokens: 22 or 5 thousandths
    upstream.default = Plan(text="ok", prompt_tokens=counted(prompt), completion_tokens=1)
    statuses = {}
    for model in ("known", "big"):
        key = await gate.key(budget_usd=0.008)
        statuses[model] = (await gate.chat(prompt, key=key, model=model, max_tokens=1)).status_code
        await gate.nothing_held(key)
    assert statuses == {"known": 200, "big": 402}


async def test_a_key_without_a_budget_is_never_counted(gate: Gateway, upstream: Upstream) -> None:
    assert (await gate.chat("x" * 5000, key=await gate.key(), model="big")).status_code == 200


def broken_off(*, usage: dict[str, int] | None = None) -> bytes:
    """A reply whose first half holds the answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "padding": "x" * 400, "usage": usage}).encode()


async def test_a_try_that_broke_off_is_paid_for_as_far_as_it_came(gate: Gateway, upstream: Upstream) -> None:
    upstream.plans["big"] = Plan(raw=broken_off(), cut_after=0)
    upstream.plans["other"] = Plan(text="fine", prompt_tokens=1000, completion_tokens=100)
    key = await gate.key(budget_usd=1)

    reply = await gate.chat("What is the capital of France?", key=key)

    # 13 tokens of prompt × 2.50 and what had come × 10 micro-dollars, beside 1000 × 2.50 + 100 × 10
    abandoned = 13 * 2_500 + estimate_tokens(SAID) * 10_000
    [row] = await gate.rows(1)
    assert (row.model, row.status, row.usage_source) == ("other", "ok", "estimated")
    assert (row.abandoned_nano, row.cost_nano) == (abandoned, 3_500_000 + abandoned)
    assert row.saved_nano == 3_500_000 - row.cost_nano == -abandoned
    assert reply.json()["usage"]["cost_usd"] == row.cost_nano / 1e9
    assert row.cost_nano <= row.reserved_nano
    await gate.nothing_held(key)
    assert (await gate.budget(key))["spent"] == row.cost_nano


async def test_a_failure_that_says_what_it_used_is_charged_exactly(gate: Gateway, upstream: Upstream) -> None:
    usage = {"prompt_tokens": 40, "completion_tokens": 3, "total_tokens": 43}
    failed = {"error": {"message": "it went wrong"}, "usage": usage}
    upstream.plans["big"] = Plan(raw=json.dumps(failed).encode())
    upstream.plans["other"] = Plan(text="fine", prompt_tokens=1000, completion_tokens=100)

    await gate.chat()

    [row] = await gate.rows(1)
    assert (row.abandoned_nano, row.cost_nano) == (130_000, 3_630_000)  # 40 × 2.50 + 3 × 10
    assert row.usage_source == "reported"


@pytest.mark.parametrize("stream", [False, True])
async def test_where_every_try_breaks_off_the_request_still_costs(
    gate: Gateway, upstream: Upstream, stream: bool
) -> None:
    upstream.default = Plan(raw=(b": nothing yet\n\n", b""), cut_after=1) if stream else Plan(text="a", cut_after=0)

    reply = await gate.chat(stream=stream)

    assert reply.status_code == 502
    [row] = await gate.rows(1)
    assert (row.status, row.served, row.usage_source) == ("error", "none", "estimated")
    assert [attempt["model"] for attempt in row.detail["attempts"] if attempt["usage"]] == ["big", "other", "near"]
    assert row.cost_nano == row.abandoned_nano >= 2 * 7 * 2_500  # "hello" is 1 token, + 3 + 3
    assert row.saved_nano == -row.abandoned_nano
    assert row.cost_nano <= row.reserved_nano


@pytest.mark.parametrize("failing", [Plan(status=500), Plan(status=429), Plan(drop_connect=True)])
async def test_a_try_that_upstream_never_took_on_costs_nothing(
    gate: Gateway, upstream: Upstream, failing: Plan
) -> None:
    upstream.plans["big"] = failing
    upstream.plans["other"] = Plan(text="fine", prompt_tokens=1000, completion_tokens=100)

    await gate.chat()

    [row] = await gate.rows(1)
    assert (row.abandoned_nano, row.cost_nano, row.usage_source) == (0, 3_500_000, "reported")


async def test_time_of_a_machine_of_our_own_stays_idle_time(gate: Gateway, upstream: Upstream) -> None:
    """Its hour is paid for whatever it does: charged here as well it would be paid twice."""
    upstream.plans["near"] = upstream.plans["smollm2-135m-instruct"] = Plan(text="a b c", cut_after=0)
    upstream.plans["other"] = Plan(text="fine", prompt_tokens=1000, completion_tokens=100)

    await gate.chat(model="auto:late")

    [row] = await gate.rows(1)
    assert (row.model, row.abandoned_nano, row.cost_nano) == ("other", 0, 3_500_000)
    assert row.detail["attempts"][0]["usage"]["source"] == "estimated"
