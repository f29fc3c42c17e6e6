"""Every response header and usage field, on every kind of reply, and the same told again by /v1/requests/{id}."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.ledger.store import SqlStore
from gateway.ledger.where import ledger_url
from tests.support.gateway import Gateway, events, gateway, hosted, local
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY: Any = {
    "name": "default",
    "baseline": "dear",
    "rules": [
        {"name": "coding", "when": "'tools' in needs", "use": ["dear", "big"]},
        {"name": "rest", "use": ["big"]},
    ],
}
ON_EVERY_REPLY = {
    "x-gateway-request-id",
    "x-gateway-route",
    "x-gateway-model",
    "x-gateway-cache",
    "x-gateway-policy",
    "x-gateway-overhead-ms",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    url = upstream_server.base_url
    models = [hosted("big", url), hosted("dear", url, price={"input": 5, "output": 20}), local("small", url)]
    async with gateway(tmp_path_factory.mktemp("gate"), models, [POLICY]) as running:
        yield running


@pytest.fixture
def upstream(upstream: Upstream) -> Upstream:
    upstream.default = Plan(text="Paris", prompt_tokens=1000, completion_tokens=100)
    return upstream


def told(reply: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name.startswith("x-gateway-")}


async def test_a_plain_reply(gate: Gateway) -> None:
    reply = await gate.chat()

    headers = told(reply)
    assert headers.keys() == ON_EVERY_REPLY | {"x-gateway-cost-usd", "x-gateway-saved-usd"}
    assert re.fullmatch(r"req_[0-9a-f]{24}", headers["x-gateway-request-id"])
    assert (headers["x-gateway-route"], headers["x-gateway-model"], headers["x-gateway-cache"]) == (
        "rest",
        "big",
        "miss",
    )
    assert re.fullmatch(r"default@[0-9a-f]{6,}", headers["x-gateway-policy"])
    assert 0 < float(headers["x-gateway-overhead-ms"]) < 1000
    # 1,000 × 2.50 + 100 × 10 micro-dollars; the baseline costs twice that
    assert (headers["x-gateway-cost-usd"], headers["x-gateway-saved-usd"]) == ("0.0035", "0.0035")
    usage = reply.json()["usage"]
    assert (usage["cost_usd"], usage["saved_usd"]) == (0.0035, 0.0035)
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (1000, 100, 1100)
    assert reply.headers["content-type"] == "application/json"


async def test_a_stream_has_its_costs_in_the_last_chunk_when_asked(gate: Gateway) -> None:
    async with gate.open(stream_options={"include_usage": True}) as reply:
        asked = events((await reply.aread()).decode())
    async with gate.open("another") as other:
        unasked = events((await other.aread()).decode())

    assert told(reply).keys() == ON_EVERY_REPLY
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert asked[-1]["choices"] == []
    assert (asked[-1]["usage"]["cost_usd"], asked[-1]["usage"]["saved_usd"]) == (0.0035, 0.0035)
    assert not any(event.get("usage") for event in asked[:-1])
    assert not any("usage" in event for event in unasked)


async def test_a_stream_whose_upstream_reports_nothing_ends_with_an_estimate(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="Paris it is", usage="missing")

    async with gate.open(stream_options={"include_usage": True}) as reply:
        last = events((await reply.aread()).decode())[-1]

    assert last["choices"] == []
    assert last["usage"]["estimated"] is True
    assert last["usage"]["cost_usd"] > 0
    [row] = await gate.rows(1)
    assert row.usage_source == "estimated"
    assert row.cost_nano / 1e9 == pytest.approx(last["usage"]["cost_usd"])


async def test_a_hit_costs_nothing_and_says_what_it_saved(gate: Gateway) -> None:
    first = await gate.chat("Hi")
    plain = await gate.chat("Hi")
    async with gate.open("Hi", stream_options={"include_usage": True}) as streamed:
        last = events((await streamed.aread()).decode())[-1]

    extra = {"x-gateway-cost-usd", "x-gateway-saved-usd", "x-gateway-cache-similarity", "x-gateway-cache-entry"}
    for reply, usage in ((plain, plain.json()["usage"]), (streamed, last["usage"])):
        headers = told(reply)
        assert headers.keys() == ON_EVERY_REPLY | extra
        assert (headers["x-gateway-cache"], headers["x-gateway-cache-similarity"]) == ("exact", "1.0000")
        assert (headers["x-gateway-route"], headers["x-gateway-model"]) == ("cache", "big")
        # what the baseline would have taken: 1,000 × 5 + 100 × 20 micro-dollars
        assert (headers["x-gateway-cost-usd"], headers["x-gateway-saved-usd"]) == ("0", "0.007")
        assert (usage["cost_usd"], usage["saved_usd"]) == (0, 0.007)
        assert headers["x-gateway-request-id"] != first.headers["x-gateway-request-id"]
    rows = await gate.rows(3)
    assert [(row.cache, row.served, row.cost_nano) for row in rows[1:]] == [("exact", "cache", 0)] * 2


@pytest.mark.parametrize("stream", [False, True])
async def test_an_admitted_request_that_fails_tells_as_much(gate: Gateway, upstream: Upstream, stream: bool) -> None:
    upstream.default = Plan(status=500)
    key = await gate.key(rpm=10)

    reply = await gate.chat(key=key, stream=stream)

    assert reply.status_code == 500
    assert told(reply).keys() == ON_EVERY_REPLY
    assert reply.headers["x-gateway-route"] == "rest"
    assert reply.headers["x-gateway-model"] == "small"  # the last that was asked
    assert reply.headers["x-ratelimit-remaining-requests"] == "9"


async def test_what_is_refused_before_admission_still_has_an_id(gate: Gateway) -> None:
    reply = await gate.chat(model="gpt-17")

    assert reply.status_code == 404
    assert told(reply).keys() == {"x-gateway-request-id"}
    await gate.rows(0)


async def test_a_request_that_bypasses_the_cache_says_so(gate: Gateway) -> None:
    assert (await gate.chat(headers={"x-gateway-cache": "no-cache"})).headers["x-gateway-cache"] == "bypass"


async def test_rate_limits_are_told_as_openai_tells_them(gate: Gateway) -> None:
    key = await gate.key(rpm=60, tpm=100_000)

    reply = await gate.chat("word " * 100, key=key)

    headers = reply.headers
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("60", "59")
    assert headers["x-ratelimit-reset-requests"] == "1.000s"
    assert headers["x-ratelimit-limit-tokens"] == "100000"
    assert 99_700 < int(headers["x-ratelimit-remaining-tokens"]) < 99_950
    assert 0 < float(headers["x-ratelimit-reset-tokens"].removesuffix("s")) < 1
    assert not any(name.startswith("x-ratelimit") for name in (await gate.chat()).headers)


async def test_a_request_is_told_again_as_its_headers_told_it(gate: Gateway) -> None:
    key = await gate.key(tags=["blue"])
    reply = await gate.chat("Add 1 and 2", key=key, user="u-7", headers={"x-gateway-tags": "red"})

    again = (await gate.get(f"/v1/requests/{reply.headers['x-gateway-request-id']}", key)).json()

    assert (again["rule"], again["model"], again["cache"]) == ("rest", "big", "miss")
    assert again["policy"] == reply.headers["x-gateway-policy"]
    assert (again["cost_usd"], again["saved_usd"], again["usage_source"]) == (0.0035, 0.0035, "reported")
    assert again["features"]["tags"] == ["blue", "red"]
    assert (again["end_user"], again["status"], again["served"]) == ("u-7", "ok", "hosted")
    assert [(one["model"], one["when"], one["reason"]) for one in again["unmatched"]] == [
        ("coding", "'tools' in needs", "'tools' in needs is false: needs = []")
    ]
    assert [attempt["model"] for attempt in again["attempts"]] == ["big"]
    assert {one["model"]: one["cost_usd"] for one in again["alternatives"]}["dear"] == 0.007
    assert again["ttft_ms"] > 0
    assert "Add 1 and 2" not in str(again)


async def test_a_failed_request_tells_why_each_target_was_not_used(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key()
    upstream.plans["dear"] = Plan(status=503)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]

    reply = await gate.chat(key=key, tools=tools)
    again = (await gate.get(f"/v1/requests/{reply.headers['x-gateway-request-id']}", key)).json()

    assert (reply.headers["x-gateway-route"], reply.headers["x-gateway-model"]) == ("coding", "big")
    assert again["targets"] == ["dear", "big"]
    assert [(one["model"], one["status"]) for one in again["attempts"]] == [("dear", 503), ("big", 200)]
    assert {"model": "small", "reason": "lacks tools"} in again["rejected"]


async def test_only_the_own_key_the_team_and_an_admin_may_ask(gate: Gateway) -> None:
    own, mate = await gate.key(team="red"), await gate.key(team="red")
    other, loner = await gate.key(team="blue"), await gate.key()
    path = f"/v1/requests/{(await gate.chat(key=own)).headers['x-gateway-request-id']}"

    assert [(await gate.get(path, key)).status_code for key in (own, mate, other, loner, "")] == [
        200,
        200,
        404,
        404,
        404,
    ]
    assert (await gate.admin("GET", path)).status_code == 200


async def test_a_request_nobody_made_is_told_from_one_that_cannot_be_looked_up(gate: Gateway) -> None:
    path = "/v1/requests/req_000000000000000000000000"
    before = await gate.get(path)
    settings = gate.runtime.view.settings
    settings.data_dir.mkdir(exist_ok=True)
    writer = SqlStore(ledger_url(settings))
    await writer.migrate()
    await writer.close()
    after = await gate.get(path)

    assert (before.status_code, before.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert (after.status_code, after.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/none", 404),
        ("GET", "/v1/none", 404),
        ("PUT", "/v1/feedback", 405),
    ],
)
async def test_replies_of_every_other_path_have_an_id_too(gate: Gateway, method: str, path: str, status: int) -> None:
    replies = [await gate.http.request(method, path) for _ in range(2)]

    assert {reply.status_code for reply in replies} == {status}
    ids = {reply.headers["x-gateway-request-id"] for reply in replies}
    assert len(ids) == 2
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", one) for one in ids)
