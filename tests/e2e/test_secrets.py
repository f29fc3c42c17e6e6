"""Secrets are planted in every place that takes one, everything is made to go right and wrong, and all that comes out
is searched: what a client sees, pages, metrics, explanations, rows, telemetry, alerts, what is printed and every log.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.collector import Collector
from tests.support.inbox import Webhook, webhook
from tests.support.serving import Serving, environment, serving, write_config
from tests.support.upstream import Plan, Upstream

ADMIN, PROVIDER, HOOK = "planted-admin-4711", "sk-planted-provider-4711", "planted-hook-4711"
PAGES = ("overview", "explore", "budgets", "policies", "models", "live", "requests")
PRICE = {"input": 2.5, "output": 10}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        yield server


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector.started() as started:
        yield started


@pytest.fixture
def inbox() -> Iterator[Webhook]:
    with webhook() as started:
        yield started


@pytest.fixture
def gateway(tmp_path: Path, upstream: Upstream, collector: Collector, inbox: Webhook) -> Iterator[Serving]:
    (tmp_path / "policies").mkdir()
    rules = "rules:\n  - {name: all, use: [big, gone]}\n"
    (tmp_path / "policies" / "default.yaml").write_text(f"name: default\nbaseline: big\n{rules}")
    target = {"provider": "openai_compatible", "api_key": "${PLANTED_KEY}", "price": PRICE, "max_retries": 0}
    models = [
        {"name": "big", "base_url": upstream.base_url, **target},
        {"name": "gone", "base_url": "http://127.0.0.1:9/v1", **target},
    ]
    config = write_config(
        tmp_path, models=models, alerts={"webhook": "${PLANTED_HOOK}"}, telemetry={"otlp": collector.url}
    )
    hook = f"{inbox.url}/services/{HOOK}"
    planted = {"GATEWAY_ADMIN_KEY": ADMIN, "PLANTED_KEY": PROVIDER, "PLANTED_HOOK": hook, "GATEWAY_LOG": "json"}
    with serving(config, environment(tmp_path, **planted)) as running:
        yield running


def said(client: httpx.Client, key: str, upstream: Upstream) -> list[httpx.Response]:
    """Answers, refusals and failures of the API."""
    seen: list[httpx.Response] = []

    def ask(token: str, **body: Any) -> httpx.Response:
        content = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, **body}
        seen.append(client.post("/v1/chat/completions", json=content, headers={"authorization": f"Bearer {token}"}))
        return seen[-1]

    own = {"authorization": f"Bearer {key}"}
    answered = ask(key)
    ask(key, stream=True)
    for plan in (Plan(status=401), Plan(status=500), Plan(status=400), Plan(drop_connect=True), Plan(cut_after=0)):
        upstream.enqueue(plan)
        ask(key, user=str(plan.status))
    ask(key + "x")
    ask(key, model="no-such-model")
    ask(key, max_tokens=10**9)
    ask(key, messages=7)
    seen += [client.get(f"/v1/requests/{one.headers['x-gateway-request-id']}", headers=own) for one in seen[:4]]
    seen += [client.get(path, headers=own) for path in ("/v1/models", "/metrics", "/readyz", "/admin/keys")]
    assert answered.status_code == 200
    return seen


def managed(client: httpx.Client) -> list[httpx.Response]:
    """What whoever manages it sees."""
    admin = {"authorization": f"Bearer {ADMIN}"}
    paths = ["/admin/keys", "/admin/budgets", "/admin/policies", "/admin/export", "/admin/cache", "/admin/spend"]
    seen = [client.get(path, headers=admin) for path in (*paths, "/metrics")]
    seen.append(client.post("/admin/policies/validate", headers=admin, content=f"name: {{{'x' * 9}"))
    client.post("/dashboard/sign-in", data={"key": ADMIN}, headers={"origin": str(client.base_url).rstrip("/")})
    pages = [client.get(f"/dashboard/{page}") for page in PAGES]
    assert pages[0].status_code == 200, pages[0].text
    seen.append(client.post("/dashboard/alerts/test", headers={"origin": str(client.base_url).rstrip("/")}))
    return seen + pages


def whole(reply: httpx.Response) -> str:
    return reply.text + repr(reply.headers)


def rows(folder: Path) -> str:
    with sqlite3.connect(folder / "data" / "ledger.sqlite3") as books:
        return json.dumps(books.execute("SELECT * FROM ledger").fetchall())


@pytest.mark.timeout(240)
def test_no_planted_secret_comes_out(
    gateway: Serving, upstream: Upstream, collector: Collector, inbox: Webhook
) -> None:
    with httpx.Client(base_url=gateway.url, timeout=60.0) as client:
        admin = {"authorization": f"Bearer {ADMIN}"}
        made = client.post("/admin/keys", json={"name": "planted", "budget_usd": 1}, headers=admin).json()
        inbox.statuses.append(500)
        replies = said(client, made["key"], upstream) + managed(client)
    assert any(f"Bearer {PROVIDER}" in str(received.headers) for received in upstream.requests)
    assert {200, 401, 404} <= {reply.status_code for reply in replies}
    logs = [path.read_text() for path in sorted((gateway.folder / "data" / "logs").glob("*.log*"))]
    assert gateway.stop() == 0
    logs += [path.read_text() for path in sorted((gateway.folder / "data" / "logs").glob("*.log*"))]
    out = {
        "replies": "\n".join(map(whole, replies)),
        "rows": rows(gateway.folder),
        "logs": "\n".join(logs),
        "printed": gateway.rest(),
        "telemetry": "\n".join(repr(one) for one in (*collector.spans(), *collector.metrics())),
        "alerts": json.dumps(inbox.received),
    }
    for where in ("replies", "rows", "logs", "printed", "telemetry"):
        assert out[where], where
    assert made["id"] in out["rows"]
    secrets = {"admin key": ADMIN, "provider's key": PROVIDER, "webhook": HOOK, "API key": made["key"]}
    secrets["most of an API key"] = made["key"][10:]
    found = [(name, where) for where, text in out.items() for name, secret in secrets.items() if secret in text]
    assert found == []
    for kept in (*gateway.folder.glob("data/ledger.sqlite3*"), *(gateway.folder / "data").rglob("*.aof")):
        assert not any(secret.encode() in kept.read_bytes() for secret in secrets.values()), kept
