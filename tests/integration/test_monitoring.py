"""Routing is counted from the books, told where it has left its bounds, and shown wherever people look."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from gateway.alerts.watch import Watch
from gateway.cli.app import app
from gateway.config import MonitoringConfig
from gateway.ledger.store import SqlStore
from gateway.redis_io import Keys
from gateway.types import DAY_MS, HOUR_MS, LedgerEntry
from gateway.watching import routing
from gateway.watching.probes import Probes
from tests.support.gateway import Gateway, gateway, hosted
from tests.support.inbox import Webhook
from tests.support.ledger import NOON, entry
from tests.support.redis_server import RedisServer
from tests.support.upstream import Plan, Upstream
from tests.support.visits import settings

KEYS = Keys()
BOUNDS = MonitoringConfig(requests=50, labels=20)


def asked(count: int, at_ms: int, language: str, **changes: Any) -> list[LedgerEntry]:
    """Requests of one hour that a policy decided on."""
    detail = {"features": {"language": language}, "decision": {"rule": "easy"}, "attempts": [{"model": "local-small"}]}
    return [
        entry(f"{at_ms}-{language}-{number}", ts_ms=at_ms + number, difficulty=0.1, detail=detail, **changes)
        for number in range(count)
    ]


async def test_a_shift_is_found_in_the_books_told_and_resolved(
    tmp_path: Path, redis: Redis, store: SqlStore, inbox: Webhook
) -> None:
    house = settings(tmp_path, alerts={"webhook": inbox.url}, monitoring={"requests": 50})

    async def look(now_ms: int) -> list[str]:
        await routing.keep(redis, KEYS, store, BOUNDS, now_ms)
        return [told.title for told in await watch.look(house, now_ms)]

    async def budgets() -> list[Any]:
        return []

    watch = Watch(redis, KEYS, store, budgets)
    await store.append(asked(80, NOON - 2 * HOUR_MS - DAY_MS, "en"))
    assert await look(NOON - DAY_MS) == []
    await store.append(asked(80, NOON - HOUR_MS, "de"))
    assert await look(NOON) == ["Requests have shifted: language"]
    assert await look(NOON + HOUR_MS) == []
    assert inbox.titles == ["Requests have shifted: language"]
    assert "'de' had 0%" in inbox.received[0]["detail"] or "'en' had 100%" in inbox.received[0]["detail"]
    assert await look(NOON + 2 * DAY_MS) == ["Resolved: Requests have shifted: language"]


async def test_ratings_that_come_late_are_counted_a_day_later(redis: Redis, store: SqlStore) -> None:
    then = NOON - 24 * HOUR_MS
    await store.append(asked(40, then, "en"))
    first = await routing.keep(redis, KEYS, store, BOUNDS, then + 1000)
    assert first.calibration_error is None
    await store.rate({f"{then}-en-{number}": -1.0 for number in range(40)})
    await routing.keep(redis, KEYS, store, BOUNDS, then + HOUR_MS)
    late = await routing.keep(redis, KEYS, store, BOUNDS, then + 23 * HOUR_MS)
    assert late.calibration_error == pytest.approx(0.9)
    await store.append(asked(40, NOON, "en"))
    assert (await routing.keep(redis, KEYS, store, BOUNDS, NOON)).requests_before == 40


async def test_hours_that_were_missed_are_made_up_for_and_old_ones_go(redis: Redis, store: SqlStore) -> None:
    for ago in (1, 5, 9, 12):
        await store.append(asked(10, NOON - ago * HOUR_MS, "en"))
    assert (await routing.keep(redis, KEYS, store, BOUNDS, NOON)).requests == 40
    await routing.keep(redis, KEYS, store, BOUNDS, NOON + 9 * DAY_MS)
    kept = {int(name) for name in await redis.hkeys(f"{KEYS.prefix}routing")}
    assert min(kept) >= NOON + 9 * DAY_MS - routing.KEPT_MS


async def test_what_another_version_has_kept_is_counted_anew(redis: Redis, store: SqlStore) -> None:
    await redis.hset(f"{KEYS.prefix}routing", str(NOON - HOUR_MS), "{}")
    await redis.set(f"{KEYS.prefix}routing:report", '{"of": "old"}')
    assert await routing.latest(redis, KEYS) is None
    await store.append(asked(3, NOON - HOUR_MS, "en"))
    assert (await routing.keep(redis, KEYS, store, BOUNDS, NOON)).requests == 3


@pytest.fixture
async def looked(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with a target that has been probed and has changed, and a day of routing."""
    (tmp_path / "data").mkdir()
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'data' / 'ledger.sqlite3'}")
    await store.migrate()
    with Upstream.in_thread() as up:
        probes = {"targets": ["big"], "every_hours": 1e-6, "usd_per_day": 100}
        async with gateway(tmp_path, [hosted("big", up.base_url)], probes=probes) as running:
            runtime, now = running.runtime, int(time.time() * 1000)
            prober = Probes(runtime.redis, runtime.keys)
            for text in (None, None, None, None, "As another model I would say."):
                up.default = Plan(text=text)
                await prober.tick(runtime.view.settings)
            await store.append(asked(60, now - HOUR_MS, "en", feedback=-1.0))
            await store.append(asked(60, now - 3 * DAY_MS, "de"))
            await routing.keep(runtime.redis, runtime.keys, store, BOUNDS, now - 3 * DAY_MS)
            await routing.keep(runtime.redis, runtime.keys, store, BOUNDS, now)
            await store.close()
            yield running


async def test_it_is_shown_to_admins_programs_and_people(looked: Gateway) -> None:
    probes = (await looked.admin("GET", "/admin/probes")).json()["data"]
    assert [(one["name"], one["changes"], one["rounds"]) for one in probes] == [("big", 1, 1)]
    assert probes[0]["changed"]["channels"]
    told = (await looked.admin("GET", "/admin/routing")).json()
    assert (told["requests"], told["requests_before"]) == (60, 60)
    assert told["calibration_error"] == pytest.approx(0.9)
    for path in ("/admin/probes", "/admin/routing"):
        assert (await looked.get(path)).status_code == 401

    metrics = (await looked.admin("GET", "/metrics")).text
    assert 'gateway_probe_changes_total{model="big"} 1.0' in metrics
    assert 'gateway_routing_psi{mix="language"}' in metrics
    assert re.search(r"^gateway_routing_calibration_error 0\.(9|89999)", metrics, re.MULTILINE)
    assert not [line for line in metrics.splitlines() if line.startswith("gateway_routing_regret")]  # not known

    shown = (await looked.admin("GET", "/dashboard/models.json")).json()
    assert {row["what"]: row for row in shown["tables"]["mixes"]}["language"]["psi"] > 0.25
    assert shown["tables"]["probes"][0]["name"] == "big"
    page = (await looked.admin("GET", "/dashboard/models")).text
    assert "Golden prompts" in page
    assert "Another model since then" in page
    assert "What has shifted" in page


async def test_an_owner_sees_models_and_nothing_of_other_peoples_routing(looked: Gateway) -> None:
    key = await looked.key("mine")
    reply = await looked.get("/dashboard/models.json", key=key)
    assert reply.status_code == 200
    assert list(reply.json()["tables"]) == ["models"]


async def test_without_redis_metrics_are_shown_without_it(looked: Gateway) -> None:
    looked.redis.kill()
    reply = await looked.admin("GET", "/metrics")
    assert reply.status_code == 200
    assert "gateway_probe_changes_total" not in reply.text


async def test_the_command_shows_what_is_known(looked: Gateway) -> None:
    arguments = ["router", "watch", "--config", looked.runtime.view.settings.file]
    plain = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    told = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--json"])
    assert (plain.exit_code, told.exit_code) == (0, 0)
    assert json.loads(told.stdout)["probes"][0]["name"] == "big"
    assert "60 requests in the last day, 60 in the week before." in plain.stdout


async def test_the_command_says_where_nothing_is_watched(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis
) -> None:
    chosen = settings(tmp_path, redis={"url": shared_redis.url})
    told = await asyncio.to_thread(CliRunner().invoke, app, ["router", "watch", "--config", chosen.file])
    assert told.exit_code == 0
    assert "name some in probes.targets" in told.stdout
    assert "Routing has not been counted yet" in told.stdout
