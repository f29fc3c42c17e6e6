"""Reserving, settling, sweeping and rebuilding, one thing at a time, on a real Redis."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.budget.accounts import catch_up, open_accounts
from gateway.budget.levels import NOTHING, Account, Levels, own
from gateway.budget.limits import LEASE_MS, admit
from gateway.budget.reservations import CacheWrite, charged_to, reserve, settle, sweep
from gateway.redis_io import RedisLink
from tests.support.accounts import KEYS, budget, charged, held, intent, key_with, ledger, principal, settlement
from tests.support.ledger import NOON

DAY_MS = 86_400_000


async def admitted(link: RedisLink, name: str, who: Levels, worker: str = "w1") -> None:
    about = intent(worker=worker, charges=charged(who))
    assert (await admit(link, KEYS, who, name, about, tokens=1)).refused == ""


async def reserved(link: RedisLink, name: str, amount: int, who: Levels, worker: str = "w1") -> bool:
    wanted = held(amount, *who.accounts)
    about = intent(worker=worker, charges=charged(who))
    return await reserve(link, KEYS, name, about, add=wanted, total=wanted) is None


async def swept(redis: Redis) -> int:
    """The sweep of workers that have been gone for longer than the grace."""
    assert await sweep(redis, NOON) == 0
    return await sweep(redis, NOON + 4_001)


async def test_concurrent_requests_never_overdraw_a_budget(link: RedisLink, redis: Redis) -> None:
    who = await key_with(link, 10**18 + 9)
    share = 10**17 + 1

    granted = await asyncio.gather(*(reserved(link, f"r{n}", share, who) for n in range(60)))

    assert sum(granted) == 9
    assert await budget(redis) == {
        "left": 10**18 + 9 - 9 * share,
        "reserved": 9 * share,
        "spent": 0,
        "limit": 10**18 + 9,
    }


async def test_a_refused_reservation_takes_nothing(link: RedisLink, redis: Redis) -> None:
    who = await key_with(link, 100)
    await admitted(link, "r1", who)
    assert not await reserved(link, "r1", 101, who)
    assert await budget(redis) == {"left": 100, "reserved": 0, "spent": 0, "limit": 100}
    assert await reserved(link, "r1", 100, who)
    assert not await reserved(link, "r2", 1, who)


async def test_a_budget_of_nothing_buys_nothing_but_what_is_free(link: RedisLink) -> None:
    who = await key_with(link, 0)
    assert not await reserved(link, "r1", 1, who)
    assert await reserved(link, "r1", 0, who)


async def test_settling_many_times_at_once_counts_once(link: RedisLink, redis: Redis) -> None:
    who = await key_with(link, 1000)
    await admitted(link, "r1", who)
    await reserved(link, "r1", 400, who)

    counted = await asyncio.gather(*(settle(link, KEYS, settlement("r1", 150)) for _ in range(20)))

    assert sum(counted) == 1
    assert await budget(redis) == {"left": 850, "reserved": 0, "spent": 150, "limit": 1000}
    assert len(await ledger(redis)) == 1


async def test_two_counts_of_one_request_that_redis_never_saw_count_once(link: RedisLink, redis: Redis) -> None:
    """Trip 1 found Redis away; its settlement is spooled, and replayed from the start after a crash."""
    await key_with(link, 1000)
    late = settlement("r1", 70, intent=False)
    assert [await settle(link, KEYS, late) for _ in range(3)] == [True, False, False]
    assert (await budget(redis))["spent"] == 70
    assert 0 < await redis.ttl(KEYS.once("r1")) <= 86_400


async def test_a_settlement_that_comes_after_the_sweep_replaces_its_charge(link: RedisLink, redis: Redis) -> None:
    who = await key_with(link, 1000)
    await admitted(link, "r1", who)
    await reserved(link, "r1", 400, who)
    assert await swept(redis) == 1
    assert await budget(redis) == {"left": 600, "reserved": 0, "spent": 400, "limit": 1000}

    assert await settle(link, KEYS, settlement("r1", 30))
    assert not await settle(link, KEYS, settlement("r1", 30))

    assert await budget(redis) == {"left": 970, "reserved": 0, "spent": 30, "limit": 1000}
    assert [row.status for row in await ledger(redis)] == ["crashed", "ok"]


async def test_a_key_without_a_budget_never_gets_a_budget(link: RedisLink, redis: Redis) -> None:
    for name in ("settled", "crashed"):
        await admitted(link, name, NOTHING)
        assert await reserved(link, name, 10**18, NOTHING)
    await settle(link, KEYS, settlement("settled", 5, NOTHING))
    await settle(link, KEYS, settlement("unseen", 5, NOTHING, intent=False))
    assert await swept(redis) == 1
    await settle(link, KEYS, settlement("crashed", 5, NOTHING))
    assert not await redis.exists(KEYS.budget("k1"))


async def test_the_sweep_leaves_the_living_and_the_briefly_missing_alone(link: RedisLink, redis: Redis) -> None:
    who = await key_with(link, 1000)
    for worker in ("living", "late", "gone"):
        await admitted(link, f"of-{worker}", who, worker)
        await reserved(link, f"of-{worker}", 100, who, worker)
    await redis.set(KEYS.alive("living"), "1")
    assert await sweep(redis, NOON) == 0
    assert await sweep(redis, NOON + 3_999) == 0
    await redis.set(KEYS.alive("late"), "1")  # Redis had been away, not the worker

    assert await sweep(redis, NOON + 4_000) == 1

    [row] = await ledger(redis)
    assert row.request_id == "of-gone"
    assert set(await redis.hkeys(KEYS.intents)) == {b"of-living", b"of-late"}
    await redis.delete(KEYS.alive("late"))
    assert await sweep(redis, NOON + 4_100) == 0  # its grace starts anew


async def test_a_crashed_row_says_what_is_known_and_charges_the_reservation(link: RedisLink, redis: Redis) -> None:
    who = await key_with(link, 10**18, concurrency=5)
    about = intent(
        worker="gone",
        team="red",
        policy="p@1",
        rule="easy",
        model="big",
        requested="auto",
        price_source="litellm",
        price_date="2026-01-01",
        charges=charged(who),
        running=("k1",),
    )
    await admit(link, KEYS, who, "r1", about, tokens=1)
    wanted = held(2**53 + 1, *who.accounts)
    await reserve(link, KEYS, "r1", about, add=wanted, total=wanted)
    assert await swept(redis) == 1

    [row] = await ledger(redis)

    assert (row.status, row.http_status, row.usage_source) == ("crashed", 0, "estimated")
    assert (row.cost_nano, row.reserved_nano) == (2**53 + 1, 2**53 + 1)
    assert (row.team, row.policy, row.rule, row.model, row.requested_model) == ("red", "p@1", "easy", "big", "auto")
    assert (row.price_source, row.price_date, row.ts_ms, row.duration_ms) == ("litellm", "2026-01-01", NOON, 4_001)
    assert (await budget(redis))["spent"] == 2**53 + 1
    assert await redis.zcard(KEYS.running("k1")) == 0


async def test_a_crash_before_anything_was_bought_costs_nothing(link: RedisLink, redis: Redis) -> None:
    await admitted(link, "r1", await key_with(link, 1000))
    assert await swept(redis) == 1
    [row] = await ledger(redis)
    assert (row.cost_nano, row.usage_source) == (0, "none")


async def test_an_intent_that_outlives_its_lease_is_swept_although_its_worker_lives(
    link: RedisLink, redis: Redis
) -> None:
    await admitted(link, "r1", NOTHING)
    await redis.set(KEYS.alive("w1"), "1")
    assert await sweep(redis, NOON + LEASE_MS) == 0
    assert await sweep(redis, NOON + LEASE_MS + 1) == 1


async def test_a_settlement_and_a_sweep_at_the_same_moment_count_once(link: RedisLink, redis: Redis) -> None:
    who = await key_with(link, 10_000)
    for n in range(40):
        await admitted(link, f"r{n}", who)
        await reserved(link, f"r{n}", 100, who)
    assert await sweep(redis, NOON) == 0

    await asyncio.gather(
        sweep(redis, NOON + 5_000), *(settle(link, KEYS, settlement(f"r{n}", 10)) for n in range(0, 40, 2))
    )

    held = await budget(redis)
    assert (held["spent"], held["reserved"]) == (20 * 10 + 20 * 100, 0)
    assert held["left"] == 10_000 - held["spent"]


async def test_tokens_of_the_answer_are_charged_to_the_bucket_the_key_has(link: RedisLink, redis: Redis) -> None:
    who = own(principal(tpm=1000))
    await admit(link, KEYS, who, "r1", intent(), tokens=100)
    await settle(link, KEYS, settlement("r1", 0, who, tokens=1500))
    assert float(await redis.hget(KEYS.limits("k1"), "tpm")) == -600  # type: ignore[arg-type]
    await settle(link, KEYS, settlement("r2", 0, NOTHING, intent=False, tokens=1500))
    await redis.delete(KEYS.limits("k1"))
    await settle(link, KEYS, settlement("r3", 0, who, intent=False, tokens=1500))
    assert not await redis.exists(KEYS.limits("k1"))


async def test_an_answer_is_stored_in_the_call_that_settles_and_only_there(link: RedisLink, redis: Redis) -> None:
    store = CacheWrite(digest="d", normal="n", partition="p", value=b"12345", ttl_ms=DAY_MS, expires_ms=NOON)
    await admitted(link, "r1", NOTHING)
    await settle(link, KEYS, settlement("r1", store=store))
    assert await redis.get(KEYS.exact("d")) == b"12345"
    assert await redis.get(KEYS.normal("n")) == b"d"
    assert 0 < await redis.pttl(KEYS.exact("d")) <= DAY_MS
    assert 0 < await redis.pttl(KEYS.normal("n")) <= DAY_MS
    assert await redis.zscore(KEYS.entries, "d") == NOON
    assert await redis.hget(KEYS.sizes, "d") == b"5:p"

    longer = msgspec.structs.replace(store, value=b"1234567", normal=None)
    await settle(link, KEYS, settlement("r1", store=longer))  # a replay
    assert await redis.get(KEYS.bytes) == b"5"
    await admitted(link, "r2", NOTHING)
    await settle(link, KEYS, settlement("r2", store=longer))
    assert await redis.get(KEYS.bytes) == b"7"
    assert await redis.zcard(KEYS.entries) == 1


@pytest.mark.parametrize("spent", [0, 2**53 + 1])
async def test_a_lost_budget_is_rebuilt_from_the_books(redis: Redis, spent: int) -> None:
    [account] = own(principal(budget_nano=2**60)).accounts
    for _ in range(2):
        await catch_up(redis, KEYS, account, 2**60, {"": spent}, NOON)
        assert await budget(redis) == {"left": 2**60 - spent, "reserved": 0, "spent": spent, "limit": 2**60}


async def test_counters_in_use_are_raised_to_what_the_books_know_and_never_lowered(
    link: RedisLink, redis: Redis
) -> None:
    who = await key_with(link, 1000)
    await admitted(link, "r1", who)
    await reserved(link, "r1", 100, who)
    await settle(link, KEYS, settlement("r1", 70))
    await reserved(link, "r2", 100, who)

    await catch_up(redis, KEYS, who.accounts[0], 1000, {"": 20}, NOON)
    assert await budget(redis) == {"left": 830, "reserved": 100, "spent": 70, "limit": 1000}
    await catch_up(redis, KEYS, who.accounts[0], 1000, {"": 170}, NOON)
    assert await budget(redis) == {"left": 730, "reserved": 100, "spent": 170, "limit": 1000}


async def test_what_has_left_a_rolling_window_is_charged_to_it_no_more(redis: Redis, link: RedisLink) -> None:
    def rolling(step: int) -> Account:
        return Account("r", "r", "r", "r", True, 0, None, slice=str(step), slice_ms=1000)

    await redis.hset(KEYS.ceilings, "r", "1000")
    assert await open_accounts(link, KEYS, [rolling(100)], NOON)
    for name, cost, step in (("new", 5, 161), ("late", 7, 100), ("in time", 3, 101)):
        charges = charged_to(rolling(step))
        assert await settle(link, KEYS, settlement(name, cost, intent=False, charges=charges, rates=()))
    state = await budget(redis, "r")
    assert (state["spent"], state["left"]) == (8, 992)
