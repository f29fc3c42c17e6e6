"""Reloads under load, a third of them invalid: no request fails, and none sees two policies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.support.gateway import ADMIN, Gateway, gateway, hosted
from tests.support.upstream import Upstream

BROKEN = "name: default\nrules:\n  - {name: all, when: 'difficultly < 1', use: [big]}\n"
CLIENTS = 8
GROWTH_MB = 25


def version(number: int) -> dict[str, Any]:
    """A policy whose rule, in the reply, and whose parameter, at upstream, say which one it is."""
    rules = [{"name": f"v{number}", "use": ["big"], "params": {"seed": number}}]
    return {"name": "default", "cache": {"exact": False, "semantic": False}, "rules": rules}


@pytest.fixture
async def gate(tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", ADMIN)
    monkeypatch.setenv("BIG_KEY", "upstream-secret")
    monkeypatch.setattr("gateway.reload._POLL_S", 3600)
    async with gateway(tmp_path, [hosted("big", upstream.base_url)], [version(0)]) as running:
        yield running


async def stormed(gate: Gateway, upstream: Upstream, reloads: int, pause_s: float) -> None:
    file = gate.folder / "policies" / "default.yaml"
    over = asyncio.Event()
    seen: dict[str, str] = {}

    async def client() -> None:
        while not over.is_set():
            reply = await gate.chat(model="auto")
            assert reply.status_code == 200, reply.text
            seen[reply.headers["x-gateway-request-id"]] = reply.headers["x-gateway-route"]

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    before = 0
    for number in range(1, reloads + 1):
        file.write_text(BROKEN if number % 3 == 0 else yaml.safe_dump(version(number)))
        status = (await gate.admin("POST", "/admin/policies/reload")).status_code
        assert status == (400 if number % 3 == 0 else 200)
        await asyncio.sleep(pause_s)
        if number == reloads // 4:
            before = psutil.Process().memory_info().rss
    over.set()
    await asyncio.gather(*clients)
    assert len(seen) > reloads
    assert len(set(seen.values())) > reloads / 3
    asked = {str(request.json["seed"]) for request in upstream.requests}
    assert {route.removeprefix("v") for route in seen.values()} <= asked | {"0"}
    await gate.runtime.books.drain()
    for row in await gate.rows(len(seen)):
        params = dict(row.detail["decision"]["params"])
        assert row.rule == seen[row.request_id] == f"v{params['seed']}"
        assert row.status == "ok"
    assert psutil.Process().memory_info().rss - before < GROWTH_MB * 2**20 + len(seen) * 4_000


async def test_a_short_storm(gate: Gateway, upstream: Upstream) -> None:
    await stormed(gate, upstream, reloads=15, pause_s=0.02)


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_two_hundred_reloads_in_a_minute(gate: Gateway, upstream: Upstream) -> None:
    await stormed(gate, upstream, reloads=200, pause_s=0.15)
