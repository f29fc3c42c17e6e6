from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard import charts
from gateway.dashboard.words import money

STARTS = [(f"day {n}", str(n), f"/{n}") for n in range(3)]


@given(st.integers(-5, 10**18))
def test_an_axis_ends_at_a_round_number_not_far_above(value: int) -> None:
    top = charts.ceiling(value)
    assert top >= max(value, 1)
    assert top <= max(2 * value, 1)
    assert len(str(top).rstrip("0")) <= 2


def test_bars_stack_up_to_their_sum() -> None:
    chart = charts.stacked(STARTS, {"a": [100, 0, 50], "b": [100, 0, 150]}, money, [200, 0, 0], "baseline")
    heights = [sum(part.height for part in bar.segments) for bar in chart.bars]
    assert heights == [charts.HEIGHT, 0, charts.HEIGHT]
    assert chart.bars[0].segments[1].y == 0
    assert chart.legend == (("a", 150), ("b", 250))
    assert chart.bars[2].title.splitlines()[1:] == [f"a: {money(50)}", f"b: {money(150)}", "baseline: $0.00"]
    assert chart.line.startswith("0.0,0.0 ")


def test_the_line_ends_where_its_values_do() -> None:
    chart = charts.stacked(STARTS, {"a": [100, 100, 0]}, money, [200, 200], "baseline")
    assert len(chart.line.split()) == 4
    assert ["baseline" in bar.title for bar in chart.bars] == [True, True, False]


def test_nothing_spent_is_a_chart_too() -> None:
    chart = charts.stacked(STARTS, {}, money)
    assert [bar.segments for bar in chart.bars] == [(), (), ()]
    assert charts.stacked([], {}, money).labels == ()


def test_a_long_axis_keeps_its_ends() -> None:
    starts = [(str(n), str(n), "") for n in range(90)]
    labels = charts.stacked(starts, {}, money).labels
    assert (labels[0], labels[-1], len(labels)) == ("0", "89", 7)


@given(st.integers(0, 10**12), st.lists(st.integers(-(10**12), 10**12), max_size=6))
def test_a_waterfall_adds_up(baseline: int, changes: list[int]) -> None:
    steps = charts.waterfall(baseline, [("step", change) for change in changes], "left")
    assert steps[-1].nano == steps[0].nano + sum(step.nano for step in steps[1:-1])
    assert all(step.x >= -0.01 and step.x + step.width <= 100.01 for step in steps)


def test_a_point_outside_is_drawn_at_the_edge() -> None:
    assert charts.path([(0, 1), (0.5, -2), (1, 2)]) == "0.0,0.0 500.0,200.0 1000.0,0.0"


@pytest.mark.parametrize("value", [0, -7])
def test_an_axis_without_values_still_has_a_length(value: int) -> None:
    assert charts.ceiling(value) == 1
