"""What a machine costs while it stands there, over SQLite and PostgreSQL: busy + idle = wall hours × rate, always."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sqlalchemy import Connection

from gateway import economics
from gateway.config import ModelConfig
from gateway.ledger.standing import GAP_MS, Hour, keep
from gateway.ledger.store import SqlStore
from gateway.types import DAY_MS, HOUR_MS
from tests.support.ledger import NOON, entry

MIDNIGHT = NOON - NOON % DAY_MS
MINUTE = 60_000
BOX = ModelConfig(name="local-small", local="smollm2-135m-instruct", usd_per_hour=0.04)
RATE = 40_000_000


async def run(store: SqlStore, since: int, until: int, every: int = GAP_MS, model: ModelConfig = BOX) -> None:
    """The background process's minute after minute."""
    for now in range(since, until + 1, every):
        await economics.keep_count(store, [model], now)


async def stood(store: SqlStore, model: ModelConfig, since: int, until: int) -> None:
    """The clock alone, in one transaction; what requests were charged is counted by whoever asks for it."""

    def tick(connection: Connection) -> None:
        for now in (*range(since, until, GAP_MS), until):
            keep(connection, economics.rates([model]), now, {})

    await store._write(tick)


def adds_up(hours: list[Hour]) -> bool:
    return all(hour.busy_nano + hour.idle_nano == hour.wall_nano for hour in hours)


async def test_a_day_of_a_box_that_is_five_percent_busy(store: SqlStore) -> None:
    """$0.04 an hour is $0.96 a day; 720 requests of 6 s are 72 minutes, 5 % of it: $0.048 busy, $0.912 idle."""
    per_request = 6 * RATE // 3600  # 66,666 nano-dollars
    rng = random.Random(1)
    requests = [
        entry(f"r{n}", ts_ms=MIDNIGHT + rng.randrange(DAY_MS), cost_nano=per_request, baseline_nano=200_000)
        for n in range(720)
    ]
    for start in range(MIDNIGHT, MIDNIGHT + DAY_MS, 6 * HOUR_MS):
        await store.append([one for one in requests if start <= one.ts_ms < start + 6 * HOUR_MS])
        await stood(store, BOX, start, start + 6 * HOUR_MS)
        await economics.keep_count(store, [BOX], start + 6 * HOUR_MS, hours=7)
    told = await economics.statement(store, MIDNIGHT, MIDNIGHT + DAY_MS)
    box = told.machines[0]
    assert (box.wall_ms, box.wall_nano) == (DAY_MS, 24 * RATE)
    assert box.busy_nano == 720 * per_request == 47_999_520
    assert box.busy_nano + box.idle_nano == 960_000_000
    assert box.busy_share == pytest.approx(0.05, abs=1e-6)
    # 24 × 0.04 ÷ 0.0002 a request at the baseline.
    assert (box.requests, box.break_even_per_day) == (720, 4800)
    assert told.idle_nano == 912_000_480
    assert told.cost_nano == 960_000_000
    assert told.saved_nano == 720 * 200_000 - 960_000_000
    assert adds_up(await store.standing(MIDNIGHT, MIDNIGHT + DAY_MS))


async def test_what_is_not_computing_is_not_the_machines_busy_time(store: SqlStore) -> None:
    await store.append(
        [
            entry("answer", cost_nano=1000),
            entry("cached", cost_nano=70, served="cache", cache="semantic"),
            entry("hosted", cost_nano=9000, served="hosted", model="big"),
        ]
    )
    await run(store, NOON, NOON + HOUR_MS - 1)
    (hour,) = await store.standing(NOON, NOON + HOUR_MS)
    assert (hour.model, hour.busy_nano) == ("local-small", 1000)


async def test_an_hour_that_has_only_begun_costs_its_share(store: SqlStore) -> None:
    await run(store, NOON + 10 * MINUTE, NOON + 25 * MINUTE, 5 * MINUTE)
    (hour,) = await store.standing(NOON, NOON + HOUR_MS)
    assert (hour.wall_ms, hour.wall_nano) == (15 * MINUTE, RATE // 4)


async def test_counting_again_or_twice_at_once_counts_no_minute_twice(store: SqlStore) -> None:
    for now in (NOON, NOON + MINUTE, NOON + MINUTE, NOON + 30_000, NOON + 2 * MINUTE):
        await economics.keep_count(store, [BOX], now)
        await economics.keep_count(store, [BOX], now)
    (hour,) = await store.standing(NOON, NOON + HOUR_MS)
    assert hour.wall_ms == 2 * MINUTE


async def test_a_restart_is_bridged_and_a_night_switched_off_is_not(store: SqlStore) -> None:
    await run(store, NOON, NOON + MINUTE, MINUTE)
    await run(store, NOON + MINUTE + GAP_MS, NOON + MINUTE + GAP_MS, MINUTE)
    later = NOON + 10 * HOUR_MS
    await run(store, later, later + MINUTE, MINUTE)
    hours = await store.standing(0, NOON + DAY_MS)
    assert [hour.wall_ms for hour in hours] == [MINUTE + GAP_MS, MINUTE]


async def test_a_rate_that_changes_within_the_hour_has_a_row_each(store: SqlStore) -> None:
    await store.append([entry("r1", cost_nano=1001)])
    dearer = ModelConfig(name="local-small", local="smollm2-135m-instruct", usd_per_hour=0.1)
    await run(store, NOON, NOON + 15 * MINUTE, 5 * MINUTE)
    await run(store, NOON + 15 * MINUTE, NOON + HOUR_MS - MINUTE, MINUTE, dearer)
    hours = await store.standing(NOON, NOON + HOUR_MS)
    assert [(hour.nano_per_hour, hour.wall_ms) for hour in hours] == [
        (RATE, 15 * MINUTE),
        (100_000_000, 44 * MINUTE),
    ]
    assert sum(hour.busy_nano for hour in hours) == 1001
    assert adds_up(hours)


async def test_rows_that_come_late_move_from_idle_to_busy(store: SqlStore) -> None:
    await run(store, NOON, NOON + HOUR_MS)
    await store.append([entry("spooled", cost_nano=12_345)])
    await economics.keep_count(store, [BOX], NOON + HOUR_MS + 6 * MINUTE)
    first = (await store.standing(NOON, NOON + HOUR_MS))[0]
    assert (first.busy_nano, first.idle_nano) == (12_345, RATE - 12_345)


async def test_a_self_hosted_server_behind_a_url_stands_there_too(store: SqlStore) -> None:
    gpu = ModelConfig(name="gpu", provider="openai_compatible", base_url="http://10.0.0.7:8000/v1", usd_per_hour=2.5)
    await store.append([entry("r1", model="gpu", served="hosted", cost_nano=30_000_000)])
    await run(store, NOON, NOON + HOUR_MS, model=gpu)
    told = await economics.statement(store, NOON, NOON + HOUR_MS)
    assert (told.machines[0].wall_nano, told.machines[0].idle_nano) == (2_500_000_000, 2_470_000_000)


async def test_a_model_without_a_rate_has_no_line(store: SqlStore) -> None:
    free = ModelConfig(name="local-small", local="smollm2-135m-instruct")
    await run(store, NOON, NOON + HOUR_MS, model=free)
    assert await store.standing(0, NOON + DAY_MS) == []


async def test_days_say_what_their_hours_say(store: SqlStore) -> None:
    odd = ModelConfig(name="local-small", local="smollm2-135m-instruct", usd_per_hour=0.000000003)
    end = NOON + 14 * HOUR_MS + 7 * MINUTE
    await store.append([entry(f"r{n}", ts_ms=NOON + n * HOUR_MS, cost_nano=2) for n in range(14)])
    await stood(store, odd, NOON, end)
    await economics.keep_count(store, [odd], end, hours=15)
    hours, days = await store.standing(0, 1 << 52), await store.standing_days(0, 1 << 52)
    assert len(hours) == 15
    assert {each.start_ms for each in days} == {MIDNIGHT, MIDNIGHT + DAY_MS}
    assert [(each.wall_ms, each.count) for each in days] == [(HOUR_MS, 12), (HOUR_MS, 2), (7 * MINUTE, 1)]
    for told in ("wall_nano", "busy_nano", "idle_nano"):
        assert sum(getattr(each, told) for each in hours) == sum(getattr(each, told) for each in days)
    assert economics.machines(hours, {}) == economics.machines(days, {})


async def test_a_machine_that_became_dearer_today_is_told_at_its_new_rate(store: SqlStore) -> None:
    dearer = ModelConfig(name="local-small", local="smollm2-135m-instruct", usd_per_hour=0.05)
    await stood(store, BOX, MIDNIGHT, MIDNIGHT + 3 * HOUR_MS)
    await stood(store, dearer, MIDNIGHT + 3 * HOUR_MS, MIDNIGHT + 5 * HOUR_MS)
    for found in (await store.standing(0, 1 << 52), await store.standing_days(0, 1 << 52)):
        assert economics.machines(found, {})[0].nano_per_hour == 50_000_000


async def test_the_forecast_counts_on_machines_that_stand_idle(store: SqlStore) -> None:
    """$0.96 a day for the box, of which requests pay a part, and one of 10 cents a day elsewhere."""
    now = MIDNIGHT + 2 * DAY_MS + 12 * HOUR_MS
    await stood(store, BOX, MIDNIGHT, now)
    days = range(2)
    about: dict[str, Any] = {"model": "big", "served": "hosted", "cost_nano": 100_000_000}
    await store.append([entry(f"r{day}", ts_ms=NOON + day * DAY_MS, cost_nano=60_000_000) for day in days])
    await store.append([entry(f"h{day}", ts_ms=NOON + day * DAY_MS, **about) for day in days])
    await economics.keep_count(store, [BOX], now, hours=60)
    ahead = await economics.forecast(store, now)
    assert ahead.spent_nano == 2 * 100_000_000 + 60 * RATE
    assert ahead.day_nano == 24 * RATE + 100_000_000
    assert ahead.total_nano == ahead.spent_nano + ahead.day_nano * 57 // 2
    own = await economics.forecast(store, now, {"key_id": ("k1",)})
    assert own.spent_nano == 2 * 160_000_000
