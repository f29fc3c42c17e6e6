"""What is known of a target of late, and how it is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from gateway.backends.openai_http import OpenAIBackend
from gateway.backends.pulse import HALF_LIFE_S, POLL_S, Load, Pulse
from gateway.backends.resilient import Resilient
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until
from tests.unit.backends.support import Clock, chat, collect


@pytest.fixture
def pulse(clock: Clock) -> Pulse:
    return Pulse(clock=clock)


def test_nothing_is_known_at_first(pulse: Pulse) -> None:
    live = pulse.live(stream=True)
    assert (live.ttft_ms, live.error_rate, live.wait_s) == (None, 0.0, 0.0)


def test_streams_and_plain_replies_are_told_apart(pulse: Pulse) -> None:
    pulse.answered(100, stream=True)
    pulse.answered(300, stream=True)
    pulse.answered(2_000, stream=False)
    assert pulse.live(stream=True).ttft_ms == pytest.approx(200)
    assert pulse.live(stream=False).ttft_ms == pytest.approx(2_000)


def test_what_is_old_counts_less_and_is_unknown_in_the_end(pulse: Pulse, clock: Clock) -> None:
    pulse.answered(1_000, stream=True)
    clock.now += HALF_LIFE_S
    pulse.answered(100, stream=True)
    assert pulse.live(stream=True).ttft_ms == pytest.approx((500 + 100) / 1.5)
    clock.now += 5 * HALF_LIFE_S
    assert pulse.live(stream=True).ttft_ms is None


def test_the_share_of_failures(pulse: Pulse, clock: Clock) -> None:
    pulse.failed()
    assert pulse.live(stream=True).error_rate == pytest.approx(0.5)
    for _ in range(8):
        pulse.answered(10, stream=True)
    assert pulse.live(stream=True).error_rate == pytest.approx(0.1)
    clock.now += 20 * HALF_LIFE_S
    assert pulse.live(stream=True).error_rate == pytest.approx(0.0, abs=1e-4)


def test_a_reload_forgets_nothing(pulse: Pulse) -> None:
    pulse.answered(100, stream=True)
    assert pulse.handed_on(None).live(stream=True).ttft_ms == pytest.approx(100)


async def test_the_wait_is_the_engine_s_own_word_and_what_it_was_sent_since(clock: Clock) -> None:
    load = Load(predicted_wait_seconds=0.4, tokens_per_second=64.0, slots=4, running={"interactive": 2, "batch": 2})

    async def ask() -> Load:
        return load

    pulse = Pulse(ask, clock=clock)
    assert pulse.live(stream=True).wait_s == 0.0
    await until(lambda: pulse.live(stream=True).wait_s == pytest.approx(0.4))
    for _ in range(2):  # two slots are free, or can be had of batch work
        pulse.began()
    assert pulse.live(stream=True).wait_s == pytest.approx(0.4)
    for _ in range(4):
        pulse.began()
    assert pulse.live(stream=True).wait_s == pytest.approx(0.4 + 4 * 1.0 / 4)
    clock.now += POLL_S * 2
    load = Load(predicted_wait_seconds=0.7, tokens_per_second=64.0, slots=4, running={"interactive": 4})
    pulse.live(stream=True)
    await until(lambda: pulse.live(stream=True).wait_s == pytest.approx(0.7))
    await pulse.close()


async def test_an_engine_that_does_not_say_keeps_nobody_waiting(clock: Clock) -> None:
    async def ask() -> None:
        await asyncio.sleep(0)

    pulse = Pulse(ask, clock=clock)
    pulse.live(stream=True)
    await asyncio.sleep(0)
    assert pulse.live(stream=True).wait_s == 0.0
    await pulse.close()


async def test_calls_are_what_it_learns_from() -> None:
    async with Upstream() as up:
        target = Resilient("big", OpenAIBackend("big", "m", up.base_url), max_retries=0)
        up.enqueue(Plan(first_delay_s=0.05), Plan(status=500))
        await collect(target, chat(stream=True))
        live = target.pulse.live(stream=True)
        assert live.ttft_ms is not None
        assert live.ttft_ms >= 50
        with pytest.raises(Exception, match="500"):
            await collect(target, chat(stream=True))
        assert target.pulse.live(stream=True).error_rate > 0.3
        assert target.pulse.running == 0
        await target.close()
