"""Golden prompts through the real background process and the books, against an upstream that swaps its model."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from redis.asyncio import Redis

from gateway.config import Settings, load
from gateway.ledger.answers import Period
from gateway.ledger.store import SqlStore
from gateway.redis_io import Keys
from gateway.types import NANO, LedgerEntry
from gateway.watching.golden import ANSWER_TOKENS, PROBE_KEY, prompts
from gateway.watching.probes import Probes, Target, targets
from tests.support.gateway import gateway, hosted, local
from tests.support.inbox import webhook
from tests.support.redis_server import RedisServer
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
KEYS = Keys()
PROMPTS = len(prompts())
EVER = Period(0, 1 << 52)


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream.in_thread() as upstream:
        yield upstream


def configure(folder: Path, server: RedisServer, models: list[dict[str, Any]], **more: Any) -> Settings:
    """A configuration under which every round is due at once."""
    probes = {"targets": [model["name"] for model in models], "every_hours": 1e-6, "usd_per_day": 100}
    config: dict[str, Any] = {"data_dir": str(folder / "data"), "redis": {"url": server.url}, "models": models}
    config |= {"policies": {"dir": str(ROOT / "policies")}, "probes": probes | more.pop("probes", {})} | more
    (folder / "gateway.yaml").write_text(yaml.safe_dump(config))
    return load(folder / "gateway.yaml", {"BIG_KEY": "x"})


async def rows(redis: Redis) -> list[LedgerEntry]:
    """What was written into the books' stream."""
    found: Any = await redis.xrange(KEYS.ledger)
    return [msgspec.json.decode(fields[b"e"], type=LedgerEntry) for _, fields in found if b"e" in fields]


async def known(redis: Redis, name: str = "big") -> Target:
    return next(target for target in await targets(redis, KEYS) if target.name == name)


async def test_a_swapped_model_is_told_by_the_background_process_and_its_probes_are_in_the_books(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, up: Upstream
) -> None:
    with webhook() as inbox:
        configure(tmp_path, shared_redis, [hosted("big", up.base_url, api_key="x")], alerts={"webhook": inbox.url})
        command = [sys.executable, "-m", "gateway.background", "--config", str(tmp_path / "gateway.yaml")]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL)
        try:
            await until(lambda: up.total >= 5 * PROMPTS, within_s=60)
            learned = await known(redis)
            assert (learned.changes, inbox.titles) == (0, [])
            up.default = Plan(text="As another model I would put that otherwise.", extra={"model": "other"})

            async def changed() -> bool:
                return (await known(redis)).changes > 0

            swapped_at = up.total
            await until(changed, within_s=60)
            assert up.total - swapped_at <= 4 * PROMPTS  # the round under way, two more, and what was asked meanwhile
            await until(lambda: inbox.titles, within_s=60)
            assert inbox.titles[0] == "Target big answers as another model"
            assert inbox.received[0]["kind"] == "model_changed"
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 30) == 0
    store = SqlStore.reader(f"sqlite+aiosqlite:///{tmp_path / 'data' / 'ledger.sqlite3'}")
    try:
        totals = await store.totals(EVER, {"key_id": (PROBE_KEY,)})
    finally:
        await store.close()
    unwritten = await redis.xlen(KEYS.ledger)
    assert totals.requests + unwritten >= 5 * PROMPTS
    assert totals.cost_nano > 0
    assert (totals.saved_nano, totals.baseline_nano) == (0, 0)


async def test_a_probe_is_reserved_settled_and_paid_from_its_own_purse(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, up: Upstream
) -> None:
    settings = configure(tmp_path, shared_redis, [hosted("big", up.base_url)])
    assert await Probes(redis, KEYS).tick(settings) == []
    written = await rows(redis)
    assert len(written) == up.total == PROMPTS
    assert {(row.key_id, row.rule, row.served, row.status) for row in written} == {
        (PROBE_KEY, "pinned", "hosted", "ok")
    }
    assert all(row.tags == (PROBE_KEY,) and row.cost_nano > 0 == row.saved_nano for row in written)
    assert await redis.hlen(KEYS.intents) == 0
    (purse,) = [name async for name in redis.scan_iter(match=f"{KEYS.prefix}{PROBE_KEY}:*")]
    assert int(await redis.get(purse) or 0) == sum(row.cost_nano for row in written)
    sent = [json.loads(request.body) for request in up.requests]
    assert all(body["temperature"] == 0 and body["max_tokens"] == ANSWER_TOKENS for body in sent)


async def test_answers_are_kept_as_digests_only(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, up: Upstream
) -> None:
    up.default = Plan(text="zanzibar")
    await Probes(redis, KEYS).tick(configure(tmp_path, shared_redis, [hosted("big", up.base_url)]))
    kept: Any = await redis.hgetall(f"{KEYS.prefix}probes")
    assert list(kept) == [b"big"]
    assert b"zanzibar" not in kept[b"big"]


async def test_nothing_is_asked_that_nobody_named(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, up: Upstream
) -> None:
    settings = configure(tmp_path, shared_redis, [hosted("big", up.base_url)], probes={"targets": []})
    await Probes(redis, KEYS).tick(settings)
    assert up.total == 0


async def test_the_budget_of_the_day_bounds_what_rounds_cost(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, up: Upstream
) -> None:
    settings = configure(tmp_path, shared_redis, [hosted("big", up.base_url)], probes={"usd_per_day": 0.02})
    probes = Probes(redis, KEYS)
    for _ in range(400):
        asked = up.total
        await probes.tick(settings)
        if up.total == asked:
            break
    assert up.total >= PROMPTS
    assert sum(row.cost_nano for row in await rows(redis)) <= 0.02 * NANO
    assert "usd_per_day" in (await known(redis)).skipped


async def test_a_round_that_costs_more_than_the_day_may_is_not_begun(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, up: Upstream
) -> None:
    settings = configure(tmp_path, shared_redis, [hosted("big", up.base_url)], probes={"usd_per_day": 0.0001})
    await Probes(redis, KEYS).tick(settings)
    assert up.total == 0
    assert "above probes.usd_per_day" in (await known(redis)).skipped


async def test_a_target_that_takes_no_temperature_is_asked_without(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, up: Upstream
) -> None:
    up.enqueue(Plan(status=400, error={"error": {"message": "unsupported value", "code": "unsupported_value"}}))
    await Probes(redis, KEYS).tick(configure(tmp_path, shared_redis, [hosted("big", up.base_url)]))
    assert up.total == PROMPTS + 1
    assert "temperature" not in json.loads(up.requests[-1].body)
    assert (await known(redis)).rounds == 1


async def test_a_target_that_fails_is_left_alone_and_nothing_is_learned_from_it(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, up: Upstream
) -> None:
    up.default = Plan(status=500)
    await Probes(redis, KEYS).tick(configure(tmp_path, shared_redis, [hosted("big", up.base_url)]))
    told = await known(redis)
    assert (told.rounds, told.skipped) == (0, "none of its answers came")
    assert up.total <= 3
    assert {row.status for row in await rows(redis)} == {"error"}


async def test_a_target_that_was_pointed_elsewhere_on_purpose_is_learned_anew_without_an_alarm(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, up: Upstream
) -> None:
    probes = Probes(redis, KEYS)
    for _ in range(4):
        await probes.tick(configure(tmp_path, shared_redis, [hosted("big", up.base_url)]))
    assert (await known(redis)).rounds == 4
    up.default = Plan(text="Another voice.")
    assert (
        await probes.tick(configure(tmp_path, shared_redis, [hosted("big", up.base_url, upstream_model="new")])) == []
    )
    told = await known(redis)
    assert (told.rounds, told.changes) == (1, 0)


async def test_a_local_model_is_asked_too_and_a_target_no_longer_named_is_forgotten(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, up: Upstream
) -> None:
    probes = Probes(redis, KEYS)
    await probes.tick(configure(tmp_path, shared_redis, [local("near", up.base_url), hosted("big", up.base_url)]))
    assert {row.served for row in await rows(redis)} == {"local", "hosted"}
    assert [target.name for target in await targets(redis, KEYS)] == ["big", "near"]
    await probes.tick(configure(tmp_path, shared_redis, [local("near", up.base_url)]))
    assert [target.name for target in await targets(redis, KEYS)] == ["near"]


async def test_a_round_is_broken_off_and_every_call_of_it_is_in_the_books(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, up: Upstream
) -> None:
    up.default = Plan(first_delay_s=0.2)
    asking = asyncio.create_task(
        Probes(redis, KEYS).tick(configure(tmp_path, shared_redis, [hosted("big", up.base_url)]))
    )
    await until(lambda: up.total >= 2)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    written = await rows(redis)
    assert len(written) == up.total
    assert [row.status for row in written][-1] == "cancelled"
    assert await redis.hlen(KEYS.intents) == 0


async def test_the_budget_of_the_target_itself_is_charged_and_kept(tmp_path: Path, up: Upstream) -> None:
    probes = {"targets": ["big"], "every_hours": 1e-6, "usd_per_day": 100}
    async with gateway(tmp_path, [hosted("big", up.base_url)], probes=probes) as running:
        runtime = running.runtime
        limit = {"scope": "model", "subject": "big", "limit_usd": 1}
        made = (await running.admin("POST", "/admin/budgets", json=limit)).json()
        prober = Probes(runtime.redis, runtime.keys)
        await prober.tick(runtime.view.settings)
        written = await rows(runtime.redis)
        (state,) = (await running.admin("GET", "/admin/budgets")).json()["state"]
        assert len(written) == PROMPTS
        assert state["spent_nano"] == sum(row.cost_nano for row in written) > 0

        await running.admin("PATCH", f"/admin/budgets/{made['id']}", json={"limit_usd": 1e-6})
        asked = up.total
        await prober.tick(runtime.view.settings)
        assert up.total == asked
        assert (await known(runtime.redis)).skipped == "the model's budget is exhausted"
