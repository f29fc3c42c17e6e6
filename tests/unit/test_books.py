"""The three trips as a request sees them: refusals, Redis away, the spool, and tasks that outlive the request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.billing import bill
from gateway.books import Books, Reservation, exhausted, ratelimit_headers
from gateway.budget.definitions import Budget
from gateway.budget.levels import account_of, own
from gateway.budget.limits import Admission, Intent, Limit
from gateway.budget.reservations import CacheWrite, Short
from gateway.budget.spool import Spool
from gateway.cache.keys import cache_context
from gateway.entry import ledger_entry
from gateway.errors import Overloaded, RateLimited
from gateway.metrics import Metrics
from gateway.redis_io import RedisLink, client
from gateway.types import Principal
from gateway.view import View
from gateway.visit import Visit
from tests.support.accounts import KEYS, budget, ledger
from tests.support.gateway import EVERYTHING_BIG
from tests.support.ledger import NOON
from tests.support.redis_server import RedisServer
from tests.support.visits import BIG, view, visit
from tests.support.waiting import until

BUDGETED = Principal(key_id="k1", name="test", budget_nano=1000, tpm=100)


@pytest.fixture
def shown(tmp_path: Path) -> View:
    return view(tmp_path)


def keeping(link: RedisLink, folder: Path) -> Books:
    return Books(link, KEYS, Spool(folder / "spool", "w1"), Metrics(), "w1")


@pytest.fixture
async def books(link: RedisLink, tmp_path: Path) -> Books:
    await link.call("HSET", KEYS.ceilings, "k1", "1000")
    return keeping(link, tmp_path)


@pytest.fixture
def away(tmp_path: Path) -> Books:
    return keeping(RedisLink(f"unix://{tmp_path}/nobody.sock"), tmp_path)


@asynccontextmanager
async def restarting(server: RedisServer, folder: Path) -> AsyncIterator[Books]:
    link = RedisLink(server.url)
    await link.start(5)
    yield keeping(link, folder)
    await link.close()


def row(one: Visit, shown: View, **changes: Any) -> Any:
    made = ledger_entry(one, bill(one, shown.prices), provider="", served="none")
    return msgspec.structs.replace(made, **changes)


async def test_a_limit_that_is_reached_is_told_with_openais_headers(books: Books, shown: View) -> None:
    one = visit(shown, Principal(key_id="k1", rpm=1))
    await books.admit(one, look_up=False)
    with pytest.raises(RateLimited) as refused:
        await books.admit(one, look_up=False)
    error = refused.value
    assert (error.status, error.code, error.type) == (429, "rpm_limit_exceeded", "rate_limit_error")
    assert "requests per minute" in error.message
    assert error.retry_after == pytest.approx(60, abs=1)
    headers = dict(error.headers)
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("1", "0")
    assert 59 <= float(headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60


def test_headers_are_only_for_limits_that_there_are() -> None:
    assert ratelimit_headers(Admission()) == []
    assert dict(ratelimit_headers(Admission(tokens=Limit(9, 7, 0.25)))) == {
        "x-ratelimit-limit-tokens": "9",
        "x-ratelimit-remaining-tokens": "7",
        "x-ratelimit-reset-tokens": "0.250s",
    }


async def test_the_answer_is_looked_up_in_the_same_trip_if_it_may_be(books: Books, shown: View, redis: Redis) -> None:
    one = visit(shown)
    one.context = cache_context(one.request, one.principal, scope="key", local_only=False, embedder="e")
    await redis.set(KEYS.exact(one.context.exact), b"stored")
    assert (await books.admit(one, look_up=True)).stored == b"stored"
    assert (await books.admit(one, look_up=False)).stored is None


def hold(shown: View, amount: int) -> Reservation:
    return Reservation(amount, ("big", shown.prices.price("big")))


@pytest.mark.parametrize(
    ("rule", "who", "served"),
    [
        (None, Principal(key_id="k1"), True),
        (None, BUDGETED, False),
        ("allow", BUDGETED, True),
        ("deny", Principal(key_id="k1"), False),
    ],
)
async def test_while_redis_is_away_the_policy_decides(
    away: Books, tmp_path: Path, rule: str | None, who: Principal, served: bool
) -> None:
    shown = view(tmp_path, [BIG], [EVERYTHING_BIG | ({} if rule is None else {"on_redis_down": rule})])
    one = visit(shown, who)
    if served:
        assert (await away.admit(one, look_up=True)).known is False
        assert await away.reserve(one, hold(shown, 70))
        assert one.reserved_nano == 70
    else:
        for trip in (away.admit(one, look_up=True), away.reserve(one, hold(shown, 70))):
            with pytest.raises(Overloaded) as refused:
                await trip
            assert (refused.value.code, refused.value.retry_after) == ("limits_unavailable", 1.0)
        assert one.reserved_nano == 0
    assert b"gateway_redis_away_total 2.0" in away.metrics.render()[0]


async def test_a_second_reservation_adds_to_the_first_and_a_refused_one_does_not(
    books: Books, shown: View, redis: Redis
) -> None:
    one = visit(shown, BUDGETED)
    one.admission = await books.admit(one, look_up=False)
    granted = [await books.reserve(one, hold(shown, amount)) for amount in (600, 500, 400)]
    assert granted == [True, False, True]
    assert one.reserved_nano == 1000
    value: Any = await redis.hget(KEYS.intents, "req_1")
    amount, parts, payload = value.split(b"|", 2)
    assert parts == b"k1=1000"
    intent = msgspec.json.decode(payload, type=Intent)
    assert (amount, intent.model, intent.worker, intent.requested) == (b"1000", "big", "w1", "auto")
    assert intent.price_source
    assert intent.policy == one.policy.label
    assert await budget(redis) == {"left": 0, "reserved": 1000, "spent": 0, "limit": 1000}


async def test_settling_charges_the_answers_tokens_only_where_there_is_a_bucket(
    books: Books, shown: View, redis: Redis
) -> None:
    one = visit(shown, BUDGETED)
    one.admission = await books.admit(one, look_up=False)
    before = one.admission.tokens.left if one.admission.tokens else 0
    await books.reserve(one, hold(shown, 600))
    await books.settle(one, row(one, shown, completion_tokens=40, cost_nano=250), None)
    assert float(await redis.hget(KEYS.limits("k1"), "tpm")) == pytest.approx(before - 40, abs=1)  # type: ignore[arg-type]
    assert await budget(redis) == {"left": 750, "reserved": 0, "spent": 250, "limit": 1000}


async def test_what_cannot_be_settled_is_spooled_and_settled_once_redis_is_back(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    shown = view(tmp_path, [BIG], [EVERYTHING_BIG | {"on_redis_down": "allow"}])
    async with restarting(own_redis, tmp_path) as books:
        await books.link.call("HSET", KEYS.ceilings, "k1", "1000")
        before = visit(shown, BUDGETED)
        before.admission = await books.admit(before, look_up=False)
        await books.reserve(before, hold(shown, 600))
        own_redis.kill()
        await until(lambda: not books.link.connected)
        await books.settle(before, row(before, shown, cost_nano=100), None)
        during = visit(shown, BUDGETED)
        during.admission = await books.admit(during, look_up=False)
        await books.settle(during, row(during, shown, request_id="req_2", cost_nano=30), None)
        assert books.spool.waiting == 2
        own_redis.start()
        await until(lambda: books.link.connected)

        assert await books.replay_spool() == 2
        assert await books.replay_spool() == 0

        redis = client(own_redis.url)
        assert await budget(redis) == {"left": 870, "reserved": 0, "spent": 130, "limit": 1000}
        assert [one.request_id for one in await ledger(redis)] == ["req_1", "req_2"]
        assert await redis.hlen(KEYS.intents) == 0
        await redis.aclose()
        books.spool.close()


async def test_draining_waits_for_what_was_begun_also_when_it_fails_or_begins_more(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    async def work(name: str, follow: str = "") -> None:
        await asyncio.sleep(0.01)
        done.append(name)
        if follow:
            books.spawn(work(follow))
        if name == "fails":
            raise ValueError("boom")

    for name in ("a", "fails"):
        books.spawn(work(name))
    books.spawn(work("b", follow="c"))
    await books.drain()
    assert sorted(done) == ["a", "b", "c", "fails"]
    assert "a settlement failed" in caplog.text


def test_the_402_names_the_budget_and_when_it_resets(shown: View) -> None:
    one = visit(shown, Principal(key_id="k1", name="batch", budget_nano=1_250_000_000))
    [own_account] = own(one.principal).accounts
    one.short = Short(own_account)
    error = exhausted(one)
    assert (error.status, error.code, error.type) == (402, "budget_exhausted", "insufficient_quota")
    assert (error.message, error.retry_after) == ("the budget of key 'batch' ($1.25) is exhausted", None)

    month = Budget(id="b1", scope="team", subject="red", limit_nano=50 * 10**9, window="month", time_zone="Asia/Tokyo")
    one.short = Short(account_of(month, "red", 1_767_225_600_000))  # 2026-01-01T00:00Z, nine o'clock in Tokyo
    error = exhausted(one)
    assert error.message == ("the month budget of team 'red' ($50.00) is exhausted; it resets at 2026-01-31T15:00:00Z")
    assert error.param == "b1"


async def test_the_spool_holds_no_answer(away: Books, tmp_path: Path) -> None:
    shown = view(tmp_path, [BIG], [EVERYTHING_BIG | {"on_redis_down": "allow"}])
    one = visit(shown, BUDGETED)
    one.admission = await away.admit(one, look_up=True)
    answer = CacheWrite(digest="d", normal=None, partition="p", value=b"planted", ttl_ms=1000, expires_ms=NOON)

    await away.settle(one, row(one, shown), answer)

    [kept] = away.spool.path.read_bytes().splitlines()
    assert one.request.id.encode() in kept
    assert msgspec.json.decode(kept)["store"] is None
