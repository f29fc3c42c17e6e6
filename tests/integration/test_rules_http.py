"""What a rule says besides where: its fields reach upstream, its bounds hold, its shadows are in the books."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.backends.pulse import Load
from tests.support.gateway import Gateway, gateway, hosted, local
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NO_CACHE = {"exact": False, "semantic": False}
POLICIES: list[Any] = [
    {"name": "default", "cache": NO_CACHE, "rules": [{"name": "all", "use": ["big"]}]},
    {
        "name": "short",
        "cache": NO_CACHE,
        "rules": [
            {"name": "brief", "use": ["big"], "params": {"temperature": 0.1, "max_tokens": 7}, "timeout": "400ms"}
        ],
    },
    *(
        {
            "name": name,
            "cache": NO_CACHE,
            "rules": [{"name": "both", "use": ["big"], "shadow": {"use": ["second"], "usd_per_day": usd}}],
        }
        for name, usd in (("mirrored", 1), ("frugal", 0.001))
    ),
    {
        "name": "poor",
        "cache": NO_CACHE,
        "rules": [{"name": "low", "when": "budget_left < 0.5", "use": ["second"]}, {"name": "rest", "use": ["big"]}],
    },
    {
        "name": "impatient",
        "cache": NO_CACHE,
        "rules": [{"name": "here", "use": ["local-small", "big"], "max_wait": "500ms"}],
    },
    {"name": "quick", "cache": NO_CACHE, "rules": [{"name": "any", "use": ["big", "second"], "strategy": "fastest"}]},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    url = upstream_server.base_url
    models = [hosted("big", url), hosted("second", url), local("local-small", url)]
    async with gateway(tmp_path_factory.mktemp("gate"), models, POLICIES) as running:
        yield running


async def test_a_rule_s_fields_are_sent_instead_of_the_client_s(gate: Gateway, upstream: Upstream) -> None:
    reply = await gate.chat(model="auto:short", temperature=1.5, max_completion_tokens=900, top_p=0.3)
    assert reply.status_code == 200
    sent = upstream.requests[-1].json
    assert (sent["temperature"], sent["max_tokens"], sent["top_p"]) == (0.1, 7, 0.3)
    assert "max_completion_tokens" not in sent


async def test_what_is_reserved_is_what_the_rule_allows(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="word " * 7)
    key = await gate.key(budget_usd=0.002)  # 900 tokens of answer would be 0.009
    reply = await gate.chat(model="auto:short", key=key, max_tokens=900)
    assert reply.status_code == 200, reply.text


async def test_a_rule_s_timeout_bounds_the_call(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(hang=True)
    reply = await gate.chat(model="auto:short")
    assert reply.status_code == 504


class TestShadows:
    async def test_the_same_question_goes_to_the_shadow_and_only_the_answer_to_the_client(
        self, gate: Gateway, upstream: Upstream
    ) -> None:
        upstream.plans["second"] = Plan(text="a shadow's answer")
        async with gate.open("what is it?", model="auto:mirrored") as reply:
            text = "".join([part async for part in reply.aiter_text()])
        assert "shadow" not in text
        rows = {row.key_id: row for row in await gate.rows(2)}
        shadow, shown = rows["shadow"], rows["anonymous"]
        assert (shadow.model, shown.model) == ("second", "big")
        assert shadow.detail["shadow_of"] == shown.request_id
        assert "shadow" in shadow.tags
        assert shadow.cost_nano > 0
        assert [sent.json["messages"][0]["content"] for sent in upstream.requests] == ["what is it?"] * 2

    async def test_nobody_waits_for_it(self, gate: Gateway, upstream: Upstream) -> None:
        upstream.plans["second"] = Plan(hang=True)
        reply = await asyncio.wait_for(gate.chat(model="auto:mirrored"), 10)
        assert reply.status_code == 200
        await until(lambda: len(upstream.requests) == 2)
        await gate.runtime.pipeline.settling.shadows.close()
        rows = {row.key_id: row for row in await gate.rows(2)}
        assert (rows["shadow"].status, rows["anonymous"].status) == ("cancelled", "ok")

    async def test_its_budget_of_the_day_is_its_own(self, gate: Gateway, upstream: Upstream) -> None:
        key = await gate.key(budget_usd=1)
        upstream.plans["second"] = Plan(text="word " * 60, completion_tokens=60)  # 0.0006 of 0.001
        for asked in range(4):
            await gate.chat(f"question {asked}", model="auto:frugal", key=key, max_tokens=60)
            await gate.runtime.books.drain()
        asked_of_shadow = [sent for sent in upstream.requests if sent.json["model"] == "second"]
        assert 1 <= len(asked_of_shadow) <= 2
        rows = await gate.rows(4 + len(asked_of_shadow))
        mine = sum(row.cost_nano for row in rows if row.key_id != "shadow")
        assert (await gate.budget(key))["spent"] == mine

    async def test_a_shadow_that_fails_is_a_row_too(self, gate: Gateway, upstream: Upstream) -> None:
        upstream.plans["second"] = Plan(status=500)
        assert (await gate.chat(model="auto:mirrored")).status_code == 200
        rows = {row.key_id: row for row in await gate.rows(2)}
        assert (rows["shadow"].status, rows["anonymous"].status) == ("error", "ok")


async def test_what_is_left_of_the_budget_decides(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(completion_tokens=50)
    key = await gate.key(budget_usd=0.002)
    routes = []
    for _ in range(3):
        reply = await gate.chat(model="auto:poor", key=key, max_tokens=50)
        routes.append(reply.headers["x-gateway-route"])
        await gate.runtime.books.drain()
    assert routes[0] == "rest"
    assert routes[-1] == "low"


async def test_a_long_wait_sends_an_easy_prompt_on(gate: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    target = gate.runtime.view.fleet._targets["local-small"]
    load = Load(predicted_wait_seconds=0.0, tokens_per_second=100, slots=4)

    async def ask() -> Load:
        return load

    monkeypatch.setattr(target.backend.pulse, "_ask", ask)
    assert (await gate.chat(model="auto:impatient")).headers["x-gateway-model"] == "local-small"
    load = Load(predicted_wait_seconds=3.0, tokens_per_second=100, slots=4, running={"interactive": 4})
    monkeypatch.setattr(target.backend.pulse, "_asked_at", 0.0)

    def waits() -> bool:
        return gate.runtime.view.fleet.live("local-small", stream=False).wait_s >= 3

    await until(waits)
    reply = await gate.chat(model="auto:impatient")
    assert reply.headers["x-gateway-model"] == "big"
    story = (await gate.get(f"/v1/requests/{reply.headers['x-gateway-request-id']}")).json()
    assert any("over max_wait" in row["reason"] for row in story["rejected"])


async def test_the_faster_of_two_is_asked_first_once_both_are_known(gate: Gateway, upstream: Upstream) -> None:
    upstream.plans["big"] = Plan(first_delay_s=0.4)
    for _ in range(2):
        await gate.chat(model="auto:quick")
    models = {(await gate.chat(model="auto:quick")).headers["x-gateway-model"] for _ in range(3)}
    assert models == {"second"}
