"""When a partition closes and opens again, by the outcomes of what was checked."""

from __future__ import annotations

import random

import pytest

from gateway.cache.audit import ALARM_SHARE, EPOCH, RISK, SHARE, Audit


@pytest.mark.parametrize(("budget", "needed"), [(0.005, 1), (0.02, 2), (0.05, 2), (0.1, 2)])
def test_it_closes_after_few_wrong_ones(budget: float, needed: int) -> None:
    audit = Audit(budget)
    for number in range(1, needed + 1):
        assert not audit.closed
        audit.observe(True)
        assert audit.closed == (number == needed)


def test_what_keeps_the_budget_is_seldom_closed() -> None:
    closed = 0
    for seed in range(200):
        audit, chance = Audit(0.05), random.Random(seed)
        for _ in range(EPOCH):
            audit.observe(chance.random() < 0.05)
            if audit.closed:
                closed += 1
                break
    assert closed / 200 <= 2 * RISK


def test_all_is_checked_while_closed_until_it_is_back_within_the_budget() -> None:
    audit = Audit(0.05)
    audit.share()
    audit.observe(True)
    audit.observe(True)
    assert audit.share() == 1.0
    states = []
    for _ in range(20):
        audit.observe(False)
        states.append(audit.closed)
    assert states == [True] * 19 + [False]
    assert audit.share() < 1


def test_the_first_is_served_and_later_ones_are_checked_less_often() -> None:
    audit = Audit(0.01)
    shares = [audit.share() for _ in range(100)]
    assert shares[0] == 0.0
    assert shares[1] > shares[-1] == SHARE
    bolder = Audit(0.05)
    assert all(less < share for less, share in zip([bolder.share() for _ in range(100)][1:], shares[1:], strict=True))


def test_more_is_checked_after_a_wrong_one() -> None:
    audit = Audit(0.05)
    before = [audit.share() for _ in range(50)][-1]
    audit.observe(True)
    assert [audit.share() for _ in range(11)] == [*[ALARM_SHARE] * 10, before]


def test_the_interval_is_around_the_share() -> None:
    audit = Audit(0.5)
    assert audit.interval() == (0.0, 1.0)
    for number in range(100):
        audit.observe(number % 10 == 0)
    low, high = audit.interval()
    assert low < 0.1 < high
    assert high - low < 0.15
