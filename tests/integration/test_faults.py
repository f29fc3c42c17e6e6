"""An upstream that fails: what the client sees, what the row says, and that all that was held is let go."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.types import LedgerEntry
from tests.support.gateway import Gateway, gateway, hosted, said
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = "one two three four"
CLOSED = "http://127.0.0.1:9/v1"


def one(name: str) -> dict[str, Any]:
    return {"name": f"only-{name}", "baseline": "big", "rules": [{"name": "all", "use": [name]}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    url = upstream_server.base_url
    models = [
        hosted("big", url),
        hosted("retried", url, max_retries=2),
        hosted("second", url),
        hosted("slow", url, first_byte_timeout=0.3),
        hosted("closed", CLOSED),
    ]
    names = ("big", "retried", "slow", "closed")
    both = {"name": "default", "baseline": "big", "rules": [{"name": "all", "use": ["big", "second"]}]}
    policies = [both, *(one(name) for name in names)]
    async with gateway(tmp_path_factory.mktemp("gate"), models, policies) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def key(gate: Gateway) -> str:
    return await gate.key(budget_usd=1, concurrency=5)


def attempts(row: LedgerEntry) -> list[tuple[str, int | None]]:
    return [(attempt["model"], attempt["status"]) for attempt in row.detail["attempts"]]


def broken(text: str) -> tuple[str, dict[str, Any]]:
    """What was said before a stream broke, and its error event; such a stream must not end with [DONE]."""
    told = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
    return said(told[:-1]), told[-1]["error"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("plan", "model", "status", "code", "tries"),
    [
        (Plan(status=400), "retried", 400, None, [400]),
        (Plan(status=404), "retried", 404, None, [404]),
        (Plan(status=422, error=b"<html>no json</html>"), "retried", 422, "upstream_refused", [422]),
        (Plan(status=401), "retried", 502, "upstream_auth", [401]),
        (Plan(status=403), "retried", 502, "upstream_auth", [403]),
        (Plan(status=429, headers={"retry-after-ms": "5"}), "retried", 429, "rate_limit_exceeded", [429] * 3),
        (Plan(status=500), "retried", 500, "upstream_unavailable", [500] * 3),
        (Plan(status=503), "big", 503, "upstream_unavailable", [503]),
        (Plan(drop_connect=True), "big", 502, "upstream_unavailable", [None]),
        (Plan(hang=True), "slow", 504, "upstream_timeout", [None]),
        (Plan(text=WORDS, cut_after=0), "big", 502, "upstream_broken", [None]),
        (Plan(), "closed", 502, "upstream_unavailable", [None]),
    ],
    ids=["400", "404", "422", "401", "403", "429", "500", "503", "reset", "hang", "cut", "closed"],
)
async def test_a_failure_before_the_first_byte(
    gate: Gateway,
    upstream: Upstream,
    key: str,
    plan: Plan,
    model: str,
    status: int,
    code: str | None,
    tries: list[int | None],
    stream: bool,
) -> None:
    upstream.default, cut = plan, plan.cut_after is not None

    reply = await gate.chat(key=key, model=f"auto:only-{model}", stream=stream)

    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["error"]["code"] == code
    [row] = await gate.rows(1)
    assert (row.status, row.http_status, row.model) == ("error", status, model)
    # What broke off after a status of success is billed as far as it came: 7 tokens of prompt, and what was said.
    assert (row.usage_source, row.served) == ("estimated" if cut else "none", "none")
    assert row.cost_nano == row.abandoned_nano
    assert row.cost_nano >= 17_500 if cut else row.cost_nano == 0
    assert attempts(row) == [(model, said) for said in tries]
    assert row.reserved_nano > 0
    await gate.nothing_held(key)
    assert (await gate.budget(key))["spent"] == row.cost_nano


@pytest.mark.parametrize("plan", [Plan(garbage_after=0, garbage=b"<html>oops"), Plan(text=WORDS, cut_after=1)])
async def test_a_plain_reply_that_cannot_be_read(gate: Gateway, upstream: Upstream, key: str, plan: Plan) -> None:
    upstream.default = plan

    reply = await gate.chat(key=key, model="auto:only-big")

    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_broken")
    [row] = await gate.rows(1)
    assert (row.status, row.http_status) == ("error", 502)
    await gate.nothing_held(key)


async def test_upstreams_own_words_reach_the_client_when_the_request_was_at_fault(
    gate: Gateway, upstream: Upstream, key: str
) -> None:
    words = {"error": {"message": "no such voice", "type": "invalid_request_error", "param": "voice", "code": "v1"}}
    upstream.default = Plan(status=400, error=words | {"hint": "see docs"})

    reply = await gate.chat(key=key)

    assert reply.json() == words | {"hint": "see docs"}
    assert len(upstream.requests) == 1  # the next target would say the same


async def test_a_refused_credential_says_nothing_about_it(gate: Gateway, upstream: Upstream, key: str) -> None:
    upstream.default = Plan(status=401, error={"error": {"message": "Incorrect API key: upstream-secret"}})

    reply = await gate.chat(key=key, model="auto:only-big")

    assert reply.status_code == 502
    assert "upstream-secret" not in reply.text
    assert "upstream-secret" not in str(await gate.rows(1))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_retry_that_answers_is_one_row_with_both_tries(
    gate: Gateway, upstream: Upstream, key: str, stream: bool
) -> None:
    upstream.enqueue(Plan(status=500), Plan(text="ok", prompt_tokens=100, completion_tokens=10))

    reply = await gate.chat(key=key, model="auto:only-retried", stream=stream)

    assert reply.status_code == 200
    [row] = await gate.rows(1)
    assert (row.status, row.cost_nano) == ("ok", 350_000)
    assert attempts(row) == [("retried", 500), ("retried", 200)]
    await gate.nothing_held(key)
    assert (await gate.budget(key))["spent"] == 350_000


@pytest.mark.parametrize("stream", [False, True])
async def test_the_next_target_answers_where_the_first_cannot(
    gate: Gateway, upstream: Upstream, key: str, stream: bool
) -> None:
    upstream.plans["big"] = Plan(status=503)

    reply = await gate.chat(key=key, stream=stream)

    assert (reply.status_code, reply.headers["x-gateway-model"]) == (200, "second")
    [row] = await gate.rows(1)
    assert (row.status, row.model) == ("ok", "second")
    assert attempts(row) == [("big", 503), ("second", 200)]
    await gate.nothing_held(key)


async def test_a_deadline_bounds_the_whole_call(gate: Gateway, upstream: Upstream, key: str) -> None:
    upstream.plans["big"] = Plan(hang=True)

    reply = await gate.chat(key=key, headers={"x-gateway-deadline-ms": "300"})

    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    [row] = await gate.rows(1)
    assert 250 < row.duration_ms < 3000
    assert attempts(row) == [("big", None)]
    await gate.nothing_held(key)


REPORTED = b'data: {"error": {"message": "overloaded, sorry", "type": "server_error", "code": null}}\n\n'


@pytest.mark.parametrize(
    ("plan", "code", "words"),
    [
        (Plan(text=WORDS, cut_after=2), "upstream_broken", "one two t"),
        (Plan(text=WORDS, garbage_after=2), "upstream_broken", "one two t"),
        (Plan(text=WORDS, garbage_after=2, garbage=REPORTED), None, "one two t"),
        (Plan(text=WORDS, chunk_delay_s=30), "upstream_broken", "one "),
        (Plan(text=WORDS, cut_after=4), "upstream_broken", WORDS),
    ],
    ids=["cut", "garbage", "reported", "stalled", "without-an-end"],
)
async def test_a_stream_that_breaks_ends_with_an_error_event_and_an_incomplete_row(
    gate: Gateway, upstream: Upstream, key: str, plan: Plan, code: str | None, words: str
) -> None:
    upstream.default = plan

    async with gate.open(key=key, model="auto:only-slow", stream_options={"include_usage": True}) as reply:
        text, error = broken((await reply.aread()).decode())

    assert reply.status_code == 200
    assert (text, error["code"]) == (words, code)
    assert error["message"]
    [row] = await gate.rows(1)
    assert (row.status, row.http_status, row.usage_source) == ("incomplete", 200, "estimated")
    assert 0 < row.cost_nano <= row.reserved_nano
    assert row.saved_nano == 0
    assert error["message"] in row.error
    assert len(upstream.requests) == 1  # never tried again once something has been said
    await gate.nothing_held(key)
    assert (await gate.budget(key))["spent"] == row.cost_nano


async def test_usage_reported_before_a_stream_breaks_is_what_it_costs(
    gate: Gateway, upstream: Upstream, key: str
) -> None:
    upstream.default = Plan(text=WORDS, cut_after=2, usage="every", prompt_tokens=100, completion_tokens=8)

    async with gate.open(key=key, model="auto:only-big") as reply:
        await reply.aread()

    [row] = await gate.rows(1)
    reported = upstream.requests[0].usage
    assert reported is not None
    assert (row.status, row.usage_source) == ("incomplete", "reported")
    assert (row.prompt_tokens, row.completion_tokens) == (100, reported.completion_tokens)
    assert row.cost_nano == 250_000 + reported.completion_tokens * 10_000


async def test_an_estimate_is_never_above_what_was_reserved(gate: Gateway, upstream: Upstream, key: str) -> None:
    upstream.default = Plan(text="word " * 500, completion_tokens=500, usage="missing")  # it ignores max_tokens

    reply = await gate.chat(key=key, model="auto:only-big", max_tokens=1, stream=True)

    assert reply.status_code == 200
    [row] = await gate.rows(1)
    assert (row.usage_source, row.completion_tokens > 100) == ("estimated", True)
    assert row.cost_nano == row.reserved_nano
    await gate.nothing_held(key)


async def test_three_failures_keep_a_target_from_being_asked(gate: Gateway, upstream: Upstream, key: str) -> None:
    upstream.plans["big"] = Plan(status=500)

    replies = [await gate.chat(f"question {number}", key=key) for number in range(5)]

    assert [reply.status_code for reply in replies] == [200] * 5
    assert [request.model for request in upstream.requests].count("big") == 3
    story = (await gate.get(f"/v1/requests/{replies[-1].headers['x-gateway-request-id']}", key)).json()
    assert [one["model"] for one in story["rejected"]] == ["big"]
    assert "cooling down" in story["rejected"][0]["reason"]
