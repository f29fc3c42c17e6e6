"""Questions that mean the same, over HTTP with the real embedder: within a partition they meet, across walls never."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from gateway.cache.posterior import Observation
from gateway.http.worker import build_runtime
from gateway.protocols import Embedder
from gateway.runtime import Runtime
from tests.support.gateway import Gateway, events, gateway, hosted, said, serving
from tests.support.models import EMBED, embed_model, served
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED = "What is the capital of France?"
PARAPHRASES = ("What's the capital of France?", "what is France's capital?", "Which city is the capital of France?")
SYSTEM = {"role": "system", "content": "You are brief."}
HISTORY = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture(scope="module")
def embedder() -> Iterator[str]:
    with served("embed", "--model", str(embed_model())) as address:
        yield f"{address}/v1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served_gateway(
    tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream, embedder: str
) -> AsyncIterator[Gateway]:
    models = [hosted("big", upstream_server.base_url), hosted("other", upstream_server.base_url)]
    folder = tmp_path_factory.mktemp("gate")
    async with gateway(folder, models, embedder={"url": embedder, "model": EMBED}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def gate(served_gateway: Gateway, upstream: Upstream) -> Gateway:
    await served_gateway.fresh()
    await until(lambda: served_gateway.runtime.semantic.size == 0)
    upstream.default = Plan(text="Paris is the capital of France", chunks=6)
    return served_gateway


async def stored(gate: Gateway, key: str, **body: Any) -> None:
    """Ask, and wait until the question can be found by similar ones."""
    before = gate.runtime.semantic.size
    assert (await gate.chat(ASKED, key=key, **body)).headers["x-gateway-cache"] == "miss"
    await until(lambda: gate.runtime.semantic.size == before + 1)


async def found(gate: Gateway, key: str) -> httpx.Response | None:
    """The first paraphrase's reply that came from the semantic tier: a few may be checked afresh instead."""
    for prompt in PARAPHRASES:
        reply = await gate.chat(prompt, key=key)
        if reply.headers["x-gateway-cache"] == "semantic":
            return reply
    return None


async def test_a_paraphrase_is_answered_from_the_cache(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key()
    await stored(gate, key)

    hit = await found(gate, key)

    assert hit is not None
    assert hit.json()["choices"][0]["message"]["content"] == "Paris is the capital of France"
    assert 0.5 < float(hit.headers["x-gateway-cache-similarity"]) <= 1
    assert len(hit.headers["x-gateway-cache-entry"]) == 32
    assert (hit.json()["usage"]["cost_usd"], hit.json()["usage"]["saved_usd"] > 0) == (0, True)


async def test_no_paraphrase_gets_through_a_wall(gate: Gateway, upstream: Upstream) -> None:
    """Each is refused upstream, so that what is answered could only have come from the other side."""
    key, stranger = await gate.key(team="red"), await gate.key(team="red")
    await stored(gate, key)
    asked = len(upstream.requests)
    only = {"x-gateway-cache": "only-if-cached"}
    behind: list[tuple[str, dict[str, str], dict[str, Any]]] = [
        (stranger, {}, {}),
        ("", {}, {}),
        (key, {"x-gateway-quality": "10"}, {}),
        (key, {"openai-beta": "x"}, {}),
        *((key, {}, {"model": model}) for model in ("big", "other", "auto:default")),
        *((key, {}, {name: 1}) for name in ("seed", "max_tokens", "top_p", "unheard_of")),
        (key, {}, {"temperature": 0.5}),
        (key, {}, {"response_format": {"type": "json_object"}}),
    ]
    for prompt in (ASKED, *PARAPHRASES):
        for who, headers, body in behind:
            reply = await gate.chat(prompt, key=who, headers=only | headers, **body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (504, "cache_miss"), (prompt, headers, body)
        for before in ([SYSTEM], HISTORY, [SYSTEM, *HISTORY]):
            messages = [*before, {"role": "user", "content": prompt}]
            reply = await gate.chat(key=key, headers=only, messages=messages)
            assert reply.status_code == 504, messages
    assert len(upstream.requests) == asked


class Renamed:
    """Another model that is served under the same name."""

    id: str | None = "another/mean/384"

    def __init__(self, embedder: Embedder) -> None:
        self.embed, self.close = embedder.embed, embedder.close


async def test_another_embedder_behind_the_same_name_shares_no_vectors(gate: Gateway) -> None:
    key, only = await gate.key(), {"x-gateway-cache": "only-if-cached"}
    await stored(gate, key)
    embedder = gate.runtime.semantic.embedder
    assert embedder is not None
    gate.runtime.semantic.embedder = Renamed(embedder)
    try:
        for prompt in PARAPHRASES:
            assert (await gate.chat(prompt, key=key, headers=only)).status_code == 504
        assert (await gate.chat(ASKED, key=key, headers=only)).headers["x-gateway-cache"] == "exact"
    finally:
        gate.runtime.semantic.embedder = embedder
    assert await found(gate, key) is not None


async def test_look_alikes_are_not_answered_alike(gate: Gateway) -> None:
    key, only = await gate.key(), {"x-gateway-cache": "only-if-cached"}
    await stored(gate, key)
    for prompt in ("What is the capital of Finland?", "What is not the capital of France?", "What was it in 1793?"):
        assert (await gate.chat(prompt, key=key, headers=only)).status_code == 504


async def test_a_semantic_hit_streams_like_an_answer(gate: Gateway) -> None:
    key = await gate.key()
    await stored(gate, key)
    for prompt in PARAPHRASES:
        async with gate.open(prompt, key=key, stream_options={"include_usage": True}) as reply:
            shown = events((await reply.aread()).decode())
            if reply.headers["x-gateway-cache"] != "semantic":
                continue
        assert said(shown) == "Paris is the capital of France"
        assert len(shown) > 3
        assert shown[-1]["usage"]["saved_usd"] > 0
        return
    pytest.fail("no paraphrase was answered")


@pytest_asyncio.fixture(loop_scope="module")
async def second(gate: Gateway) -> AsyncIterator[tuple[httpx.AsyncClient, Runtime]]:
    """Another worker on the same Redis."""
    async with (
        serving(build_runtime(gate.runtime.view.settings)) as (url, runtime),
        httpx.AsyncClient(base_url=url, timeout=30) as client,
    ):
        yield client, runtime


async def test_workers_hear_of_each_others_entries_and_purges(
    gate: Gateway, second: tuple[httpx.AsyncClient, Runtime]
) -> None:
    client, other = second
    key = await gate.key()
    await stored(gate, key)
    await until(lambda: other.semantic.size == 1)
    body = {"model": "auto", "messages": [{"role": "user", "content": ASKED}]}
    reply = await client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
    assert reply.headers["x-gateway-cache"] == "exact"

    assert (await gate.admin("POST", "/admin/cache/purge", json={"all": True})).json()["entries"] == 1
    await until(lambda: other.semantic.size == gate.runtime.semantic.size == 0)
    only = {"x-gateway-cache": "only-if-cached"}
    for prompt in (ASKED, *PARAPHRASES):
        assert (await gate.chat(prompt, key=key, headers=only)).status_code == 504


async def test_an_index_empties_itself_when_the_keys_are_deleted_behind_its_back(
    gate: Gateway, second: tuple[httpx.AsyncClient, Runtime]
) -> None:
    _, other = second
    key = await gate.key()
    await stored(gate, key)
    await until(lambda: other.semantic.size == 1)

    await gate.runtime.redis.flushdb()

    await until(lambda: other.semantic.size == gate.runtime.semantic.size == 0)


async def test_a_wrong_hit_is_gone_from_every_worker(gate: Gateway, second: tuple[httpx.AsyncClient, Runtime]) -> None:
    _, other = second
    key = await gate.key()
    await stored(gate, key)
    await until(lambda: other.semantic.size == 1)
    hit = await found(gate, key)
    assert hit is not None
    size = gate.runtime.semantic.size

    reply = await gate.http.post(
        "/v1/feedback",
        json={"request_id": hit.headers["x-gateway-request-id"], "wrong_cache_hit": True},
        headers={"authorization": f"Bearer {key}"},
    )

    assert reply.json()["evicted"] is True
    await until(lambda: other.semantic.size == gate.runtime.semantic.size == size - 1)
    redis, keys = gate.runtime.redis, gate.runtime.keys
    [learnt] = [name async for name in redis.scan_iter(f"{keys.outcomes('')}*")]
    log: Any = await redis.lrange(learnt, 0, -1)
    outcomes = [msgspec.msgpack.decode(value, type=Observation) for value in log]
    [wrong] = [outcome for outcome in outcomes if outcome.id.startswith("rejected:")]
    assert (wrong.same, len(wrong.evidence) > 1) == (False, True)
