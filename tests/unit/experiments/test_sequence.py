"""Looked at after every fifty requests, arms that do not differ are said to in at most one experiment of twenty."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.experiments.comparing import METRICS, Compared, compare
from gateway.experiments.sequence import TIGHTEST_AT, Moments, mismatch, width
from gateway.policy.model import Stop

Floats = NDArray[np.float64]
EVERY = 50
EXPERIMENTS = {None: 100, 150: 60}
"""So many are simulated, by how many sessions there are; None: each request stands for itself."""
MISMATCHED = 0.001


class Traffic:
    """Requests of sessions (1 request each, or many that are alike), half of them in the arm."""

    def __init__(self, seed: int, requests: int, *, sessions: int | None = None, cheaper: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.together = sessions is not None
        self.unit = np.arange(requests) if sessions is None else rng.integers(0, sessions, requests)
        units = requests if sessions is None else sessions
        self.in_arm = (rng.random(units) < 0.5)[self.unit]
        own = np.zeros(units) if sessions is None else rng.normal(0, 1.0, units)
        cost = rng.lognormal(13, 0.9, requests) * np.exp(own[self.unit]) * np.where(self.in_arm, 1 - cheaper, 1)
        fails = rng.random(requests) < np.where(own[self.unit] > 1.0, 0.2, 0.01)
        rated = rng.random(requests) < 0.3
        score = np.sign(rng.normal(0.7, 1.0, requests) + own[self.unit])
        slow = rng.normal(6, 1, requests) + own[self.unit]
        one = np.ones(requests)
        pairs: list[tuple[str, Any, Any]] = [
            ("cost", one, np.round(cost)),
            ("errors", one, fails),
            ("latency", ~fails, slow * ~fails),
            ("quality", rated, score * rated),
        ]
        self.values: dict[str, tuple[Floats, Floats]] = {
            name: (np.asarray(n, dtype=np.float64), np.asarray(x, dtype=np.float64)) for name, n, x in pairs
        }

    def looks(self, *, by_unit: bool = True) -> Iterator[tuple[dict[str, Moments], dict[str, Moments]]]:
        """The control and the arm, each time somebody looks."""
        for upto in range(EVERY, len(self.unit) + 1, EVERY):
            yield self.arms(upto, by_unit=by_unit)

    def arms(self, upto: int, *, by_unit: bool = True) -> tuple[dict[str, Moments], dict[str, Moments]]:
        return self._arm(upto, False, by_unit), self._arm(upto, True, by_unit)

    def _arm(self, upto: int, arm: bool, by_unit: bool) -> dict[str, Moments]:
        chosen = np.flatnonzero(self.in_arm[:upto] == arm)
        unit = self.unit[chosen] if by_unit and self.together else None
        return {name: _moments(unit, n[chosen], x[chosen]) for name, (n, x) in self.values.items()}


def _moments(unit: NDArray[np.int64] | None, n: Floats, x: Floats) -> Moments:
    """As the ledger adds them up."""
    ns, xs = (n, x) if unit is None else (np.bincount(unit, n), np.bincount(unit, x))
    sums = (float(each) for each in (ns.sum(), xs.sum(), ns @ ns, ns @ xs, xs @ xs))
    return Moments(units=int((ns > 0).sum()), **dict(zip(("n", "x", "nn", "nx", "xx"), sums, strict=True)))


def compared(control: Mapping[str, Moments], arm: Mapping[str, Moments], **stop: float | str) -> dict[str, Compared]:
    return {one.metric: one for one in compare(control, arm, Stop(**stop), arms=1, by="session")}  # type: ignore[arg-type]


def called_real(traffic: Traffic, *, by_unit: bool = True) -> bool:
    """Whether any metric is ever said to differ."""
    looks = (compared(*look) for look in traffic.looks(by_unit=by_unit))
    return any(one.standing in ("better", "worse") for look in looks for one in look.values())


@pytest.mark.parametrize("sessions", [None, 150], ids=["by request", "by session"])
def test_arms_that_do_not_differ_are_rarely_said_to(sessions: int | None) -> None:
    wrong = sum(called_real(Traffic(seed, 1500, sessions=sessions)) for seed in range(EXPERIMENTS[sessions]))
    assert wrong <= 0.05 * EXPERIMENTS[sessions]


@pytest.mark.soak
@pytest.mark.parametrize("sessions", [None, 150], ids=["by request", "by session"])
def test_nor_in_two_thousand_experiments(sessions: int | None) -> None:
    wrong = sum(called_real(Traffic(seed, 3000, sessions=sessions)) for seed in range(2000))
    assert wrong <= 0.05 * 2000


def test_requests_of_one_session_are_not_taken_for_independent_ones() -> None:
    """Were they, the same traffic would be wrong far more often."""
    wrong = sum(called_real(Traffic(seed, 3000, sessions=60), by_unit=False) for seed in range(30))
    assert wrong > 0.3 * 30


def test_a_difference_of_ten_percent_is_found_and_measured() -> None:
    found, covered = 0, 0
    for seed in range(20):
        control, arm = Traffic(seed, 12_000, cheaper=0.1).arms(12_000)
        cost = compared(control, arm)["cost"]
        assert cost.low is not None
        assert cost.high is not None
        found += cost.standing == "better"
        covered += cost.low <= -0.1 <= cost.high
    assert found >= 18
    assert covered >= 19


def test_the_interval_is_narrowest_where_it_is_said_to_be() -> None:
    risk = 0.05 / 4
    widths = [width(units, risk) for units in (TIGHTEST_AT // 20, TIGHTEST_AT, TIGHTEST_AT * 20)]
    assert widths[1] == min(widths)
    assert 1.2 * 2.5 < widths[1] < 1.5 * 2.5  # 2.5: of a single look at the same risk


class TestOneMetric:
    def test_nothing_is_said_of_a_handful_of_units(self) -> None:
        few: dict[str, Moments] = {name: Moments(units=29, n=29, x=29, nn=29, nx=29, xx=29) for name in METRICS}
        other: dict[str, Moments] = {name: Moments(units=2900, n=2900, x=9, nn=2900, nx=9, xx=9) for name in METRICS}
        told = compared(few, other, cost="+1%")
        assert {one.standing for one in told.values()} == {"unknown"}
        assert not any(one.lost for one in told.values())
        assert told["cost"].text == "cost: not yet known (29 of 30 sessions an arm)"
        assert told["quality"].text == "quality: not yet known (29 of 30 sessions an arm with feedback)"

    @staticmethod
    def steady(mean: float, spread: float, units: int = 1000) -> Moments:
        """Units of one request each."""
        return Moments(
            units=units, n=units, x=units * mean, nn=units, nx=units * mean, xx=units * (mean * mean + spread * spread)
        )

    def arms(self, control: float, arm: float, spread: float, metric: str) -> Compared:
        every = {name: self.steady(1, 0.1) for name in METRICS}
        stop = {"cost": "+20%", "latency": "+20%", "errors": "+2%", "quality": -0.05}
        both = (every | {metric: self.steady(control, spread)}, every | {metric: self.steady(arm, spread)})
        return compared(*both, **stop)[metric]  # type: ignore[arg-type]

    def test_a_cheaper_arm_reads_like_one(self) -> None:
        told = self.arms(1_000_000, 690_000, 200_000, "cost")
        assert told.standing == "better"
        assert told.text.startswith("costs 31 % less (")
        assert told.text.endswith(" %), real")
        assert told.estimate == pytest.approx(-0.31)

    @pytest.mark.parametrize(
        ("metric", "control", "arm", "spread", "lost"),
        [
            ("cost", 100, 140, 20, True),
            ("cost", 100, 121, 20, False),  # surely dearer, not surely by more than 20 %
            ("latency", 6.0, 6.5, 0.5, True),
            ("latency", 6.0, 6.1, 0.5, False),
            ("errors", 0.01, 0.1, 0.2, True),
            ("errors", 0.01, 0.05, 0.2, False),
            ("quality", 0.8, 0.5, 0.3, True),
            ("quality", 0.8, 0.72, 0.3, False),
            ("quality", 0.5, 0.9, 0.3, False),
        ],
    )
    def test_an_arm_has_lost_once_it_is_surely_worse_than_the_rule_allows(
        self, metric: str, control: float, arm: float, spread: float, lost: bool
    ) -> None:
        assert self.arms(control, arm, spread, metric).lost is lost

    def test_no_difference_is_no_worse_once_that_is_sure(self) -> None:
        assert self.arms(0.8, 0.8, 0.1, "quality").text == "quality not worse by more than 0.05"
        unsure = self.arms(0.8, 0.8, 0.9, "quality")
        assert unsure.text == "quality not worse by more than 0.05: not yet known"
        assert (unsure.standing, unsure.lost) == ("unknown", False)

    def test_that_nothing_has_failed_yet_does_not_say_that_nothing_will(self) -> None:
        every: dict[str, Moments] = {name: self.steady(0, 0, units=60) for name in METRICS}
        told = compared(every, every, errors="+2%")["errors"]
        assert (told.standing, told.lost) == ("unknown", False)
        assert told.text == "errors not higher by more than 2 points: not yet known"
        many: dict[str, Moments] = {name: self.steady(0, 0, units=1000) for name in METRICS}
        assert compared(many, many)["errors"].standing == "no worse"

    def test_beside_a_control_that_costs_nothing_dollars_are_compared(self) -> None:
        told = self.arms(0.0, 2_000_000, 500_000, "cost")
        assert told.absolute
        assert told.lost
        assert told.text.startswith("costs $0.002 more ($")
        assert self.arms(0.0, 0.0, 0.0, "cost").text == "cost: the same"


class TestMismatch:
    def test_a_fair_split_is_hardly_ever_called_unfair(self) -> None:
        rng = np.random.default_rng(1)
        alarms = 0
        for _ in range(200):
            arm = np.cumsum(rng.random(2000) < 0.1)
            alarms += any(mismatch([n - arm[n - 1], arm[n - 1]], [0.9, 0.1]) < MISMATCHED for n in range(50, 2001, 50))
        assert alarms <= 1

    def test_an_unfair_one_is(self) -> None:
        assert mismatch([9300, 700], [0.9, 0.1]) < MISMATCHED
        assert mismatch([100, 0], [0.5, 0.5]) < MISMATCHED
        assert mismatch([0, 0], [0.5, 0.5]) == 1.0
        assert math.isfinite(mismatch([10**7, 1], [0.5, 0.5]))
