from __future__ import annotations

import math
import random

import numpy as np  # noqa: F401 - loaded before anything is timed
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger import histogram

durations = st.floats(min_value=0.13, max_value=2_000_000, allow_nan=False)


def of(values: list[float]) -> histogram.Histogram:
    counts: histogram.Histogram = {}
    for value in values:
        histogram.merge(counts, {histogram.bucket(value): 1})
    return counts


@given(durations)
def test_a_value_comes_back_within_half_a_bucket(value: float) -> None:
    (found,) = histogram.percentiles(of([value]), (0.5,))
    assert found is not None
    assert abs(found / value - 1) < 0.045


def test_percentiles_are_those_of_the_values() -> None:
    chance = random.Random(3)
    values = sorted(chance.lognormvariate(5, 1.5) for _ in range(20_000))
    found = histogram.percentiles(of(values))
    for rank, value in zip((0.5, 0.95, 0.99), found, strict=True):
        assert value == pytest.approx(values[math.ceil(rank * len(values)) - 1], rel=0.05)


@given(st.lists(durations), st.lists(durations))
def test_merging_is_counting_both_and_can_be_undone(first: list[float], second: list[float]) -> None:
    both = of(first)
    histogram.merge(both, of(second))
    assert both == of(first + second)
    histogram.merge(both, {index: -count for index, count in of(second).items()})
    assert both == of(first)


@given(st.lists(durations))
def test_it_is_stored_whole(values: list[float]) -> None:
    assert histogram.decode(histogram.encode(of(values))) == of(values)


def test_what_is_out_of_range_goes_to_the_ends() -> None:
    assert histogram.bucket(0) == histogram.bucket(-5) == histogram.bucket(0.1) == 0
    assert histogram.bucket(1e9) == histogram.bucket(float(2**21))
    assert histogram.percentiles({}) == [None, None, None]


@given(st.lists(st.lists(durations, max_size=5), max_size=5))
def test_many_stored_ones_add_up_at_once(parts: list[list[float]]) -> None:
    stored = [histogram.encode(of(part)) for part in parts]
    assert histogram.merged(stored) == of([value for part in parts for value in part])


def test_large_counts_are_exact() -> None:
    stored = [histogram.encode({7: 2**40 + 1, 190: 3})] * 3
    assert histogram.merged(stored) == {7: 3 * (2**40 + 1), 190: 9}


def test_shares_under_a_time() -> None:
    values = [float(value) for value in range(1, 1001)]
    assert histogram.share_under(of(values), 100) == pytest.approx(0.1, abs=0.005)
    assert histogram.share_under(of(values), 300) == pytest.approx(0.3, abs=0.015)
    assert histogram.share_under(of(values), 5000) == 1
    assert histogram.share_under({}, 100) is None
