"""The cache in an operator's hands: what there is, taking it out, and what callers say was wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.http.worker import build_runtime
from gateway.ledger.store import SqlStore
from gateway.ledger.stream import Drain
from gateway.types import LedgerEntry
from tests.support.gateway import Gateway, serving
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def key(gate: Gateway) -> str:
    return await gate.key()


async def ask(gate: Gateway, prompt: str, key: str, **headers: str) -> httpx.Response:
    """Settled, and so stored, when it returns."""
    reply = await gate.chat(prompt, key=key, headers={f"x-gateway-{name}": value for name, value in headers.items()})
    await gate.runtime.books.drain()
    return reply


async def held(gate: Gateway) -> dict[str, Any]:
    reply = await gate.admin("GET", "/admin/cache")
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def purge(gate: Gateway, **which: Any) -> dict[str, Any]:
    reply = await gate.admin("POST", "/admin/cache/purge", json=which)
    assert reply.status_code == 200, reply.text
    purged: dict[str, Any] = reply.json()
    return purged


async def feedback(gate: Gateway, key: str, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return await gate.http.post("/v1/feedback", json=body, headers=headers)


async def test_it_shows_what_is_held_and_what_saves_most(gate: Gateway, key: str, upstream: Upstream) -> None:
    upstream.default = Plan(text="Paris")
    for prompt, times in (("What is the capital of France?", 3), ("Which river flows through it?", 1)):
        for _ in range(times + 1):
            await ask(gate, prompt, key)
    await gate.runtime.pipeline.settling.hits.flush()

    shown = await held(gate)

    assert (shown["entries"], shown["psi"], shown["drifts"]) == (2, None, False)
    assert shown["bytes"] > 0
    assert [(top["prompt"], top["hits"]) for top in shown["top"]] == [
        ("What is the capital of France?", 3),
        ("Which river flows through it?", 1),
    ]
    rows = await gate.rows(6)
    assert sum(top["saved_nano"] for top in shown["top"]) == sum(row.saved_nano for row in rows if row.cache == "exact")
    assert {top["key_id"] for top in shown["top"]} == {gate.key_id(key)}


async def test_a_purge_counts_first_and_takes_only_what_was_meant(gate: Gateway, key: str) -> None:
    other = await gate.key()
    await ask(gate, "one", key)
    await ask(gate, "two", key, tags="red,blue")
    last = await ask(gate, "three", other, tags="red")
    assert last.headers["x-gateway-cache"] == "miss"
    hit = await ask(gate, "three", other, tags="red")

    assert (await purge(gate, key=gate.key_id(key), dry_run=True))["entries"] == 2
    assert (await purge(gate, tag="red", dry_run=True))["entries"] == 2
    assert (await purge(gate, tag="red", key=gate.key_id(key), dry_run=True))["entries"] == 1
    assert (await purge(gate, older_than_s=3600, dry_run=True))["entries"] == 0
    assert (await purge(gate, older_than_s=0, dry_run=True))["entries"] == 3
    assert (await purge(gate, entry=hit.headers["x-gateway-cache-entry"], dry_run=True))["entries"] == 1
    counted = await purge(gate, all=True, dry_run=True)
    assert (counted["entries"], (await held(gate))["entries"]) == (3, 3)

    assert (await purge(gate, tag="blue"))["entries"] == 1
    assert (await ask(gate, "two", key)).headers["x-gateway-cache"] == "miss"
    assert (await ask(gate, "one", key)).headers["x-gateway-cache"] == "exact"
    assert (await purge(gate, all=True))["entries"] == 3
    shown = await held(gate)
    assert (shown["entries"], shown["bytes"], shown["top"]) == (0, 0, [])
    assert (await ask(gate, "one", key)).headers["x-gateway-cache"] == "miss"
    assert [name async for name in gate.runtime.redis.scan_iter(f"{gate.runtime.keys.vectors('')}*")] == []


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"dry_run": True}, {"all": False}, {"all": True, "key": "a"}, {"key": 1}, {"tag": ""}, {"wat": "a"}),
        *({"older_than_s": -1}, {"older_than_s": "1h"}, {"all": True, "dry_run": "yes"}),
    ],
)
async def test_a_purge_that_is_not_clear_removes_nothing(gate: Gateway, key: str, body: dict[str, Any]) -> None:
    await ask(gate, "one", key)
    assert (await gate.admin("POST", "/admin/cache/purge", json=body)).status_code == 400
    assert (await held(gate))["entries"] == 1


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/purge"), ("POST", "/some/reject")])
async def test_it_is_the_admins_alone(gate: Gateway, key: str, method: str, path: str) -> None:
    for token, status in ((key, 403), ("", 401)):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        reply = await gate.http.request(method, f"/admin/cache{path}", json={"all": True}, headers=headers)
        assert reply.status_code == status


async def test_an_entry_that_is_rejected_is_gone_and_told_of(gate: Gateway, key: str) -> None:
    await ask(gate, "What is the capital of France?", key)
    entry = (await ask(gate, "What is the capital of France?", key)).headers["x-gateway-cache-entry"]

    rejected = await gate.admin("POST", f"/admin/cache/{entry}/reject")

    assert rejected.json() == {"object": "gateway.cache.entry", "id": entry, "rejected": True}
    assert (await gate.admin("POST", f"/admin/cache/{entry}/reject")).status_code == 404
    assert (await ask(gate, "What is the capital of France?", key)).headers["x-gateway-cache"] == "miss"
    events: Any = await gate.runtime.redis.xrange(gate.runtime.keys.events)
    [event] = [fields for _, fields in events if b"reject" in fields]
    assert (event[b"reject"].decode(), event[b"stored"]) == (entry, b"What is the capital of France?")
    assert len(event[b"partition"]) == 32
    assert (await held(gate))["rejected"] == 1


async def test_a_wrong_hit_is_evicted_by_whom_it_was_given_to(
    gate: Gateway, key: str, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.enqueue(Plan(text="Rome"), Plan(text="Paris"))
    await ask(gate, "What is the capital of France?", key)
    wrong = (await ask(gate, "What is the capital of France?", key)).headers["x-gateway-request-id"]

    first = await feedback(gate, key, request_id=wrong, wrong_cache_hit=True)
    again = await feedback(gate, key, request_id=wrong, wrong_cache_hit=True)

    assert first.json() == {"object": "gateway.feedback", "request_id": wrong, "score": -1, "evicted": True}
    assert (again.status_code, again.json()["evicted"]) == (200, False)
    fresh = await ask(gate, "What is the capital of France?", key)
    assert fresh.json()["choices"][0]["message"]["content"] == "Paris"
    row = await booked(gate, tmp_path, wrong)
    assert (row.feedback, row.cache) == (-1.0, "exact")
    assert (await held(gate))["rejected"] == 1


async def booked(gate: Gateway, folder: Path, request_id: str) -> LedgerEntry:
    """The row in SQL, once everything on the stream has arrived there."""
    store = SqlStore(f"sqlite+aiosqlite:///{folder}/ledger.db")
    try:
        await store.migrate()
        await Drain(gate.runtime.redis, store, gate.runtime.keys).catch_up()
        row = await store.get(request_id)
        assert row is not None
        return row
    finally:
        await store.close()


async def test_a_score_is_booked_and_the_last_one_counts(gate: Gateway, key: str, tmp_path: Path) -> None:
    request_id = (await ask(gate, "Hi", key)).headers["x-gateway-request-id"]
    for score in (0.5, -0.25, -0.25):
        reply = await feedback(gate, key, request_id=request_id, score=score)
        assert (reply.status_code, reply.json()["score"]) == (200, score)
    assert (await booked(gate, tmp_path, request_id)).feedback == -0.25


async def test_nobody_judges_what_was_answered_to_others(gate: Gateway, key: str) -> None:
    request_id = (await ask(gate, "Hi", key)).headers["x-gateway-request-id"]
    assert (await feedback(gate, await gate.key(), request_id=request_id, score=1)).status_code == 404
    assert (await feedback(gate, "", request_id=request_id, score=1)).status_code == 404
    assert (await feedback(gate, "fg-unknown", request_id=request_id, score=1)).status_code == 401


@pytest.mark.parametrize(
    "body",
    [{}, {"score": 2}, {"score": "good"}, {"wrong_cache_hit": False}, {"wrong_cache_hit": True}, {"score": 1, "x": 1}],
)
async def test_feedback_that_makes_no_sense_is_refused(gate: Gateway, key: str, body: dict[str, Any]) -> None:
    request_id = (await ask(gate, "Hi", key)).headers["x-gateway-request-id"]
    reply = await feedback(gate, key, request_id=request_id, **body)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest_asyncio.fixture(loop_scope="module")
async def second(gate: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """Another worker beside the first one, on the same Redis."""
    async with (
        serving(build_runtime(gate.runtime.view.settings)) as (url, _),
        httpx.AsyncClient(base_url=url, timeout=30) as client,
    ):
        yield client


async def test_workers_share_what_is_stored_and_what_is_purged(
    gate: Gateway, key: str, second: httpx.AsyncClient
) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {key}"}

    async def there() -> str:
        reply = await second.post(
            "/v1/chat/completions", json=body, headers=headers | {"x-gateway-cache": "only-if-cached"}
        )
        return str(reply.headers["x-gateway-cache"]) if reply.status_code == 200 else "none"

    assert await there() == "none"
    await ask(gate, "Hi", key)
    await until(lambda: _is(there, "exact"))
    await purge(gate, all=True)
    assert await there() == "none"


async def _is(found: Any, wanted: str) -> bool:
    return bool(await found() == wanted)


async def test_deleting_the_caches_keys_behind_its_back_is_survived(gate: Gateway, key: str) -> None:
    await ask(gate, "Hi", key)
    redis, keys = gate.runtime.redis, gate.runtime.keys
    for name in [name async for name in redis.scan_iter(f"{keys.prefix}x:*")]:
        await redis.delete(name)

    assert (await ask(gate, "Hi", key)).headers["x-gateway-cache"] == "miss"
    assert (await ask(gate, "Hi", key)).headers["x-gateway-cache"] == "exact"
    assert (await held(gate))["entries"] == 1
