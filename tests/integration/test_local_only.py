"""Local only means local: a listening hosted upstream, a hosted embedder, a collector, a webhook and every log line,
and no byte of a planted string in any of them, whatever goes wrong and whatever is asked for.

Each way out is open to everybody else: an ordinary request takes it first, or beside it.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml

from gateway import export, log
from gateway.alerts.watch import Watch
from gateway.backends.fleet import Fleet
from gateway.ledger.answers import Period
from gateway.ledger.store import SqlStore
from gateway.ledger.where import ledger_url
from tests.support.collector import Collector
from tests.support.gateway import ADMIN, Gateway, gateway, hosted, local
from tests.support.inbox import Webhook, webhook
from tests.support.models import EMBED, embed_model, served
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until
from tests.support.wiretap import Wiretap

SECRET = "planted4711"
PROMPT = f"What is the capital of {SECRET}?"
OPEN = "What is the capital of France?"
QUOTING = {"error": {"message": f"cannot answer: {PROMPT}", "type": "server_error", "code": "sorry"}}
UNSURE = {"confidence": 0.01, "confidence_details": {"tokens": 3}}
ELSEWHERE: dict[str, Any] = {
    "use": ["near", "far"],
    "escalate": {"when": "confidence < 0.99", "hold_tokens": 3},
    "shadow": {"use": ["far"], "usd_per_day": 100},
}
POLICY: dict[str, Any] = {
    "name": "default",
    "baseline": "far",
    "cache": {"scope": "shared"},
    "on_redis_down": "allow",
    "rules": [
        {
            **ELSEWHERE,
            "name": "stays",
            "when": "'confidential' in tags",
            "local_only": True,
            "canary": {"use": ["far"], "share": 0.5, "by": "request"},
        },
        {"name": "best", "when": "quality == 10 || difficulty > 0.9", "use": ["far"]},
        {**ELSEWHERE, "name": "rest"},
    ],
}
PUBLIC: dict[str, Any] = {"name": "default", "rules": [{"name": "everything-out", "use": ["far"]}]}
FREE = {"input": 0, "output": 0}
TAGGED = {"x-gateway-tags": "confidential"}
AFRESH = {"x-gateway-cache": "no-store"}
FAILURES = {
    "500": Plan(status=500, error=QUOTING),
    "400": Plan(status=400, error=QUOTING),
    "429": Plan(status=429, error=QUOTING, headers={"retry-after": "30"}),
    "overloaded": Plan(status=503, error=QUOTING),
    "too small": Plan(status=400, error={"error": QUOTING["error"] | {"code": "context_length_exceeded"}}),
    "not its key": Plan(status=401, error=QUOTING),
    "reset": Plan(drop_connect=True),
    "cut": Plan(text=PROMPT, cut_after=2),
    "garbage": Plan(text=PROMPT, garbage_after=0, garbage=f"data: {PROMPT}\n\n".encode()),
    "error under 200": Plan(raw=msgspec.json.encode(QUOTING)),
    "error in its stream": Plan(
        raw=(
            b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
            b"data: " + msgspec.json.encode(QUOTING) + b"\n\n",
        )
    ),
    "hangs": Plan(hang=True),
    "unsure": Plan(extra=UNSURE),
}
IN_A_STREAM = ("500", "cut", "garbage", "error under 200", "error in its stream", "hangs", "unsure")
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": PROMPT}]},
    "completions": {"prompt": PROMPT},
    "responses": {"input": PROMPT},
    "embeddings": {"input": PROMPT},
    "moderations": {"input": PROMPT},
    "messages": {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 50},
    "messages/count_tokens": {"messages": [{"role": "user", "content": PROMPT}]},
    "files": {"purpose": "batch", "file": PROMPT},
    "batches": {"input": PROMPT, "endpoint": "/v1/chat/completions", "completion_window": "24h"},
}

ASKING = ("chat/completions", "completions", "messages", "responses")


@pytest.fixture(scope="module")
def embedder() -> Iterator[str]:
    with served("embed", "--model", str(embed_model())) as address:
        yield f"{address}/v1"


class Outside:
    """All beyond this machine, and all that others read."""

    def __init__(self, upstream: Wiretap, embedder: Wiretap, collector: Collector, inbox: Webhook) -> None:
        self.upstream, self.embedder, self.collector, self.inbox = upstream, embedder, collector, inbox
        self.log = io.StringIO()

    def knows(self, what: str = SECRET) -> list[str]:
        """Where it was heard."""
        heard = {
            "upstream": bytes(self.upstream.heard),
            "embedder": bytes(self.embedder.heard),
            "collector": self.collector.everything(),
            "webhook": msgspec.json.encode(self.inbox.received),
            "log": self.log.getvalue().encode(),
        }
        return [name for name, said in heard.items() if what.encode() in said]


@pytest.fixture
async def outside(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Outside]:
    monkeypatch.setenv("GATEWAY_LOG", "json")
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", ADMIN)
    monkeypatch.setenv("BIG_KEY", "upstream-secret")
    monkeypatch.setattr("gateway.reload._POLL_S", 3600)
    root, ours = logging.getLogger(), logging.getLogger("gateway")
    handlers, level = list(root.handlers), root.level
    with Collector.started() as collector, webhook() as inbox:
        async with Wiretap(upstream.port) as hosted_model, Wiretap(upstream.port) as embedder:
            found = Outside(hosted_model, embedder, collector, inbox)
            log.setup("worker", found.log)
            ours.setLevel(logging.DEBUG)
            yield found
            ours.setLevel(logging.NOTSET)
            root.handlers[:] = handlers
            root.setLevel(level)


@pytest.fixture
async def gate(tmp_path: Path, near: Upstream, outside: Outside) -> AsyncIterator[Gateway]:
    """Every way out is there; once it has gone, everything it had to tell has been told."""
    models = [
        local("near", near.base_url, max_retries=1),
        hosted("far", outside.upstream.base_url),
        hosted("vectors", outside.upstream.base_url, upstream_model="text-embedding-3-small", price=FREE),
        hosted("verdicts", outside.upstream.base_url, upstream_model="omni-moderation-latest", price=FREE),
    ]
    async with gateway(
        tmp_path,
        models,
        [POLICY, PUBLIC | {"name": "public"}],
        embedder={"url": outside.embedder.base_url},
        telemetry={"otlp": outside.collector.url, "content": True},
        alerts={"webhook": outside.inbox.url},
        cache={
            "judge": {"model": "far", "usd_per_day": 100},
            "cross_encoder": {"model": "judge", "url": outside.embedder.base_url, "low": 0.0, "high": 1.0},
        },
    ) as running:
        yield running
    assert outside.knows() == []


async def stays(gate: Gateway, prompt: str = PROMPT, **more: Any) -> httpx.Response:
    """Ask what must not leave."""
    return await gate.chat(prompt, headers=TAGGED | more.pop("headers", {}), **more)


async def readable(gate: Gateway, ids: list[str], *paths: str) -> str:
    """What others can ask of the gateway, and what of these requests is in the books."""
    paths = ("/v1/models", *paths, *(f"/v1/requests/{each}" for each in ids))
    pages = [(await gate.get(path, ADMIN)).text for path in paths]
    return "\n".join([*pages, *(msgspec.json.encode(row).decode() for row in await gate._rows())])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_whatever_fails_here_is_tried_nowhere_else(
    gate: Gateway, near: Upstream, outside: Outside, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.backends.resilient.BACKOFF_S", 0.01)
    failures = {name: plan for name, plan in FAILURES.items() if not stream or name in IN_A_STREAM}
    for name, plan in failures.items():
        near.default, ids = plan, []
        for _ in range(4):  # the last of them find it cooling down
            asked = AFRESH | {"x-gateway-quality": "10"} | ({"x-gateway-deadline-ms": "200"} if plan.hang else {})
            reply = await stays(gate, stream=stream, headers=asked)
            ids.append(reply.headers["x-gateway-request-id"])
            assert reply.headers.get("x-gateway-model", "near") in ("near", ""), name
        near.default = Plan(text="here again")
        others = await gate.chat(OPEN, headers=AFRESH)
        assert others.status_code == 200
        assert SECRET not in others.text
        assert SECRET not in await readable(gate, [ids[0], ids[-1], others.headers["x-gateway-request-id"]]), name
        view = gate.runtime.view
        gate.runtime.view = msgspec.structs.replace(view, fleet=Fleet.build(view.settings))
        await view.fleet.close()
    assert SECRET not in await readable(gate, [], "/metrics", "/readyz", "/admin/policies")
    assert len(near.requests) > 2 * len(failures)
    assert outside.knows(OPEN) != []


async def test_what_fails_here_is_in_no_alert_and_no_export(
    gate: Gateway, near: Upstream, outside: Outside, tmp_path: Path
) -> None:
    near.default = Plan(status=500, error=QUOTING)
    for _ in range(25):
        await stays(gate)
    rows = [msgspec.structs.replace(row, consented=True) for row in await gate.rows(25)]
    store = SqlStore(ledger_url(gate.runtime.view.settings))
    await store.migrate()
    try:
        await store.append(rows)

        async def no_budgets() -> list[Any]:
            return []

        told = await Watch(gate.runtime.redis, gate.runtime.keys, store, no_budgets).look(gate.runtime.view.settings)
        assert {"error_rate", "target_down"} <= {finding.kind for finding in told}
        assert len(outside.inbox.received) == len(told)
        for form in ("csv", "jsonl", "sft"):
            file = io.StringIO()
            await export.write(store, Period(0, 2**53), form, file)
            assert SECRET not in file.getvalue()
    finally:
        await store.close()


async def test_no_shadow_no_canary_and_no_better_model_for_what_is_unsure(
    gate: Gateway, near: Upstream, upstream: Upstream, outside: Outside
) -> None:
    near.default = Plan(extra=UNSURE)
    others = await gate.chat(OPEN, headers=AFRESH)
    assert others.headers["x-gateway-model"] == "far"
    for number in range(12):
        mine = await stays(gate, f"{PROMPT} {number}")
        assert (mine.status_code, mine.headers["x-gateway-model"]) == (200, "near")
    near.default = Plan()
    shadowed = await gate.chat(f"{OPEN} again", headers=AFRESH)
    assert shadowed.headers["x-gateway-model"] == "near"
    await until(lambda: f"{OPEN} again".encode() in bytes(outside.upstream.heard))


@pytest.mark.parametrize("path", BODIES)
async def test_every_endpoint_keeps_it(gate: Gateway, outside: Outside, path: str) -> None:
    for model in ("auto", "auto:default", "near", "far", "auto:nowhere", EMBED, "vectors", "verdicts"):
        for quality in ("0", "10"):
            headers = TAGGED | AFRESH | {"x-gateway-quality": quality}
            reply = await gate.http.post(f"/v1/{path}", json={"model": model, **BODIES[path]}, headers=headers)
            assert reply.headers.get("x-gateway-model", "near") in ("near", ""), (path, model)
            if path in ASKING and model == "far":
                assert (reply.status_code, reply.json()["error"]["code"]) == (403, "local_only")
            elif path in ASKING and model in ("auto", "near"):
                assert (reply.status_code, reply.headers["x-gateway-model"]) == (200, "near")
    streamed = await gate.http.post(
        f"/v1/{path}", json={"model": "auto", "stream": True, **BODIES[path]}, headers=TAGGED | AFRESH
    )
    assert streamed.headers.get("x-gateway-model", "near") in ("near", "")
    assert await asyncio.to_thread(outside.knows) == []


@pytest.mark.parametrize(
    ("path", "models"),
    [("embeddings", ("vectors", "auto", EMBED)), ("moderations", ("verdicts", "auto"))],
)
async def test_no_text_is_embedded_or_judged_elsewhere(
    gate: Gateway, outside: Outside, path: str, models: tuple[str, ...]
) -> None:
    for model in models:
        for given in (PROMPT, [OPEN, PROMPT]):
            reply = await gate.http.post(f"/v1/{path}", json={"model": model, "input": given}, headers=TAGGED)
            assert (reply.status_code, reply.json()["error"]["code"]) == (403, "local_only"), model
    assert await asyncio.to_thread(outside.knows) == []

    others = await gate.http.post(f"/v1/{path}", json={"model": models[0], "input": OPEN})

    assert others.status_code == 200
    assert await asyncio.to_thread(outside.knows, OPEN) == ["upstream"]


async def test_stored_answers_cross_neither_way(gate: Gateway, near: Upstream, outside: Outside) -> None:
    near.default = Plan(text=f"the capital of {SECRET} is here")
    mine, yours = await gate.key("mine"), await gate.key("yours")

    async def tier(key: str, **more: Any) -> tuple[str, str]:
        reply = await gate.chat(OPEN, key=key, **more)
        return reply.headers["x-gateway-cache"], reply.text

    assert (await tier(mine, headers=TAGGED))[0] == "miss"
    await gate.runtime.books.drain()
    assert (await tier(mine, headers=TAGGED))[0] == "exact"
    assert (await tier(yours, headers=TAGGED))[0] == "miss", "not in a cache that all share"
    near.default = Plan(text="an answer anyone may have", extra={"confidence": 1.0})
    assert (await tier(yours))[0] == "miss"
    await gate.runtime.books.drain()
    cache, text = await tier(mine)
    assert (cache, SECRET in text) == ("exact", False), "what anybody may have is shared, and is not the other one"
    assert SECRET in (await tier(mine, headers=TAGGED))[1]


async def test_questions_that_mean_the_same_are_not_compared_elsewhere(
    gate: Gateway, near: Upstream, outside: Outside
) -> None:
    for question in (OPEN, "What's the capital of France?", "Which city is the capital of France?"):
        await gate.chat(question)
    await gate.runtime.books.drain()
    assert b"capital of France" in bytes(outside.embedder.heard), "others' questions are"
    for question in (PROMPT, f"What's the capital of {SECRET}?", f"Which city is the capital of {SECRET}?"):
        assert (await stays(gate, question)).status_code == 200
    await gate.runtime.books.drain()
    assert outside.knows() == []


async def test_what_this_machine_compares_no_judge_and_no_cross_encoder_elsewhere_is_told(
    tmp_path: Path, near: Upstream, upstream: Upstream, outside: Outside, embedder: str
) -> None:
    """The embedder is this machine's, so that questions which must stay are compared as well; who else might be asked
    about a doubtful pair is not.
    """
    asked = {
        "How do I reset my {} password?": "Press the red button.",
        "How do I change my forgotten {} password?": "In Settings, choose Forgot, then push 1 red button.",
        "What can I do to reset a lost password on {}?": "Write to the help desk, with your name.",
        "How can the password for {} be recovered?": "It cannot; make a new account.",
    }
    sections: dict[str, Any] = {
        "embedder": {"url": embedder, "model": EMBED},
        "cache": {
            "judge": {"model": "far", "usd_per_day": 100},
            "cross_encoder": {"model": "other", "url": outside.embedder.base_url, "low": 0.0, "high": 1.0},
        },
    }
    models = [local("near", near.base_url), hosted("far", outside.upstream.base_url)]
    stay = {"name": "default", "rules": [POLICY["rules"][0], {"name": "rest", "use": ["near"]}]}
    async with gateway(tmp_path, models, [stay], **sections) as running:
        running.runtime.view = msgspec.structs.replace(running.runtime.view, embedder_local=True)
        pairs_of_others: list[str] = []
        for name, headers in ((SECRET, TAGGED), ("Wordpress", {})):
            ids = []
            for question, answer in asked.items():
                near.default = Plan(text=answer, extra={"confidence": 1.0})
                size = running.runtime.semantic.size
                reply = await running.chat(question.format(name), headers=headers)
                ids.append(reply.headers["x-gateway-request-id"])
                assert (reply.status_code, reply.headers["x-gateway-model"]) == (200, "near"), question
                if reply.headers["x-gateway-cache"] == "miss":
                    await until(lambda: running.runtime.semantic.size > size)  # noqa: B023 - in this round
                await running.runtime.books.drain()
            for score in ({"score": -1}, {"wrong_cache_hit": True}):
                for each in ids:
                    await running.http.post("/v1/feedback", json={"request_id": each, **score})
            pairs_of_others = outside.knows(name)
            assert (pairs_of_others == []) == (name == SECRET)
        assert {"upstream", "embedder"} <= set(pairs_of_others), "everybody else's pair is told to both"
    assert outside.knows() == []


async def test_a_twin_that_may_leave_does_not_take_it_along(gate: Gateway, near: Upstream, upstream: Upstream) -> None:
    near.default = Plan(text="near's", first_delay_s=0.3)
    upstream.default = Plan(text="far's", first_delay_s=0.3)
    twin = "what both ask at the same time"
    sent = [gate.chat(twin, model="auto:public"), gate.chat(twin, headers=TAGGED), gate.chat(twin, headers=TAGGED)]
    out, here, also_here = await asyncio.gather(*sent)
    assert [reply.headers["x-gateway-model"] for reply in (out, here, also_here)] == ["far", "near", "near"]
    assert also_here.json()["choices"][0]["message"]["content"] == "near's"
    asked = [request for request in upstream.requests if request.path.endswith("/chat/completions")]
    assert len(asked) == 1


async def test_a_reload_under_way_opens_no_way_out(
    gate: Gateway, near: Upstream, upstream: Upstream, outside: Outside
) -> None:
    near.enqueue(Plan(status=500, error=QUOTING, first_delay_s=0.4), Plan(status=500, error=QUOTING))
    asked = asyncio.create_task(stays(gate))
    await near.wait_for(1)
    (gate.folder / "policies" / "default.yaml").write_text(yaml.safe_dump(PUBLIC))
    reloaded = await gate.admin("POST", "/admin/policies/reload")
    assert reloaded.status_code == 200, reloaded.text
    assert (await gate.chat(OPEN)).headers["x-gateway-model"] == "far", "for who comes now everything is out"
    reply = await asked
    assert reply.status_code == 500
    [mine] = [row for row in await gate.rows(2) if row.model == "near"]
    assert (mine.rule, mine.status, mine.error) == ("stays", "error", "upstream_unavailable")


async def test_an_experiment_takes_nothing_out(gate: Gateway, near: Upstream, outside: Outside) -> None:
    split = {"experiment": {"name": "all-out", "arms": {"public": 0.9}, "by": "request"}}
    (gate.folder / "policies" / "default.yaml").write_text(yaml.safe_dump(POLICY | split))
    assert (await gate.admin("POST", "/admin/policies/reload")).status_code == 200
    others = [await gate.chat(f"{OPEN} {number}", headers=AFRESH) for number in range(12)]
    assert "everything-out" in {reply.headers["x-gateway-route"] for reply in others}
    for number in range(12):
        mine = await stays(gate, f"{PROMPT} {number}")
        assert (mine.headers["x-gateway-route"], mine.headers["x-gateway-model"]) == ("stays", "near")


async def test_what_waits_on_disk_while_redis_is_away_does_not_say_it(
    gate: Gateway, near: Upstream, outside: Outside
) -> None:
    near.default = Plan(status=500, error=QUOTING)
    gate.redis.kill()
    await until(lambda: not gate.runtime.link.connected)
    for stream in (False, True):
        assert (await stays(gate, stream=stream)).status_code == 500
    await until(lambda: gate.runtime.books.spool.waiting == 2)
    spooled = b"".join(file.read_bytes() for file in (gate.folder / "data" / "spool").iterdir())
    assert spooled.count(b'"upstream_unavailable"') >= 2
    assert SECRET.encode() not in spooled
