"""APGR and its kin, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.policy.curve import Values, intervals, split

STRONG = np.array([1.0, 1.0, 1.0, 1.0])
WEAK = np.array([1.0, 0.0, 1.0, 0.0])


def score(*values: float) -> Values:
    return np.array(values)


def test_a_perfect_order_recovers_the_gap_at_once() -> None:
    found = split(STRONG, WEAK, score(0.1, 0.9, 0.2, 0.8))

    assert found.apgr == pytest.approx(0.75)  # the best there is: half of the prompts are to be moved
    assert found.cpt50 == pytest.approx(0.25)
    assert found.cpt80 == pytest.approx(0.40)
    assert found.saving == pytest.approx(1 - 0.45)


def test_the_reverse_order_mirrors_it() -> None:
    assert split(STRONG, WEAK, score(0.9, 0.1, 0.8, 0.2)).apgr == pytest.approx(0.25)


def test_equal_scores_are_worth_a_random_order() -> None:
    found = split(STRONG, WEAK, score(1.0, 1.0, 1.0, 1.0))

    assert (found.apgr, found.cpt50, found.cpt80) == pytest.approx((0.5, 0.5, 0.8))


def test_where_the_strong_model_is_no_better_there_is_nothing_to_recover() -> None:
    found = split(WEAK, WEAK, score(1.0, 2.0, 3.0, 4.0))

    assert all(np.isnan(value) for value in (found.apgr, found.cpt50, found.cpt80, found.saving))


def test_an_interval_holds_the_value_and_narrows_with_more_rows() -> None:
    draw = np.random.default_rng(3)

    def width(rows: int) -> float:
        weak = (draw.random(rows) < 0.5).astype(float)
        strong = (draw.random(rows) < 0.8).astype(float)
        told = strong - weak + draw.normal(size=rows)
        low, high = intervals(strong, weak, told, rounds=100)
        assert low < split(strong, weak, told).apgr < high
        return high - low

    assert width(2000) < width(200)
