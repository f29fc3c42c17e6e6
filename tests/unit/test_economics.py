"""The arithmetic of a statement: net, and adding up from the baseline down to what was saved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ModelConfig
from gateway.economics import EndUsers, Statement, break_even, machines, month, rates
from gateway.ledger.answers import Measures
from gateway.ledger.standing import Hour
from gateway.types import DAY_MS, HOUR_MS
from tests.support.ledger import NOON

amounts = st.integers(0, 10**15)
hours = st.builds(
    Hour,
    start_ms=st.integers(0, 1000).map(lambda n: n * HOUR_MS),
    model=st.sampled_from(["a", "b"]),
    nano_per_hour=st.integers(1, 10**11),
    wall_ms=st.integers(0, HOUR_MS),
    busy_nano=amounts,
)


def statement(**changes: object) -> Statement:
    fields: dict[str, object] = {
        "since_ms": 0,
        "until_ms": DAY_MS,
        "requests": 4,
        "tokens": 2000,
        "baseline_nano": 1000,
        "requests_nano": 300,
        "embedding_nano": 10,
        "verification_nano": 20,
        "abandoned_nano": 30,
        "machines": machines([Hour(start_ms=0, model="m", nano_per_hour=100, wall_ms=HOUR_MS, busy_nano=40)], {}),
        "end_users": EndUsers(count=0, cost_nano=0, revenue_nano=None),
    }
    return Statement(**(fields | changes))  # type: ignore[arg-type]


def test_saved_is_net_of_everything() -> None:
    told = statement()
    assert (told.idle_nano, told.cost_nano, told.saved_nano) == (60, 360, 640)
    assert told.waterfall() == [
        ("baseline", 1000),
        ("answers", -240),
        ("embedding", -10),
        ("verification", -20),
        ("abandoned tries", -30),
        ("idle machines", -60),
        ("saved", 640),
    ]


def test_an_idle_machine_can_eat_up_what_was_saved() -> None:
    assert statement(baseline_nano=310).saved_nano == -50


def test_cost_per_token_and_per_request_bears_the_idle_line() -> None:
    told = statement()
    assert told.per_million_tokens_nano == 360 * 500
    assert told.per_thousand_requests_nano == 90_000
    nothing = statement(requests=0, tokens=0)
    assert (nothing.per_million_tokens_nano, nothing.per_thousand_requests_nano) == (None, None)


@given(st.lists(hours, max_size=30), amounts, amounts)
def test_busy_and_idle_are_the_wall_and_the_waterfall_adds_up(found: list[Hour], baseline: int, spent: int) -> None:
    told = statement(machines=machines(found, {}), baseline_nano=baseline, requests_nano=spent)
    for machine in told.machines:
        assert machine.busy_nano + machine.idle_nano == machine.wall_nano
    assert sum(machine.wall_nano for machine in told.machines) == sum(hour.wall_nano for hour in found)
    *steps, saved = told.waterfall()
    assert sum(amount for _, amount in steps) == saved[1] == told.saved_nano


@pytest.mark.parametrize(
    ("rate", "requests", "baseline", "per_day"),
    [(40_000_000, 100, 20_000_000, 4800), (40_000_000, 3, 700_000, 4115), (1, 0, 0, None), (1, 5, 0, None)],
)
def test_break_even(rate: int, requests: int, baseline: int, per_day: int | None) -> None:
    assert break_even(rate, requests, baseline) == per_day


def test_a_machine_knows_what_it_answered() -> None:
    found = [Hour(start_ms=n * HOUR_MS, model="m", nano_per_hour=100, wall_ms=HOUR_MS, busy_nano=5) for n in range(12)]
    (machine,) = machines(found, {"m": Measures(requests=6, baseline_nano=600)})
    assert (machine.busy_share, machine.requests_per_day, machine.break_even_per_day) == (0.05, 12.0, 24)


def test_end_users_cost_and_margin() -> None:
    users = EndUsers(count=3, cost_nano=100, revenue_nano=90)
    assert (users.each_nano, users.margin_nano) == (33, -10)
    assert EndUsers(count=0, cost_nano=0, revenue_nano=None).margin_nano is None


def test_rates_are_exact() -> None:
    models = [
        ModelConfig(name="a", local="x", usd_per_hour=0.04),
        ModelConfig(name="b", local="x"),
        ModelConfig(name="c", local="x", usd_per_hour=0.1 + 0.2),
    ]
    assert rates(models) == {"a": 40_000_000, "c": 300_000_000}


def test_a_month_is_the_calendars() -> None:
    since, until = month(NOON)
    assert (until - since, since % DAY_MS, since <= NOON < until) == (31 * DAY_MS, 0, True)
