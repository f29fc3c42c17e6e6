"""The curves of sharing prompts between a small and a large model, as recorded."""

from __future__ import annotations

import msgspec
import pytest

from tests.bench.routing.cascade import PRICES, curves
from tests.bench.routing.chart import svg
from tests.bench.routing.curve import BOTH, CHEAP, DEAR, STEPS, WAYS, Price, all_large, at_cost, point
from tests.bench.routing.fitting import fitted, probed
from tests.bench.routing.record import Setting, read
from tests.support.easy_prompts import easy_prompts

RECORDED = read()
ROWS = RECORDED.rows
CURVES = {price: curves(RECORDED, price) for price in PRICES}
NOISE = 0.004
"""Three of the 700 prompts."""


def test_the_record_is_of_the_easy_prompts() -> None:
    assert [row.prompt for row in ROWS] == [question.prompt for question in easy_prompts()]


@pytest.mark.soak
def test_the_bounds_that_go_together_are_found_on_the_probe_alone() -> None:
    probe = probed()

    assert not {row.prompt for row in probe} & {row.prompt for row in ROWS}
    assert {price.name: fitted(probe, price) for price in PRICES} == RECORDED.settings


def test_bounds_go_together_by_what_a_mistake_saves() -> None:
    """Where the likelier answers are the right ones: beside a large model that costs nothing none that is wrong, first
    all and then the right ones beside a dear one.
    """
    rows = [msgspec.structs.replace(row, scorer=0.5, both=0.5 + row.right / 4) for row in ROWS[:40]]
    right = sum(row.right for row in rows)
    free, dear = (
        [point(BOTH, rows, setting, price) for setting in fitted(rows, price)]
        for price in (CHEAP._replace(input=0.0, output=0.0), DEAR)
    )

    assert {(one.local, one.local_right) for one in free} == {(0, 0), (right, right)}
    assert [(one.local, one.local_right) for one in dear] == [(len(rows), right), (right, right)]


@pytest.mark.parametrize("price", PRICES, ids=[price.name for price in PRICES])
@pytest.mark.parametrize("other", ["rules", "cascade", "scorer"])
def test_no_other_way_is_better_at_the_same_cost(other: str, price: Price) -> None:
    """As far as their costs overlap."""
    mixed = CURVES[price]["scorer + cascade"]
    cheapest = min(one.usd for one in mixed)
    compared = [one for one in CURVES[price][other] if one.usd >= cheapest]

    assert len(compared) > 10
    for one in compared[::5]:
        assert at_cost(mixed, one.usd) >= one.quality - NOISE


@pytest.mark.parametrize("other", ["rules", "cascade", "scorer"])
@pytest.mark.parametrize("percent", [80, 85, 90])
def test_scorer_and_cascade_is_better_than_any_other_way_where_a_try_costs_little(percent: int, other: str) -> None:
    usd = all_large(ROWS, DEAR).usd * percent / 100
    found = {name: at_cost(points, usd) for name, points in CURVES[DEAR].items()}

    assert found["scorer + cascade"] > found[other] + 0.01


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
        for name, points in CURVES[DEAR].items()
    }

    assert most["scorer + cascade"] > 4 * most["scorer"] > 0


def test_the_dearer_the_large_model_the_more_is_worth_a_try() -> None:
    """Tries that are given up for each that is kept, where nine in ten answers are right in all."""

    def given_up(price: Price) -> float:
        good = [one for one in CURVES[price]["scorer + cascade"] if one.quality > 0.9]
        return sum(one.tried - one.local for one in good) / sum(one.local for one in good)

    assert given_up(DEAR) > given_up(CHEAP)


def test_what_is_given_up_is_paid_for() -> None:
    nothing_kept = next(one for one in CURVES[CHEAP]["cascade"] if one.setting.confidence == STEPS[-1])
    all_away = all_large(ROWS, CHEAP)

    assert (nothing_kept.local, nothing_kept.tried) == (0, len(ROWS))
    assert nothing_kept.usd > all_away.usd
    assert nothing_kept.quality == all_away.quality


def test_a_setting_is_what_its_rule_says() -> None:
    setting = Setting(0.5, 0.7)
    found = point(BOTH, ROWS, setting, DEAR)

    assert BOTH.rule(setting) == {"when": "difficulty < 0.5", "escalate": {"when": "confidence < 0.7"}}
    assert found.tried == sum(row.scorer < 0.5 for row in ROWS)
    assert found.local == sum(row.scorer < 0.5 and row.both >= 0.7 for row in ROWS)


def test_the_chart_names_every_way() -> None:
    drawn = svg(CURVES[DEAR], "title")

    assert drawn.count("<polyline") == len(WAYS)
    assert all(f">{name}</text>" in drawn for name in CURVES[DEAR])
