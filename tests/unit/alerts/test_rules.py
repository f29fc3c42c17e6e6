"""What is told and what is not: numbers in, findings out."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.alerts import rules
from gateway.alerts.rules import BudgetState
from gateway.config import AlertsConfig
from gateway.economics import Forecast
from gateway.ledger.answers import Line, Measures, Timeline
from gateway.types import HOUR_MS, NANO, LedgerEntry
from tests.support.ledger import NOON, entry

CONFIG = AlertsConfig()


def budget(spent: float, limit: float = 100, **more: Any) -> BudgetState:
    return BudgetState(id="key_1", name="ci", limit_nano=round(limit * NANO), spent_nano=round(spent * NANO), **more)


@pytest.mark.parametrize(
    ("spent", "titles"),
    [
        (79.99, []),
        (80, ["Budget ci: 80% used"]),
        (99.99, ["Budget ci: 99% used"]),
        (100, ["Budget ci: exhausted"]),
        (140, ["Budget ci: exhausted"]),
    ],
)
def test_a_budget_is_told_at_its_thresholds(spent: float, titles: list[str]) -> None:
    assert [one.title for one in rules.budgets([budget(spent)], CONFIG)] == titles


def test_each_threshold_and_limit_is_a_finding_of_its_own() -> None:
    states = [budget(85), budget(100), budget(85, limit=105)]
    assert len({one.key for one in rules.budgets(states, CONFIG)}) == 3
    assert rules.budgets([budget(0, limit=0)], CONFIG) == []


@pytest.mark.parametrize(("total", "limit", "count"), [(90, 100, 0), (110, 100, 1), (110, None, 0), (None, 100, 0)])
def test_a_month_that_is_heading_beyond_its_limit(total: float | None, limit: float | None, count: int) -> None:
    told = Forecast(spent_nano=50 * NANO, day_nano=2 * NANO, total_nano=None if total is None else round(total * NANO))
    found = rules.forecast(told, AlertsConfig(month_usd=limit), NOON)
    assert len(found) == count
    if found:
        assert found[0].key == "forecast:2026-01"
        assert "$110.00" in found[0].title


def hours(*costs: float) -> Timeline:
    points = tuple(Measures(cost_nano=round(cost * NANO), requests=1) for cost in costs)
    starts = tuple(n * HOUR_MS for n in range(len(points)))
    return Timeline(by=None, step_ms=HOUR_MS, starts=starts, lines=(Line("", points),), rest=None)


@pytest.mark.parametrize(
    ("costs", "told"),
    [
        ([0.5] * 48 + [2.1], True),
        ([0.5] * 48 + [1.9], False),
        ([0.01] * 48 + [0.5], False),  # fifty times as much, and yet not a dollar
        ([0.5] * 10 + [5.0], False),  # too little is known
        ([0.0] * 100 + [0.5] * 48 + [2.1], True),  # the time before the books began does not count
        ([0.0] * 168 + [5.0], False),
    ],
)
def test_a_spike_is_measured_against_the_usual_hour(costs: list[float], told: bool) -> None:
    assert bool(rules.spike(hours(*costs), CONFIG)) is told


def some(count: int, **changes: Any) -> list[LedgerEntry]:
    return [entry(f"r{n}-{changes}", **changes) for n in range(count)]


@pytest.mark.parametrize(
    ("ok", "failed", "cancelled", "told"),
    [(80, 20, 0, True), (81, 19, 0, False), (10, 5, 0, False), (20, 0, 60, False)],
)
def test_an_error_rate_needs_enough_requests(ok: int, failed: int, cancelled: int, told: bool) -> None:
    recent = [
        *some(ok),
        *some(failed, status="error", error="upstream_timeout: no answer"),
        *some(cancelled, status="cancelled"),
    ]
    found = rules.errors(recent, CONFIG)
    assert bool(found) is told
    if found:
        assert found[0].title == "20% of requests fail"
        assert "most often: upstream_timeout" in found[0].text
        assert "no answer" not in found[0].text


def called(model: str, *statuses: int | None) -> LedgerEntry:
    attempts = [
        {
            "model": model,
            "started_ms": NOON,
            "duration_ms": 5.0,
            "status": status,
            "error": "" if status == 200 else "upstream_unavailable: it said no",
        }
        for status in statuses
    ]
    return entry(f"{model}{statuses}", detail={"attempts": attempts})


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ((500, 502, None), True),
        ((429, 429, 429), True),
        ((500, 500), False),
        ((500, 500, 500, 200), False),
        ((500, 500, 500, 400), False),  # it refused what it was asked: it is there
    ],
)
def test_a_target_is_down_when_nothing_but_failures_came_of_it(statuses: tuple[int | None, ...], told: bool) -> None:
    assert [one.title for one in rules.down([called("big", *statuses)], {})] == (["Target big is down"] if told else [])


def test_a_local_model_that_is_silent_is_told_once_even_if_it_fails_too() -> None:
    found = rules.down([called("near", None, None, None)], {"near": "Its process does not answer."})
    assert [(one.key, one.text) for one in found] == [("target_down:near", "Its process does not answer.")]


def test_a_target_nobody_calls_is_as_it_was() -> None:
    assert [one.key for one in rules.down([], {}, before=["big"])] == ["target_down:big"]
    assert rules.down([called("big", 200)], {}, before=["big"]) == []
