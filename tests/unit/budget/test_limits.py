"""Round trip 1: buckets, slots, the state of the budget, the intent and the look-up, on a real Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.budget.levels import NOTHING, Levels, own
from gateway.budget.limits import LEASE_MS, MISSING, Admission, Intent, Limit, admit
from gateway.budget.reservations import settle
from gateway.redis_io import RedisLink
from tests.support.accounts import KEYS, budget, held, intent, key_with, principal, settlement
from tests.support.ledger import NOON

MINUTE = 60_000


class Told:
    """What a client is told: as the headers say it."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.refused, self.retry_after = admission.refused, admission.retry_after

    @property
    def requests(self) -> Limit:
        assert self.admission.requests is not None
        return self.admission.requests

    @property
    def tokens(self) -> Limit:
        assert self.admission.tokens is not None
        return self.admission.tokens


class Caller:
    """A key and a clock of its own."""

    def __init__(self, link: RedisLink, who: Levels) -> None:
        self.link, self.who, self.now, self.names = link, who, NOON, 0

    async def ask(self, tokens: int = 1, *, reserve_nano: int | None = None, **more: Any) -> Told:
        self.names += 1
        hold = None if reserve_nano is None else held(reserve_nano, *self.who.accounts)
        name, about = f"r{self.names}", intent(ts_ms=self.now)
        return Told(await admit(self.link, KEYS, self.who, name, about, tokens=tokens, hold=hold, **more))


def limited(**limits: Any) -> Levels:
    return own(principal(**limits))


async def in_hand(redis: Redis) -> tuple[int, int]:
    """Intents and concurrency slots."""
    return await redis.hlen(KEYS.intents), await redis.zcard(KEYS.running("k1"))


async def test_rpm_admits_a_minutes_worth_and_tells_when_the_next_one_may_come(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, limited(rpm=3))
    told = [await caller.ask() for _ in range(4)]

    assert [(one.refused, one.requests.left) for one in told] == [("", 2), ("", 1), ("", 0), ("rpm", 0)]
    assert [one.requests.reset_s for one in told] == [20, 40, 60, 60]
    assert told[3].retry_after == 20
    assert told[0].admission.tokens is None
    assert await in_hand(redis) == (3, 0)

    caller.now += 19_999
    assert (await caller.ask()).refused == "rpm"
    caller.now += 1
    assert (await caller.ask()).refused == ""
    caller.now += 10 * MINUTE
    assert (await caller.ask()).requests.left == 2  # full again, never fuller


async def test_a_high_rate_is_not_lost_in_rounding(link: RedisLink) -> None:
    caller = Caller(link, limited(rpm=1_000_000))
    told = await caller.ask()
    assert (told.requests.left, told.requests.reset_s) == (999_999, 0.001)
    caller.now += 1
    assert (await caller.ask()).requests.left == 999_999


async def test_tpm_admits_what_the_bucket_holds_and_charges_prompt_and_answer(link: RedisLink) -> None:
    caller = Caller(link, limited(tpm=600))
    assert (await caller.ask(400)).tokens.left == 200
    refused = await caller.ask(201)
    assert (refused.refused, refused.tokens.left, refused.tokens.reset_s) == ("tpm", 200, 40)
    assert refused.retry_after == 0.1  # one token of ten a second
    assert (await caller.ask(200)).tokens.left == 0

    await settle(link, KEYS, settlement("r1", 0, caller.who, tokens=300))

    in_debt = await caller.ask(1)
    assert (in_debt.refused, in_debt.tokens.left) == ("tpm", 0)
    assert in_debt.tokens.reset_s == 90
    assert in_debt.retry_after == pytest.approx(30.1)
    caller.now += 30_100
    assert (await caller.ask(1)).refused == ""


async def test_a_prompt_above_the_capacity_needs_a_full_bucket(link: RedisLink) -> None:
    caller = Caller(link, limited(tpm=600))
    told = await caller.ask(6_000)
    assert (told.refused, told.tokens.left) == ("", 0)
    assert told.tokens.reset_s == 600
    assert (await caller.ask(1)).retry_after == pytest.approx(540.1)


async def test_a_debt_is_kept_until_it_is_paid(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, limited(tpm=100))
    await caller.ask(100_000)
    assert await redis.pttl(KEYS.limits("k1")) > 16 * 60 * MINUTE
    assert await redis.pttl(KEYS.limits("k1")) <= 24 * 60 * MINUTE


async def test_buckets_of_idle_keys_go_away(link: RedisLink, redis: Redis) -> None:
    await Caller(link, limited(rpm=5)).ask()
    assert 0 < await redis.pttl(KEYS.limits("k1")) <= 2 * MINUTE
    await Caller(link, NOTHING).ask()
    assert not await redis.exists(KEYS.limits("free"))


async def test_concurrency_never_lets_one_too_many_in(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, limited(concurrency=5, rpm=100))
    told = await asyncio.gather(*(caller.ask() for _ in range(40)))
    assert sum(one.refused == "" for one in told) == 5
    refused = next(one for one in told if one.refused)
    assert (refused.refused, refused.retry_after) == ("concurrency", 1)
    assert await in_hand(redis) == (5, 5)


async def test_a_slot_comes_back_when_settled_or_when_its_lease_ends(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, limited(concurrency=1))
    await caller.ask()
    assert (await caller.ask()).refused == "concurrency"
    await settle(link, KEYS, settlement("r1", 0, caller.who))
    assert (await caller.ask()).refused == ""
    caller.now += LEASE_MS - 1
    assert (await caller.ask()).refused == "concurrency"
    caller.now += 1
    assert (await caller.ask()).refused == ""
    assert 0 < await redis.pttl(KEYS.running("k1")) <= LEASE_MS


@pytest.mark.parametrize("limit", ["rpm", "tpm", "concurrency"])
async def test_a_refused_request_leaves_nothing_behind(link: RedisLink, redis: Redis, limit: str) -> None:
    allowed = Caller(link, limited(**{"rpm": 9, "tpm": 9, "concurrency": 9, limit: 1}))
    assert (await allowed.ask()).refused == ""
    before = (await in_hand(redis), await redis.hgetall(KEYS.limits("k1")))
    assert (await allowed.ask()).refused == limit
    assert (await in_hand(redis), await redis.hgetall(KEYS.limits("k1"))) == before
    assert before[0] == (1, 1)


async def test_keys_do_not_share_their_limits(link: RedisLink) -> None:
    first = Caller(link, limited(rpm=1, concurrency=1))
    other = Caller(link, limited(key_id="k2", rpm=1, concurrency=1))
    assert [(await one.ask()).refused for one in (first, other, first)] == [
        "",
        "",
        "rpm",
    ]  # of two the one that takes longer


async def test_a_clock_that_steps_back_takes_nothing_away(link: RedisLink) -> None:
    caller = Caller(link, limited(rpm=3))
    await caller.ask()
    caller.now -= 10 * MINUTE
    assert (await caller.ask()).requests.left == 1


async def test_the_intent_tells_a_sweeper_everything_and_its_amount_in_front(link: RedisLink, redis: Redis) -> None:
    about = intent(team="red", requested="auto", policy="p@1")
    await admit(link, KEYS, NOTHING, "r1", about, tokens=1)
    value: Any = await redis.hget(KEYS.intents, "r1")
    amount, _, payload = value.split(b"|", 2)
    assert amount == b"0"
    assert msgspec.json.decode(payload, type=Intent) == about


async def test_what_each_budget_has_left_is_told_where_nothing_is_reserved(link: RedisLink) -> None:
    caller = Caller(link, await key_with(link, 2**62))
    told = (await caller.ask()).admission
    assert (told.left, told.reserved) == (((caller.who.accounts[0], 2**62),), None)


async def test_an_account_that_is_not_open_stops_a_request_before_anything_happens(
    link: RedisLink, redis: Redis
) -> None:
    caller = Caller(link, limited(budget_nano=1000, rpm=5, concurrency=5))
    assert (await caller.ask()).refused == MISSING
    assert (await caller.ask(reserve_nano=10)).refused == MISSING
    assert await in_hand(redis) == (0, 0)
    assert not await redis.exists(KEYS.limits("k1"), KEYS.budget("k1"))


async def test_an_answer_is_found_by_its_exact_or_normalised_digest_in_the_same_call(
    link: RedisLink, redis: Redis
) -> None:
    caller = Caller(link, NOTHING)
    await redis.set(KEYS.exact("stored"), b"\x00answer")
    await redis.set(KEYS.normal("same"), "stored")
    await redis.set(KEYS.normal("stale"), "gone")

    async def found(exact: str | None, normal: str | None) -> bytes | None:
        return (await caller.ask(exact=exact, normal=normal)).admission.stored

    assert await found("stored", None) == b"\x00answer"
    assert await found("stored", "other") == b"\x00answer"
    assert await found("other", "same") == b"\x00answer"
    assert await found("other", "stale") is None
    assert await found("other", "other") is None
    assert await found("other", None) is None
    assert await found(None, "same") is None


async def test_a_refused_request_is_not_told_a_stored_answer(link: RedisLink, redis: Redis) -> None:
    await redis.set(KEYS.exact("stored"), b"answer")
    caller = Caller(link, limited(rpm=1))
    await caller.ask()
    assert (await caller.ask(exact="stored")).admission.stored is None


async def test_what_is_admitted_can_be_reserved_in_the_same_call(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, await key_with(link, 1000))

    first, second, third = [await caller.ask(reserve_nano=amount) for amount in (600, 500, 400)]

    assert [one.admission.reserved for one in (first, second, third)] == [True, False, True]
    assert await budget(redis) == {"left": 0, "reserved": 1000, "spent": 0, "limit": 1000}
    kept: Any = await redis.hgetall(KEYS.intents)
    assert {name: value.partition(b"|")[0] for name, value in kept.items()} == {
        b"r1": b"600",
        b"r2": b"0",
        b"r3": b"400",
    }
    await settle(link, KEYS, settlement("r1", 250))
    assert await budget(redis) == {"left": 350, "reserved": 400, "spent": 250, "limit": 1000}


async def test_an_answer_that_is_found_reserves_nothing(link: RedisLink, redis: Redis) -> None:
    await redis.set(KEYS.exact("digest"), b"stored")
    caller = Caller(link, await key_with(link, 1000))

    admission = (await caller.ask(exact="digest", reserve_nano=600)).admission

    assert (admission.stored, admission.reserved) == (b"stored", None)
    assert (await budget(redis)).get("reserved", 0) == 0
    kept: Any = await redis.hget(KEYS.intents, "r1")
    assert kept.startswith(b"0|")


async def test_a_key_without_a_budget_is_granted_everything_and_gets_no_counters(link: RedisLink, redis: Redis) -> None:
    admission = (await Caller(link, NOTHING).ask(reserve_nano=10**15)).admission

    assert admission.reserved is True
    assert await budget(redis) == {}


async def test_a_refused_request_reserves_nothing(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, await key_with(link, 1000, rpm=1))
    await caller.ask(reserve_nano=100)

    assert (await caller.ask(reserve_nano=100)).refused == "rpm"
    assert (await budget(redis))["reserved"] == 100
