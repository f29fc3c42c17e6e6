"""Costs by every class, tier and length: by hand, against a reference in decimals, and never above the worst case."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.pricing.compiled import Compiled
from gateway.pricing.sheet import CLASSES, TIERS, Cell, Sheet, cells, tier_named
from gateway.types import Usage
from tests.unit.pricing import reference


def sheet(given: dict[tuple[str, int], dict[str, str]], **more: Any) -> Sheet:
    prices = {where: {name: Decimal(price) for name, price in row.items()} for where, row in given.items()}
    return Sheet(source="test", cells=cells(prices), **more)


FULL = sheet(
    {
        ("", 0): {
            "input": "3",
            "output": "15",
            "cached_input": "0.3",
            "cache_write": "3.75",
            "cache_write_1h": "6",
            "audio_input": "40",
            "audio_output": "80",
            "image_input": "5",
            "image_output": "30",
            "reasoning": "20",
        },
        ("", 200_000): {"input": "6", "output": "22.5", "cached_input": "0.6"},
        ("batch", 0): {"input": "1.5", "output": "7.5"},
        ("priority", 0): {"input": "5", "output": "30"},
    }
)

PLAIN = Usage(prompt_tokens=1000, completion_tokens=100)


def change(**fields: Any) -> Usage:
    return msgspec.structs.replace(PLAIN, **fields)


# Micro-dollars: tokens × dollars a million.
@pytest.mark.parametrize(
    ("usage", "micro"),
    [
        (PLAIN, 1000 * 3 + 100 * 15),
        (change(cached_tokens=400), 600 * 3 + 400 * Decimal("0.3") + 100 * 15),
        (change(cache_write_tokens=400), 600 * 3 + 400 * Decimal("3.75") + 100 * 15),
        (
            change(cache_write_tokens=400, cache_write_1h_tokens=100),
            600 * 3 + 300 * Decimal("3.75") + 100 * 6 + 100 * 15,
        ),
        (change(audio_input_tokens=250, image_input_tokens=50), 700 * 3 + 250 * 40 + 50 * 5 + 100 * 15),
        (change(reasoning_tokens=60), 1000 * 3 + 40 * 15 + 60 * 20),
        (change(audio_output_tokens=30, image_output_tokens=10), 1000 * 3 + 60 * 15 + 30 * 80 + 10 * 30),
        (change(tier="batch"), 1000 * Decimal("1.5") + 100 * Decimal("7.5")),
        (change(tier="priority", cached_tokens=100), 900 * 5 + 100 * Decimal("0.3") + 100 * 30),
        (change(tier="nobody-sells-this"), 1000 * 3 + 100 * 15),
        # A prompt of exactly the threshold is short; one token more and the whole request costs the long price.
        (change(prompt_tokens=200_000), 200_000 * 3 + 100 * 15),
        (change(prompt_tokens=200_001), 200_001 * 6 + 100 * Decimal("22.5")),
        (
            change(prompt_tokens=300_000, cached_tokens=250_000),
            50_000 * 6 + 250_000 * Decimal("0.6") + 100 * Decimal("22.5"),
        ),
    ],
)
def test_by_hand(usage: Usage, micro: Any) -> None:
    assert Compiled(FULL).cost_nano(usage) == micro * 1000


def test_a_threshold_may_include_its_own_length() -> None:
    inclusive = msgspec.structs.replace(FULL, inclusive=True)
    assert Compiled(inclusive).cost_nano(change(prompt_tokens=200_000)) == (200_000 * 6 * 1000 + 100 * 22_500)
    assert Compiled(inclusive).cost_nano(change(prompt_tokens=199_999)) == (199_999 * 3 * 1000 + 100 * 15_000)


def test_what_a_tier_leaves_out_for_long_prompts_costs_the_dearer_of_both() -> None:
    long = FULL.rates("priority", 200_000)
    assert (long["input"], long["output"]) == (Decimal(6), Decimal(30))
    assert FULL.rates("batch", 200_000)["input"] == 6


def test_a_class_follows_the_one_it_is_part_of_into_every_tier() -> None:
    same = sheet(
        {("", 0): {"input": "1", "output": "2", "reasoning": "2"}, ("flex", 0): {"input": "0.5", "output": "1"}}
    )
    assert same.rates("flex")["reasoning"] == 1
    assert same.rates("flex")["cached_input"] == Decimal("0.5")
    assert sheet({("", 0): {"input": "1", "output": "2", "cache_write": "3"}}).rates()["cache_write_1h"] == 3


def test_requests_and_seconds() -> None:
    priced = sheet({}, per_request=Decimal("0.005"), per_second=Decimal("0.0001"), longest_s=Decimal(60))
    assert Compiled(priced).cost_nano(change(busy_s=2.5)) == 5_000_000 + 250_000
    assert Compiled(priced).cost_nano(PLAIN) == 5_000_000
    assert Compiled(priced).worst_case_nano(10**6, 10**6) == 5_000_000 + 60 * 100_000


def test_the_worst_case_is_of_the_tier_asked_for_or_else_of_any_that_may_be_the_accounts() -> None:
    tiers = {("", 0): {"input": "2", "output": "2"}, ("flex", 0): {"input": "1", "output": "1"}}
    tiers |= {("priority", 0): {"input": "4", "output": "4"}, ("ultrafast", 0): {"input": "90", "output": "90"}}
    compiled = Compiled(sheet(tiers))
    worst = {tier: compiled.worst_case_nano(0, 1000, tier) for tier in ("", "auto", "default", "flex", "priority")}
    assert worst == {"": 4 * 10**6, "auto": 4 * 10**6, "default": 2 * 10**6, "flex": 2 * 10**6, "priority": 4 * 10**6}
    assert compiled.worst_case_nano(0, 1000, "ultrafast") == 90 * 10**6


@pytest.mark.parametrize(("name", "tier"), [("Batches", "batch"), ("fast", "priority"), ("default", ""), ("scale", "")])
def test_tiers_by_their_other_names(name: str, tier: str) -> None:
    assert tier_named(name) == tier


_price = st.decimals(0, 500, places=7)
_tokens = st.integers(0, 2_000_000)
_rates = st.fixed_dictionaries({}, optional=dict.fromkeys(CLASSES, _price))
_where = st.tuples(st.sampled_from(sorted(TIERS)), st.sampled_from([0, 128_000, 200_000]))


@st.composite
def sheets(draw: st.DrawFn) -> Sheet:
    base = {"input": draw(_price), "output": draw(_price), **draw(_rates)}
    rows = draw(st.dictionaries(_where, _rates, max_size=5)) | {("", 0): base}
    return Sheet(
        source="any",
        cells=cells(rows),
        inclusive=draw(st.booleans()),
        per_request=draw(st.sampled_from([Decimal(0), Decimal("0.0123456")])),
        per_second=draw(st.sampled_from([Decimal(0), Decimal("0.000033")])),
        usd_per_hour=draw(st.sampled_from([Decimal(0), Decimal("0.04"), Decimal("1.999")])),
        longest_s=Decimal(600),
    )


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Any account without overlaps, as `gateway.backends.usage` makes them."""
    prompt = [draw(_tokens) for _ in range(5)]
    answer = [draw(_tokens) for _ in range(4)]
    return Usage(
        prompt_tokens=sum(prompt),
        cached_tokens=prompt[0],
        cache_write_tokens=prompt[1],
        cache_write_1h_tokens=draw(st.integers(0, prompt[1])),
        audio_input_tokens=prompt[2],
        image_input_tokens=prompt[3],
        completion_tokens=sum(answer),
        reasoning_tokens=answer[0],
        audio_output_tokens=answer[1],
        image_output_tokens=answer[2],
        tier=draw(st.sampled_from([*TIERS, "batches", "scale"])),
        busy_s=draw(st.none() | st.floats(0, 3000)),
    )


@settings(max_examples=100, deadline=None)
@given(sheet=sheets(), usage=usages())
def test_integers_equal_decimals(sheet: Sheet, usage: Usage) -> None:
    assert Compiled(sheet).cost_nano(usage) == reference.cost_nano(sheet, usage)


@settings(max_examples=100, deadline=None)
@given(sheet=sheets(), usage=usages(), asked=st.booleans())
def test_no_call_costs_more_than_its_worst_case(sheet: Sheet, usage: Usage, asked: bool) -> None:
    """Whatever its tokens turn out to be, in the tier it asked for or in one the account may have by default."""
    tier = usage.tier if asked or not TIERS[tier_named(usage.tier)] else ""
    known = msgspec.structs.replace(usage, busy_s=None)
    compiled = Compiled(sheet)
    assert compiled.cost_nano(known) <= compiled.worst_case_nano(usage.prompt_tokens, usage.completion_tokens, tier)


@settings(max_examples=50, deadline=None)
@given(sheet=sheets(), usage=usages())
def test_more_tokens_never_cost_less_in_the_worst_case(sheet: Sheet, usage: Usage) -> None:
    compiled = Compiled(sheet)
    less = compiled.worst_case_nano(usage.prompt_tokens // 2, usage.completion_tokens // 2)
    assert less <= compiled.worst_case_nano(usage.prompt_tokens, usage.completion_tokens)


def test_a_cell_says_only_what_was_given() -> None:
    assert sheet({("", 0): {"input": "1", "output": "1", "cached_input": "1"}}).cells == (
        Cell(given={"input": Decimal(1), "output": Decimal(1)}),
    )
