"""Organisations, teams, budgets of every scope, allow-lists and admin roles, as clients and admins meet them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.http.worker import build_runtime
from tests.support.gateway import ADMIN, Gateway, gateway, hosted, local, serving
from tests.support.pace import allowed
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NO_CACHE: Any = {"exact": False, "semantic": False}
DEFAULT: Any = {
    "name": "default",
    "on_budget_exhausted": "reject",
    "cache": NO_CACHE,
    "rules": [{"name": "all", "use": ["big", "lesser"]}],
}
CHEAPER: Any = {**DEFAULT, "name": "cheaper", "on_budget_exhausted": "cheaper"}
LIMITED: Any = {"max_tokens": 100}
# 100 × 10 micro-dollars of answer and about 100 tokens of prompt, as its bytes bound them
WORST_USD = 0.00125


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    url = upstream_server.base_url
    models = [
        hosted("big", url),
        hosted("lesser", url, price={"input": 0.1, "output": 0.4}),
        local("small", url, usd_per_hour=0),
    ]
    async with gateway(tmp_path_factory.mktemp("gate"), models, [DEFAULT, CHEAPER]) as running:
        yield running


async def budget(gate: Gateway, **fields: Any) -> str:
    """A budget that this worker knows of; its id."""
    reply = await gate.admin("POST", "/admin/budgets", json=fields)
    assert reply.status_code == 201, reply.text
    await until(lambda: gate.runtime.books.tree.knows(reply.json()["id"]))
    return str(reply.json()["id"])


async def state(gate: Gateway, budget_id: str) -> list[dict[str, Any]]:
    await gate.runtime.books.drain()
    listed = (await gate.admin("GET", "/admin/budgets")).json()
    return [one for one in listed["state"] if one["id"] == budget_id]


@pytest.mark.parametrize(
    ("scope", "subject"),
    [("organisation", "default"), ("team", "red"), ("user", "alice"), ("tag", "batch"), ("team", "*"), ("user", "*")],
)
async def test_a_budget_of_every_scope_stops_whom_it_is_for_and_nobody_else(
    gate: Gateway, upstream: Upstream, scope: str, subject: str
) -> None:
    await budget(gate, scope=scope, subject=subject, limit_usd=WORST_USD / 2, window="month", time_zone="Asia/Tokyo")
    red = await gate.key(team="red")
    blue = await gate.key(team="blue", organisation="elsewhere")

    stopped = await gate.chat(key=red, user="alice", headers={"x-gateway-tags": "batch"}, **LIMITED)
    free = await gate.chat(key=blue, user="bob", **LIMITED)

    assert (stopped.status_code, free.status_code) == (402, 200)
    error = stopped.json()["error"]
    assert error["code"] == "budget_exhausted"
    assert f"month budget of {scope} '{subject}'" in error["message"]
    assert "it resets at 20" in error["message"]
    assert 0 < int(stopped.headers["retry-after"]) <= 31 * 86_400


async def test_all_budgets_that_apply_must_have_room_and_all_are_charged(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="ok", prompt_tokens=100, completion_tokens=10)
    wide = await budget(gate, scope="organisation", subject="default", limit_usd=10, window="day")
    rolling = await budget(gate, scope="team", subject="red", limit_usd=1, window="24h")
    each = await budget(gate, scope="user", subject="*", limit_usd=0.002, window="month")
    soft = await budget(gate, scope="tag", subject="batch", limit_usd=0.0001, hard=False)
    key = await gate.key(team="red", budget_usd=5)

    ask: Any = {"key": key, "headers": {"x-gateway-tags": "batch"}, **LIMITED}
    replies = [await gate.chat(user="alice", **ask) for _ in range(4)]
    replies.append(await gate.chat(user="bob", **ask))

    # 100 × 2.50 + 10 × 10 micro-dollars each: alice has no room for a worst case after the third
    assert [reply.status_code for reply in replies] == [200, 200, 200, 402, 200]
    for one in (wide, rolling, soft):
        [held] = await state(gate, one)
        assert (held["spent_nano"], held["reserved_nano"]) == (4 * 350_000, 0)
    assert {held["subject"]: held["spent_nano"] for held in await state(gate, each)} == {
        "alice": 3 * 350_000,
        "bob": 350_000,
    }
    assert (await gate.budget(key))["spent"] == 4 * 350_000


async def test_passing_a_share_of_a_budget_and_running_out_are_events(gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="ok", prompt_tokens=100, completion_tokens=10)
    soft = await budget(gate, scope="team", subject="red", limit_usd=0.001, hard=False, alert_at=[0.5, 1])
    hard = await budget(gate, scope="user", subject="alice", limit_usd=0.0014, alert_at=[0.9])
    key = await gate.key(team="red")

    for _ in range(4):
        await gate.chat(key=key, user="alice", **LIMITED)
        await gate.runtime.books.drain()

    told: Any = await gate.runtime.redis.xrange(gate.runtime.keys.alerts)
    events = [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in told]
    seen = [(one["account"], one["kind"], one.get("at"), one["spent"], one["limit"]) for _, one in enumerate(events)]
    assert (hard, "exhausted", None, "350000", "1400000") in seen
    assert sum(one[1] == "exhausted" for one in seen) == 1
    assert [one for one in seen if one[0] == soft] == []
    for _ in range(2):
        await gate.chat(key=key, user="bob", **LIMITED)
        await gate.runtime.books.drain()
    told = await gate.runtime.redis.xrange(gate.runtime.keys.alerts)
    thresholds = [fields[b"at"] for _, fields in told if fields[b"kind"] == b"threshold"]
    assert thresholds == [b"500000", b"1000000"]


async def test_a_model_whose_budget_is_spent_gives_way_to_the_next(gate: Gateway, upstream: Upstream) -> None:
    await budget(gate, scope="model", subject="big", limit_usd=WORST_USD / 2)
    key = await gate.key()

    reply = await gate.chat(key=key, **LIMITED)
    pinned = await gate.chat(key=key, model="big", **LIMITED)

    assert (reply.status_code, reply.headers["x-gateway-model"]) == (200, "lesser")
    assert reply.headers["x-gateway-degraded"] == "budget"
    assert pinned.status_code == 402
    assert "budget of model 'big'" in pinned.json()["error"]["message"]


async def test_a_cheaper_target_takes_what_is_left(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(budget_usd=WORST_USD / 2)

    reply = await gate.chat(key=key, model="auto:cheaper", **LIMITED)
    rejected = await gate.chat(key=key, **LIMITED)

    assert (reply.status_code, reply.headers["x-gateway-model"]) == (200, "lesser")
    assert reply.headers["x-gateway-degraded"] == "budget"
    assert rejected.status_code == 402
    await gate.nothing_held(key)


async def test_the_tightest_level_is_what_headers_tell(gate: Gateway, upstream: Upstream) -> None:
    await budget(gate, scope="team", subject="red", rpm=2, tpm=100_000)
    first, second = await gate.key(team="red", rpm=50), await gate.key(team="red")

    replies = [await gate.chat(key=key, **LIMITED) for key in (first, second, first)]

    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert [reply.headers["x-ratelimit-limit-requests"] for reply in replies] == ["2", "2", "2"]
    assert "requests per minute of team 'red'" in replies[2].json()["error"]["message"]
    assert 1 <= int(replies[2].headers["retry-after"]) <= 30


async def test_a_limit_can_be_changed_and_a_budget_deleted_while_serving(gate: Gateway, upstream: Upstream) -> None:
    budget_id = await budget(gate, scope="team", subject="red", limit_usd=WORST_USD / 2)
    key = await gate.key(team="red")
    assert (await gate.chat(key=key, **LIMITED)).status_code == 402

    changed = await gate.admin("PATCH", f"/admin/budgets/{budget_id}", json={"limit_usd": 1})
    assert (changed.status_code, changed.json()["limit_usd"]) == (200, 1)
    assert (await gate.chat(key=key, **LIMITED)).status_code == 200
    fixed = await gate.admin("PATCH", f"/admin/budgets/{budget_id}", json={"window": "day"})
    assert (fixed.status_code, fixed.json()["error"]["param"]) == (400, "window")

    await gate.admin("PATCH", f"/admin/budgets/{budget_id}", json={"limit_usd": 0})
    assert (await gate.chat(key=key, **LIMITED)).status_code == 402
    assert (await gate.admin("DELETE", f"/admin/budgets/{budget_id}")).status_code == 200

    async def free() -> bool:
        return (await gate.chat(key=key, **LIMITED)).status_code == 200

    await until(free)


async def test_only_what_key_team_and_organisation_allow_can_be_asked_for(gate: Gateway, upstream: Upstream) -> None:
    for path, lists in (
        ("organisations/acme", {"models": ["big", "lesser"]}),
        ("teams/acme/red", {"models": ["less*"], "policies": ["default"]}),
    ):
        assert (await gate.admin("PUT", f"/admin/{path}", json=lists)).status_code == 200
    key = await gate.key(organisation="acme", team="red", allowed_tags=["ci-*"], project="apollo")

    async def routed() -> bool:
        return bool((await gate.chat(key=key, **LIMITED)).headers.get("x-gateway-model") == "lesser")

    await until(routed)
    refusals = [
        await gate.chat(key=key, model="big"),
        await gate.chat(key=key, model="auto:cheaper"),
        await gate.chat(key=key, headers={"x-gateway-tags": "prod"}),
    ]
    assert [(one.status_code, one.json()["error"]["code"]) for one in refusals] == [
        (403, "model_not_allowed"),
        (403, "policy_not_allowed"),
        (403, "tag_not_allowed"),
    ]
    assert (await gate.chat(key=key, headers={"x-gateway-tags": "ci-1"})).status_code == 200
    nothing = await gate.chat(key=await gate.key(organisation="acme", models=["none-of-them"]))
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (403, "model_not_allowed")
    await gate.runtime.books.drain()
    assert "apollo" in {row.project for row in await gate._rows()}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/admin/keys"),
        ("PATCH", "/admin/keys/k"),
        ("DELETE", "/admin/keys/k"),
        ("POST", "/admin/keys/k/rotate"),
        ("POST", "/admin/budgets"),
        ("PATCH", "/admin/budgets/b"),
        ("DELETE", "/admin/budgets/b"),
        ("PUT", "/admin/organisations/o"),
        ("DELETE", "/admin/organisations/o"),
        ("PUT", "/admin/teams/o/t"),
        ("DELETE", "/admin/teams/o/t"),
        ("POST", "/admin/import"),
        ("GET", "/admin/export"),
        ("POST", "/admin/policies/reload"),
    ],
)
async def test_a_viewer_can_change_nothing_and_an_owner_not_even_look(gate: Gateway, method: str, path: str) -> None:
    viewer, owner = await gate.key(role="viewer"), await gate.key()
    before = await everything(gate)
    for key in (viewer, owner):
        reply = await gate.http.request(method, path, json={}, headers={"authorization": f"Bearer {key}"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden")
    assert await everything(gate) == before


async def everything(gate: Gateway) -> dict[str, Any]:
    listed: dict[str, Any] = (await gate.admin("GET", "/admin/export")).json()
    return listed


async def test_a_viewer_reads_everything_and_an_owner_its_own(gate: Gateway) -> None:
    viewer, owner = await gate.key(role="viewer"), await gate.key("mine", budget_usd=1)
    admin = await gate.key(role="admin")
    other = await gate.key("other", budget_usd=2)
    await budget(gate, scope="team", subject="red", limit_usd=3)

    async def ids(path: str, key: str) -> set[str]:
        return {one["id"] for one in (await gate.get(path, key)).json()["data"]}

    every = {gate.key_id(key) for key in (viewer, owner, admin, other)}
    assert await ids("/admin/keys", viewer) == every
    assert await ids("/admin/keys", owner) == {gate.key_id(owner)}
    assert await ids("/admin/budgets", owner) == {gate.key_id(owner)}
    assert len(await ids("/admin/budgets", viewer)) == 3
    assert (await gate.get("/admin/teams", owner)).status_code == 403
    assert (await gate.get("/admin/teams", viewer)).status_code == 200
    made = await gate.http.post("/admin/keys", json={"name": "by a key"}, headers={"authorization": f"Bearer {admin}"})
    assert made.status_code == 201


async def test_definitions_can_be_taken_to_another_gateway_and_keys_go_on_working(
    gate: Gateway, upstream: Upstream
) -> None:
    key = await gate.key("moved", team="red", organisation="acme", budget_usd=1, rpm=7)
    await gate.admin("PUT", "/admin/teams/acme/red", json={"policies": ["default"]})
    budget_id = await budget(gate, scope="team", subject="red", organisation="acme", limit_usd=2.5, window="month")
    taken = await everything(gate)
    assert key not in json.dumps(taken)
    await gate.fresh()
    assert (await gate.chat(key=key, **LIMITED)).status_code == 401

    reply = await gate.admin("POST", "/admin/import", json=taken)

    assert reply.json() == {"groups": 1, "keys": 1, "budgets": 1}
    assert await everything(gate) == taken
    await until(lambda: gate.runtime.books.tree.knows(budget_id))
    served = await gate.chat(key=key, **LIMITED)
    assert (served.status_code, served.headers["x-ratelimit-limit-requests"]) == (200, "7")
    assert [one["spent_nano"] > 0 for one in await state(gate, budget_id)] == [True]


@pytest.mark.parametrize(
    "content", [{}, {"version": 2}, {"version": 1, "keys": [{"id": "x"}]}, {"version": 1, "budgets": [{"id": "x"}]}]
)
async def test_what_is_no_export_is_refused(gate: Gateway, content: Any) -> None:
    reply = await gate.admin("POST", "/admin/import", json=content)
    assert reply.status_code == 400, reply.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"scope": "team", "subject": "red"}, "limit_usd"),
        ({"scope": "team", "subject": "", "rpm": 1}, "subject"),
        ({"scope": "team", "subject": "red", "limit_usd": -1}, "limit_usd"),
        ({"scope": "team", "subject": "red", "limit_usd": "1"}, "limit_usd"),
        ({"scope": "team", "subject": "red", "limit_usd": 1, "window": "year"}, "window"),
        ({"scope": "team", "subject": "red", "limit_usd": 1, "time_zone": "Mars/Olympus"}, "time_zone"),
        ({"scope": "team", "subject": "red", "limit_usd": 1, "alert_at": [0]}, "alert_at"),
        ({"scope": "team", "subject": "red", "rpm": 0}, "rpm"),
        ({"scope": "model", "subject": "big", "rpm": 5}, "rpm"),
    ],
)
async def test_a_wrong_budget_is_refused_with_the_field(gate: Gateway, fields: Any, param: str) -> None:
    reply = await gate.admin("POST", "/admin/budgets", json=fields)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_a_changed_key_is_in_force_within_a_second(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(budget_usd=WORST_USD / 2)
    assert (await gate.chat(key=key, **LIMITED)).status_code == 402

    changed = await gate.admin("PATCH", f"/admin/keys/{gate.key_id(key)}", json={"budget_usd": 1, "rpm": 3})
    assert (changed.status_code, changed.json()["budget_usd"], changed.json()["rpm"]) == (200, 1, 3)
    began = time.monotonic()

    async def served() -> bool:
        return bool((await gate.chat(key=key, **LIMITED)).headers.get("x-ratelimit-limit-requests") == "3")

    await until(served)
    assert time.monotonic() - began < allowed(3.0)
    await gate.nothing_held(key)


async def test_a_revoked_key_is_refused_on_every_worker_within_a_second(gate: Gateway, upstream: Upstream) -> None:
    async with serving(build_runtime(gate.runtime.view.settings)) as (other, _):
        key = await gate.key()
        urls = [f"{url}/v1/chat/completions" for url in (gate.url, other)]
        asked: Any = {"json": {"model": "auto", "messages": [{"role": "user", "content": "hello"}], **LIMITED}}
        asked["headers"] = {"authorization": f"Bearer {key}"}
        assert [(await gate.http.post(url, **asked)).status_code for url in urls] == [200, 200]

        await gate.admin("DELETE", f"/admin/keys/{gate.key_id(key)}")
        began = time.monotonic()

        async def refused() -> bool:
            return all([(await gate.http.post(url, **asked)).status_code == 401 for url in urls])

        await until(refused)
        assert time.monotonic() - began < allowed(3.0)


async def test_an_answer_is_bounded_by_what_was_reserved(gate: Gateway, upstream: Upstream) -> None:
    key = await gate.key(budget_usd=1)
    unlimited: httpx.Response = await gate.chat(key=key)
    null = await gate.chat(key=key, max_tokens=None)
    limited = await gate.chat(key=key, max_completion_tokens=7)
    assert [one.status_code for one in (unlimited, null, limited)] == [200, 200, 200]
    sent = [request.json for request in upstream.requests]
    assert [one.get("max_tokens") for one in sent] == [1024, 1024, None]
    assert sent[2]["max_completion_tokens"] == 7


async def test_no_secret_is_shown_anywhere(
    gate: Gateway, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    key = await gate.key("planted", team="red")
    await budget(gate, scope="team", subject="red", limit_usd=WORST_USD / 2)
    seen = [(await gate.chat(key=key, **LIMITED)).text]
    seen += [(await gate.admin("GET", path)).text for path in ("/admin/keys", "/admin/budgets", "/admin/export")]
    seen += [(await gate.get(path, key)).text for path in ("/metrics", "/v1/models", "/dashboard", "/admin/keys")]
    seen += [(await gate.chat(key=key + "x")).text, capsys.readouterr().err, capsys.readouterr().out]
    for secret in (key, key[8:], ADMIN, "upstream-secret"):
        assert all(secret not in text for text in seen)
