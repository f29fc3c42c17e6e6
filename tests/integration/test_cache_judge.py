"""A model says whether two answers are the same: in the background, priced, in the books, never of what is local."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from gateway.cache.lessons import Lesson, lessons
from gateway.cache.posterior import Observation
from gateway.types import SHADOW_KEY
from tests.support.gateway import EVERYTHING_BIG, Gateway, gateway, hosted
from tests.support.models import EMBED, embed_model, served
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORED, DOUBTFUL = "How do I reset my password?", "How do I change my forgotten password?"
POLICY = {
    **EVERYTHING_BIG,
    "rules": [{"name": "private", "when": "'private' in tags", "use": ["big"]}, {"name": "all", "use": ["big"]}],
}


@pytest.fixture(scope="module")
def embedder() -> Iterator[str]:
    with served("embed", "--model", str(embed_model())) as address:
        yield f"{address}/v1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judged_gateway(
    tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream, embedder: str
) -> AsyncIterator[Gateway]:
    models = [hosted("big", upstream_server.base_url), hosted("wise", upstream_server.base_url)]
    sections: dict[str, Any] = {"embedder": {"url": embedder, "model": EMBED}, "cache": {"judge": {"model": "wise"}}}
    async with gateway(tmp_path_factory.mktemp("gate"), models, [POLICY], **sections) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def gate(judged_gateway: Gateway, upstream: Upstream) -> Gateway:
    await judged_gateway.fresh()
    await until(lambda: judged_gateway.runtime.semantic.size == 0)
    upstream.plans["wise"] = Plan(text="SAME")
    return judged_gateway


async def doubted(gate: Gateway, upstream: Upstream, fresh: str) -> str:
    """Two questions of which the second is answered afresh, to see. Returns the request's id."""
    key, before = await gate.key(), gate.runtime.semantic.size
    upstream.plans["big"] = Plan(text="Press the red button.")
    await gate.chat(STORED, key=key)
    await until(lambda: gate.runtime.semantic.size == before + 1)
    upstream.plans["big"] = Plan(text=fresh)
    reply = await gate.chat(DOUBTFUL, key=key)
    assert reply.headers["x-gateway-cache"] == "miss"
    await until(lambda: gate.runtime.semantic.size == before + 2)
    await gate.runtime.books.drain()
    return reply.headers["x-gateway-request-id"]


async def outcome(gate: Gateway) -> Observation:
    redis, keys = gate.runtime.redis, gate.runtime.keys
    [name] = [name async for name in redis.scan_iter(f"{keys.outcomes('')}*")]
    values: Any = await redis.lrange(name, 0, -1)
    [value] = values
    return msgspec.msgpack.decode(value, type=Observation)


async def learnt(gate: Gateway) -> list[Lesson]:
    return [each async for each in lessons(gate.runtime.redis, gate.runtime.keys)]


async def test_the_judges_word_is_what_is_learnt_and_its_price_is_in_the_books(
    gate: Gateway, upstream: Upstream
) -> None:
    """By numbers, names and embeddings these two answers would be taken to differ."""
    request_id = await doubted(gate, upstream, "In Settings, choose Forgot, then push 1 red button.")

    assert (await outcome(gate)).same is True
    assert [each.source for each in await learnt(gate)] == ["judged"]
    rows = await gate.rows(3)
    [row] = [row for row in rows if row.key_id == SHADOW_KEY]
    assert (row.model, row.rule, row.detail["judged"]) == ("wise", "cache-judge", request_id)
    assert row.cost_nano == row.verification_nano == -row.saved_nano > 0
    [asked] = [received for received in upstream.requests if received.model == "wise"]
    told: Any = asked.json["messages"]
    assert "Press the red button." in told[-1]["content"]
    assert DOUBTFUL in told[-1]["content"]
    assert asked.json["max_tokens"] <= 16


async def test_a_judge_that_says_different_is_believed_too(gate: Gateway, upstream: Upstream) -> None:
    upstream.plans["wise"] = Plan(text="Different.")
    await doubted(gate, upstream, "Press the red button!")
    assert (await outcome(gate)).same is False


@pytest.mark.parametrize("plan", [Plan(status=500), Plan(text="I cannot tell")])
async def test_a_judge_that_says_nothing_leaves_it_to_the_rule(gate: Gateway, upstream: Upstream, plan: Plan) -> None:
    upstream.plans["wise"] = plan
    await doubted(gate, upstream, "Press the red button, please.")
    assert (await outcome(gate)).same is True
    assert [each.source for each in await learnt(gate)] == ["explored"]
    assert len(await gate.rows(3)) == 3


async def test_the_same_words_need_no_judge(gate: Gateway, upstream: Upstream) -> None:
    await doubted(gate, upstream, "Press the red button.")
    assert (await outcome(gate)).same is True
    await gate.rows(2)


async def test_past_the_days_money_nothing_is_asked(gate: Gateway, upstream: Upstream) -> None:
    config = gate.runtime.view.settings.config
    judge = msgspec.structs.replace(config.cache.judge, usd_per_day=0.0)  # type: ignore[type-var]
    poor = msgspec.structs.replace(config, cache=msgspec.structs.replace(config.cache, judge=judge))
    view = gate.runtime.view
    gate.runtime.view = msgspec.structs.replace(view, settings=msgspec.structs.replace(view.settings, config=poor))
    try:
        await doubted(gate, upstream, "Press the red button, please.")
    finally:
        gate.runtime.view = view
    await gate.rows(2)


async def test_what_must_stay_local_is_not_told_to_it(gate: Gateway) -> None:
    view = gate.runtime.view

    class LocalOnly:
        local_only = True

    assert gate.runtime.pipeline.settling.arbiter.of(view, LocalOnly()) is None  # type: ignore[arg-type]
    LocalOnly.local_only = False
    assert gate.runtime.pipeline.settling.arbiter.of(view, LocalOnly()) is not None  # type: ignore[arg-type]
