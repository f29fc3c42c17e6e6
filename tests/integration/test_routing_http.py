"""The shipped default policy over a local and two hosted models: where requests go, and where they never may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests.support.gateway import Gateway, gateway, hosted, local
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEFAULT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "policies" / "default.yaml").read_text())
CHEAP: Any = {"name": "cheap", "rules": [{"name": "always-here", "use": ["local-small"]}]}
LAX: Any = {"name": "lax", "unpriced": "allow", "rules": [{"name": "all", "use": ["mystery"]}]}
STRICT: Any = {"name": "strict", "rules": [{"name": "all", "use": ["mystery", "gpt-4o-mini"]}]}
EASY = "What is the capital of France?"
HARD = (
    "Prove step by step that there are infinitely many primes congruent to 3 modulo 4, then design and implement an "
    "algorithm in Python that enumerates them, and analyze its asymptotic complexity."
)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
SECRET = {"x-gateway-tags": "confidential"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream, near_server: Upstream
) -> AsyncIterator[Gateway]:
    url = upstream_server.base_url
    models = [
        local("local-small", near_server.base_url),
        hosted("gpt-4o-mini", url),
        hosted("claude", url),
        {"name": "mystery", "provider": "openai_compatible", "base_url": url},
        {"name": "keyless", "provider": "openai", "api_key": "${NOT_SET}", "upstream_model": "gpt-4o-mini"},
    ]
    async with gateway(tmp_path_factory.mktemp("gate"), models, [DEFAULT, CHEAP, LAX, STRICT]) as running:
        yield running


async def test_an_easy_question_is_answered_here(gate: Gateway, upstream: Upstream, near: Upstream) -> None:
    reply = await gate.chat(EASY)

    assert (reply.headers["x-gateway-route"], reply.headers["x-gateway-model"]) == ("easy", "local-small")
    assert near.requests[0].json["model"] == "smollm2-135m-instruct"
    assert upstream.requests == []
    [row] = await gate.rows(1)
    assert (row.served, row.provider) == ("local", "local")
    assert "x-gateway-degraded" not in reply.headers


@pytest.mark.parametrize(("prompt", "body", "rule"), [(HARD, {}, "hard"), (EASY, {"tools": TOOLS}, "tools")])
async def test_what_is_hard_or_needs_tools_goes_out(
    gate: Gateway, upstream: Upstream, near: Upstream, prompt: str, body: dict[str, Any], rule: str
) -> None:
    reply = await gate.chat(prompt, **body)

    assert (reply.headers["x-gateway-route"], reply.headers["x-gateway-model"]) == (rule, "gpt-4o-mini")
    assert near.requests == []
    [row] = await gate.rows(1)
    assert (row.served, row.provider) == ("hosted", "openai_compatible")


async def test_a_long_prompt_goes_out_however_easy(gate: Gateway, near: Upstream) -> None:
    reply = await gate.chat("Hello " * 2000)

    assert reply.headers["x-gateway-model"] == "gpt-4o-mini"
    assert near.requests == []


async def test_quality_moves_the_line(gate: Gateway) -> None:
    async def difficulty(quality: str) -> float:
        reply = await gate.chat("Summarize the plot of Hamlet.", headers={"x-gateway-quality": quality})
        told = await gate.get(f"/v1/requests/{reply.headers['x-gateway-request-id']}")
        return float(told.json()["difficulty"])

    assert await difficulty("0") < await difficulty("5") < await difficulty("10")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("by_key", [False, True])
async def test_what_is_confidential_stays_here(
    gate: Gateway, upstream: Upstream, near: Upstream, stream: bool, by_key: bool
) -> None:
    key = await gate.key(tags=["confidential"] if by_key else [])

    reply = await gate.chat(HARD, key=key, headers={} if by_key else SECRET, stream=stream)

    assert (reply.headers["x-gateway-route"], reply.headers["x-gateway-model"]) == ("stays-here", "local-small")
    assert upstream.requests == []
    told = (await gate.get(f"/v1/requests/{reply.headers['x-gateway-request-id']}", key)).json()
    assert told["local_only"] is True


async def test_a_header_cannot_take_a_keys_tag_away(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(tags=["confidential"])

    await gate.chat(HARD, key=key, headers={"x-gateway-tags": "public,-confidential"})

    assert upstream.requests == []


@pytest.mark.parametrize(
    ("plan", "body", "status"),
    [
        (Plan(status=500), {}, 500),
        (Plan(status=400), {}, 400),
        (Plan(drop_connect=True), {}, 502),
        (Plan(garbage_after=0), {}, 502),
        (Plan(), {"tools": TOOLS}, 503),
        (Plan(), {"messages": [{"role": "user", "content": "x " * 40_000}]}, 503),
    ],
    ids=["500", "400", "reset", "garbage", "tools", "too-long"],
)
async def test_what_must_stay_here_and_cannot_be_served_fails(
    gate: Gateway, upstream: Upstream, near: Upstream, plan: Plan, body: dict[str, Any], status: int
) -> None:
    near.default = plan

    reply = await gate.chat(HARD, headers=SECRET, **body)

    assert reply.status_code == status, reply.text
    assert upstream.requests == []
    [row] = await gate.rows(1)
    assert (row.status, row.cost_nano) == ("error", 0)


async def test_what_must_stay_here_may_not_name_a_hosted_model(gate: Gateway, upstream: Upstream) -> None:
    reply = await gate.chat(EASY, model="gpt-4o-mini", headers=SECRET)

    assert reply.status_code == 403
    error = reply.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("local_only", "permission_error", "model")
    assert upstream.requests == []


async def test_a_model_that_is_named_is_asked(gate: Gateway, upstream: Upstream, near: Upstream) -> None:
    out = await gate.chat(EASY, model="claude")
    here = await gate.chat(HARD, model="local-small")
    also_here = await gate.chat(HARD, model="local-small", headers=SECRET)

    assert [reply.headers["x-gateway-model"] for reply in (out, here, also_here)] == [
        "claude",
        "local-small",
        "local-small",
    ]
    assert {reply.headers["x-gateway-route"] for reply in (out, here, also_here)} == {"pinned"}
    assert [request.model for request in upstream.requests] == ["claude"]


async def test_a_named_model_that_fails_is_not_replaced(gate: Gateway, upstream: Upstream, near: Upstream) -> None:
    upstream.default = Plan(status=503)

    assert (await gate.chat(EASY, model="claude")).status_code == 503
    assert near.requests == []
    keyless = await gate.chat(EASY, model="keyless")
    assert (keyless.status_code, keyless.json()["error"]["code"]) == (503, "no_target_available")


async def test_a_policy_may_be_named(gate: Gateway, upstream: Upstream) -> None:
    reply = await gate.chat(HARD, model="auto:cheap")
    same = await gate.chat(EASY, model="auto:default")

    assert reply.headers["x-gateway-policy"].startswith("cheap@")
    assert reply.headers["x-gateway-route"] == "always-here"
    assert same.headers["x-gateway-policy"].startswith("default@")
    assert upstream.requests == []


@pytest.mark.parametrize("model", ["gpt-17", "auto:nope", "auto:", "autoo", "local-small ", "smollm2-135m-instruct"])
async def test_a_model_nobody_configured(gate: Gateway, upstream: Upstream, model: str) -> None:
    reply = await gate.chat(model=model)

    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["type"] == "invalid_request_error"
    await gate.rows(0)


async def test_a_model_without_a_price_is_refused_unless_the_policy_allows_it(
    gate: Gateway, upstream: Upstream
) -> None:
    named = await gate.chat(model="mystery")
    skipped = await gate.chat(model="auto:strict")
    allowed = await gate.chat(model="auto:lax")

    assert (named.status_code, named.json()["error"]["code"]) == (402, "model_unpriced")
    assert skipped.headers["x-gateway-model"] == "gpt-4o-mini"
    assert (allowed.status_code, allowed.headers["x-gateway-model"]) == (200, "mystery")
    assert allowed.json()["usage"]["cost_usd"] is None, "what nobody knows is not $0"
    assert "x-gateway-cost-usd" not in allowed.headers
    last = (await gate.rows(3))[-1]
    assert (last.unpriced, last.cost_nano) == (True, 0)
    told = (await gate.get(f"/v1/requests/{last.request_id}")).json()
    assert (told["unpriced"], told["cost_usd"], told["saved_usd"]) == (True, None, None)


async def test_when_every_hosted_model_fails_the_local_one_answers_and_says_so(
    gate: Gateway, upstream: Upstream, near: Upstream
) -> None:
    upstream.default = Plan(status=503)

    reply = await gate.chat(HARD)

    assert (reply.status_code, reply.headers["x-gateway-model"]) == (200, "local-small")
    assert reply.headers["x-gateway-degraded"] == "hosted-failed"
    [row] = await gate.rows(1)
    assert (row.degraded, row.served) == ("hosted-failed", "local")


async def test_when_the_local_model_fails_a_hosted_one_answers(
    gate: Gateway, upstream: Upstream, near: Upstream
) -> None:
    near.default = Plan(status=500)

    reply = await gate.chat(EASY)

    assert (reply.status_code, reply.headers["x-gateway-model"]) == (200, "gpt-4o-mini")
    assert reply.headers["x-gateway-route"] == "easy"


async def test_without_any_hosted_key_everything_is_answered_here(tmp_path: Path, near: Upstream) -> None:
    models: Any = [
        local("local-small", near.base_url),
        {"name": "gpt-4o-mini", "provider": "openai", "api_key": "${NOT_SET}"},
        {
            "name": "claude",
            "provider": "litellm",
            "upstream_model": "anthropic/claude-sonnet-4-5",
            "api_key": "${NOT_SET}",
        },
    ]
    async with gateway(tmp_path, models, [DEFAULT]) as gate:
        hard, easy = await gate.chat(HARD), await gate.chat(EASY)
        listed = {row["id"]: row for row in (await gate.get("/v1/models")).json()["data"]}

    for reply in (hard, easy):
        assert (reply.status_code, reply.headers["x-gateway-model"]) == (200, "local-small")
        assert reply.headers["x-gateway-degraded"] == "no-hosted-key"
    assert listed["gpt-4o-mini"]["unavailable"] == "no api_key is set"
