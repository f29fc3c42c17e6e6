"""The curves of sharing prompts between a small and a large model, as recorded."""

from __future__ import annotations

import pytest

from tests.bench.routing.chart import svg
from tests.bench.routing.curve import BOUNDS, WAYS, at_cost, curve
from tests.bench.routing.record import read
from tests.support.easy_prompts import easy_prompts

ROWS = read().rows
CURVES = {way.name: curve(way, ROWS) for way in WAYS}
MIXED = CURVES["scorer + cascade"]
NOISE = 0.004
"""Three of the 700 prompts."""


def test_the_record_is_of_the_easy_prompts() -> None:
    assert [row.prompt for row in ROWS] == [question.prompt for question in easy_prompts()]


@pytest.mark.parametrize(("other", "worse_by"), [("rules", 0.001), ("cascade", 0.0), ("scorer", NOISE)])
def test_no_other_way_is_better_at_the_same_cost(other: str, worse_by: float) -> None:
    """As far as their costs overlap; with the scorer alone it is level."""
    cheapest = min(point.usd for point in MIXED)
    compared = [point for point in CURVES[other] if point.usd >= cheapest]

    assert len(compared) > 10
    for point in compared[::5]:
        assert at_cost(MIXED, point.usd) >= point.quality - worse_by


def test_more_is_kept_where_nine_in_ten_are_to_be_right() -> None:
    """By the default policy; by the rules alone most of what is kept is wrong."""
    kept = [row for row in ROWS if row.scorer < 0.5 and row.both >= 0.9]
    by_rules = [row for row in ROWS if row.rules < 0.35]

    assert len(kept) >= 15
    assert sum(row.right for row in kept) >= 0.9 * len(kept)
    assert sum(row.right for row in by_rules) < 0.5 * len(by_rules)


def test_a_try_keeps_more_than_the_scorer_where_nine_in_ten_are_to_be_right() -> None:
    most = {
        name: max((one.local for one in points if one.local_right >= 0.9 * one.local), default=0)
        for name, points in CURVES.items()
    }

    assert most["scorer + cascade"] > 1.5 * most["scorer"] > 0


def test_what_is_given_up_is_paid_for() -> None:
    nothing_kept = next(point for point in CURVES["cascade"] if point.bound == BOUNDS[-1])
    all_large = CURVES["rules"][0]

    assert (nothing_kept.local, nothing_kept.tried) == (0, len(ROWS))
    assert nothing_kept.usd > all_large.usd
    assert nothing_kept.quality == all_large.quality


def test_the_chart_names_every_way() -> None:
    drawn = svg(CURVES, "title")

    assert drawn.count("<polyline") == len(WAYS)
    assert all(f">{name}</text>" in drawn for name in CURVES)
