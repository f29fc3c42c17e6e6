"""When a target is kept away from, for how long, and who may try it again."""

import pytest

from gateway.backends import translate
from gateway.backends.breaker import Breaker
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from tests.unit.backends.support import Clock

OOPS = UpstreamUnavailable("oops", upstream_status=500)
GONE = UpstreamUnavailable("refused", connect=True)


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(probed=True, clock=clock)


def fail(breaker: Breaker, error: UpstreamError) -> None:
    breaker.failed(error, breaker.enter())


@pytest.mark.parametrize("error", [OOPS, UpstreamTimeout("slow"), UpstreamBroken("half")])
def test_three_failures_in_a_row_open_it(breaker: Breaker, error: UpstreamError) -> None:
    for _ in range(2):
        fail(breaker, error)
        assert breaker.reason() is None
    fail(breaker, error)
    assert breaker.state == "open"
    assert "5.0 s" in (breaker.reason() or "")


def test_a_success_between_them_does_not(breaker: Breaker) -> None:
    for _ in range(5):
        fail(breaker, OOPS)
        breaker.enter()
        breaker.succeeded()
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    "error",
    [UpstreamRefused("no", upstream_status=400), UpstreamTimeout("deadline", code=translate.DEADLINE)],
)
def test_the_clients_own_faults_and_deadlines_say_nothing(breaker: Breaker, error: UpstreamError) -> None:
    for _ in range(10):
        fail(breaker, error)
    assert breaker.reason() is None


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (UpstreamUnavailable("slow down", upstream_status=429, retry_after=20), 20),
        (UpstreamUnavailable("loading", upstream_status=503, retry_after=1), 1),
        (UpstreamUnavailable("tomorrow", upstream_status=429, retry_after=86_400), 600),
        (UpstreamUnavailable("bad key", upstream_status=401, code=translate.AUTH), 60),
    ],
)
def test_stays_open_as_long_as_upstream_said_or_the_fault_deserves(
    breaker: Breaker, clock: Clock, error: UpstreamError, seconds: float
) -> None:
    fail(breaker, error)
    clock.now += seconds - 0.5
    with pytest.raises(UpstreamUnavailable) as caught:
        breaker.enter()
    assert caught.value.retry_after == pytest.approx(0.5)
    assert (caught.value.status, caught.value.code) == (error.status, error.code)
    clock.now += 1
    assert breaker.reason() is None


def test_half_open_lets_one_trial_through(breaker: Breaker, clock: Clock) -> None:
    for _ in range(3):
        fail(breaker, OOPS)
    clock.now += 6
    assert breaker.reason() is None
    trial = breaker.enter()
    assert trial
    assert breaker.reason() is not None
    with pytest.raises(UpstreamUnavailable):
        breaker.enter()
    breaker.left(trial)
    breaker.answered(breaker.enter())
    assert breaker.state == "closed"


def test_each_failed_trial_doubles_the_cooldown_up_to_a_minute(breaker: Breaker, clock: Clock) -> None:
    for _ in range(3):
        fail(breaker, OOPS)
    for seconds in (10, 20, 40, 60, 60):
        clock.now += 61
        fail(breaker, OOPS)
        assert f"{seconds}.0 s" in (breaker.reason() or "")


def test_calls_begun_before_it_opened_neither_close_nor_prolong_it(breaker: Breaker) -> None:
    trials = [breaker.enter() for _ in range(6)]
    for trial in trials[:4]:
        breaker.failed(OOPS, trial)
    breaker.answered(trials[4])
    breaker.succeeded()
    breaker.left(trials[5])
    assert "5.0 s" in (breaker.reason() or "")


@pytest.mark.parametrize("error", [GONE, UpstreamUnavailable("swallowed", code=translate.UNREACHABLE)])
def test_unreachable_only_a_probe_closes_it(breaker: Breaker, clock: Clock, error: UpstreamError) -> None:
    fail(breaker, error)
    clock.now += 10_000
    assert breaker.reason() == f"cooling down: {error}"
    breaker.recovered()
    assert breaker.reason() is None


def test_a_probe_does_not_end_another_cooldown(breaker: Breaker) -> None:
    fail(breaker, UpstreamUnavailable("slow down", upstream_status=429, retry_after=20))
    breaker.recovered()
    assert breaker.state == "open"


def test_without_a_probe_time_closes_it(clock: Clock) -> None:
    breaker = Breaker(probed=False, clock=clock)
    fail(breaker, GONE)
    assert breaker.state == "open"
    clock.now += 6
    assert breaker.enter()
