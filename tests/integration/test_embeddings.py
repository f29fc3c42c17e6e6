"""``/v1/embeddings`` as the official client asks it: the real local embedder and a scripted provider, and the books."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
import pytest_asyncio
import yaml
from openai import AsyncOpenAI

from gateway.budget.limits import LEASE_MS
from gateway.budget.reservations import sweep
from gateway.config import runtime_dir, socket_path
from gateway.ledger.rollups import ALL, fold
from gateway.ledger.rows import parse
from gateway.types import LedgerEntry
from gateway.watching.hours import counted
from tests.support.collector import Collector, attributes
from tests.support.gateway import ADMIN, Gateway, gateway, hosted
from tests.support.models import EMBED, embed_model, process
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHEAP = {"input": 0.02, "output": 0}
NANO_PER_TOKEN = 20
STAYS = "'confidential' in tags || 'careful' in tags && privacy != ''"
PRIVATE = {"name": "stays", "when": STAYS, "use": ["big"], "local_only": True}
EVERYTHING = {"name": "default", "rules": [{"name": "all", "use": ["vectors"]}]}
POLICY = {"name": "default", "baseline": "big", "rules": [PRIVATE, {"name": "all", "use": ["big"]}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def embed_socket(folder: Path) -> Iterator[Path]:
    """This machine's embedding process, where a gateway with its data in ``folder`` looks for it."""
    runtime_dir(folder / "data").mkdir(mode=0o700, exist_ok=True)
    socket = socket_path(folder / "data", "embed")
    with process("embed", "--model", str(embed_model()), "--name", EMBED, "--uds", str(socket)):
        yield socket
    shutil.rmtree(runtime_dir(folder / "data"), ignore_errors=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(folder: Path, embed_socket: Path, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    url = upstream_server.base_url
    models = [
        hosted("big", url),
        hosted("vectors", url, upstream_model="text-embedding-3-small", price=CHEAP, max_retries=1),
        {
            **hosted("two-servers", url, upstream_model="bge-m3", price=CHEAP),
            "base_url": ["http://127.0.0.1:9/v1", url],
        },
        hosted("unpriced", url, upstream_model="text-embedding-3-large", price=None),
    ]
    async with gateway(folder, models, [POLICY], embedder={"enabled": True}) as running:
        await until(
            lambda: running.runtime.embedder is not None and running.runtime.embedder.id is not None, within_s=60
        )
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def key(gate: Gateway) -> str:
    return await gate.key(budget_usd=1)


@pytest_asyncio.fixture(loop_scope="module")
async def client(gate: Gateway, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=gate.base_url, api_key=key, max_retries=0) as made:
        yield made


async def embed(gate: Gateway, key: str = "", headers: dict[str, str] | None = None, **body: Any) -> Any:
    """The httpx response."""
    given = {**(headers or {}), **({"authorization": f"Bearer {key}"} if key else {})}
    return await gate.http.post("/v1/embeddings", json={"model": "vectors", "input": "hi", **body}, headers=given)


def near(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


async def one_row(gate: Gateway, key: str) -> LedgerEntry:
    """The one row there is, and all that was held is given back."""
    [row] = await gate.rows(1)
    await gate.nothing_held(key)
    assert (row.rule, row.ttft_ms, row.tokens_per_s, row.difficulty) == ("embeddings", None, None, None)
    return row


@pytest.mark.parametrize("model", [EMBED, "auto", "auto:default"])
async def test_the_local_embedder(client: AsyncOpenAI, gate: Gateway, key: str, model: str) -> None:
    texts = ["How do I reset my password?", "A recipe for apple pie", "I forgot my password, what now?"]

    packed = await client.embeddings.create(model=model, input=texts)
    plain = await client.embeddings.create(model=model, input=texts[0], encoding_format="float", dimensions=384)

    vectors = [item.embedding for item in packed.data]
    assert [item.index for item in packed.data] == [0, 1, 2]
    assert near(vectors[0], vectors[2]) > near(vectors[0], vectors[1]) + 0.2
    assert near(vectors[0], plain.data[0].embedding) == pytest.approx(1, abs=1e-3)
    assert packed.model == EMBED
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > plain.usage.prompt_tokens > 0
    assert packed.usage.model_extra == {"cost_usd": 0, "saved_usd": 0}
    first, _ = await gate.rows(2)
    assert (first.requested_model, first.model, first.served, first.provider) == (model, EMBED, "local", "local")
    assert (first.cost_nano, first.usage_source, first.prompt_tokens) == (0, "reported", packed.usage.prompt_tokens)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"dimensions": 100}, "dimensions"),
    ],
)
async def test_what_the_local_embedder_cannot_do(client: AsyncOpenAI, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.embeddings.create(**{"model": EMBED, "input": "text", **body})

    assert (refused.value.code, refused.value.param) == ("unsupported", param)


async def test_a_hosted_model_is_asked_as_the_client_asked_and_paid_for(
    client: AsyncOpenAI, gate: Gateway, upstream: Upstream, key: str
) -> None:
    reply = await client.embeddings.with_raw_response.create(
        model="vectors", input=["one two three", "four"], dimensions=8, user="u-1"
    )

    made = reply.parse()
    assert [len(item.embedding) for item in made.data] == [8, 8]
    assert (made.usage.prompt_tokens, made.usage.total_tokens) == (4, 4)
    assert made.usage.model_extra == {"cost_usd": 4 * NANO_PER_TOKEN / 1e9, "saved_usd": 0}
    sent = upstream.requests[0].json
    expected = {"dimensions": 8, "user": "u-1", "encoding_format": "base64"}
    assert sent == {"model": "text-embedding-3-small", "input": ["one two three", "four"], **expected}
    row = await one_row(gate, key)
    assert (row.model, row.served, row.end_user, row.cache) == ("vectors", "hosted", "u-1", "bypass")
    assert (row.cost_nano, row.saved_nano, row.completion_tokens) == (4 * NANO_PER_TOKEN, 0, 0)
    assert row.cost_nano < row.reserved_nano
    assert (await gate.budget(key))["spent"] == row.cost_nano
    headers = reply.headers
    assert (headers["x-gateway-model"], headers["x-gateway-route"]) == ("vectors", "embeddings")
    assert headers["x-gateway-cost-usd"] == "0.00000008"
    told = (await gate.get(f"/v1/requests/{headers['x-gateway-request-id']}", key)).json()
    assert (told["operation"], told["inputs"], told["cost_usd"]) == ("embeddings", 2, 4 * NANO_PER_TOKEN / 1e9)
    assert told["alternatives"] == []


async def test_a_format_that_is_not_named_is_not_named_upstream(gate: Gateway, upstream: Upstream) -> None:
    reply = await embed(gate)

    assert "encoding_format" not in upstream.requests[0].json
    assert isinstance(reply.json()["data"][0]["embedding"], list)


@pytest.mark.parametrize(("given", "tokens"), [([5, 6, 7], 3), ([[5, 6, 7], [8]], 4)])
async def test_token_arrays_are_passed_on(
    client: AsyncOpenAI, gate: Gateway, upstream: Upstream, key: str, given: Any, tokens: int
) -> None:
    upstream.default = Plan(usage="missing")

    made = await client.embeddings.create(model="vectors", input=given)

    assert upstream.requests[0].json["input"] == given
    assert (made.usage.prompt_tokens, (made.usage.model_extra or {})["estimated"]) == (tokens, True)
    row = await one_row(gate, key)
    assert (row.prompt_tokens, row.usage_source, row.cost_nano) == (tokens, "estimated", tokens * NANO_PER_TOKEN)


async def test_what_no_request_is(gate: Gateway, upstream: Upstream) -> None:
    for body, param in (
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [-1]}, "input[0]"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": None}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"model": ""}, "model"),
        ({"model": 1}, "model"),
    ):
        reply = await embed(gate, **body)
        assert reply.status_code == 400, (body, reply.text)
        assert param in reply.json()["error"]["param"], (body, reply.text)
    assert upstream.requests == []
    assert await gate.rows(0) == []


async def test_models_that_do_not_embed(client: AsyncOpenAI, gate: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as chat:
        await client.embeddings.create(model="big", input="hi")
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.embeddings.create(model="nobody", input="hi")

    assert (chat.value.code, chat.value.param) == ("not_an_embedding_model", "model")
    assert unknown.value.code == "model_not_found"
    listed = {model.id: model for model in (await client.models.list()).data}
    about = listed[EMBED].model_extra or {}
    assert (about["runs"], about["mode"], about["unavailable"]) == ("local", "embedding", None)
    assert about["price"]["input"] == "0"
    modes = {name: (model.model_extra or {}).get("mode") for name, model in listed.items()}
    assert (modes["vectors"], modes["big"], modes["two-servers"]) == ("embedding", "chat", None)


async def test_of_what_must_stay_no_byte_leaves(gate: Gateway, upstream: Upstream, key: str) -> None:
    tagged = {"x-gateway-tags": "confidential"}
    for model in ("vectors", "two-servers"):
        refused = await embed(gate, key, tagged, model=model)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "local_only")
    for given in (["nothing", "write to anna@example.com"], [1, 2, 3]):  # who knows what ids stand for
        private = await embed(gate, key, {"x-gateway-tags": "careful"}, input=given)
        assert (private.status_code, private.json()["error"]["code"]) == (403, "local_only")
    here = await embed(gate, key, tagged, model="auto")

    assert (here.status_code, here.headers["x-gateway-model"]) == (200, EMBED)
    assert upstream.requests == []
    assert (await one_row(gate, key)).detail["local_only"] is True


async def test_a_budget_bounds_it_and_the_local_embedder_goes_on(gate: Gateway, upstream: Upstream) -> None:
    poor = await gate.key(budget_usd=0.000004)
    text = "many words " * 100

    reply = await embed(gate, poor, input=text)
    here = await embed(gate, poor, model=EMBED, input=text)

    assert (reply.status_code, reply.json()["error"]["code"]) == (402, "budget_exhausted")
    assert here.status_code == 200
    assert upstream.requests == []
    refused, answered = await gate.rows(2)
    assert (refused.status, refused.http_status, refused.cost_nano) == ("error", 402, 0)
    assert (answered.status, answered.served) == ("ok", "local")
    await gate.nothing_held(poor)


async def test_spending_comes_to_the_budget_and_no_further(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(prompt_tokens=100)
    poor = await gate.key(budget_usd=0.00001)
    while (reply := await embed(gate, poor)).status_code == 200:
        pass
    assert reply.json()["error"]["code"] == "budget_exhausted"
    held = await gate.budget(poor)
    assert held["limit"] - 2 * 100 * NANO_PER_TOKEN < held["spent"] <= held["limit"]
    assert held["spent"] == len(upstream.requests) * 100 * NANO_PER_TOKEN


async def test_no_price_no_call(gate: Gateway, upstream: Upstream, key: str) -> None:
    reply = await embed(gate, key, model="unpriced")

    assert (reply.status_code, reply.json()["error"]["code"]) == (402, "model_unpriced")
    assert upstream.requests == []
    assert (await one_row(gate, key)).http_status == 402


async def test_limits_and_allowed_models(gate: Gateway, upstream: Upstream) -> None:
    slow = await gate.key(rpm=1)
    first, second = await embed(gate, slow), await embed(gate, slow)
    assert (first.status_code, first.headers["x-ratelimit-limit-requests"]) == (200, "1")
    assert (second.status_code, second.json()["error"]["code"]) == (429, "rpm_limit_exceeded")
    few = await gate.key(tpm=20)
    assert (await embed(gate, few, input="word " * 200)).status_code == 200
    assert (await embed(gate, few)).json()["error"]["code"] == "tpm_limit_exceeded"
    narrow = await gate.key(models=["big"])
    for model in ("vectors", EMBED, "auto"):
        assert (await embed(gate, narrow, model=model)).json()["error"]["code"] == "model_not_allowed", model
    assert (await embed(gate, "fg-not-a-key")).status_code == 401
    assert len(upstream.requests) == 2


async def test_what_may_pass_is_tried_again(
    gate: Gateway, upstream: Upstream, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.backends.resilient.BACKOFF_S", 0.01)
    upstream.enqueue(Plan(status=500))

    assert (await embed(gate, key)).status_code == 200

    row = await one_row(gate, key)
    assert [attempt["status"] for attempt in row.detail["attempts"]] == [500, 200]


@pytest.mark.parametrize(
    ("plan", "status", "code"),
    [
        (Plan(status=500), 500, "upstream_unavailable"),
        (Plan(status=401), 502, "upstream_auth"),
        (Plan(status=400, error={"error": {"message": "too long", "code": "context_length_exceeded"}}), 400, None),
        (Plan(raw=b"not json"), 502, "upstream_broken"),
        (Plan(raw=b'{"choices": []}'), 502, "upstream_broken"),
        (Plan(raw=b'{"error": {"message": "no", "code": 503}}'), 503, "upstream_unavailable"),
        (Plan(drop_connect=True), 502, "upstream_unavailable"),
    ],
    ids=["500", "401", "400", "garbage", "no vectors", "error under 200", "reset"],
)
async def test_one_row_for_each_failure(
    gate: Gateway, upstream: Upstream, key: str, monkeypatch: pytest.MonkeyPatch, plan: Plan, status: int, code: Any
) -> None:
    monkeypatch.setattr("gateway.backends.resilient.BACKOFF_S", 0.01)
    upstream.default = plan

    reply = await embed(gate, key)

    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code or "context_length_exceeded")
    assert reply.headers["x-gateway-model"] == "vectors"
    row = await one_row(gate, key)
    assert (row.status, row.http_status) == ("error", status)


async def test_equal_servers(gate: Gateway, upstream: Upstream, key: str) -> None:
    for number in range(4):
        assert (await embed(gate, key, model="two-servers", input=f"text {number}")).status_code == 200
    assert len(upstream.requests) == 4


async def test_a_deadline(gate: Gateway, upstream: Upstream, key: str) -> None:
    upstream.default = Plan(hang=True)

    reply = await embed(gate, key, {"x-gateway-deadline-ms": "100"})

    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert (await one_row(gate, key)).http_status == 504


async def test_a_client_that_leaves(gate: Gateway, upstream: Upstream, key: str) -> None:
    upstream.default = Plan(hang=True)
    asking = asyncio.create_task(embed(gate, key, input="a text of some words"))
    await upstream.wait_for(1)
    intents: Any = await gate.runtime.redis.hvals(gate.runtime.keys.intents)
    assert b'"embeddings"' in intents[0], "if it crashes now, its row says what it was"
    assert b'"vectors"' in intents[0]

    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking

    await upstream.wait_for(1, "disconnected")
    row = await one_row(gate, key)
    assert (row.status, row.http_status, row.usage_source) == ("cancelled", 499, "estimated")
    assert 0 < row.cost_nano <= row.reserved_nano


async def test_figures_of_chat_are_not_made_of_it(gate: Gateway, upstream: Upstream, key: str) -> None:
    await embed(gate, key)
    chat = await gate.chat("How are you?", key=key)
    rows = await gate.rows(2)

    hour = counted(0, rows)
    assert (hour.requests, hour.mixes["rule"]) == (1, {"all": 1})
    encoded = [parse(msgspec.json.encode(row)).facts for row in rows]
    hours, _ = fold(encoded)
    [every] = [cell for (cut, _, _), cell in hours.items() if cut == ALL.number]
    assert (sum(every.latency.values()), sum(every.ttft.values())) == (2, 1)
    metrics = (await gate.get("/metrics")).text
    assert 'gateway_requests_total{cache="bypass",model="vectors",rule="embeddings"' in metrics
    assert 'gateway_time_to_first_token_seconds_count{model="vectors",served="hosted"} 0.0' in metrics
    assert 'gateway_request_duration_seconds_count{model="vectors",served="hosted"} 0.0' not in metrics
    assert (await gate.get(f"/v1/requests/{chat.headers['x-gateway-request-id']}", key)).json().get("operation") is None


async def test_redis_away(gate: Gateway, upstream: Upstream, key: str) -> None:
    """As for chat: who has a budget is refused, everybody else is served, and no row is lost."""
    before = await embed(gate, key)
    await gate.rows(1)
    gate.redis.kill()
    await until(lambda: not gate.runtime.link.connected)
    try:
        denied, served = await embed(gate, key), await embed(gate)
    finally:
        gate.redis.start()
        await until(lambda: gate.runtime.link.connected and not gate.runtime.books.spool.waiting)

    assert (denied.status_code, denied.json()["error"]["code"]) == (503, "limits_unavailable")
    assert served.status_code == 200
    told = {reply.headers["x-gateway-request-id"] for reply in (before, served)}
    assert {row.request_id for row in await gate.rows(2)} == told


async def test_a_lease_that_runs_out_is_a_row_that_says_what_it_was(
    gate: Gateway, upstream: Upstream, key: str
) -> None:
    upstream.default = Plan(hang=True)
    asking = asyncio.create_task(embed(gate, key, input="a text of some words"))
    await upstream.wait_for(1)

    later = int(time.time() * 1000) + LEASE_MS + 1000
    assert await sweep(gate.runtime.redis, later, gate.runtime.keys) == 1

    [row] = await gate.rows(1)
    assert (row.status, row.rule, row.model) == ("crashed", "embeddings", "vectors")
    assert row.cost_nano == row.reserved_nano > 0
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await upstream.wait_for(1, "disconnected")
    await gate.nothing_held(key)


async def test_a_reload_brings_models_and_keeps_what_is_known_of_the_others(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", ADMIN)
    monkeypatch.setenv("BIG_KEY", "upstream-secret")
    vectors = hosted("vectors", upstream.base_url, upstream_model="text-embedding-3-small", price=CHEAP)
    async with gateway(tmp_path, [hosted("big", upstream.base_url), vectors]) as running:
        upstream.default = Plan(status=429, headers={"retry-after": "60"})
        assert (await embed(running)).status_code == 429
        assert (await embed(running, model="more")).status_code == 404
        file = tmp_path / "gateway.yaml"
        written = yaml.safe_load(file.read_text())
        written["models"].append({**vectors, "name": "more"})
        file.write_text(yaml.safe_dump(written))
        assert (await running.admin("POST", "/admin/policies/reload")).status_code == 200
        upstream.default = Plan()

        added, cooling = await embed(running, model="more"), await embed(running)

        assert added.status_code == 200
        assert (cooling.status_code, cooling.json()["error"]["code"]) == (503, "no_target_available")
        listed = (await running.get("/v1/models/vectors")).json()
        assert "cooling down" in listed["unavailable"]


async def test_its_trace_names_the_operation(tmp_path: Path, upstream: Upstream) -> None:
    vectors = hosted("vectors", upstream.base_url, upstream_model="text-embedding-3-small", price=CHEAP)
    with Collector.started() as collector:
        async with gateway(tmp_path, [vectors], [EVERYTHING], telemetry={"otlp": collector.url}) as running:
            assert (await embed(running, input="planted4711")).status_code == 200
            await running.rows(1)
        spans = {span.name: attributes(span) for span in collector.spans()}
        assert {"embeddings vectors", "admit", "call", "settle"} <= spans.keys()
        assert spans["embeddings vectors"]["gen_ai.operation.name"] == "embeddings"
        assert b"planted4711" not in collector.everything()
