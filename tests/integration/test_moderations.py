"""``/v1/moderations``: passed on to the model that moderates, with the gate, limits and books of everything else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.support.gateway import Gateway, gateway, hosted
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

FREE = {"input": 0, "output": 0}
STAYS = {"name": "stays", "when": "'confidential' in tags", "use": ["big"], "local_only": True}
POLICY = {"name": "default", "baseline": "big", "rules": [STAYS, {"name": "all", "use": ["big"]}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    url = upstream_server.base_url
    models = [
        hosted("big", url),
        hosted("whatever", url, price=FREE),
        hosted("guard", url, upstream_model="omni-moderation-latest", price=FREE),
        hosted("paid-guard", url, upstream_model="our-moderation", price={**FREE, "per_request": 0.001}),
    ]
    async with gateway(tmp_path_factory.mktemp("gate"), models, [POLICY]) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def key(gate: Gateway) -> str:
    return await gate.key(budget_usd=0.0015)


@pytest_asyncio.fixture(loop_scope="module")
async def client(gate: Gateway, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=gate.base_url, api_key=key, max_retries=0) as made:
        yield made


async def test_a_request_that_names_no_model(client: AsyncOpenAI, gate: Gateway, upstream: Upstream, key: str) -> None:
    made = await client.moderations.create(input=["fine", "to be flagged"])

    assert [result.flagged for result in made.results] == [False, True]
    usage = (made.model_extra or {})["usage"]
    assert (usage["cost_usd"], usage["saved_usd"], usage["estimated"]) == (0, 0, True)
    assert upstream.requests[0].path == "/v1/moderations"
    assert upstream.requests[0].json == {"model": "omni-moderation-latest", "input": ["fine", "to be flagged"]}
    [row] = await gate.rows(1)
    assert (row.rule, row.requested_model, row.model, row.served) == ("moderations", "auto", "guard", "hosted")
    assert (row.cost_nano, row.ttft_ms, row.detail["operation"]) == (0, None, "moderations")
    await gate.nothing_held(key)


async def test_parts_of_which_some_are_images(client: AsyncOpenAI, upstream: Upstream) -> None:
    parts: Any = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]

    made = await client.moderations.create(model="guard", input=parts)

    assert len(made.results) == 1
    assert upstream.requests[0].json["input"] == parts


async def test_what_is_charged_by_the_call_is_bounded_by_the_budget(
    client: AsyncOpenAI, gate: Gateway, upstream: Upstream, key: str
) -> None:
    reply = await client.moderations.with_raw_response.create(model="paid-guard", input="hi")
    with pytest.raises(openai.APIStatusError) as refused:
        await client.moderations.create(model="paid-guard", input="hi")

    assert reply.headers["x-gateway-cost-usd"] == "0.001"
    assert (refused.value.status_code, refused.value.code) == (402, "budget_exhausted")
    assert [row.cost_nano for row in await gate.rows(2)] == [1_000_000, 0]
    assert (await gate.budget(key))["spent"] == 1_000_000
    assert len(upstream.requests) == 1


async def test_who_may_not_and_what_is_none(client: AsyncOpenAI, gate: Gateway, upstream: Upstream) -> None:
    with pytest.raises(openai.BadRequestError) as chat:
        await client.moderations.create(model="big", input="hi")
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.moderations.create(model="omni-moderation-latest", input="hi")
    with pytest.raises(openai.PermissionDeniedError) as private:
        await client.moderations.create(input="hi", extra_headers={"x-gateway-tags": "confidential"})

    assert chat.value.code == "not_a_moderation_model"
    assert unknown.value.code == "model_not_found"
    assert private.value.code == "local_only"
    rubbish: list[dict[str, Any]] = [{}, {"input": []}, {"input": ["a", {"type": "text"}]}, {"input": [{"text": "a"}]}]
    for wrong in (*rubbish, {"input": 1}):
        reply = await gate.http.post("/v1/moderations", json=wrong)
        assert reply.status_code == 400, reply.text
        assert reply.json()["error"]["param"].startswith("input")
    assert upstream.requests == []
    assert await gate.rows(0) == []


async def test_upstreams_failure_is_told_and_has_its_row(
    client: AsyncOpenAI, gate: Gateway, upstream: Upstream
) -> None:
    upstream.default = Plan(status=503)
    with pytest.raises(openai.InternalServerError):
        await client.moderations.create(input="hi")
    [row] = await gate.rows(1)
    assert (row.status, row.http_status, row.model, row.served) == ("error", 503, "guard", "none")


async def test_none_is_configured(tmp_path: Path, upstream: Upstream) -> None:
    async with gateway(tmp_path, [hosted("big", upstream.base_url)]) as running:
        for path, body in (("moderations", {"input": "hi"}), ("embeddings", {"model": "auto", "input": "hi"})):
            reply = await running.http.post(f"/v1/{path}", json=body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
            assert "gateway.yaml" in reply.json()["error"]["message"]
    assert upstream.requests == []
