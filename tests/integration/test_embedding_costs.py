"""What a hosted embedder and a hosted cross-encoder cost is in the books, to the nano-dollar, and is no saving."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway import upkeep
from gateway.types import SHADOW_KEY, LedgerEntry, Usage
from tests.support.asgi_server import serving
from tests.support.gateway import Gateway, gateway, hosted
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

EMBEDDER, EMBEDDED_NANO = "text-embedding-3-small", 130
READ_TOKENS, READ_NANO, READING_NANO = 41, 50, 7_000
STORED, PARAPHRASE = "How do I reset my password?", "How do I reset my own password?"


@pytest.fixture(scope="module")
def cross_encoder() -> Iterator[str]:
    """Sure of everything; says what it took as vLLM does, in all only."""

    async def rerank(request: Request) -> JSONResponse:
        documents = (await request.json())["documents"]
        results = [{"index": index, "relevance_score": 0.9999} for index in range(len(documents))]
        return JSONResponse({"results": results, "usage": {"total_tokens": READ_TOKENS}})

    with serving(Starlette(routes=[Route("/v1/rerank", rerank, methods=["POST"])])) as address:
        yield f"{address}/v1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def paid_gateway(
    tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream, cross_encoder: str
) -> AsyncIterator[Gateway]:
    embedder = {"url": upstream_server.base_url, "model": EMBEDDER, "price": {"input": EMBEDDED_NANO / 1000}}
    price = {"input": READ_NANO / 1000, "per_request": READING_NANO / 1e9}
    reader = {"model": "reader", "url": cross_encoder, "low": 0.0, "high": 1.0, "timeout_ms": 20_000, "price": price}
    models = [hosted("big", upstream_server.base_url)]
    folder = tmp_path_factory.mktemp("gate")
    async with gateway(folder, models, embedder=embedder, cache={"cross_encoder": reader}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def gate(paid_gateway: Gateway, upstream: Upstream) -> Gateway:
    paid_gateway.runtime.pipeline.settling.upkeep.flush()
    await paid_gateway.fresh()
    await until(lambda: paid_gateway.runtime.semantic.size == 0)
    upstream.default = Plan(text="Press the red button.")
    return paid_gateway


async def stored(gate: Gateway, key: str) -> None:
    before = gate.runtime.semantic.size
    assert (await gate.chat(STORED, key=key)).headers["x-gateway-cache"] == "miss"
    await until(lambda: gate.runtime.semantic.size == before + 1)


async def all_rows(gate: Gateway, count: int) -> tuple[list[LedgerEntry], list[LedgerEntry]]:
    """Those of requests, and the one of the cache's upkeep."""
    gate.runtime.pipeline.settling.upkeep.flush()
    rows = await gate.rows(count + 1)
    mine = [row for row in rows if row.key_id == SHADOW_KEY]
    assert len(mine) == 1
    return [row for row in rows if row.key_id != SHADOW_KEY], mine


def embedded(upstream: Upstream) -> int:
    """Tokens in the embedder's own log."""
    calls = [call for call in upstream.requests if call.model == EMBEDDER]
    return sum(call.usage.prompt_tokens for call in calls if call.usage is not None)


def answered_nano(row: LedgerEntry) -> int:
    return 2500 * row.prompt_tokens + 10_000 * row.completion_tokens


async def test_every_token_that_the_embedder_counted_is_in_the_books(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(budget_usd=1)
    await stored(gate, key)

    reply = await gate.chat("Who wrote the play about a Danish prince?", key=key)

    rows, [tended] = await all_rows(gate, 2)
    asked = rows[1]
    assert (rows[0].embedding_nano, asked.embedding_nano) == (0, 8 * EMBEDDED_NANO)
    assert asked.cost_nano == answered_nano(asked) + asked.embedding_nano + asked.verification_nano
    assert asked.saved_nano == asked.baseline_nano - asked.cost_nano == -asked.embedding_nano - asked.verification_nano
    assert reply.json()["usage"]["cost_usd"] == pytest.approx(asked.cost_nano / 1e9, abs=1e-12)
    assert asked.cost_nano <= asked.reserved_nano
    told = next(one for one in asked.detail["helped"] if one["helper"] == "embedder")
    assert (told["tokens"], told["calls"], told["price"]["source"]) == (8, 1, "gateway.yaml")
    assert (tended.rule, tended.model, tended.usage_source) == ("cache-upkeep", EMBEDDER, "reported")
    assert (tended.cost_nano, tended.saved_nano) == (tended.embedding_nano, -tended.embedding_nano)
    assert tended.embedding_nano + asked.embedding_nano == embedded(upstream) * EMBEDDED_NANO
    assert (await gate.budget(key))["spent"] == sum(row.cost_nano for row in rows)


async def test_a_flood_of_upkeep_is_booked_before_its_time(
    gate: Gateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "CALLS_MAX", 3)
    used = gate.runtime.pipeline.settling.upkeep.of(gate.runtime.view.prices)
    assert used is not None
    for _ in range(7):
        used("embedder", Usage(prompt_tokens=10, source="reported"))
    rows = await gate.rows(2)
    assert [row.prompt_tokens for row in rows] == [30, 30]
    gate.runtime.pipeline.settling.upkeep.flush()
    assert (await gate.rows(3))[2].prompt_tokens == 10


async def test_a_hit_saves_less_by_what_finding_it_took(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key()
    await stored(gate, key)

    reply = await gate.chat(PARAPHRASE, key=key)

    assert reply.headers["x-gateway-cache"] == "semantic"
    (bought, found), _ = await all_rows(gate, 2)
    assert (found.embedding_nano, found.verification_nano) == (
        7 * EMBEDDED_NANO,
        READ_TOKENS * READ_NANO + READING_NANO,
    )
    assert found.cost_nano == found.embedding_nano + found.verification_nano
    assert found.saved_nano == bought.cost_nano - found.cost_nano
    assert (found.usage_source, found.price_source) == ("reported", "gateway.yaml")
    assert float(reply.headers["x-gateway-cost-usd"]) == pytest.approx(found.cost_nano / 1e9)
    assert reply.json()["usage"]["saved_usd"] == pytest.approx(found.saved_nano / 1e9)


async def test_what_is_not_reported_is_estimated(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key()
    await stored(gate, key)
    upstream.plans[EMBEDDER] = Plan(usage="missing")

    await gate.chat(PARAPHRASE, key=key)

    rows, _ = await all_rows(gate, 2)
    assert rows[1].usage_source == "estimated"
    assert 4 * EMBEDDED_NANO <= rows[1].embedding_nano <= 14 * EMBEDDED_NANO


async def test_who_has_nothing_left_buys_no_embedding(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(budget_usd=1)
    await stored(gate, key)
    await gate.runtime.books.drain()
    account: Any = gate.runtime.keys.budget(gate.key_id(key))
    await gate.runtime.redis.hset(account, mapping={"left": 0, "spent": 10**9})
    before = embedded(upstream)

    refused = await gate.chat(PARAPHRASE, key=key)

    assert refused.status_code == 402
    assert embedded(upstream) == before
