"""How far a distribution has moved."""

import math

import pytest

from gateway.stability import stability_index


def test_nothing_moves_by_growing() -> None:
    assert stability_index([(400, 40), (600, 60)]) == pytest.approx(0, abs=1e-3)
    assert stability_index([]) == 0


def test_it_is_what_the_book_says_and_the_same_both_ways() -> None:
    counts = [(800, 200), (200, 800)]
    assert stability_index(counts) == pytest.approx(2 * 0.6 * math.log(4), rel=0.01)
    assert stability_index([(before, now) for now, before in counts]) == pytest.approx(stability_index(counts))


def test_a_value_that_is_new_is_far_and_not_infinitely_so() -> None:
    assert 0.25 < stability_index([(1000, 1000), (300, 0)]) < 3
