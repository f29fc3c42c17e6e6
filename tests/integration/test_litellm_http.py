"""A target in Anthropic's wire format, through litellm itself: what the client gets, and what it costs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.gateway import Gateway, events, gateway
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLAUDE = {"name": "claude", "provider": "litellm", "upstream_model": "anthropic/claude-sonnet-4-5", "max_retries": 0}
POLICY = {
    "name": "default",
    "cache": {"exact": False, "semantic": False},
    "rules": [{"name": "all", "use": ["claude"]}],
}
# 600 × $3 + 400 cached × $0.30 + 100 × $15 a million, as the map in the litellm wheel has it.
PLAN = Plan(text="Paris is the capital", prompt_tokens=1000, cached_tokens=400, completion_tokens=100)
COST_NANO = 600 * 3_000 + 400 * 300 + 100 * 15_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    model = CLAUDE | {"base_url": upstream_server.url, "api_key": "${BIG_KEY}"}
    async with gateway(tmp_path_factory.mktemp("litellm"), [model], [POLICY]) as running:
        yield running


async def test_a_plain_answer(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = PLAN

    reply = await gate.chat("What is the capital of France?")

    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["choices"][0]["message"]["content"] == "Paris is the capital"
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (1000, 100)
    assert body["usage"]["cost_usd"] == COST_NANO / 10**9
    assert upstream.requests[-1].path == "/v1/messages"
    [row] = await gate.rows(1)
    assert (row.cost_nano, row.cached_tokens, row.usage_source) == (COST_NANO, 400, "reported")
    assert row.price_source.startswith("litellm ")


async def test_a_stream(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = PLAN

    reply = await gate.chat("What is the capital?", stream=True, stream_options={"include_usage": True})

    *chunks, usage = events(reply.text)
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == "Paris is the capital"
    assert usage["usage"]["cost_usd"] == COST_NANO / 10**9
    [row] = await gate.rows(1)
    assert (row.cost_nano, row.stream, row.status) == (COST_NANO, True, "ok")


async def test_a_refusal_and_a_failure(gate: Gateway, upstream: Upstream) -> None:
    upstream.enqueue(Plan(status=400), Plan(status=529))

    refused, failed = await gate.chat("one"), await gate.chat("two")

    assert refused.status_code == 400
    assert failed.status_code in {500, 502, 503, 529}
    rows = await gate.rows(2)
    assert [(row.status, row.cost_nano) for row in rows] == [("error", 0)] * 2
