"""What is tried again, what is not, and who hears of it; over a real server."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gateway.backends import resilient, translate
from gateway.backends.openai_http import OpenAIBackend
from gateway.backends.resilient import Resilient, Watch, may_be_billed
from gateway.errors import (
    BudgetExhausted,
    UpstreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.types import Attempt
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until
from tests.unit.backends.support import chat, collect, http, saying

REPLY = http(b'{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}]}')


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilient, "BACKOFF_S", 0.02)
    monkeypatch.setattr(resilient, "PROBE_S", 0.02)


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def target(up: Upstream) -> AsyncIterator[Resilient]:
    backend = OpenAIBackend("big", "m", up.base_url, first_byte_timeout=0.2)
    target = Resilient("big", backend, probe=backend.reachable)
    yield target
    await target.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault", [Plan(status=429), Plan(status=500), Plan(status=503), Plan(status=408), Plan(drop_connect=True)]
)
async def test_tries_again_what_may_pass(up: Upstream, target: Resilient, fault: Plan, stream: bool) -> None:
    up.enqueue(fault, fault)
    attempts: list[Attempt] = []
    chunks = await collect(target, chat(stream=stream), watch=Watch(attempt=attempts.append))
    assert "".join(chunk.text for chunk in chunks) == "You said: hello"
    status = None if fault.drop_connect else fault.status
    assert [attempt.status for attempt in attempts] == [status, status, 200]
    assert [bool(attempt.error) for attempt in attempts] == [True, True, False]
    assert {attempt.model for attempt in attempts} == {"big"}
    assert target.available() is None


async def test_gives_up_after_max_retries(up: Upstream, target: Resilient) -> None:
    up.default = Plan(status=500)
    with pytest.raises(UpstreamUnavailable) as caught:
        await collect(target, chat())
    assert caught.value.upstream_status == 500
    assert up.total == 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Plan(status=400), UpstreamRefused),
        (Plan(status=401), UpstreamUnavailable),
        (Plan(hang=True), UpstreamTimeout),
        (Plan(garbage_after=0, garbage=b"{"), UpstreamBroken),
        (Plan(status=429, headers={"retry-after": "5"}), UpstreamUnavailable),
    ],
)
async def test_does_not_try_again_what_will_not_pass(
    up: Upstream, target: Resilient, fault: Plan, error: type[UpstreamError]
) -> None:
    up.default = fault
    with pytest.raises(error):
        await collect(target, chat())
    assert up.total == 1


async def test_never_after_the_first_chunk(up: Upstream, target: Resilient) -> None:
    up.default = Plan(cut_after=1)
    with pytest.raises(UpstreamBroken):
        await collect(target, chat(stream=True))
    assert up.total == 1


async def test_waits_as_long_as_upstream_asks(up: Upstream, target: Resilient) -> None:
    up.enqueue(Plan(status=429, headers={"retry-after-ms": "150"}))
    await collect(target, chat())
    first, second = up.requests
    assert 0.15 <= second.at - first.at < 20


async def test_a_pause_longer_than_the_deadline_is_not_begun(up: Upstream, target: Resilient) -> None:
    up.enqueue(Plan(status=429, headers={"retry-after": "5"}))
    started = time.perf_counter()
    with pytest.raises(UpstreamUnavailable):
        await collect(target, chat(), timeout_s=4.5)
    assert time.perf_counter() - started < 4


async def test_a_rate_limited_target_is_left_alone_for_that_time(up: Upstream, target: Resilient) -> None:
    up.enqueue(Plan(status=429, headers={"retry-after": "30"}))
    for _ in range(3):
        with pytest.raises(UpstreamUnavailable) as caught:
            await collect(target, chat())
    assert up.total == 1
    assert caught.value.status == 429
    assert 29 < (caught.value.retry_after or 0) <= 30
    assert "cooling down for" in (target.available() or "")


async def test_a_stale_connection_is_replaced_at_once_and_costs_no_retry() -> None:
    async with saying(REPLY, b"", REPLY, then_close=False) as url:
        target = Resilient("m", OpenAIBackend("m", "m", url), max_retries=0)
        attempts: list[Attempt] = []
        await collect(target, chat())
        await collect(target, chat(), watch=Watch(attempt=attempts.append))
        assert [attempt.error for attempt in attempts] == [translate.STALE, ""]
        await target.close()


async def test_what_may_have_been_billed_is_reserved_again_first(up: Upstream, target: Resilient) -> None:
    reserved: list[int] = []

    async def reserve(name: str) -> None:
        assert name == "big"
        reserved.append(up.total)

    up.enqueue(Plan(status=500, headers={"connection": "close"}), Plan(drop_connect=True))
    await collect(target, chat(), watch=Watch(before_retry=reserve))
    assert reserved == [2]


async def test_what_reserving_raises_ends_the_call(up: Upstream, target: Resilient) -> None:
    async def refuse(_: str) -> None:
        raise BudgetExhausted("nothing left")

    up.default = Plan(drop_connect=True)
    with pytest.raises(BudgetExhausted):
        await collect(target, chat(), watch=Watch(before_retry=refuse))
    assert up.total == 1
    assert target.idle.is_set()


@pytest.mark.parametrize(
    ("error", "billed"),
    [
        (UpstreamUnavailable("refused", connect=True), False),
        (UpstreamUnavailable("oops", upstream_status=500), False),
        (UpstreamUnavailable("hung up"), True),
        (UpstreamTimeout("slow"), True),
        (UpstreamBroken("half"), True),
    ],
)
def test_knows_what_may_be_billed(error: UpstreamError, billed: bool) -> None:
    assert may_be_billed(error) is billed


async def test_an_unreachable_target_is_probed_until_it_is_back(up: Upstream) -> None:
    free = OpenAIBackend("m", "m", up.base_url)
    answers = [False, False, True]

    async def probe() -> bool:
        return answers.pop(0)

    gone = Resilient("m", OpenAIBackend("m", "m", "http://127.0.0.1:9/v1"), max_retries=1, probe=probe)
    with pytest.raises(UpstreamUnavailable):
        await collect(gone, chat())
    assert "cooling down" in (gone.available() or "")
    await until(lambda: gone.available() is None)
    assert answers == []
    await gone.close()
    await free.close()


async def test_the_next_fleet_goes_on_probing_with_the_breaker_it_took_over(up: Upstream) -> None:
    before = Resilient("m", OpenAIBackend("m", "m", "http://127.0.0.1:9/v1"), max_retries=0, probe=_never)
    with pytest.raises(UpstreamUnavailable):
        await collect(before, chat())
    await before.close()
    backend = OpenAIBackend("m", "m", up.base_url)
    after = Resilient("m", backend, probe=backend.reachable, breaker=before.breaker)
    assert after.available() is not None
    after.resume()
    await until(lambda: after.available() is None)
    await collect(after, chat())
    await after.close()


async def _never() -> bool:
    return False


async def test_a_caller_that_leaves_says_nothing_about_the_target(up: Upstream, target: Resilient) -> None:
    up.default = Plan(hang=True)
    attempts: list[Attempt] = []
    for _ in range(4):
        call = asyncio.create_task(collect(target, chat(), watch=Watch(attempt=attempts.append)))
        await up.wait_for(len(attempts) + 1)
        assert not target.idle.is_set()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert [attempt.error for attempt in attempts] == ["cancelled"] * 4
    assert target.available() is None
    assert target.idle.is_set()


async def test_streams_that_keep_breaking_open_the_breaker(up: Upstream, target: Resilient) -> None:
    up.default = Plan(cut_after=1)
    for _ in range(3):
        with pytest.raises(UpstreamBroken):
            await collect(target, chat(stream=True))
    assert "cooling down" in (target.available() or "")
