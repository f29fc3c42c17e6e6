"""Batches with the official client: what is asked, who may see it, what it costs, and how it ends."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from gateway.batches import files as kept_files
from gateway.http import files as file_endpoints
from tests.support.batches import CHAT, begun, client, jsonl, line, over, told
from tests.support.gateway import ADMIN, EVERYTHING_BIG, Gateway, gateway, hosted, local
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

EMBEDDINGS: Any = "/v1/embeddings"
FLEX = {"input": 2.5, "output": 10, "tiers": {"flex": {"input": 1.25, "output": 5}}}
FLEXIBLE = {"provider": "openai", "price": FLEX}
POLICY = {
    **EVERYTHING_BIG,
    "on_budget_exhausted": "reject",
    "rules": [
        {"name": "here", "when": "'near' in tags", "use": ["near"], "local_only": True},
        {"name": "cheap", "when": "'flexible' in tags", "use": ["flexible"]},
        {"name": "all", "use": ["big"]},
    ],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream, near_server: Upstream
) -> AsyncIterator[Gateway]:
    models = [
        hosted("big", upstream_server.base_url),
        hosted("flexible", upstream_server.base_url, **FLEXIBLE),
        local("near", near_server.base_url),
        hosted("vec", upstream_server.base_url, upstream_model="text-embedding-3-small"),
    ]
    async with gateway(tmp_path_factory.mktemp("batches"), models, [POLICY]) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def ours(gate: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with client(gate.base_url, await gate.key()) as made:
        yield made


async def test_each_line_is_a_request_with_its_own_row(gate: Gateway, ours: AsyncOpenAI, upstream: Upstream) -> None:
    upstream.default = Plan(text="fine", prompt_tokens=10, completion_tokens=5)
    batch = await begun(ours, [line(number) for number in range(40)], metadata={"job": "nightly"})
    assert (batch.status, batch.object, batch.completion_window) == ("validating", "batch", "24h")

    ended = await over(ours, batch.id)

    assert (ended.status, ended.errors, ended.error_file_id, ended.metadata) == (
        *("completed", None, None),
        {"job": "nightly"},
    )
    assert ended.request_counts is not None
    assert ended.usage is not None
    assert (ended.request_counts.total, ended.request_counts.completed, ended.request_counts.failed) == (40, 40, 0)
    assert (ended.usage.input_tokens, ended.usage.output_tokens, ended.usage.total_tokens) == (400, 200, 600)
    assert None not in (ended.in_progress_at, ended.finalizing_at, ended.completed_at)
    answers = await told(ours, ended.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"q-{number}" for number in range(40)]
    assert {answer["response"]["status_code"] for answer in answers} == {200}
    assert {answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers} == {"fine"}
    rows = await gate.rows(40)
    assert {row.request_id for row in rows} == {answer["response"]["request_id"] for answer in answers}
    assert {row.tags for row in rows} == {("batch",)}
    cost = ended.usage.model_dump()["cost_usd"]
    assert sum(row.cost_nano for row in rows) == round(cost * 1e9) == 40 * (10 * 2_500 + 5 * 10_000)


async def test_what_is_wrong_with_lines_is_told_by_number(ours: AsyncOpenAI, upstream: Upstream) -> None:
    lines: list[Any] = [
        line(1),
        b"{not json",
        {**line(2), "custom_id": "q-1"},
        {**line(3), "method": "GET"},
        {**line(4), "url": "/v1/responses"},
        b"",
        {name: value for name, value in line(5).items() if name != "custom_id"},
        line(6, model="no-such-model"),
        {**line(7), "body": {"messages": []}},
        b"\xff\xfe",
        b"[1]",
    ]

    ended = await over(ours, (await begun(ours, lines)).id)

    assert ended.status == "failed"
    assert ended.failed_at
    assert ended.errors
    assert ended.errors.data
    assert [(error.line, error.code, error.param) for error in ended.errors.data] == [
        (2, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "invalid_method", "method"),
        (5, "invalid_url", "url"),
        (7, "missing_required_parameter", "custom_id"),
        (8, "model_not_found", "body.model"),
        (9, "missing_required_parameter", "body.model"),
        (10, "invalid_json_line", None),
        (11, "invalid_json_line", None),
    ]
    assert upstream.requests == []
    empty = await over(ours, (await begun(ours, [b""])).id)
    assert empty.errors
    assert empty.errors.data
    assert empty.errors.data[0].code == "empty_file"


async def test_a_line_that_fails_stands_in_the_error_file(ours: AsyncOpenAI, upstream: Upstream) -> None:
    refusal = {"error": {"message": "no", "type": "invalid_request_error", "param": "x", "code": "bad_x"}}
    upstream.plans["big"] = Plan(text="fine")
    lines = [line(1), line(2, stream=True), line(3, messages=[]), line(4, model="flexible")]
    upstream.plans["flexible"] = Plan(status=400, error=refusal)

    ended = await over(ours, (await begun(ours, lines)).id)

    assert ended.status == "completed"
    assert ended.request_counts
    assert (ended.request_counts.completed, ended.request_counts.failed) == (1, 3)
    errors = {each["custom_id"]: each for each in await told(ours, ended.error_file_id)}
    assert {name: each["response"]["status_code"] for name, each in errors.items()} == dict.fromkeys(
        ("q-2", "q-3", "q-4"), 400
    )
    assert errors["q-4"]["response"]["body"] == refusal
    assert errors["q-2"]["response"]["body"]["error"]["param"] == "stream"
    assert [each["custom_id"] for each in await told(ours, ended.output_file_id)] == ["q-1"]


async def test_others_do_not_see_it_the_team_and_an_admin_do(gate: Gateway) -> None:
    mine, mate = await gate.key(team="red"), await gate.key(team="red")
    async with client(gate.base_url, mine) as me:
        batch = await over(me, (await begun(me, [line(1)])).id)
    for key in (mate, ADMIN):
        async with client(gate.base_url, key) as friend:
            assert (await friend.batches.retrieve(batch.id)).status == "completed"
            assert await told(friend, batch.output_file_id)
            assert batch.id in [each.id async for each in friend.batches.list()]
    for other in (await gate.key(team="blue"), await gate.key(), await gate.key(team="red", organisation="elsewhere")):
        async with client(gate.base_url, other) as stranger:
            for refused in (
                stranger.batches.retrieve(batch.id),
                stranger.batches.cancel(batch.id),
                stranger.files.retrieve(batch.input_file_id),
                stranger.files.content(str(batch.output_file_id)),
                stranger.files.delete(batch.input_file_id),
                stranger.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"),
            ):
                with pytest.raises(openai.NotFoundError):
                    await refused
            assert not (await stranger.files.list()).data
            assert not (await stranger.batches.list()).data


async def test_who_has_no_key_may_where_that_is_allowed(gate: Gateway) -> None:
    async with client(gate.base_url, "whatever") as anybody:
        ended = await over(anybody, (await begun(anybody, [line(1)])).id)
        assert ended.status == "completed"
        assert (await anybody.files.delete(ended.input_file_id)).deleted
    form: Any = {"files": {"file": ("in.jsonl", b"{}")}, "data": {"purpose": "batch"}}
    unasked = await gate.http.post("/v1/files", **form)  # as any web page could send it
    foreign = await gate.http.post("/v1/files", headers={"authorization": "Bearer x", "origin": "http://evil"}, **form)
    unknown = await gate.http.post("/v1/files", headers={"authorization": "Bearer fg-unknown"}, **form)
    assert [reply.status_code for reply in (unasked, foreign, unknown)] == [401, 401, 401]


async def test_a_budget_that_ends_in_the_middle(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="fine", prompt_tokens=10, completion_tokens=5)
    each_nano = 10 * 2_500 + 5 * 10_000
    key = await gate.key(budget_usd=12 * each_nano / 1e9)
    async with client(gate.base_url, key) as poor:
        ended = await over(poor, (await begun(poor, [line(number, max_tokens=5) for number in range(30)])).id)
        errors = await told(poor, ended.error_file_id)

    assert ended.status == "completed"
    assert ended.request_counts
    assert 0 < ended.request_counts.completed <= 12
    assert ended.request_counts.completed + ended.request_counts.failed == 30
    assert {each["response"]["status_code"] for each in errors} == {402}
    assert {each["response"]["body"]["error"]["code"] for each in errors} == {"budget_exhausted"}
    assert sum(row.cost_nano for row in await gate.rows(30)) == ended.request_counts.completed * each_nano
    await gate.nothing_held(key)


async def test_what_is_cancelled_stops_and_says_what_was_not_done(
    gate: Gateway, ours: AsyncOpenAI, upstream: Upstream
) -> None:
    upstream.default = Plan(text="fine", first_delay_s=0.05)
    batch = await begun(ours, [line(number) for number in range(2_000)])
    await until(lambda: upstream.total >= 20)

    cancelling = await ours.batches.cancel(batch.id)
    assert cancelling.status in ("cancelling", "cancelled")
    assert cancelling.cancelling_at
    ended = await over(ours, batch.id)

    assert (ended.status, ended.completed_at) == ("cancelled", None)
    assert ended.cancelled_at
    answers, rest = await told(ours, ended.output_file_id), await told(ours, ended.error_file_id)
    assert len(answers) + len(rest) == 2_000
    assert len(answers) >= 20
    assert len(rest) > 0
    assert {each["error"]["code"] for each in rest} == {"batch_cancelled"}
    assert {each["response"] for each in rest} == {None}
    assert len(await gate.rows(upstream.total)) == upstream.total
    assert (await ours.batches.cancel(batch.id)).status == "cancelled"


async def test_what_has_ended_is_not_cancelled_and_what_is_read_is_not_deleted(
    ours: AsyncOpenAI, upstream: Upstream
) -> None:
    ended = await over(ours, (await begun(ours, [line(1)])).id)
    with pytest.raises(openai.ConflictError, match="completed"):
        await ours.batches.cancel(ended.id)

    upstream.default = Plan(text="late", first_delay_s=0.5)
    batch = await begun(ours, [line(2)])
    with pytest.raises(openai.ConflictError, match=batch.id):
        await ours.files.delete(batch.input_file_id)
    await over(ours, batch.id)
    assert (await ours.files.delete(batch.input_file_id)).deleted
    with pytest.raises(openai.NotFoundError):
        await ours.files.content(batch.input_file_id)


async def test_it_waits_where_upstream_has_had_enough(ours: AsyncOpenAI, upstream: Upstream, near: Upstream) -> None:
    for _ in range(3):
        upstream.enqueue(Plan(status=429, headers={"retry-after-ms": "20"}), model="big")

    ended = await over(ours, (await begun(ours, [line(number) for number in range(3)])).id)

    assert ended.request_counts
    assert (ended.request_counts.completed, ended.request_counts.failed) == (3, 0)
    assert [request.status for request in upstream.requests].count(200) == 3
    assert near.total == 0  # a model of this machine would have answered at once
    assert upstream.total >= 4


async def test_a_key_that_is_revoked_asks_for_nothing_more(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="fine", first_delay_s=0.05)
    key, mate = await gate.key(team="red"), await gate.key(team="red")
    async with client(gate.base_url, key) as leaver, client(gate.base_url, mate) as stays:
        batch = await begun(leaver, [line(number) for number in range(400)])
        await until(lambda: upstream.total >= 10)
        await gate.admin("DELETE", f"/admin/keys/{gate.key_id(key)}")
        ended = await over(stays, batch.id)
        errors = await told(stays, ended.error_file_id)
    assert ended.status == "completed"
    assert {each["response"]["status_code"] for each in errors} == {401}
    assert upstream.total < 400


async def test_local_models_are_asked_in_their_batch_lane_openais_in_the_cheaper_tier(
    gate: Gateway, ours: AsyncOpenAI, upstream: Upstream, near: Upstream
) -> None:
    upstream.default = Plan(text="fine", prompt_tokens=100, completion_tokens=10, extra={"service_tier": "flex"})
    here = await begun(ours, [line(1)], extra_headers={"x-gateway-tags": "near"})
    cheap = await begun(ours, [line(2)], extra_headers={"x-gateway-tags": "flexible"})
    own = await begun(ours, [line(3, service_tier="priority")], extra_headers={"x-gateway-tags": "flexible"})
    plain = await begun(ours, [line(4)])
    for batch in (here, cheap, own, plain):
        assert (await over(ours, batch.id)).status == "completed"

    assert [request.json["priority"] for request in near.requests if request.json] == ["batch"]
    tiers = {
        request.json["messages"][0]["content"][-2]: request.json.get("service_tier") for request in upstream.requests
    }
    assert tiers == {"2": "flex", "3": "priority", "4": None}
    row = next(row for row in await gate.rows(4) if row.model == "flexible" and row.cost_nano < 300_000)
    assert row.cost_nano == 100 * 1_250 + 10 * 5_000
    assert "priority" not in upstream.requests[0].json


async def test_batches_and_live_requests_share_the_cache_and_no_call(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key()
    asked = {"messages": line(1)["body"]["messages"]}
    upstream.enqueue(Plan(text="slow", first_delay_s=1.0))
    async with client(gate.base_url, key) as ours:
        batch = await begun(ours, [line(1)])
        await until(lambda: upstream.total == 1)
        live = await gate.chat(key=key, **asked)
        assert (live.headers["x-gateway-cache"], upstream.total) == ("miss", 2)
        await over(ours, batch.id)
        again = await over(ours, (await begun(ours, [line(1)])).id)
    assert (again.status, upstream.total) == ("completed", 2)
    assert "exact" in [row.cache for row in await gate.rows(3)]


async def test_pages_of_files_and_batches(ours: AsyncOpenAI) -> None:
    made = [await begun(ours, [line(number)]) for number in range(3)]
    for batch in made:
        await over(ours, batch.id)
    ids = [batch.id for batch in made]
    assert [each.id async for each in ours.batches.list(limit=2)] == ids[::-1]
    first = await ours.batches.list(limit=2)
    assert (first.has_more, len(first.data)) == (True, 2)
    inputs = [batch.input_file_id for batch in made]
    assert [each.id async for each in ours.files.list(purpose="batch", limit=2, order="asc")] == inputs
    assert len((await ours.files.list(purpose="batch_output")).data) == 3


async def test_embeddings_too(gate: Gateway, ours: AsyncOpenAI, upstream: Upstream) -> None:
    vectors = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}], "model": "v"}
    upstream.default = Plan(raw=json.dumps({**vectors, "usage": {"prompt_tokens": 4, "total_tokens": 4}}).encode())
    lines = [
        {
            "custom_id": f"e-{number}",
            "method": "POST",
            "url": EMBEDDINGS,
            "body": {"model": "vec", "input": f"{number}"},
        }
        for number in range(5)
    ]
    lines.append({**lines[0], "custom_id": "not", "body": {"model": "big", "input": "x"}})
    file = await ours.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    batch = await ours.batches.create(input_file_id=file.id, endpoint=EMBEDDINGS, completion_window="24h")

    ended = await over(ours, batch.id)

    assert ended.status == "completed"
    answers = await told(ours, ended.output_file_id)
    assert [answer["response"]["body"]["data"][0]["embedding"] for answer in answers] == [[0.5, 0.25]] * 5
    assert [each["custom_id"] for each in await told(ours, ended.error_file_id)] == ["not"]
    assert {(row.model, row.tags) for row in await gate.rows(5)} == {("vec", ("batch",))}
    unknown = {**lines[0], "body": {"model": "nobody", "input": "x"}}
    file = await ours.files.create(file=("in.jsonl", jsonl([unknown])), purpose="batch")
    batch = await ours.batches.create(input_file_id=file.id, endpoint=EMBEDDINGS, completion_window="24h")
    failed = await over(ours, batch.id)
    assert failed.errors
    assert [error.code for error in failed.errors.data or ()] == ["model_not_found"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"k" * 65: "v"}}, None),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after"),
        ({"input_file_id": 7}, None),
    ],
)
async def test_what_cannot_be_asked(gate: Gateway, ours: AsyncOpenAI, more: dict[str, Any], param: str | None) -> None:
    file = await ours.files.create(file=("in.jsonl", jsonl([line(1)])), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **more}
    reply = await gate.http.post("/v1/batches", json=body, headers={"authorization": f"Bearer {ours.api_key}"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_uploads_that_are_refused(gate: Gateway, ours: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    bearer = {"authorization": f"Bearer {ours.api_key}"}

    async def refused(**form: Any) -> tuple[int, str | None]:
        reply: httpx.Response = await gate.http.post("/v1/files", headers=bearer, **form)
        return reply.status_code, reply.json()["error"]["param"]

    file = {"file": ("in.jsonl", b"{}")}
    assert await refused(files=file, data={"purpose": "fine-tune"}) == (400, "purpose")
    assert await refused(files={"other": ("x", b"")}, data={"purpose": "batch"}) == (400, "file")
    assert await refused(json={"purpose": "batch"}) == (400, "file")
    assert await refused(files=file, data={"purpose": "batch", "expires_after[seconds]": "7"}) == (400, "expires_after")
    monkeypatch.setattr(file_endpoints, "FILE_BYTES", 1_000)
    assert (await refused(files={"file": ("x", b"a" * 1_001)}, data={"purpose": "batch"}))[0] == 413
    assert (await refused(files={"file": ("x", b"a" * 200_000)}, data={"purpose": "batch"}))[0] == 413
    monkeypatch.setattr(file_endpoints, "room_on_disk", lambda *_: False)
    assert (await refused(files=file, data={"purpose": "batch"}))[0] == 503
    assert not (await ours.files.list()).data
    assert not list((gate.folder / "data" / "files").glob("*/.*"))


async def test_nobody_else_on_the_machine_can_read_them_and_they_expire(
    gate: Gateway, ours: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = await over(ours, (await begun(ours, [line(1)])).id)
    data = gate.folder / "data"
    await until(lambda: not [*data.glob("batches/**/*.results")])  # its end is told just before it is tidied up
    for path in [*data.glob("files/**/*"), *data.glob("batches/**/*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    store = kept_files.FileStore(data)
    await asyncio.to_thread(store.expire, set())
    assert await ours.files.retrieve(ended.input_file_id)
    later = time.time() + kept_files.KEPT_S + 60
    monkeypatch.setattr(kept_files, "time", SimpleNamespace(time=lambda: later))
    with pytest.raises(openai.NotFoundError):
        await ours.files.retrieve(ended.input_file_id)
    await asyncio.to_thread(store.expire, {ended.input_file_id})
    left = [path.stem for path in data.glob("files/*/*.jsonl")]
    assert left == [ended.input_file_id]  # a batch still reads it


@pytest.mark.parametrize("name", ["..%2f..%2fgateway.yaml", "file-zz", "batch_", "file-" + "0" * 24, "%00", "x" * 300])
async def test_names_that_are_no_ids(gate: Gateway, ours: AsyncOpenAI, name: str) -> None:
    bearer = {"authorization": f"Bearer {ours.api_key}"}
    for path in (f"/v1/files/{name}", f"/v1/files/{name}/content", f"/v1/batches/{name}"):
        assert (await gate.http.get(path, headers=bearer)).status_code == 404
