"""A gateway whose only model nobody priced: refused for that reason, not as if trying again later would help."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.gateway import Gateway, gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = [{"name": "all", "use": ["mystery"]}]
CACHE = {"exact": False, "semantic": False}
ALLOWS: Any = {"name": "allows", "unpriced": "allow", "baseline": "gpt-4o-mini", "cache": CACHE, "rules": RULES}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    mystery = {"name": "mystery", "provider": "openai_compatible", "base_url": upstream_server.base_url}
    known = {"name": "gpt-4o-mini", "provider": "openai", "api_key": "k", "price": {"input": 0.15, "output": 0.6}}
    policies = [{"name": "default", "rules": RULES}, ALLOWS]
    async with gateway(tmp_path_factory.mktemp("unpriced"), [mystery, known], policies) as running:
        yield running


async def test_every_way_of_asking_is_refused_with_402(gate: Gateway, upstream: Upstream) -> None:
    replies = [await gate.chat(), await gate.chat(stream=True), await gate.chat(model="mystery")]
    assert [(reply.status_code, reply.json()["error"]["code"]) for reply in replies] == [(402, "model_unpriced")] * 3
    assert "set `price` in gateway.yaml" in replies[0].json()["error"]["message"]
    assert upstream.requests == []
    assert [row.cost_nano for row in await gate.rows(3)] == [0] * 3


async def test_where_the_policy_allows_it_the_cost_is_unknown_in_every_form(gate: Gateway, upstream: Upstream) -> None:
    plain = await gate.chat(model="auto:allows")
    stream = await gate.chat(model="auto:allows", stream=True, stream_options={"include_usage": True})

    assert plain.json()["usage"]["cost_usd"] is None
    assert "x-gateway-cost-usd" not in plain.headers
    assert '"cost_usd":null,"saved_usd":null' in stream.text
    rows = await gate.rows(2)
    assert [(row.unpriced, row.price_source) for row in rows] == [(True, "")] * 2
    # What nobody knows the cost of has saved nothing that anybody could know.
    assert [(row.cost_nano, row.saved_nano) for row in rows] == [(0, 0)] * 2
