"""Round trip 1: buckets, slots, the state of the budget, the intent and the look-up, on a real Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.budget.limits import LEASE_MS, Admission, Intent, admit
from gateway.budget.reservations import settle
from gateway.redis_io import RedisLink
from gateway.types import Principal
from tests.support.accounts import KEYS, budget, intent, principal, settlement
from tests.support.ledger import NOON

MINUTE = 60_000


class Caller:
    """A key and a clock of its own."""

    def __init__(self, link: RedisLink, who: Principal) -> None:
        self.link, self.who, self.now, self.names = link, who, NOON, 0

    async def ask(self, tokens: int = 1, **more: Any) -> Admission:
        self.names += 1
        about = intent(ts_ms=self.now, key_id=self.who.key_id)
        return await admit(self.link, KEYS, self.who, f"r{self.names}", about, tokens=tokens, **more)


async def held(redis: Redis) -> tuple[int, int]:
    """Intents and concurrency slots."""
    return await redis.hlen(KEYS.intents), await redis.zcard(KEYS.running("k1"))


async def test_rpm_admits_a_minutes_worth_and_tells_when_the_next_one_may_come(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, principal(rpm=3))
    told = [await caller.ask() for _ in range(4)]

    assert [(one.refused, one.requests_left) for one in told] == [("", 2), ("", 1), ("", 0), ("rpm", 0)]
    assert [one.requests_reset for one in told] == [20, 40, 60, 60]
    assert told[3].retry_after == 20
    assert told[0].tokens_left is None
    assert told[0].budget_left is None
    assert await held(redis) == (3, 0)

    caller.now += 19_999
    assert (await caller.ask()).refused == "rpm"
    caller.now += 1
    assert (await caller.ask()).refused == ""
    caller.now += 10 * MINUTE
    assert (await caller.ask()).requests_left == 2  # full again, never fuller


async def test_a_high_rate_is_not_lost_in_rounding(link: RedisLink) -> None:
    caller = Caller(link, principal(rpm=1_000_000))
    told = await caller.ask()
    assert (told.requests_left, told.requests_reset) == (999_999, 0.001)
    caller.now += 1
    assert (await caller.ask()).requests_left == 999_999


async def test_tpm_admits_what_the_bucket_holds_and_charges_prompt_and_answer(link: RedisLink) -> None:
    caller = Caller(link, principal(tpm=600))
    assert (await caller.ask(400)).tokens_left == 200
    refused = await caller.ask(201)
    assert (refused.refused, refused.tokens_left, refused.tokens_reset) == ("tpm", 200, 40)
    assert refused.retry_after == 0.1  # one token of ten a second
    assert (await caller.ask(200)).tokens_left == 0

    await settle(link, KEYS, settlement("r1", tokens=300, budgeted=False))

    in_debt = await caller.ask(1)
    assert (in_debt.refused, in_debt.tokens_left) == ("tpm", 0)
    assert in_debt.tokens_reset == 90
    assert in_debt.retry_after == pytest.approx(30.1)
    caller.now += 30_100
    assert (await caller.ask(1)).refused == ""


async def test_a_prompt_above_the_capacity_needs_a_full_bucket(link: RedisLink) -> None:
    caller = Caller(link, principal(tpm=600))
    told = await caller.ask(6_000)
    assert (told.refused, told.tokens_left) == ("", 0)
    assert told.tokens_reset == 600
    assert (await caller.ask(1)).retry_after == pytest.approx(540.1)


async def test_a_debt_is_kept_until_it_is_paid(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, principal(tpm=100))
    await caller.ask(100_000)
    assert await redis.pttl(KEYS.limits("k1")) > 16 * 60 * MINUTE
    assert await redis.pttl(KEYS.limits("k1")) <= 24 * 60 * MINUTE


async def test_buckets_of_idle_keys_go_away(link: RedisLink, redis: Redis) -> None:
    await Caller(link, principal(rpm=5)).ask()
    assert 0 < await redis.pttl(KEYS.limits("k1")) <= 2 * MINUTE
    await Caller(link, principal(key_id="free")).ask()
    assert not await redis.exists(KEYS.limits("free"))


async def test_concurrency_never_lets_one_too_many_in(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, principal(concurrency=5, rpm=100))
    told = await asyncio.gather(*(caller.ask() for _ in range(40)))
    assert sum(one.refused == "" for one in told) == 5
    refused = next(one for one in told if one.refused)
    assert (refused.refused, refused.retry_after) == ("concurrency", 1)
    assert await held(redis) == (5, 5)


async def test_a_slot_comes_back_when_settled_or_when_its_lease_ends(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, principal(concurrency=1))
    await caller.ask()
    assert (await caller.ask()).refused == "concurrency"
    await settle(link, KEYS, settlement("r1", budgeted=False))
    assert (await caller.ask()).refused == ""
    caller.now += LEASE_MS - 1
    assert (await caller.ask()).refused == "concurrency"
    caller.now += 1
    assert (await caller.ask()).refused == ""
    assert 0 < await redis.pttl(KEYS.running("k1")) <= LEASE_MS


@pytest.mark.parametrize("limit", ["rpm", "tpm", "concurrency"])
async def test_a_refused_request_leaves_nothing_behind(link: RedisLink, redis: Redis, limit: str) -> None:
    allowed = Caller(link, principal(**{"rpm": 9, "tpm": 9, "concurrency": 9, limit: 1}))
    assert (await allowed.ask()).refused == ""
    before = (await held(redis), await redis.hgetall(KEYS.limits("k1")))
    assert (await allowed.ask()).refused == limit
    assert (await held(redis), await redis.hgetall(KEYS.limits("k1"))) == before
    assert before[0] == (1, 1)


async def test_keys_do_not_share_their_limits(link: RedisLink) -> None:
    first = Caller(link, principal(rpm=1, concurrency=1))
    other = Caller(link, principal(key_id="k2", rpm=1, concurrency=1))
    assert [(await one.ask()).refused for one in (first, other, first)] == ["", "", "concurrency"]


async def test_a_clock_that_steps_back_takes_nothing_away(link: RedisLink) -> None:
    caller = Caller(link, principal(rpm=3))
    await caller.ask()
    caller.now -= 10 * MINUTE
    assert (await caller.ask()).requests_left == 1


async def test_the_intent_tells_a_sweeper_everything_and_its_amount_in_front(link: RedisLink, redis: Redis) -> None:
    about = intent(team="red", requested="auto", policy="p@1")
    await admit(link, KEYS, principal(), "r1", about, tokens=1)
    value: Any = await redis.hget(KEYS.intents, "r1")
    amount, _, payload = value.partition(b"|")
    assert amount == b"0"
    assert msgspec.json.decode(payload, type=Intent) == about


async def test_what_is_left_of_a_budget_follows_a_changed_limit(link: RedisLink, redis: Redis) -> None:
    name = KEYS.budget("k1")
    limit, spent = 9 * 10**18, 2**53 + 1
    await redis.hset(name, mapping={"left": limit - spent, "limit": limit, "reserved": 0, "spent": spent})
    assert (await Caller(link, principal(budget_nano=limit)).ask()).budget_left == limit - spent
    assert (await Caller(link, principal(budget_nano=limit - 1)).ask()).budget_left == limit - 1 - spent
    assert (await Caller(link, principal(budget_nano=spent - 5)).ask()).budget_left == -5
    assert (await Caller(link, principal(budget_nano=0)).ask()).budget_left == -spent
    assert (await Caller(link, principal(budget_nano=limit)).ask()).budget_left == limit - spent


async def test_a_fresh_budget_is_whole_and_not_yet_written_down(link: RedisLink, redis: Redis) -> None:
    assert (await Caller(link, principal(budget_nano=2**62)).ask()).budget_left == 2**62
    assert not await redis.exists(KEYS.budget("k1"))


async def test_an_answer_is_found_by_its_exact_or_normalised_digest_in_the_same_call(
    link: RedisLink, redis: Redis
) -> None:
    caller = Caller(link, principal())
    await redis.set(KEYS.exact("stored"), b"\x00answer")
    await redis.set(KEYS.normal("same"), "stored")
    await redis.set(KEYS.normal("stale"), "gone")

    async def found(exact: str | None, normal: str | None) -> bytes | None:
        return (await caller.ask(exact=exact, normal=normal)).stored

    assert await found("stored", None) == b"\x00answer"
    assert await found("stored", "other") == b"\x00answer"
    assert await found("other", "same") == b"\x00answer"
    assert await found("other", "stale") is None
    assert await found("other", "other") is None
    assert await found("other", None) is None
    assert await found(None, "same") is None


async def test_a_refused_request_is_not_told_a_stored_answer(link: RedisLink, redis: Redis) -> None:
    await redis.set(KEYS.exact("stored"), b"answer")
    caller = Caller(link, principal(rpm=1))
    await caller.ask()
    assert (await caller.ask(exact="stored")).stored is None


async def test_what_is_admitted_can_be_reserved_in_the_same_call(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, principal(budget_nano=1000))

    first, second, third = [await caller.ask(reserve_nano=amount) for amount in (600, 500, 400)]

    assert [one.reserved for one in (first, second, third)] == [True, False, True]
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
    caller = Caller(link, principal(budget_nano=1000))

    admission = await caller.ask(exact="digest", reserve_nano=600)

    assert (admission.stored, admission.reserved) == (b"stored", None)
    assert (await budget(redis)).get("reserved", 0) == 0
    kept: Any = await redis.hget(KEYS.intents, "r1")
    assert kept.startswith(b"0|")


async def test_a_key_without_a_budget_is_granted_everything_and_gets_no_counters(link: RedisLink, redis: Redis) -> None:
    admission = await Caller(link, principal()).ask(reserve_nano=10**15)

    assert admission.reserved is True
    assert await budget(redis) == {}


async def test_a_refused_request_reserves_nothing(link: RedisLink, redis: Redis) -> None:
    caller = Caller(link, principal(rpm=1, budget_nano=1000))
    await caller.ask(reserve_nano=100)

    assert (await caller.ask(reserve_nano=100)).refused == "rpm"
    assert (await budget(redis))["reserved"] == 100
